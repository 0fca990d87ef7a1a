//! How long a revoked token lives on: from the acknowledgement of
//! `RevokeApiClient` by one server until the last process refuses the token,
//! while others change a hundred things a second. The processes are servers on
//! one database, replicas of those, and a chain of replicas.
//!
//! The token is introspected on every process in a tight loop, over several
//! connections; how long one turn of that loop takes is what the figures are
//! exact to, and is printed with them.

#![expect(clippy::print_stdout, reason = "it prints what it measured")]
#![expect(unreachable_pub, reason = "a benchmark has no outside")]

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use hitkeep_auth::pb::{
    InactiveReason, api_client_service_client::ApiClientServiceClient,
    introspection_service_client::IntrospectionServiceClient,
};
use tokio::sync::Semaphore;
use tonic::transport::Channel;

#[path = "support.rs"]
mod support;

#[path = "revocation/writer.rs"]
mod writer;

use support::{
    arguments::Arguments,
    calls,
    figures::{Samples, Table, met, milliseconds},
    population::{self, Known},
    postgres::{Durability, Postgres},
    service::{Caller, Service},
};
use writer::Writer;

/// Clients in the database.
const CLIENTS: usize = 3000;
/// Clients that the background writer changes.
const BACKGROUND: usize = 300;
/// How long any replica may go on accepting before the result is a wrong one.
const PATIENCE: Duration = Duration::from_secs(30);
/// What the figures are to be.
const MEDIAN_BOUND: Duration = Duration::from_millis(5);
const P99_BOUND: Duration = Duration::from_millis(50);

type Introspection = IntrospectionServiceClient<Channel>;

struct Options {
    rounds: usize,
    /// Processes with a way to the database.
    servers: usize,
    /// Those that follow the servers.
    replicas: usize,
    /// Those of which each follows the one before it, and the first a server.
    chained: usize,
    pollers: usize,
    changes: u32,
}

/// What a process is to the database.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Server,
    Replica,
    /// The last one of the chain, or one on the way to it.
    Chained,
}

/// A process, with the connections that poll it.
struct Process {
    role: Role,
    pollers: Vec<Introspection>,
}

/// What one poller saw.
struct Seen {
    /// When the last acceptance was asked for.
    accepted: Instant,
    /// When the first refusal was there.
    refused: Instant,
    /// How long each turn of the loop took on average.
    turn: Duration,
}

/// What came of one revocation, as times after its acknowledgement.
struct Revocation {
    /// Until the server that made it refused the token.
    told: Duration,
    /// Until each process did.
    each: Vec<(Role, Duration)>,
    turn: Duration,
}

impl Revocation {
    /// Until the last process of a role refused the token, or the last of all.
    fn last(&self, of: Option<Role>) -> Duration {
        let each = self.each.iter();
        let times = each.filter(|(role, _)| of.is_none_or(|of| of == *role));
        times.map(|(_, time)| *time).max().unwrap_or_default()
    }
}

