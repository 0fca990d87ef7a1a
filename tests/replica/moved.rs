//! A pooler that moves connections which are open to another server, between two
//! statements: to whoever uses them nothing has happened, not even to what is prepared.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hitkeep_auth::{
    pb::{
        self,
        InactiveReason::{Revoked, UnknownToken},
    },
    store,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinSet,
};

use crate::{
    cluster::{Cluster, IMPATIENCE, Said},
    fixtures::*,
    harness::told,
    index::options,
    nodes::{self, Node},
    primary::{changes_hold, created, revoked},
    support::{
        folder::Folder,
        paths::encoded,
        proxy::{Messages, Proxy},
    },
    waiting::{until, wanted},
};

/// The types of messages that end with the server's word that it is ready: a simple query,
/// and a sync.
const AWAITED: [u8; 2] = [b'Q', b'S'];
/// What the server says then, and that it is in no transaction.
const READY: u8 = b'Z';
const IDLE: u8 = b'I';
/// A statement to be prepared, and the run of one.
const PARSE: u8 = b'P';
const EXECUTE: u8 = b'E';
/// What changes begin with, which only connections of the pool make.
const CHANGE: &[u8] = b"BEGIN ISOLATION LEVEL READ COMMITTED";
/// For how long what is moved is looked at: some polls.
const A_WHILE: Duration = Duration::from_millis(700);

/// Where connections lead.
#[derive(Clone)]
struct Ways {
    /// Those that are new.
    new: PathBuf,
    /// Those that are open, once they were moved.
    open: PathBuf,
    /// Whether new ones are moved as well, once they were asked something.
    moves_new: bool,
}

/// How many connections were moved.
#[derive(Default)]
struct Moved {
    all: AtomicU64,
    /// Of these, those through which something was changed before.
    of_pool: AtomicU64,
}

/// A pooler on a socket of its own.
struct Pooler {
    /// Goes when dropped.
    _folder: Folder,
    ways: watch::Sender<Ways>,
    moved: Arc<Moved>,
    _accepting: JoinSet<()>,
}

impl Pooler {
    /// Starts one in front of a server. Gives its own URL too.
    fn start(node: &Node) -> (Self, String) {
        let folder = Folder::new();
        let listener = UnixListener::bind(folder.join(".s.PGSQL.5432")).unwrap();
        let ways = watch::Sender::new(Ways {
            new: node.socket(),
            open: node.socket(),
            moves_new: false,
        });
        let moved = Arc::new(Moved::default());
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, ways.clone(), Arc::clone(&moved)));
        let database = node.database();
        let (_, database) = database.rsplit_once('/').unwrap();
        let url = format!("postgres://postgres@{}/{database}", encoded(&folder));
        let pooler = Self {
            _folder: folder,
            ways,
            moved,
            _accepting: accepting,
        };
        (pooler, url)
    }

    /// Moves the connections that are open. New ones lead to where they did.
    fn move_open(&self, to: &Node) {
        self.ways.send_modify(|ways| ways.open = to.socket());
    }

    /// Whether from now on each new connection is moved after the first answer.
    fn move_new(&self, moves: bool) {
        self.ways.send_modify(|ways| ways.moves_new = moves);
    }

    /// Leads all connections to a server.
    fn lead(&self, to: &Node) {
        self.ways.send_replace(Ways {
            new: to.socket(),
            open: to.socket(),
            moves_new: false,
        });
    }

    fn moved(&self) -> u64 {
        self.moved.all.load(Ordering::Relaxed)
    }

    fn moved_of_pool(&self) -> u64 {
        self.moved.of_pool.load(Ordering::Relaxed)
    }
}

async fn accept(listener: UnixListener, ways: watch::Sender<Ways>, moved: Arc<Moved>) {
    let mut links = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (ways, moved) = (ways.subscribe(), Arc::clone(&moved));
        links.spawn(async move {
            // Whichever side ends it.
            drop(serve(client, ways, &moved).await);
        });
    }
}

/// What a server has to be told so that a connection to it is like the one before.
#[derive(Default)]
struct Session(Vec<Vec<u8>>);

impl Session {
    fn note(&mut self, message: &[u8]) {
        let says = |what: &[u8]| message.windows(what.len()).any(|part| part == what);
        let is_first = self.0.is_empty();
        // The name of a statement that stays is not empty.
        let is_kept = message[0] == PARSE && message[5] != 0;
        if is_first || is_kept || (message[0] == b'Q' && (says(b"set_config") || says(b"LISTEN"))) {
            self.0.push(message.to_vec());
        }
    }

