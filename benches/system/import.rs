//! How long an import from HitKeep takes, and what the callers of a server beside it notice:
//! a dry run, the import itself, the same again, and taking it back. The snapshot is made by
//! DuckDB, as HitKeep makes its own.

#![expect(clippy::print_stdout, reason = "it prints what it measured")]
#![expect(unreachable_pub, reason = "a benchmark has no outside")]
#![expect(
    clippy::unwrap_used,
    reason = "what runs DuckDB and makes snapshots is the tests' own"
)]

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use hitkeep_auth::pb::introspection_service_client::IntrospectionServiceClient;
use ring::digest::{SHA256, digest};
use tokio::{task::JoinHandle, time::interval};

#[path = "../../tests/import/duckdb.rs"]
mod duckdb;
#[path = "../../tests/import/hitkeep.rs"]
#[expect(dead_code, reason = "some of it is for tests")]
mod hitkeep;
#[path = "../support.rs"]
mod support;

use hitkeep::Backup;
use support::{
    arguments::Arguments,
    build::Build,
    calls,
    figures::{Samples, Table, milliseconds},
    folder,
    postgres::{Durability, Postgres, execute},
    service::{Caller, Service},
};

/// Clients that are imported beforehand and changed here, so that their tokens work throughout:
/// callers ask about these.
const KNOWN: usize = 1000;
/// The times of the snapshots.
const FIRST: &str = "2026-03-08T110000Z";
const SECOND: &str = "2026-03-08T120000Z";

fn main() -> ExitCode {
    let mut arguments = Arguments::read();
    let clients: usize = arguments.value("--clients", 100_000);
    let clients = clients.max(50);
    let rate: u32 = arguments.value("--rate", 500);
    arguments.done();
    let backup = Backup::new();
    let begun = Instant::now();
    let known = KNOWN.min(clients / 50);
    if !backup.export(FIRST, &rows(clients, known)) {
        println!("There is no DuckDB to make a snapshot with: nothing was measured.");
        return ExitCode::SUCCESS;
    }
    let made = begun.elapsed().as_secs_f64();
    println!("{clients} clients, of which callers ask about {known}, {rate} times a second");
    println!("the first snapshot was made in {made:.1} s");
    let postgres = Postgres::start(Durability::Kept);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    runtime.block_on(measure(&postgres, &backup, (clients, known), rate));
    ExitCode::SUCCESS
}

/// In the proportions of the other benchmarks: of a hundred clients, 2 teams, 10 sites, 20
/// users, and 3 grants for each client. `part` is how many teams are in it, with what belongs to
/// them, and how many clients; more than there are is all.
fn rows(clients: usize, part: usize) -> String {
    let (teams, sites, users) = (clients / 50, clients / 10, clients / 5);
    let part_of_clients = if part < teams { part } else { clients };
    format!(
        "CREATE MACRO id(kind, n) AS CAST(kind || lpad(CAST(n AS VARCHAR), 7, '0')
             || '-0000-4000-8000-000000000000' AS UUID);
         INSERT INTO users SELECT id('1', n), 'user' || n || '@example.org', 'x', now()
             FROM range({users}) AS numbers (n) WHERE n % {teams} < {part};
         INSERT INTO tenants SELECT id('2', n), 'team ' || n, n = 0
             FROM range({teams}) AS numbers (n) WHERE n < {part};
         INSERT INTO tenant_members SELECT uuid(), id('2', n % {teams}), id('1', n),
             CASE WHEN n < {teams} THEN 'owner' ELSE 'member' END, now()
             FROM range({users}) AS numbers (n) WHERE n % {teams} < {part};
         INSERT INTO sites SELECT id('3', n), id('1', n % {teams}), 'site' || n || '.example'
             FROM range({sites}) AS numbers (n) WHERE n % {teams} < {part};
         INSERT INTO site_tenants SELECT id('3', n), id('2', n % {teams})
             FROM range({sites}) AS numbers (n) WHERE n % {teams} < {part};
         INSERT INTO site_members SELECT uuid(), id('3', n % {teams}), id('1', n), 'editor'
             FROM range({users}) AS numbers (n) WHERE n % {teams} < {part};
         INSERT INTO api_clients SELECT id('4', n),
             CASE WHEN n % 10 >= 3 THEN id('1', n % {users}) END,
             CASE WHEN n % 10 < 3 THEN id('2', n % {teams}) END, 'client ' || n, NULL,
             h('bench ' || n), 'user', NULL, NULL, NULL,
             TIMESTAMPTZ '2026-01-01 00:00:00Z', TIMESTAMPTZ '2026-01-01 00:00:00Z'
             FROM range({clients}) AS numbers (n) WHERE n < {part_of_clients};
         INSERT INTO api_client_site_roles SELECT uuid(), id('4', n),
             id('3', n % {users} % {teams} + place * {teams}), 'viewer', now()
             FROM range({clients}) AS numbers (n), range(3) AS places (place)
             WHERE n < {part_of_clients};"
    )
}