fn main() -> ExitCode {
    let mut arguments = Arguments::read();
    let options = Options {
        rounds: arguments.value("--revocations", 500),
        servers: arguments.value("--servers", 3),
        replicas: arguments.value("--replicas", 3),
        chained: arguments.value("--chain", 2),
        pollers: arguments.value("--connections", 2),
        changes: arguments.value("--changes", 100),
    };
    arguments.done();
    let postgres = Postgres::start(Durability::Kept);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    match runtime.block_on(measure(&postgres, &options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(wrong) => {
            println!("WRONG: {wrong}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(postgres: &Postgres, options: &Options) -> Result<(), String> {
    let database = postgres.migrated("bench").await;
    let known = options.rounds + BACKGROUND;
    let known = population::fill(&database, CLIENTS.max(known), known).await;
    let (victims, background) = known.split_at(options.rounds);
    let caller = Caller::create(&database);
    let unlimited = ["--max-clients-per-owner", "1000000"];
    let follower = Caller::replica(&database);
    let servers: Vec<_> = (0..options.servers)
        .map(|_| Service::start(&database, &unlimited))
        .collect();
    let mut managers = Vec::new();
    for server in &servers {
        server.serving().await;
        managers.push(ApiClientServiceClient::new(server.connect().await));
    }
    let upstreams = servers.iter().cycle().take(options.replicas);
    let replicas: Vec<_> = upstreams
        .map(|server| Service::start_replica(server, &follower, &[]))
        .collect();
    let mut chain: Vec<Service> = Vec::new();
    for _ in 0..options.chained {
        let upstream = chain.last().unwrap_or(&servers[0]);
        let next = Service::start_replica(upstream, &follower, &[]);
        // A replica without an index feeds none.
        next.serving().await;
        chain.push(next);
    }
    let mut processes = Vec::new();
    for (role, services) in [
        (Role::Server, &servers),
        (Role::Replica, &replicas),
        (Role::Chained, &chain),
    ] {
        for service in services {
            service.serving().await;
            let mut pollers = Vec::new();
            for _ in 0..options.pollers {
                pollers.push(IntrospectionServiceClient::new(service.connect().await));
            }
            processes.push(Process { role, pollers });
        }
    }
    let writer = Writer::start(&servers, &caller, background, options.changes).await;

    let mut measured = Vec::new();
    for (number, victim) in victims.iter().enumerate() {
        let told = number % options.servers;
        let mut manager = managers[told].clone();
        measured.push(revoke(&mut manager, told, &processes, &caller, victim).await?);
        // Out of step with the writer and with every timer.
        let pause = Duration::from_micros(u64::try_from(number * 7919 % 20_000).unwrap_or(0));
        tokio::time::sleep(pause).await;
    }
    let written = writer.stop().await;
    report(options, &measured, &written);
    Ok(())
}

/// Revokes a client through one server, while all processes are asked about its
/// token.
async fn revoke(
    manager: &mut ApiClientServiceClient<Channel>,
    told: usize,
    processes: &[Process],
    caller: &Caller,
    victim: &Known,
) -> Result<Revocation, String> {
    let accepted = Arc::new(Semaphore::new(0));
    let mut polling = Vec::new();
    for process in processes {
        let polls = process.pollers.iter().cloned().map(|connection| {
            let (caller, token) = (caller.clone(), victim.token.clone());
            tokio::spawn(poll(connection, caller, token, Arc::clone(&accepted)))
        });
        polling.push(polls.collect::<Vec<_>>());
    }
    // Only when all are at it.
    let all = u32::try_from(polling.iter().map(Vec::len).sum::<usize>()).expect("a few");
    let begun = tokio::time::timeout(PATIENCE, accepted.acquire_many(all)).await;
    drop(begun.map_err(|late| format!("a good token was not accepted: {late}"))?);
    let revoked = manager
        .revoke_api_client(caller.says(calls::revoke(victim)))
        .await;
    let acknowledged = Instant::now();
    revoked.map_err(|status| format!("not revoked: {status}"))?;

    let mut each = Vec::new();
    let mut turns = Vec::new();
    for (number, (process, polls)) in processes.iter().zip(polling).enumerate() {
        let mut seen = Vec::new();
        for poll in polls {
            seen.push(poll.await.expect("it does not panic")?);
        }
        let first = seen.iter().map(|seen| seen.refused).min();
        let first = first.expect("at least one connection");
        if seen.iter().any(|seen| seen.accepted > first) {
            return Err(format!(
                "process {number} accepted a token after it had refused it"
            ));
        }
        turns.extend(seen.iter().map(|seen| seen.turn));
        each.push((process.role, first.saturating_duration_since(acknowledged)));
    }
    Ok(Revocation {
        told: each[told].1,
        each,
        turn: Samples::of(turns).median(),
    })
}

/// Introspects a token, over and over, until it is refused.
async fn poll(
    mut connection: Introspection,
    caller: Caller,
    token: String,
    accepted: Arc<Semaphore>,
) -> Result<Seen, String> {
    let begun = Instant::now();
    let mut last_accepted = begun;
    for turns in 0_u32.. {
        let asked = Instant::now();
        let answer = connection
            .introspect(caller.says(calls::introspect(&token)))
            .await;
        let answered = Instant::now();
        let answer = answer.map_err(|status| format!("no answer: {status}"))?;
        let answer = answer.into_inner();
        if !answer.active {
            return match answer.inactive_reason() {
                InactiveReason::Revoked if turns > 0 => Ok(Seen {
                    accepted: last_accepted,
                    refused: answered,
                    turn: (answered - begun) / (turns + 1),
                }),
                other => Err(format!("refused with {other:?}")),
            };
        }
        if turns == 0 {
            accepted.add_permits(1);
        }
        last_accepted = asked;
        if begun.elapsed() > PATIENCE {
            break;
        }
    }
    Err(format!("still accepted after {PATIENCE:?}"))
}

fn report(options: &Options, measured: &[Revocation], written: &writer::Written) {
    let of =
        |get: &dyn Fn(&Revocation) -> Duration| Samples::of(measured.iter().map(get).collect());
    println!(
        "{} revocations, {} servers, {} replicas, a chain of {}, {} clients, {:.0} other changes a \
         second ({} refused)",
        measured.len(),
        options.servers,
        options.replicas,
        options.chained,
        CLIENTS,
        written.rate,
        written.refused,
    );
    let last = of(&|revocation| revocation.last(None));
    let mut table = Table::new(&["from the acknowledgement until", "p50", "p99", "max"]);
    let mut row = |what: &str, samples: &Samples| {
        let [p50, p99, max] = [samples.median(), samples.p99(), samples.max()].map(milliseconds);
        table.row([what.to_owned(), p50, p99, max]);
    };
    row("the revoking server refuses", &of(&|r| r.told));
    for (what, role, count) in [
        ("the last server refuses", Role::Server, options.servers),
        ("the last replica refuses", Role::Replica, options.replicas),
        ("the chain refuses", Role::Chained, options.chained),
    ] {
        if count > 0 {
            row(what, &of(&|revocation| revocation.last(Some(role))));
        }
    }
    row("the last of all refuses", &last);
    row("(one turn of a poller's loop)", &of(&|r| r.turn));
    table.print();
    println!(
        "bounds: p50 at most {}: {}; p99 at most {}: {}",
        milliseconds(MEDIAN_BOUND),
        met(last.median() <= MEDIAN_BOUND),
        milliseconds(P99_BOUND),
        met(last.p99() <= P99_BOUND),
    );
}
