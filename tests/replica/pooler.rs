//! A real `PgBouncer` between the service and its Postgres, in session mode. Where it is not
//! installed, its tests are skipped, and say so.

use std::{
    fmt::Write,
    fs,
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use hitkeep_auth::{server, store, store::migrations};
use tokio::{process::Command, sync::mpsc};

use crate::{
    cluster::Cluster,
    fixtures::*,
    harness::{TestApp, told},
    index::options,
    nodes::{self, DATABASE, Node},
    primary::{changes_hold, known, newest_takes_changes},
    support::{
        folder::Folder,
        paths::{decoded, encoded},
        process::{Process, binary},
        programs,
        proxy::Proxy,
    },
};

/// Where CI puts it.
const PLACE: &str = "target/ci-tools/pgbouncer/usr/sbin/pgbouncer";
/// What Postgres listens on, in a folder.
const SOCKET: &str = ".s.PGSQL.5432";
/// Callers that call one after the other, each on a connection of its own.
const CALLERS: usize = 8;
const OUTAGE: [&str; 2] = ["Unavailable DATABASE_UNAVAILABLE", "Unavailable OVERLOADED"];

/// A pooler, in front of a server.
struct Pooler {
    /// Where to connect to one of the databases, without the name.
    url: String,
    /// Goes when dropped.
    _folder: Folder,
    _process: Process,
}

impl Pooler {
    /// Starts one in front of that server, with more settings; none where it is not
    /// installed.
    async fn start(server: &Node, settings: &str) -> Option<Self> {
        Self::before(&server.sockets(), &server.socket(), settings).await
    }

    /// The same, in front of what listens in that folder, as the user that owns a file.
    async fn before(sockets: &Path, owned: &Path, settings: &str) -> Option<Self> {
        let program = programs::find("pgbouncer", PLACE)?;
        let folder = Folder::new();
        let mut lines = format!(
            "[databases]\n* = host='{}' port=5432 user=postgres\n\
             [pgbouncer]\nlisten_port = 5432\nunix_socket_dir = {}\nauth_type = any\n\
             admin_users = postgres\npool_mode = session\ndefault_pool_size = 50\n",
            sockets.display(),
            folder.display()
        );
        lines.push_str(settings);
        let file = folder.write("pgbouncer.ini", &lines);
        // It refuses to be root's, and Postgres' user may enter the folders of both.
        let owner = fs::metadata(owned).unwrap();
        for path in [&*folder, &file, &sockets.join(SOCKET)] {
            chown(path, Some(owner.uid()), Some(owner.gid())).unwrap();
        }
        let mut command = Command::new(&program);
        command.arg(&file).uid(owner.uid()).gid(owner.gid());
        // Its libraries lie beside it where its package was only unpacked.
        let libraries = program.ancestors().nth(2).expect("it is in a folder");
        let libraries = libraries.join("lib");
        let mut path = libraries.display().to_string();
        for entry in fs::read_dir(&libraries).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                write!(path, ":{}", entry.path().display()).unwrap();
            }
        }
        command.env("LD_LIBRARY_PATH", path).current_dir("/");
        let mut process = Process::start(command);
        process.stderr.line("process up").await;
        Some(Self {
            url: format!("postgres://postgres@{}/", encoded(&folder)),
            _folder: folder,
            _process: process,
        })
    }

    /// Runs a command of its console, which knows no prepared statements.
    async fn console(&self, command: &str) {
        let config: tokio_postgres::Config = format!("{}pgbouncer", self.url).parse().unwrap();
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        client.batch_execute(command).await.expect(command);
        connection.abort();
    }
}

/// The folder with the socket of a private Postgres, whose URL may end with a database.
fn sockets(url: &str) -> PathBuf {
    let rest = url
        .strip_prefix("postgres://postgres@")
        .expect("a private Postgres' URL");
    let (host, _) = rest.split_once('/').expect("a host");
    decoded(host)
}

/// A database with everything in it, on that server.
async fn migrated(server: &Node) -> String {
    server.admin("CREATE DATABASE pooled").await;
    let direct = server.url("pooled");
    migrations::apply(&direct).await.unwrap();
    direct
}

/// What a caller's calls got until it was told to stop.
async fn call_until(
    app: Arc<TestApp>,
    stop: Arc<AtomicBool>,
    served: mpsc::UnboundedSender<()>,
) -> Vec<String> {
    let dashboard = app.dashboard().await;
    let mut failures = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let made = dashboard.create(personal(VERA)).await;
        let deleted = match &made {
            Ok(made) => {
                let id = made.api_client.as_ref().unwrap().id.clone();
                dashboard.delete(delete(VERA, &id)).await.map(drop)
            }
            Err(status) => Err(status.clone()),
        };
        let listed = dashboard.list(list(VERA, of_user(VERA))).await.map(drop);
        if deleted.is_ok() && listed.is_ok() && served.send(()).is_err() {
            break;
        }
        for failed in [deleted, listed].into_iter().filter(Result::is_err) {
            failures.push(told(&failed));
        }
    }
    failures
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashes_behind_a_pooler_is_unavailable_and_nothing_else() {
    let own = Node::start(Folder::new()).await;
    let settings = "server_login_retry = 0\nquery_wait_timeout = 2\n";
    let Some(pooler) = Pooler::start(&own, settings).await else {
        return;
    };
    let direct = migrated(&own).await;
    let store = store::StoreOptions::new(format!("{}pooled", pooler.url));
    let app = Arc::new(TestApp::on(&direct, &store, server::Options::default()).await);
    app.change(world()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (sender, mut served) = mpsc::unbounded_channel();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            tokio::spawn(call_until(
                Arc::clone(&app),
                Arc::clone(&stop),
                sender.clone(),
            ))
        })
        .collect();
    let mut failures = Vec::new();
    for _ in 0..3 {
        for _ in 0..CALLERS {
            served.recv().await.unwrap();
        }
        own.kill_and_restart().await;
        while served.try_recv().is_ok() {}
    }
    served.recv().await.unwrap();
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        failures.extend(caller.await.unwrap());
    }
    failures.sort();
    failures.dedup();
    assert!(!failures.is_empty());
    for failure in failures {
        assert!(OUTAGE.contains(&&*failure), "{failure}");
    }
}