/// The token that HitKeep issued for a client.
fn token(number: usize) -> String {
    let digest = digest(&SHA256, format!("the secret of bench {number}").as_bytes());
    let digits = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
    digits.collect()
}

async fn measure(
    postgres: &Postgres,
    backup: &Backup,
    (clients, known): (usize, usize),
    rate: u32,
) {
    let database = postgres.migrated("bench").await;
    let caller = Caller::create(&database);
    let folder = backup.path().to_str().expect("it is text");
    let quota = ["--max-clients-per-owner", "1000000"];
    let import = [&["import", "hitkeep", folder][..], &quota].concat();
    let apply = [&import[..], &["--apply"]].concat();
    run(&database, &apply).await;
    // What was changed here is not taken back.
    execute(
        &database,
        "UPDATE api_clients SET name = name || ', changed here'",
    )
    .await;
    assert!(
        backup.export(SECOND, &rows(clients, usize::MAX)),
        "there was a DuckDB"
    );
    let service = Service::start(&database, &quota);
    service.serving().await;
    let known: Vec<_> = (0..known).map(token).collect();
    let mut table = Table::new(&["beside", "took", "introspections", "p50", "p99", "max"]);
    let quiet = beside(&service, &caller, &known, rate, async {
        tokio::time::sleep(Duration::from_secs(5)).await;
    });
    row(&mut table, "nothing", quiet.await);
    for (what, command) in [
        ("a dry run", &import[..]),
        ("the import", &apply),
        ("the same import again", &apply),
        ("a dry run of taking it back", &["import", "undo"]),
        ("taking it back", &["import", "undo", "--apply"]),
    ] {
        let run = run(&database, command);
        row(
            &mut table,
            what,
            beside(&service, &caller, &known, rate, run).await,
        );
    }
    table.print();
}

fn row(table: &mut Table, what: &str, (took, samples): (Duration, Samples)) {
    table.row([
        what.to_owned(),
        format!("{:.1} s", took.as_secs_f64()),
        samples.count().to_string(),
        milliseconds(samples.median()),
        milliseconds(samples.p99()),
        milliseconds(samples.max()),
    ]);
}

/// Runs a command of the binary to its end, which has to be a good one.
async fn run(database: &str, arguments: &[&str]) {
    let mut command: tokio::process::Command = Build::this().command().into();
    command.args(arguments).args(["--database-url", database]);
    command.stdout(std::process::Stdio::null());
    let output = command.output().await.expect("the binary runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    // Taking it back leaves the changed ones, and says so with 2.
    let is_good = matches!(output.status.code(), Some(0 | 2));
    assert!(is_good, "{arguments:?}: {errors}");
}

/// Asks so often a second while something else is done, and says how long that took, and how
/// long each answer. Every token works, and every answer has to say so.
async fn beside(
    service: &Service,
    caller: &Caller,
    known: &[String],
    rate: u32,
    work: impl Future<Output = ()>,
) -> (Duration, Samples) {
    let stop = Arc::new(AtomicBool::new(false));
    let introspection = IntrospectionServiceClient::new(service.connect().await);
    let (caller, known) = (caller.clone(), known.to_vec());
    let stopped = Arc::clone(&stop);
    let asking: JoinHandle<Vec<Duration>> = tokio::spawn(async move {
        let mut due = interval(Duration::from_secs(1) / rate);
        let mut answers = Vec::new();
        for token in known.iter().cycle() {
            if stopped.load(Ordering::Relaxed) {
                break;
            }
            // From when it was to be made, and not from when its turn came.
            let begun = due.tick().await;
            let mut introspection = introspection.clone();
            let request = caller.says(calls::introspect(token));
            answers.push(tokio::spawn(async move {
                let answer = introspection.introspect(request).await;
                let answer = answer.expect("it is answered").into_inner();
                assert!(answer.active, "{answer:?}");
                begun.elapsed()
            }));
        }
        let mut times = Vec::new();
        for answer in answers {
            times.push(answer.await.expect("a right answer"));
        }
        times
    });
    let begun = Instant::now();
    work.await;
    let took = begun.elapsed();
    stop.store(true, Ordering::Relaxed);
    let times = asking.await.expect("right answers");
    (took, Samples::of(times))
}
