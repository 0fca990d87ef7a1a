//! Everything that has an index, at once: servers on one database, a chain of two replicas, and
//! two programs with the index inside of them, one at two servers and one at the chain's end.

use std::{sync::Arc, time::Duration};

use hitkeep_auth::{
    domain::caller::CallerPermission,
    pb::{InactiveReason, InstanceRole},
    server,
};
use hitkeep_auth_client::{Authenticator, CallerToken, Client, EmbeddedOptions};

use crate::{
    asker::{Asker, Silence},
    cluster::Cluster,
    fixtures::*,
    follower::{Follower, Settings},
    gateway::{Gateway, Streams},
    index,
    support::postgres,
    waiting::{until, wanted},
};

/// How old an index may be. Nobody waits for that: time jumps. So it can be so long that no
/// machine is too busy.
pub const STALENESS: Duration = Duration::from_secs(40);
/// How often those who follow ask how fresh their index is, and report uses.
const POLL: Duration = Duration::from_millis(25);
const SERVERS: usize = 3;
/// The numbers of the others, as askers.
const FIRST: usize = SERVERS;
const LAST: usize = SERVERS + 1;
const AT_SERVERS: usize = SERVERS + 2;
const AT_LAST: usize = SERVERS + 3;

/// A user whom no step changes.
pub const WITNESS: &str = "00000000-0000-7000-8000-0000000000fe";

/// All of it.
pub struct Everything {
    pub cluster: Cluster,
    /// By their numbers; the servers come first.
    pub askers: Vec<Arc<Asker>>,
    /// Between those and whom they follow.
    pub links: Vec<Link>,
    /// The chain, where there is one.
    first: Option<Follower>,
    _last: Option<Follower>,
}

/// The only ways from some askers to the database.
pub struct Link {
    pub gateways: Vec<Gateway>,
    /// The numbers of the servers that they lead to, if they lead to servers.
    servers: Vec<usize>,
    /// The numbers of the askers at their end, and of those that follow these.
    pub behind: Vec<usize>,
}

impl Link {
    fn each(&self, change: impl Fn(&Gateway)) {
        self.gateways.iter().for_each(change);
    }

    pub fn cut(&self) {
        self.each(Gateway::cut);
    }

    pub fn sever(&self) {
        self.each(Gateway::sever);
    }

    pub fn stall(&self) {
        self.each(Gateway::stall);
    }

    pub fn deafen(&self) {
        self.each(Gateway::deafen);
    }

    pub fn hold(&self, streams: Streams) {
        self.each(|gateway| gateway.hold(streams));
    }

    pub fn mend(&self) {
        self.each(Gateway::mend);
    }

    /// Waits until so many frames are held back, and gives their number at each gateway.
    pub async fn until_held(&self, frames: usize) -> Vec<usize> {
        until("something is held back", async || {
            let held: Vec<_> = self.gateways.iter().map(Gateway::held).collect();
            wanted(held.iter().sum::<usize>() >= frames).map(|()| held)
        })
        .await
    }

    /// Lets so many through at each gateway, and waits until more are held back.
    pub async fn release(&self, held: &[usize]) {
        let mut left = 0;
        for (gateway, held) in self.gateways.iter().zip(held) {
            left += gateway.release(*held);
        }
        self.until_held(left + 1).await;
    }
}

/// What servers are set to.
fn options() -> server::Options {
    let mut options = index::options();
    options.index.max_staleness = STALENESS;
    options.index.usage.flush_interval = POLL;
    options
}

/// Adds the user whom no step changes.
async fn add_witness(cluster: &Cluster) {
    let witness = put_user(WITNESS, InstanceRole::User, false);
    let pusher = &cluster.replicas[0].pusher;
    pusher.apply(batch([witness])).await.unwrap();
}

/// The servers, as askers.
fn servers(cluster: &Cluster) -> Vec<Asker> {
    let servers = cluster.replicas.iter().enumerate();
    servers
        .map(|(number, server)| Asker::process(format!("server {number}"), server.sidecar.clone()))
        .collect()
}

impl Everything {
    pub async fn start() -> Self {
        let direct = postgres::migrated_database().await;
        let cluster = Cluster::on(direct, SERVERS, options()).await;
        add_witness(&cluster).await;
        let to = |server: usize| Gateway::to(&cluster.replicas[server].connections);
        let to_server = to(0);
        let first = Self::follower(&cluster, &to_server).await;
        let to_first = Gateway::to(&first.connections);
        let last = Self::follower(&cluster, &to_first).await;
        let to_last = Gateway::to(&last.connections);
        let to_servers = [to(1), to(2)];
        let mut askers = servers(&cluster);
        askers.extend([
            Asker::process("the chain's first", first.sidecar.clone()),
            Asker::process("the chain's last", last.sidecar.clone()),
            Self::program(&cluster, "a program", &to_servers).await,
            Self::program(&cluster, "a program at the chain", &[&to_last]).await,
        ]);
        let link = |gateways, servers: &[usize], behind: &[usize]| Link {
            gateways,
            servers: servers.to_vec(),
            behind: behind.to_vec(),
        };
        Self {
            askers: askers.into_iter().map(Arc::new).collect(),
            links: vec![
                link(vec![to_server], &[0], &[FIRST, LAST, AT_LAST]),
                link(vec![to_first], &[], &[LAST, AT_LAST]),
                link(vec![to_last], &[], &[AT_LAST]),
                link(Vec::from(to_servers), &[1, 2], &[AT_SERVERS]),
            ],
            cluster,
            first: Some(first),
            _last: Some(last),
        }
    }

