//! One private Postgres for all tests of a process, and a database of its own
//! for each test: notifications and locks are per database, so tests that share
//! one would wake and block each other. Everything is thrown away at the end.

use std::{
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
};

use diesel::{
    dsl,
    sql_types::{BigInt, Text},
};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use hitkeep_auth::store::migrations;
use hitkeep_auth_dev::{
    postgres::{Durability, Options, PrivatePostgres},
    user_folders::cache_folder,
};

/// The database that the others are copies of.
const TEMPLATE: &str = "migrated";
/// The variable that names the version of Postgres that has to be found. The newest
/// of those that are installed is, so one that comes first on the path may not be.
const REQUIRED: &str = "REQUIRED_POSTGRES";

/// Where the server is: the URL of a database, with its name left out.
fn server() -> &'static str {
    static SERVER: OnceLock<String> = OnceLock::new();
    SERVER.get_or_init(|| {
        let (sender, receiver) = mpsc::channel();
        // The server dies with the thread that started it, so that one stays.
        std::thread::spawn(move || {
            let server = start();
            tidy_up_after_us(&server);
            sender.send(server.url("")).expect("the test waits for it");
            // Nothing is ever sent.
            let (_open, forever) = mpsc::channel::<()>();
            forever.recv().expect_err("nobody can send");
        });
        receiver.recv().expect("a private Postgres starts")
    })
}

fn start() -> PrivatePostgres {
    let folder = std::env::temp_dir().join(format!("hitkeep-auth-test-{}", std::process::id()));
    let options = Options {
        folder,
        durability: Durability::ThrownAway,
        programs: None,
        cache: cache_folder(),
    };
    #[expect(clippy::print_stderr, reason = "whoever runs the tests waits for it")]
    let announce = |text: &str| eprintln!("{text}");
    let server = PrivatePostgres::start(&options, &announce).unwrap_or_else(|why| panic!("{why}"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    runtime.block_on(async {
        let admin = server.url("postgres");
        require_version(&admin).await;
        execute(&admin, &format!("CREATE DATABASE {TEMPLATE}")).await;
        migrations::apply(&server.url(TEMPLATE))
            .await
            .expect("the migrations apply");
        let closed = format!("ALTER DATABASE {TEMPLATE} ALLOW_CONNECTIONS false IS_TEMPLATE true");
        execute(&admin, &closed).await;
    });
    server
}

/// Where a version is asked for, the tests are to be about that one.
async fn require_version(url: &str) {
    let Some(required) = std::env::var_os(REQUIRED) else {
        return;
    };
    // 180006 is 18.6.
    let major = number(url, "current_setting('server_version_num')::int / 10000").await;
    assert_eq!(required.to_string_lossy(), major.to_string(), "{REQUIRED}");
}

/// Statics are never dropped: a shell waits for our end, which closes its
/// standard input, and removes the folder once the server is gone.
fn tidy_up_after_us(server: &PrivatePostgres) {
    let script = "cat; kill -QUIT \"$1\"; n=0; \
                  while [ -e \"$2/postgres/data/postmaster.pid\" ] && [ $n -lt 200 ]; do \
                  sleep 0.05; n=$((n+1)); done; rm -rf \"$2\"";
    let shell = Command::new("/bin/sh")
        .args(["-c", script, "sh", &server.pid().to_string()])
        .arg(server.folder())
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("there is a shell");
    // Its end of the pipe is ours until we die.
    std::mem::forget(shell);
}

/// The URL of a database of that name.
pub fn url(database: &str) -> String {
    format!("{}{database}", server())
}

/// Makes a database with all migrations applied.
pub async fn migrated_database() -> String {
    make(&format!("TEMPLATE {TEMPLATE} STRATEGY FILE_COPY")).await
}

/// Makes a database: a copy of another one.
pub async fn make(of: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    execute(&url("postgres"), &format!("CREATE DATABASE {name} {of}")).await;
    url(&name)
}

/// Runs statements on a connection of their own.
pub async fn execute(url: &str, sql: &str) {
    let done = attempt(url, sql).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// The same, where they may fail.
pub async fn attempt(url: &str, sql: &str) -> Result<(), String> {
    let done = connect(url).await.batch_execute(sql).await;
    done.map_err(|error| error.to_string())
}

/// A connection of the test's own.
pub async fn connect(url: &str) -> AsyncPgConnection {
    AsyncPgConnection::establish(url)
        .await
        .expect("the test's Postgres answers")
}

/// A number out of a database, by a query that gives one.
pub async fn number(url: &str, sql: &str) -> i64 {
    let query = dsl::sql::<BigInt>(&format!("SELECT ({sql})::bigint"));
    let number = query.get_result(&mut connect(url).await).await;
    number.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// The rows of a query with one column, which is a text.
pub async fn texts(connection: &mut AsyncPgConnection, sql: &str) -> Vec<String> {
    let rows = dsl::sql::<Text>(sql).load(connection).await;
    rows.unwrap_or_else(|error| panic!("{sql}: {error}"))
}
