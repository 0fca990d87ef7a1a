//! Postgres servers of a test's own: what is done to them in an outage, and, where one
//! replicates from another, in a failover.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use hitkeep_auth::store;
use hitkeep_auth_dev::{
    postgres::{Durability, Options, PostgresError, PrivatePostgres},
    user_folders::cache_folder,
};
use tokio::sync::oneshot;

use crate::support::{folder::Folder, paths::decoded, postgres};

/// The database that the service is on.
pub const DATABASE: &str = "app";
/// How long what is left of a killed server may be in the way of the next.
const PATIENCE: Duration = Duration::from_secs(30);

/// A Postgres in its folder, whose data is kept as in production.
pub struct Node {
    /// Where to connect to one of its databases, without the name.
    url: String,
    running: Running,
    /// Removed after the server was stopped, since it is dropped later.
    pub folder: Folder,
}

/// A server, and the thread that it must not outlive. Stopped in order when dropped.
struct Running {
    steps: Option<mpsc::Sender<(Step, oneshot::Sender<()>)>>,
    thread: Option<JoinHandle<()>>,
}

/// What is done with it next.
enum Step {
    Kill,
    Start,
}

impl Node {
    /// Starts one in a folder that is empty, or that another one was in.
    pub async fn start(folder: Folder) -> Self {
        let options = Options {
            folder: folder.to_owned(),
            durability: Durability::Kept,
            programs: None,
            cache: cache_folder(),
        };
        let (started, url) = oneshot::channel();
        let (steps, asked) = mpsc::channel();
        let thread = std::thread::spawn(move || serve(&options, started, &asked));
        Self {
            url: url.await.expect("a private Postgres starts"),
            running: Running {
                steps: Some(steps),
                thread: Some(thread),
            },
            folder,
        }
    }

    /// Where to connect to a database.
    pub fn url(&self, database: &str) -> String {
        format!("{}{database}", self.url)
    }

    /// Where to connect to the service's database.
    pub fn database(&self) -> String {
        self.url(DATABASE)
    }

    /// The host in its URL.
    pub fn host(&self) -> &str {
        let url = self.url.strip_prefix("postgres://postgres@").unwrap();
        url.trim_end_matches('/')
    }

    /// Where its sockets are.
    pub fn sockets(&self) -> PathBuf {
        decoded(self.host())
    }

    /// The socket that it listens on.
    pub fn socket(&self) -> PathBuf {
        self.sockets().join(".s.PGSQL.5432")
    }

    /// Runs a statement as its superuser.
    pub async fn admin(&self, sql: &str) {
        postgres::execute(&self.url("postgres"), sql).await;
    }

    /// Whether a statement succeeds in the service's database, or what it fails with.
    pub async fn holds(&self, sql: &str) -> Result<(), String> {
        postgres::attempt(&self.database(), sql).await
    }

    /// Changes a setting for the whole server, sessions that are open included.
    pub async fn set(&self, setting: &str) {
        self.admin(&format!("ALTER SYSTEM SET {setting}")).await;
        self.admin("SELECT pg_reload_conf()").await;
    }

    /// Makes it read-only while it runs: what a demotion looks like.
    pub async fn demote(&self) {
        self.set("default_transaction_read_only = on").await;
    }

    /// Makes a standby a primary.
    pub async fn promote(&self) {
        self.admin("SELECT pg_promote(true, 60)").await;
    }

    /// Has commits acknowledged without a standby from here on.
    pub async fn acknowledge_alone(&self) {
        self.set("synchronous_standby_names = ''").await;
    }

    /// Stops it in order, and gives the folder that it may be started in again.
    pub fn rest(self) -> Folder {
        let Self {
            running, folder, ..
        } = self;
        drop(running);
        folder
    }

    /// Kills it, which it cannot do anything about. What its sessions are at they may
    /// still finish.
    pub async fn kill(&self) {
        self.running.take(Step::Kill).await;
    }

    /// Starts it again, once it was killed.
    pub async fn start_again(&self) {
        self.running.take(Step::Start).await;
    }