/// What `doctor` says of a check, for a server on that database.
async fn found(url: &str, check: &str, more: &[&str]) -> (String, String) {
    let command = [
        "doctor",
        "--json",
        "--listen",
        "127.0.0.1:0",
        "--database-url",
        url,
    ];
    let ended = Process::start(binary(command.iter().chain(more)))
        .ended()
        .await;
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).expect(&ended.stderr);
    let mut checks = report["checks"].as_array().unwrap().iter();
    let found = checks.find(|found| found["check"] == check);
    let found = found.unwrap_or_else(|| panic!("{check} in {report}"));
    let part = |name: &str| found[name].as_str().unwrap().to_owned();
    (part("status"), part("message"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_doctor_finds_a_pooler_in_transaction_mode() {
    let own = Node::start(Folder::new()).await;
    let direct = migrated(&own).await;
    assert_eq!(found(&direct, "pooler", &[]).await.0, "ok");
    for (mode, size, status) in [
        ("session", 50, "ok"),
        ("transaction", 50, "error"),
        // The only server connection is shared.
        ("transaction", 1, "error"),
    ] {
        let settings = format!("pool_mode = {mode}\ndefault_pool_size = {size}\n");
        let Some(pooler) = Pooler::start(&own, &settings).await else {
            return;
        };
        let url = format!("{}pooled", pooler.url);
        let (found, message) = found(&url, "pooler", &[]).await;
        assert_eq!(found, status, "{mode} {size}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_doctor_knows_a_standby() {
    let [primary, standby] = nodes::pair().await;
    assert_eq!(found(&primary.database(), "writes", &[]).await.0, "ok");
    let (status, message) = found(&standby.database(), "writes", &[]).await;
    assert_eq!(status, "error", "{message}");
    assert!(message.contains("is a standby"), "{message}");
    let (status, message) = found(&standby.database(), "writes", &["--allow-standby"]).await;
    assert_eq!(status, "warning", "{message}");
}

/// Two servers, of which the second was promoted while the first goes on; an address that
/// leads to the first; and two replicas with a pooler in front of that address.
struct Behind {
    pair: [Node; 2],
    address: Proxy,
    pooler: Pooler,
    cluster: Cluster,
    kept: Created,
    doomed: Created,
}

impl Behind {
    async fn begin(settings: &str) -> Option<Self> {
        let pair = nodes::pair().await;
        let [first, second] = &pair;
        let (address, url) = Proxy::start(&first.database());
        let pooler = Pooler::before(&sockets(&url), &first.socket(), settings).await?;
        let mut cluster = Cluster::on_hosts(first.database(), None, 1, options()).await;
        cluster.replicas.clear();
        for _ in 0..2 {
            // Nothing goes through it.
            let (proxy, _) = Proxy::start(&first.database());
            let options = store::StoreOptions::new(format!("{}{DATABASE}", pooler.url));
            let replica = cluster.start_with(proxy, options).await;
            replica.until_answers().await;
            cluster.replicas.push(replica);
        }
        let [kept, doomed] = known(&cluster).await;
        first.acknowledge_alone().await;
        second.promote().await;
        Some(Self {
            pair,
            address,
            pooler,
            cluster,
            kept,
            doomed,
        })
    }
}

/// Before, a new connection to the pooler may be given an old one to the first server.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_behind_a_pooler_that_reconnects_is_followed() {
    let Some(mut behind) = Behind::begin("").await else {
        return;
    };
    let [_, second] = &behind.pair;
    behind.address.repoint(&second.database());
    behind.pooler.console("RECONNECT").await;
    let cluster = &mut behind.cluster;
    let young = changes_hold(cluster, &behind.doomed).await;
    cluster.believe(second.database());
    cluster
        .agree(&[&behind.kept.token, &behind.doomed.token, &young.token])
        .await;
}

/// The lifetime bounds for how long old connections are given out, during which one replica
/// may find the first server and another one the second.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_behind_a_pooler_of_short_lived_connections_is_followed() {
    let Some(mut behind) = Behind::begin("server_lifetime = 1\n").await else {
        return;
    };
    let [_, second] = &behind.pair;
    let cluster = &mut behind.cluster;
    behind.address.repoint(&second.database());
    let revoke = format!(
        "UPDATE api_clients SET revoke_time = now() WHERE id = '{}'",
        behind.doomed.id
    );
    second.holds(&revoke).await.expect("it takes writes");
    newest_takes_changes(cluster, second).await;
    cluster.believe(second.database());
    cluster
        .agree(&[&behind.kept.token, &behind.doomed.token])
        .await;
}