    /// Connects to that server, and says it all again.
    async fn repeat(&self, socket: PathBuf) -> std::io::Result<UnixStream> {
        let mut server = UnixStream::connect(socket).await?;
        let mut answers = Messages::default();
        for message in &self.0 {
            server.write_all(message).await?;
            if message[0] == PARSE {
                server.write_all(&[b'S', 0, 0, 0, 4]).await?;
            }
            loop {
                match answers.next() {
                    Some(answer) if answer[0] == READY => break,
                    Some(_) => {}
                    None if server.read_buf(&mut answers.buffer).await? > 0 => {}
                    None => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                }
            }
        }
        Ok(server)
    }
}

async fn serve(
    mut client: UnixStream,
    mut ways: watch::Receiver<Ways>,
    moved: &Moved,
) -> std::io::Result<()> {
    let Ways {
        new, mut moves_new, ..
    } = ways.borrow_and_update().clone();
    let mut server = UnixStream::connect(new).await?;
    let mut session = Session::default();
    let (mut said, mut answered) = (Messages::untyped(), Messages::default());
    // The first message is awaited as well.
    let mut awaited = 1;
    // Whether it was asked something. Before, it is as good as a new one, and to whoever
    // asks it what it leads to it is one.
    let (mut is_asked, mut is_idle) = (false, false);
    let mut is_of_pool = false;
    loop {
        tokio::select! {
            read = client.read_buf(&mut said.buffer) => {
                if read? == 0 {
                    return Ok(());
                }
                while let Some(message) = said.next() {
                    is_idle = false;
                    is_asked |= !session.0.is_empty() && message[0] == EXECUTE;
                    if !session.0.is_empty() && AWAITED.contains(&message[0]) {
                        awaited += 1;
                    }
                    is_of_pool |= message.windows(CHANGE.len()).any(|part| part == CHANGE);
                    session.note(&message);
                    server.write_all(&message).await?;
                }
            }
            read = server.read_buf(&mut answered.buffer) => {
                if read? == 0 {
                    return Ok(());
                }
                while let Some(message) = answered.next() {
                    if message[0] == READY {
                        awaited -= 1;
                        is_idle = awaited == 0 && message[5] == IDLE;
                    }
                    client.write_all(&message).await?;
                }
            }
            changed = async { if moves_new { Ok(()) } else { ways.changed().await } },
                if is_asked && is_idle && said.buffer.is_empty() =>
            {
                if changed.is_err() {
                    return Ok(());
                }
                moves_new = false;
                let open = ways.borrow_and_update().open.clone();
                server = session.repeat(open).await?;
                moved.all.fetch_add(1, Ordering::Relaxed);
                moved.of_pool.fetch_add(u64::from(is_of_pool), Ordering::Relaxed);
            }
        }
    }
}

/// Two servers, of which the second was promoted while the first goes on; what both know;
/// and two replicas, each with a pooler in front of the first.
struct Moving {
    pair: [Node; 2],
    poolers: Vec<Pooler>,
    cluster: Cluster,
    kept: Created,
    doomed: Created,
}

impl Moving {
    async fn begin() -> Self {
        let pair = nodes::pair().await;
        let [first, second] = &pair;
        let mut cluster = Cluster::on_hosts(first.database(), None, 1, options()).await;
        cluster.replicas.clear();
        let mut poolers = Vec::new();
        for _ in 0..2 {
            let (pooler, url) = Pooler::start(first);
            // Nothing goes through it.
            let (proxy, _) = Proxy::start(&first.database());
            let options = store::StoreOptions::new(url);
            let replica = cluster.start_with(proxy, options).await;
            replica.until_answers().await;
            poolers.push(pooler);
            cluster.replicas.push(replica);
        }
        let dashboard = &cluster.replicas[0].dashboard;
        let (kept, doomed) = (created(dashboard).await, created(dashboard).await);
        for replica in &cluster.replicas {
            for client in [&kept, &doomed] {
                replica.until_says(&client.token, Said::Active).await;
            }
        }
        first.acknowledge_alone().await;
        second.promote().await;
        Self {
            pair,
            poolers,
            cluster,
            kept,
            doomed,
        }
    }
}