    pub async fn kill_and_restart(&self) {
        self.kill().await;
        self.start_again().await;
    }
}

impl Running {
    async fn take(&self, step: Step) {
        let (sender, done) = oneshot::channel();
        let thread = self.steps.as_ref().expect("it runs");
        thread.send((step, sender)).expect("it runs");
        done.await.expect("it is done");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.steps.take());
        if let Some(thread) = self.thread.take() {
            // It may have ended by itself, with a panic of its own.
            drop(thread.join());
        }
    }
}

fn serve(
    options: &Options,
    started: oneshot::Sender<String>,
    steps: &mpsc::Receiver<(Step, oneshot::Sender<()>)>,
) {
    let start = || PrivatePostgres::start(options, &|_| ());
    let first = start().unwrap_or_else(|why| panic!("{why}"));
    let url = first.url("");
    started.send(url.clone()).expect("the test waits for it");
    let mut server = Some(first);
    while let Ok((step, done)) = steps.recv() {
        match step {
            Step::Kill => {
                let server = server.take().expect("it runs");
                let killed = Command::new("/bin/sh")
                    .args(["-c", "kill -KILL \"$1\"", "sh", &server.pid().to_string()])
                    .status();
                assert!(killed.expect("there is a shell").success());
            }
            Step::Start => {
                let begun = Instant::now();
                let again = loop {
                    match start() {
                        Ok(server) => break server,
                        // Its backends see only when they look up that it is gone.
                        Err(PostgresError::NotReady { .. }) if begun.elapsed() < PATIENCE => {}
                        Err(why) => panic!("{why}"),
                    }
                };
                assert_eq!(again.url(""), url);
                server = Some(again);
            }
        }
        done.send(()).expect("the test waits for it");
    }
}

/// A server with an empty database for the service, which is stopped, so that its
/// folder can be copied.
async fn stopped() -> Folder {
    let node = Node::start(Folder::new()).await;
    node.admin(&format!("CREATE DATABASE {DATABASE}")).await;
    node.admin("ALTER SYSTEM SET synchronous_commit = remote_apply")
        .await;
    node.rest()
}

fn copy(from: &Path) -> Folder {
    let to = Folder::new();
    let copied = Command::new("/bin/sh")
        .args(["-c", "cp -a \"$1/.\" \"$2\"", "sh"])
        .args([from, &to])
        .status();
    assert!(copied.expect("there is a shell").success());
    to
}

/// A primary with the service's database, and a standby that has applied whatever the
/// primary has acknowledged.
pub async fn pair() -> [Node; 2] {
    let first = stopped().await;
    let second = copy(&first);
    let primary = Node::start(first).await;
    follow(&second, &primary);
    let standby = Node::start(second).await;
    // From here on, a commit waits until the standby has it.
    primary.set("synchronous_standby_names = 'standby'").await;
    migrate(&primary).await;
    [primary, standby]
}

/// Has the server in that folder, which does not run, follow a primary once it is started.
pub fn follow(folder: &Path, primary: &Node) {
    let data = data(folder);
    std::fs::write(data.join("standby.signal"), "").unwrap();
    let settings = data.join("postgresql.auto.conf");
    // Of the value's own quotes, each is written twice.
    let follow = format!(
        "primary_conninfo = 'host=''{}'' user=postgres application_name=standby'\n",
        primary.sockets().display()
    );
    let before = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, before + &follow).unwrap();
}

/// The data of the server in that folder.
pub fn data(folder: &Path) -> PathBuf {
    folder.join("postgres/data")
}

/// Two servers that both take writes, with one history up to now and of one timeline:
/// what a copy of a machine is.
pub async fn twins() -> [Node; 2] {
    let first = stopped().await;
    let one = Node::start(first).await;
    migrate(&one).await;
    let first = one.rest();
    let second = copy(&first);
    [Node::start(first).await, Node::start(second).await]
}

async fn migrate(node: &Node) {
    let applied = store::migrations::apply(&node.database()).await;
    applied.expect("the primary takes migrations");
}
