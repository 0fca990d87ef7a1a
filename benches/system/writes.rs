//! Creations a second, beside what Postgres itself makes of the same statements:
//! `pgbench` sends them, in the same order and under the same lock, from as many
//! connections. All settings are those under which committed is committed.
//!
//! The two take turns, each on a database of its own that is a copy of the same
//! one, so that both find the same amount of data and the same weather.

#![expect(clippy::print_stdout, reason = "it prints what it measured")]
#![expect(unreachable_pub, reason = "a benchmark has no outside")]

use std::{fs, process::ExitCode, time::Duration};

use hitkeep_auth::pb::{api_client_service_client::ApiClientServiceClient, owner};
use tokio::{task::JoinSet, time::Instant};
use tonic::transport::Channel;

#[path = "writes/pgbench.rs"]
mod pgbench;
#[path = "writes/script.rs"]
mod script;
#[path = "../support.rs"]
mod support;

use pgbench::Pgbench;
use script::Script;
use support::{
    arguments::Arguments,
    calls,
    figures::{Table, median, met},
    population::{self, Known},
    postgres::{Durability, Postgres, execute},
    service::{Caller, Service},
};

/// Clients in the database before the first is made.
const CLIENTS: usize = 10_000;
/// Clients whose owners get more of them.
const KNOWN: usize = 100;
/// What part of Postgres' own rate the service is to reach.
const BOUND: f64 = 0.5;
/// How long each round goes on before its time counts.
const WARM_UP: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let mut arguments = Arguments::read();
    let rounds: usize = arguments.value("--rounds", 3);
    let time = arguments.time("--time", Duration::from_secs(4));
    let connections = arguments.value("--connections", "1,4,8".to_owned());
    arguments.done();
    let connections: Vec<usize> = connections
        .split(',')
        .map(|count| count.parse().expect("--connections is like 1,4,8"))
        .collect();
    let postgres = Postgres::start(Durability::Kept);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    runtime.block_on(measure(&postgres, &connections, rounds, time));
    ExitCode::SUCCESS
}

async fn measure(postgres: &Postgres, connections: &[usize], rounds: usize, time: Duration) {
    let template = postgres.migrated("template").await;
    let known = population::fill(&template, CLIENTS, KNOWN).await;
    let caller = Caller::create(&template);
    let known: Vec<_> = known.into_iter().filter(is_personal).collect();
    let script = creation(postgres, &caller, &known[0]).await;
    let scripts: Vec<_> = known
        .iter()
        .enumerate()
        .map(|(number, like)| {
            let path = postgres.folder().join(format!("create-{number}.sql"));
            fs::write(&path, script.text(&known[0], like)).expect("it can be written");
            path
        })
        .collect();
    println!("{} owners; the statements of each creation:", scripts.len());
    for statement in script.statements() {
        let short: String = statement.chars().take(90).collect();
        println!("  {short}");
    }
    let pgbench = Pgbench::find(&template).await;
    if pgbench.is_none() {
        println!("pgbench is not installed: there is nothing to compare with");
    }
    let mut table = Table::new(&[
        "connections",
        "service, creations/s",
        "pgbench, creations/s",
        "ratio",
    ]);
    let mut all_met = true;
    for &count in connections {
        let (mut of_service, mut of_pgbench) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let database = copy(postgres).await;
            of_service.push(create(&database, &caller, &known, count, time).await);
            if let Some(pgbench) = &pgbench {
                let database = copy(postgres).await;
                of_pgbench.push(pgbench.run(&database, &scripts, count, time));
            }
        }
        let ours = median(&of_service);
        let theirs = (!of_pgbench.is_empty()).then(|| median(&of_pgbench));
        let ratio = theirs.map(|theirs| ours / theirs);
        all_met &= ratio.is_none_or(|ratio| ratio >= BOUND);
        table.row([
            count.to_string(),
            format!("{ours:.0}"),
            theirs.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}")),
            ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
        ]);
    }
    table.print();
    println!("medians of {rounds} rounds of {time:?} each, in turns");
    println!(
        "ratio of at least {BOUND}: {}",
        met(all_met && pgbench.is_some())
    );
}

fn is_personal(client: &Known) -> bool {
    matches!(client.owner.owner, Some(owner::Owner::UserId(_)))
}

/// A fresh copy of the filled database.
async fn copy(postgres: &Postgres) -> String {
    execute(
        &postgres.url("postgres"),
        "DROP DATABASE IF EXISTS copy WITH (FORCE)",
    )
    .await;
    let url = postgres.make("copy", "template").await;
    // What the copying left to be written is not to disturb the round.
    execute(&url, "CHECKPOINT").await;
    url
}

/// How many clients a second the service makes for that many callers at once.
async fn create(
    database: &str,
    caller: &Caller,
    known: &[Known],
    connections: usize,
    time: Duration,
) -> f64 {
    let service = start(database, connections);
    service.serving().await;
    let begun = Instant::now() + WARM_UP;
    let mut callers = JoinSet::new();
    for number in 0..connections {
        let manager = ApiClientServiceClient::new(service.connect().await);
        // Each begins with another owner.
        let owners: Vec<_> = known
            .iter()
            .cycle()
            .skip(number * 7)
            .take(known.len())
            .cloned()
            .collect();
        callers.spawn(create_until(
            manager,
            caller.clone(),
            owners,
            begun,
            begun + time,
        ));
    }
    let made: usize = callers.join_all().await.into_iter().sum();
    f64::from(u32::try_from(made).expect("a rate")) / time.as_secs_f64()
}

fn start(database: &str, connections: usize) -> Service {
    // A quarter of the pool writes.
    let pool = (connections * 4).max(16).to_string();
    Service::start(
        database,
        &["--max-clients-per-owner", "1000000", "--pool-size", &pool],
    )
}

/// Creates one after the other, and counts those that were made in that time.
async fn create_until(
    mut manager: ApiClientServiceClient<Channel>,
    caller: Caller,
    owners: Vec<Known>,
    begun: Instant,
    end: Instant,
) -> usize {
    let mut count = 0;
    for like in owners.iter().cycle() {
        let request = caller.says(calls::create_like(like));
        let made = manager.create_api_client(request).await;
        made.unwrap_or_else(|status| panic!("not made: {status}"));
        let now = Instant::now();
        if now > end {
            break;
        }
        count += usize::from(now > begun);
    }
    count
}

/// What the service sends to make one client.
async fn creation(postgres: &Postgres, caller: &Caller, like: &Known) -> Script {
    let database = copy(postgres).await;
    execute(&database, "ALTER DATABASE copy SET log_statement = 'all'").await;
    let service = start(&database, 1);
    service.serving().await;
    let mut manager = ApiClientServiceClient::new(service.connect().await);
    let request = caller.says(calls::create_like(like));
    let made = manager.create_api_client(request).await;
    made.expect("it is made");
    Script::from_log(&postgres.log())
}