    /// That many servers and nobody who follows them, so that no step lets time jump.
    pub async fn only_servers(count: usize) -> Self {
        let cluster = Cluster::start(count).await;
        add_witness(&cluster).await;
        Self {
            askers: servers(&cluster).into_iter().map(Arc::new).collect(),
            links: Vec::new(),
            cluster,
            first: None,
            _last: None,
        }
    }

    async fn follower(cluster: &Cluster, to: &Gateway) -> Follower {
        let mut settings = Settings {
            clock: cluster.time.clock(),
            options: cluster.options,
            without_names: false,
        };
        settings.options.index.poll_interval = POLL;
        Follower::start(cluster, &[to], settings).await
    }

    async fn program(
        cluster: &Cluster,
        name: &str,
        to: &[impl std::borrow::Borrow<Gateway>],
    ) -> Asker {
        let mut addresses = to.iter().map(|to| to.borrow().target().to_string());
        let first = addresses.next().expect("somebody to follow");
        let builder = addresses.fold(Client::builder(&first), |builder, address| {
            builder.address(&address)
        });
        let token = cluster.token(CallerPermission::Replicate);
        let client = builder
            .caller_token(CallerToken::new(token).unwrap())
            .build()
            .unwrap();
        let options = EmbeddedOptions {
            max_staleness: STALENESS,
            poll_interval: POLL,
            usage_interval: POLL,
            clock: cluster.time.clock(),
            ..EmbeddedOptions::default()
        };
        let authenticator = Authenticator::embedded(&client, options);
        authenticator.ready().await;
        Asker::embedded(name, authenticator)
    }

    /// Kills a server, and starts another in its place.
    pub async fn restart_server(&mut self, number: usize) {
        let ways = |link: &Link| {
            let servers = link.servers.clone();
            servers.into_iter().position(|server| server == number)
        };
        for link in &self.links {
            if let Some(way) = ways(link) {
                link.gateways[way].cut();
            }
        }
        self.cluster.restart(number).await;
        let server = &self.cluster.replicas[number];
        self.askers[number].is_now(server.sidecar.clone());
        for link in &self.links {
            if let Some(way) = ways(link) {
                link.gateways[way].lead_to(&server.connections);
                link.gateways[way].mend();
            }
        }
    }

    /// Kills the chain's first replica, and starts another in its place.
    pub async fn restart_first(&mut self) {
        let [to_server, to_first, ..] = &self.links[..] else {
            panic!("there is a chain");
        };
        to_first.cut();
        let killed = self.first.take().expect("there is a chain");
        killed.server.abort();
        let first = Self::follower(&self.cluster, &to_server.gateways[0]).await;
        self.askers[FIRST].is_now(first.sidecar.clone());
        to_first.gateways[0].lead_to(&first.connections);
        self.first = Some(first);
        to_first.mend();
    }

    /// Waits until everybody says of a token that it works, which it does.
    pub async fn until_all_accept(&self, token: &str) {
        for asker in &self.askers {
            until(&format!("{} accepts it", asker.name), async || match asker
                .ask(&introspect(token))
                .await
            {
                Ok(told) if told.answer.active => Ok(()),
                other => Err(other),
            })
            .await;
        }
    }

    /// Waits until these say of a token that it was revoked.
    pub async fn until_revoked(&self, askers: &[usize], token: &str) {
        for asker in askers {
            let asker = &self.askers[*asker];
            until(&format!("{} refuses it", asker.name), async || match asker
                .ask(&introspect(token))
                .await
            {
                Ok(told) if told.answer.inactive_reason() == InactiveReason::Revoked => Ok(()),
                other => Err(other),
            })
            .await;
        }
    }

    /// These say of tokens that they know, and that worked when they last heard of them, that
    /// they cannot tell, since their index is too old.
    pub async fn are_stale(&self, askers: &[usize], tokens: &[&str]) {
        for asker in askers {
            let asker = &self.askers[*asker];
            for token in tokens {
                let told = asker.ask(&introspect(token)).await;
                let stale = matches!(told, Err(Silence::Stale));
                assert!(stale, "{} is not stale: {told:?}", asker.name);
            }
        }
    }
}
