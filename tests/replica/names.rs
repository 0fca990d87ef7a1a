//! The host in the URL is a name, and what it stands for changes: what is answered is what
//! the server says that takes the writes among those that the name stands for now.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::{Arc, Mutex},
};

use futures_util::FutureExt;
use hitkeep_auth::store::{self, Resolver};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream, UnixStream},
    task::JoinSet,
};

use crate::{
    cluster::{Cluster, Said},
    index::options,
    nodes::{self, Node},
    primary::{changes_hold, known, newest_takes_changes},
    race::Race,
    support::proxy::Proxy,
    waiting::until,
};

/// Names that only these tests know, and what they stand for at the moment.
#[derive(Clone, Default)]
struct Names(Arc<Mutex<Vec<IpAddr>>>);

impl Names {
    const HOST: &str = "postgres.test";

    /// From here on the name stands for these.
    fn stand_for(&self, addresses: &[Ipv4Addr]) {
        let addresses = addresses.iter().copied().map(IpAddr::from);
        *self.0.lock().unwrap() = addresses.collect();
    }

    fn resolver(&self) -> Resolver {
        let names = self.clone();
        Resolver::by(move |name| {
            assert_eq!(name, Self::HOST);
            let addresses = names.0.lock().unwrap().clone();
            async { Ok(addresses) }.boxed()
        })
    }
}

/// Two servers, each at an address of its own and at the same port.
struct Addresses {
    port: u16,
    /// What they lead through, in their order.
    race: Race,
    /// Forward connections for as long as this lives.
    _forwarding: JoinSet<()>,
}

const FIRST: Ipv4Addr = Ipv4Addr::LOCALHOST;
const SECOND: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// At which there is no server.
const NOBODY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

impl Addresses {
    async fn of(pair: &[Node; 2]) -> Self {
        let (listeners, port) = until("a port is free at both addresses", async || {
            let first = TcpListener::bind((FIRST, 0)).await?;
            let port = first.local_addr()?.port();
            let second = TcpListener::bind((SECOND, port)).await?;
            Ok::<_, std::io::Error>(([first, second], port))
        })
        .await;
        let mut forwarding = JoinSet::new();
        let race = Race::start(pair);
        for (server, listener) in listeners.into_iter().enumerate() {
            forwarding.spawn(forward(listener, race.socket(server)));
        }
        Self {
            port,
            race,
            _forwarding: forwarding,
        }
    }
}

async fn forward(listener: TcpListener, socket: PathBuf) {
    let mut open = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        open.spawn(connect(client, socket.clone()));
    }
}

/// Where there is no server any more, the connection is closed.
async fn connect(mut client: TcpStream, socket: PathBuf) {
    if let Ok(mut server) = UnixStream::connect(socket).await {
        drop(copy_bidirectional(&mut client, &mut server).await);
    }
}

/// Two replicas that know their database by the name, which stands for the first server.
async fn two_by_name(pair: &[Node; 2], addresses: &Addresses, names: &Names) -> Cluster {
    names.stand_for(&[FIRST]);
    let mut cluster = Cluster::on_hosts(pair[0].database(), None, 1, options()).await;
    cluster.replicas.clear();
    let (_, database) = cluster.direct.rsplit_once('/').unwrap();
    let (host, port) = (Names::HOST, addresses.port);
    let url = format!("postgres://postgres@{host}:{port}/{database}");
    for _ in 0..2 {
        // Nothing goes through it.
        let (proxy, _) = Proxy::start(&cluster.direct);
        let options = store::StoreOptions {
            resolver: names.resolver(),
            ..store::StoreOptions::new(&*url)
        };
        let replica = cluster.start_with(proxy, options).await;
        replica.until_answers().await;
        cluster.replicas.push(replica);
    }
    cluster
}

/// The old server is there and takes writes, like one that was cut off from whoever
/// promoted the other: nobody asks it any more. Later it is demoted, which changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_elsewhere_is_followed() {
    let pair = nodes::pair().await;
    let (addresses, names) = (Addresses::of(&pair).await, Names::default());
    let mut cluster = two_by_name(&pair, &addresses, &names).await;
    let [kept, doomed] = known(&cluster).await;
    let [first, second] = &pair;
    second.promote().await;
    first.acknowledge_alone().await;
    names.stand_for(&[SECOND]);
    let young = changes_hold(&cluster, &doomed).await;
    cluster.believe(second.database());
    let tokens = [&*kept.token, &doomed.token, &young.token];
    cluster.agree(&tokens).await;
    first.demote().await;
    cluster.agree(&tokens).await;
    changes_hold(&cluster, &young).await;
}

/// In the order of a planned switch: demoted first, and the name last.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_whose_server_was_demoted_is_resolved_until_it_leads_to_another() {
    let pair = nodes::pair().await;
    let (addresses, names) = (Addresses::of(&pair).await, Names::default());
    let mut cluster = two_by_name(&pair, &addresses, &names).await;
    let [kept, doomed] = known(&cluster).await;
    let [first, second] = &pair;
    // It waits for no standby, so nothing but its being read-only tells.
    first.acknowledge_alone().await;
    first.demote().await;
    second.promote().await;
    for replica in &cluster.replicas {
        replica.until_stale(&kept.token).await;
    }
    names.stand_for(&[SECOND]);
    let young = changes_hold(&cluster, &doomed).await;
    cluster.believe(second.database());
    cluster
        .agree(&[&kept.token, &doomed.token, &young.token])
        .await;
}

/// A name may stand for a standby and the primary, in any order; and for two that take
/// writes, of which the newest timeline counts.
#[tokio::test(flavor = "multi_thread")]
async fn of_all_addresses_of_a_name_the_one_counts_that_takes_the_writes() {
    let pair = nodes::pair().await;
    let (addresses, names) = (Addresses::of(&pair).await, Names::default());
    let mut cluster = two_by_name(&pair, &addresses, &names).await;
    let [kept, doomed] = known(&cluster).await;
    let [first, second] = &pair;
    names.stand_for(&[SECOND, FIRST]);
    let young = changes_hold(&cluster, &doomed).await;
    cluster.agree(&[&kept.token, &doomed.token]).await;

    first.acknowledge_alone().await;
    second.promote().await;
    // Whichever is found first, the older one or the newer.
    let (older, newer) = (0, 1);
    addresses.race.answers_last(newer);
    names.stand_for(&[FIRST, SECOND]);
    newest_takes_changes(&cluster, second).await;
    let younger = changes_hold(&cluster, &young).await;
    addresses.race.answers_last(older);
    newest_takes_changes(&cluster, second).await;
    let youngest = changes_hold(&cluster, &younger).await;
    cluster.believe(second.database());
    cluster
        .agree(&[&kept.token, &younger.token, &youngest.token])
        .await;
}

/// A name that leads nowhere any more: the old server goes on answering on connections that
/// are open, and nothing shows that it still is the one that counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_nowhere_proves_nothing() {
    let pair = nodes::pair().await;
    let (addresses, names) = (Addresses::of(&pair).await, Names::default());
    let cluster = two_by_name(&pair, &addresses, &names).await;
    let [kept, _] = known(&cluster).await;
    names.stand_for(&[NOBODY]);
    for replica in &cluster.replicas {
        replica.until_stale(&kept.token).await;
    }
    names.stand_for(&[FIRST]);
    for replica in &cluster.replicas {
        replica.until_says(&kept.token, Said::Active).await;
    }
}