/// Only what is open is moved, as by a pooler that was told of another server by mistake:
/// it leads to where a revoked token still works, and none of that is believed.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_open_connection_is_moved_to_is_not_believed() {
    let moving = Moving::begin().await;
    let Moving {
        cluster,
        kept,
        doomed,
        ..
    } = &moving;
    let ([first, second], pooler) = (&moving.pair, &moving.poolers[0]);
    let [replica, other] = &cluster.replicas[..] else {
        panic!("two replicas");
    };
    revoked(&other.dashboard, &doomed.id).await;
    replica
        .until_says(&doomed.token, Said::Inactive(Revoked))
        .await;
    for _ in 0..5 {
        let before = pooler.moved();
        pooler.move_open(second);
        until("it is moved", async || wanted(pooler.moved() > before)).await;
        let begun = Instant::now();
        until("it was looked at for a while", async || {
            let said = replica.says_within(&doomed.token, IMPATIENCE).await;
            assert!(
                [Said::Inactive(Revoked), Said::Nothing].contains(&said),
                "{said:?}"
            );
            wanted(begun.elapsed() > A_WHILE)
        })
        .await;
        // What is looked for leads to the first one, and is found again.
        replica.until_says(&kept.token, Said::Active).await;
    }
    // A connection of the pool that is open and idle, and that leads to the first.
    let before = created(&replica.dashboard).await;
    other.until_says(&before.token, Said::Active).await;
    let moved = pooler.moved_of_pool();
    pooler.move_open(second);
    until("a connection of the pool is moved", async || {
        wanted(pooler.moved_of_pool() > moved)
    })
    .await;
    let made = until("a client is created", async || {
        let made = replica
            .dashboard
            .create(personal(VERA).named("moved"))
            .await;
        if made.is_err() {
            assert_eq!(told(&made).split(' ').next(), Some("Unavailable"));
        }
        made
    })
    .await;
    let there = format!(
        "SELECT 1 / count(*) FROM api_clients WHERE id = '{}'",
        made.api_client.unwrap().id
    );
    first
        .holds(&there)
        .await
        .expect("what was acknowledged is there");
    // Nothing went astray, not even what would not have been acknowledged.
    let nothing = "SELECT 1 / (count(*) = 0)::int FROM api_clients WHERE name = 'moved'";
    second
        .holds(nothing)
        .await
        .expect("nothing was changed through what was moved");
    other.until_says(&made.token, Said::Active).await;
    // Nor does a replacement of the directory get its place there, which is given out in no
    // transaction.
    for node in [first, second] {
        let remember = "CREATE TABLE before AS SELECT last_place FROM directory_order";
        node.holds(remember).await.unwrap();
    }
    let moved = pooler.moved_of_pool();
    pooler.move_open(second);
    until("a connection of the pool is moved again", async || {
        wanted(pooler.moved_of_pool() > moved)
    })
    .await;
    let nothing = vec![pb::ReplaceDirectoryRequest::default()];
    replica.pusher.replace(nothing).await.unwrap_err();
    for (node, given) in [(first, 1), (second, 0)] {
        let holds = format!(
            "SELECT 1 / (now.last_place = before.last_place + {given})::int \
             FROM directory_order AS now, before"
        );
        node.holds(&holds).await.unwrap();
    }
    cluster
        .agree(&[&kept.token, &doomed.token, &made.token])
        .await;
}

/// The pooler leads elsewhere altogether: that is where the writes go.
#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_leads_elsewhere_is_followed() {
    let mut moving = Moving::begin().await;
    let [_, second] = &moving.pair;
    // The new one does not have it.
    let lost = created(&moving.cluster.replicas[0].dashboard).await;
    for pooler in &moving.poolers {
        pooler.lead(second);
    }
    let cluster = &mut moving.cluster;
    let young = changes_hold(cluster, &moving.doomed).await;
    for replica in &cluster.replicas {
        replica
            .until_says(&lost.token, Said::Inactive(UnknownToken))
            .await;
    }
    cluster.believe(second.database());
    cluster
        .agree(&[&moving.kept.token, &moving.doomed.token, &young.token])
        .await;
}

/// A survey asks a connection twice: who it leads to, and how new that server's timeline is. If
/// it is moved in between, the second answer is another server's, and must not keep the first
/// one from being used from then on.
#[tokio::test(flavor = "multi_thread")]
async fn a_survey_does_not_mix_up_two_servers() {
    let moving = Moving::begin().await;
    let (pooler, second) = (&moving.poolers[0], &moving.pair[1]);
    let replica = &moving.cluster.replicas[0];
    let before = pooler.moved();
    pooler.move_new(true);
    pooler.move_open(second);
    until("surveys are moved", async || {
        wanted(pooler.moved() > before + 20)
    })
    .await;
    pooler.move_new(false);
    replica.until_says(&moving.kept.token, Said::Active).await;
}
