//! A primary that dies, and a standby that takes its place: whoever was told of both
//! finds the new one without help.

use std::{path::PathBuf, process::Command, sync::mpsc, thread::JoinHandle};

use hitkeep_auth::{
    config,
    dev::postgres::{Durability, Options, PrivatePostgres},
    pb, server, store,
};
use tokio::sync::oneshot;

use crate::{
    fixtures::*,
    harness::{TestApp, told},
    support::postgres,
};

/// A Postgres of the test's own, in its folder, and the thread that it must not
/// outlive.
struct Node {
    /// Where to connect to one of its databases, without the name.
    url: String,
    /// Told whether to kill it; stopped in order otherwise.
    end: mpsc::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Node {
    async fn start(folder: PathBuf) -> Self {
        let options = Options {
            folder,
            durability: Durability::Kept,
            programs: None,
            cache: config::cache_folder(),
        };
        let (started, url) = oneshot::channel();
        let (end, ends) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let server = PrivatePostgres::start(&options, &|_| ());
            let server = server.unwrap_or_else(|why| panic!("{why}"));
            started.send(server.url("")).expect("the test waits for it");
            if ends.recv() == Ok(true) {
                let pid = server.pid().to_string();
                let killed = Command::new("/bin/sh")
                    .args(["-c", "kill -KILL \"$1\"", "sh", &pid])
                    .status();
                assert!(killed.expect("there is a shell").success());
            }
        });
        let url = url.await.expect("a private Postgres starts");
        Self { url, end, thread }
    }

    /// The host in its URL.
    fn host(&self) -> &str {
        let url = self.url.strip_prefix("postgres://postgres@").unwrap();
        url.trim_end_matches('/')
    }

    fn end(self, kill: bool) {
        self.end.send(kill).unwrap();
        self.thread.join().unwrap();
    }
}

/// A primary with a database, and a standby that has applied whatever the primary
/// has acknowledged.
async fn pair(folders: &[PathBuf; 2]) -> [Node; 2] {
    let [first, second] = folders;
    let primary = Node::start(first.clone()).await;
    let admin = format!("{}postgres", primary.url);
    postgres::execute(&admin, "CREATE DATABASE app").await;
    postgres::execute(&admin, "ALTER SYSTEM SET synchronous_commit = remote_apply").await;
    let host = primary.host().replace("%2F", "/");
    primary.end(false);
    let copied = Command::new("/bin/sh")
        .args(["-c", "cp -a \"$1\" \"$2\"", "sh"])
        .args([first, second])
        .status();
    assert!(copied.expect("there is a shell").success());
    let data = second.join("postgres/data");
    std::fs::write(data.join("standby.signal"), "").unwrap();
    let settings = data.join("postgresql.auto.conf");
    let follow =
        format!("primary_conninfo = 'host={host} user=postgres application_name=standby'\n");
    let before = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, before + &follow).unwrap();
    let primary = Node::start(first.clone()).await;
    let standby = Node::start(second.clone()).await;
    // From here on, a commit waits until the standby has it.
    for sql in [
        "ALTER SYSTEM SET synchronous_standby_names = 'standby'",
        "SELECT pg_reload_conf()",
    ] {
        postgres::execute(&admin, sql).await;
    }
    [primary, standby]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_new_primary_is_found() {
    let both = ["one", "two"].map(|node| {
        let name = format!("hka-failover-{}-{node}", std::process::id());
        std::env::temp_dir().join(name)
    });
    let [primary, standby] = pair(&both).await;
    // The standby comes first, and does not take writes.
    let hosts = format!("{},{}", standby.host(), primary.host());
    let url = format!("postgres://postgres@{hosts}/app");
    store::migrations::apply(&url)
        .await
        .expect("the primary is found");
    let (direct, after) = (format!("{}app", primary.url), format!("{}app", standby.url));
    let app = TestApp::on(
        &direct,
        &store::Options::new(&url),
        server::Options::default(),
    )
    .await;
    app.change(world()).await;
    let dashboard = app.dashboard().await;
    let before = dashboard.created(personal(VERA)).await;
    let sidecar = app.sidecar().await;
    assert!(
        sidecar
            .introspect(introspect(&before.token))
            .await
            .unwrap()
            .active
    );

    primary.end(true);
    // What is in memory is answered meanwhile.
    assert!(
        sidecar
            .introspect(introspect(&before.token))
            .await
            .unwrap()
            .active
    );
    postgres::execute(
        &format!("{}postgres", standby.url),
        "SELECT pg_promote(true, 60)",
    )
    .await;
    let revoked = dashboard.revoke(revoke(VERA, &before.id)).await;
    assert!(revoked.is_ok(), "{}", told(&revoked));
    let request = pb::IntrospectRequest {
        at_least_revision: Some(revoked.unwrap().revision),
        ..introspect(&before.token)
    };
    assert!(!sidecar.introspect(request).await.unwrap().active);
    let made = dashboard.created(personal(VERA)).await;
    assert!(
        sidecar
            .introspect(introspect(&made.token))
            .await
            .unwrap()
            .active
    );
    // It is the promoted one that has all of it.
    postgres::execute(&after, "SELECT 1 / (count(*) - 1) FROM api_clients").await;
    app.stop.send(()).await.unwrap();
    app.server.await.unwrap();
    standby.end(false);
    for folder in &both {
        drop(std::fs::remove_dir_all(folder));
    }
}
