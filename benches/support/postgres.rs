//! The private Postgres of a benchmark. Its data is thrown away at the end, also
//! where the benchmark is interrupted; what happens to it on the way is up to
//! the benchmark: it can be killed, and started again on the same data.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use hitkeep_auth::store::migrations;
use hitkeep_auth_dev::{
    postgres::{Options, PrivatePostgres},
    user_folders::cache_folder,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio_postgres::{Client, NoTls};

pub use hitkeep_auth_dev::postgres::Durability;

/// How long a killed server's memory may be in use by what is left of it.
const RESTART_TIMEOUT: Duration = Duration::from_secs(30);

/// A running server. Stopped and removed when dropped.
pub struct Postgres {
    /// Closed to end the server.
    orders: Option<mpsc::Sender<Order>>,
    done: mpsc::Receiver<()>,
    thread: Option<JoinHandle<()>>,
    /// The URL of a database, with its name left out.
    server: String,
    folder: PathBuf,
}

enum Order {
    Kill,
    Start,
}

impl Postgres {
    /// Starts one with empty data.
    pub fn start(durability: Durability) -> Self {
        let options = Options {
            folder: std::env::temp_dir().join(format!("hitkeep-auth-bench-{}", std::process::id())),
            durability,
            programs: None,
            cache: cache_folder(),
        };
        let folder = options.folder.clone();
        let (orders, received) = mpsc::channel();
        let (finished, done) = mpsc::channel();
        let (started, url) = mpsc::channel();
        // The server dies with the thread that started it, so that one stays.
        let thread = std::thread::spawn(move || {
            remove_after_us(&options.folder);
            let mut server = Some(start(&options).unwrap_or_else(|why| panic!("{why}")));
            let url = server.as_ref().map(|server| server.url(""));
            started.send(url).expect("the benchmark waits for it");
            for order in received {
                match order {
                    Order::Kill => kill(server.take().expect("it runs")),
                    Order::Start => server = Some(start_again(&options)),
                }
                finished.send(()).expect("the benchmark waits for it");
            }
        });
        let server = url.recv().ok().flatten().expect("a private Postgres");
        Self {
            orders: Some(orders),
            done,
            thread: Some(thread),
            server,
            folder,
        }
    }

    /// The folder of its own. What is in it goes with it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the server logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("postgres.log")).expect("it has a log")
    }

    /// Kills the server as a power failure would: nobody gets to say goodbye.
    /// Blocks until it is gone.
    pub fn kill(&self) {
        self.order(Order::Kill);
    }

    /// Starts it again on the same data. Blocks until it is ready.
    pub fn start_again(&self) {
        self.order(Order::Start);
    }

    fn order(&self, order: Order) {
        let orders = self.orders.as_ref().expect("it ends when dropped");
        orders.send(order).expect("the thread goes on");
        self.done.recv().expect("the thread did as it was told");
    }

    /// The URL of a database of that name.
    pub fn url(&self, database: &str) -> String {
        format!("{}{database}", self.server)
    }

    /// Makes an empty database.
    pub async fn make(&self, database: &str, as_copy_of: &str) -> String {
        let statement =
            format!("CREATE DATABASE {database} TEMPLATE {as_copy_of} STRATEGY FILE_COPY");
        execute(&self.url("postgres"), &statement).await;
        self.url(database)
    }

    /// Makes a database with all migrations applied.
    pub async fn migrated(&self, database: &str) -> String {
        let url = self.make(database, "template0").await;
        let applied = migrations::apply(&url).await;
        applied.expect("the migrations apply");
        url
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn start(options: &Options) -> Result<PrivatePostgres, hitkeep_auth_dev::postgres::PostgresError> {
    #[expect(clippy::print_stderr, reason = "whoever runs this waits for it")]
    let announce = |text: &str| eprintln!("{text}");
    PrivatePostgres::start(options, &announce)
}

fn kill(server: PrivatePostgres) {
    let pid = i32::try_from(server.pid()).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a pid"), Signal::KILL).expect("it is our child");
    // Waits for its end.
    drop(server);
}

/// What is left of a killed server goes by itself, but not at once, and until
/// then a new one refuses to start.
fn start_again(options: &Options) -> PrivatePostgres {
    let begun = Instant::now();
    loop {
        match start(options) {
            Ok(server) => return server,
            Err(why) if begun.elapsed() > RESTART_TIMEOUT => panic!("{why}"),
            Err(_) => {}
        }
    }
}

/// A shell waits for our end, which closes its standard input, and removes the
/// folder once the server is gone. In a group of its own, out of Ctrl-C's reach.
pub fn remove_after_us(folder: &Path) {
    use std::os::unix::process::CommandExt;
    let script = "cat; n=0; while [ -e \"$1/postgres/data/postmaster.pid\" ] && [ $n -lt 600 ]; do \
                  sleep 0.05; n=$((n+1)); done; rm -rf \"$1\"";
    let shell = Command::new("/bin/sh")
        .args(["-c", script, "sh"])
        .arg(folder)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("there is a shell");
    // Its end of the pipe is ours until we die.
    std::mem::forget(shell);
}

/// A connection of the benchmark's own.
pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .expect("the benchmark's Postgres answers");
    // It ends with the client.
    tokio::spawn(connection);
    client
}

/// Runs statements on a connection of their own.
pub async fn execute(url: &str, sql: &str) {
    let done = attempt(url, sql).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// The same, where they may fail.
pub async fn attempt(url: &str, sql: &str) -> Result<(), String> {
    let done = connect(url).await.batch_execute(sql).await;
    done.map_err(|error| format!("{error:?}"))
}
