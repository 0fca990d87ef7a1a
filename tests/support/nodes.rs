//! Postgres servers of a test's own that replicate from one another, and what is done
//! to them in a failover.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread::JoinHandle,
};

use hitkeep_auth::store;
use hitkeep_auth_dev::{
    postgres::{Durability, Options, PrivatePostgres},
    user_folders::cache_folder,
};
use tokio::sync::oneshot;

use crate::support::{paths::decoded, postgres};

/// The database that the service is on.
pub const DATABASE: &str = "app";

/// A Postgres in its folder, and the thread that it must not outlive.
pub struct Node {
    /// Where to connect to one of its databases, without the name.
    url: String,
    folder: PathBuf,
    /// Gets whether to kill it; stopped in order otherwise.
    end: Option<mpsc::Sender<End>>,
    thread: Option<JoinHandle<()>>,
}

/// How a server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    InOrder,
    Killed,
}

impl Node {
    pub async fn start(folder: PathBuf) -> Self {
        let options = Options {
            folder: folder.clone(),
            durability: Durability::Kept,
            programs: None,
            cache: cache_folder(),
        };
        let (started, url) = oneshot::channel();
        let (end, ends) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let server = PrivatePostgres::start(&options, &|_| ());
            let server = server.unwrap_or_else(|why| panic!("{why}"));
            started.send(server.url("")).expect("the test waits for it");
            if ends.recv() == Ok(End::Killed) {
                let pid = server.pid().to_string();
                let killed = Command::new("/bin/sh")
                    .args(["-c", "kill -KILL \"$1\"", "sh", &pid])
                    .status();
                assert!(killed.expect("there is a shell").success());
            }
        });
        let url = url.await.expect("a private Postgres starts");
        Self {
            url,
            folder,
            end: Some(end),
            thread: Some(thread),
        }
    }

    /// Where to connect to the service's database.
    pub fn database(&self) -> String {
        format!("{}{DATABASE}", self.url)
    }

    /// The host in its URL.
    pub fn host(&self) -> &str {
        let url = self.url.strip_prefix("postgres://postgres@").unwrap();
        url.trim_end_matches('/')
    }

    /// The folder of its own.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where its sockets are.
    fn sockets(&self) -> PathBuf {
        decoded(self.host())
    }

    /// The socket that it listens on.
    pub fn socket(&self) -> PathBuf {
        self.sockets().join(".s.PGSQL.5432")
    }

    /// Runs a statement as its superuser.
    pub async fn admin(&self, sql: &str) {
        let admin = format!("{}postgres", self.url);
        postgres::execute(&admin, sql).await;
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
    pub fn rest(mut self) -> PathBuf {
        self.stop(End::InOrder);
        let folder = self.folder().to_owned();
        // The folder stays.
        std::mem::forget(self);
        folder
    }

    /// Kills it: it gets to say nothing to anybody.
    pub fn kill(mut self) {
        self.stop(End::Killed);
    }

    fn stop(&mut self, end: End) {
        if let Some(thread) = self.thread.take() {
            // It may have ended by itself, with a panic of its own.
            if let Some(ends) = self.end.take() {
                ends.send(end).ok();
            }
            drop(thread.join());
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop(End::InOrder);
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

/// A folder of a server's own, with a short name: sockets are in it.
fn folder() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("hka-node-{}-{number}", std::process::id());
    std::env::temp_dir().join(name)
}

/// A server with an empty database for the service, which is stopped, so that its
/// folder can be copied.
async fn stopped() -> PathBuf {
    let node = Node::start(folder()).await;
    node.admin(&format!("CREATE DATABASE {DATABASE}")).await;
    node.admin("ALTER SYSTEM SET synchronous_commit = remote_apply")
        .await;
    node.rest()
}

fn copy(from: &Path) -> PathBuf {
    let to = folder();
    let copied = Command::new("/bin/sh")
        .args(["-c", "cp -a \"$1\" \"$2\"", "sh"])
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
