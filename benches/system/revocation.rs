//! How long a revoked token lives on: from the acknowledgement of
//! `RevokeApiClient` by one server until the last process refuses the token,
//! while others change a hundred things a second. Those who are asked are servers
//! on one database, replicas of those, a chain of replicas, and programs that hold
//! the index themselves.
//!
//! Everybody is asked now and then until the revocation is acknowledged, and from
//! then on without pause, over several connections, until the token is refused. So
//! asking takes little from those who are measured. How long one question takes is
//! what the figures are exact to, and is printed with them.

#![expect(clippy::print_stdout, reason = "it prints what it measured")]
#![expect(unreachable_pub, reason = "a benchmark has no outside")]

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use hitkeep_auth::pb::{
    InactiveReason as Reason, api_client_service_client::ApiClientServiceClient,
    introspection_service_client::IntrospectionServiceClient,
};
use hitkeep_auth_client::{
    Authenticator, CallerToken, Client, EmbeddedOptions, Error, InactiveReason,
};
use tokio::{
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tonic::{Status, transport::Channel};
use tonic_types::StatusExt;

#[path = "../support.rs"]
mod support;

#[path = "revocation/writer.rs"]
mod writer;

use support::{
    arguments::Arguments,
    calls,
    figures::{Samples, Table, ended, met, milliseconds},
    population::{self, Known},
    postgres::{Durability, Postgres},
    service::{Caller, Service},
};
use writer::Writer;

/// Clients in the database.
const CLIENTS: usize = 3000;
/// Clients that the background writer changes.
const BACKGROUND: usize = 300;
/// How long anybody may go on accepting before the result is a wrong one.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two questions to one who was not to refuse the token yet.
const PAUSE: Duration = Duration::from_millis(10);
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
    /// Programs that hold the index, which they have from the servers.
    embedded: usize,
    pollers: usize,
    changes: u32,
}

/// What somebody who is asked is to the database.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Server,
    Replica,
    /// The last one of the chain, or one on the way to it.
    Chained,
    Embedded,
}

/// Somebody who is asked, in so many ways at once.
struct Asked {
    role: Role,
    pollers: Vec<Poller>,
}

/// A way to ask.
#[expect(clippy::large_enum_variant, reason = "there are few of them")]
#[derive(Clone)]
enum Poller {
    /// A connection to a process, and who calls over it.
    Calls(Introspection, Caller),
    Embedded(Authenticator),
}

/// What becomes of a token that is asked about.
enum Said {
    Accepted,
    Revoked,
}

impl Poller {
    async fn ask(&mut self, token: &str) -> Result<Said, String> {
        match self {
            Self::Calls(connection, caller) => {
                let request = caller.says(calls::introspect(token));
                let answer = connection.introspect(request).await;
                let answer = answer.map_err(|status| format!("no answer: {status}"))?;
                let answer = answer.into_inner();
                match answer.inactive_reason() {
                    _ if answer.active => Ok(Said::Accepted),
                    Reason::Revoked => Ok(Said::Revoked),
                    other => Err(format!("refused with {other:?}")),
                }
            }
            Self::Embedded(authenticator) => match authenticator.authenticate(token).await {
                Ok(_) => Ok(Said::Accepted),
                Err(Error::Inactive(InactiveReason::Revoked)) => Ok(Said::Revoked),
                Err(other) => Err(other.to_string()),
            },
        }
    }
}

/// What one poller saw.
struct Seen {
    /// When the last acceptance was asked for.
    accepted: Instant,
    /// When the first refusal was there.
    refused: Instant,
    /// How long a question took on average.
    turn: Duration,
}

/// What came of one revocation, as times after its acknowledgement.
struct Revocation {
    /// Until the server that made it refused the token.
    told: Duration,
    /// Until each of those who were asked did.
    each: Vec<(Role, Duration)>,
    turn: Duration,
}

impl Revocation {
    /// Until the last one of a role refused the token, or the last of all.
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
        embedded: arguments.value("--embedded", 1),
        pollers: arguments.value("--connections", 2),
        changes: arguments.value("--changes", 100),
    };
    arguments.done();
    let postgres = Postgres::start(Durability::Kept);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    ended(runtime.block_on(measure(&postgres, &options)))
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
    let mut asked = Vec::new();
    for (role, services) in [
        (Role::Server, &servers),
        (Role::Replica, &replicas),
        (Role::Chained, &chain),
    ] {
        for service in services {
            service.serving().await;
            let mut pollers = Vec::new();
            for _ in 0..options.pollers {
                let connection = IntrospectionServiceClient::new(service.connect().await);
                pollers.push(Poller::Calls(connection, caller.clone()));
            }
            asked.push(Asked { role, pollers });
        }
    }
    for server in servers.iter().cycle().take(options.embedded) {
        let poller = Poller::Embedded(embedded(server, &follower).await);
        let pollers = vec![poller; options.pollers];
        let role = Role::Embedded;
        asked.push(Asked { role, pollers });
    }
    let writer = Writer::start(&servers, &caller, background, options.changes).await;

    let mut measured = Vec::new();
    for (number, victim) in victims.iter().enumerate() {
        let told = number % options.servers;
        let mut manager = managers[told].clone();
        measured.push(revoke(&mut manager, told, &asked, &caller, victim).await?);
        // Out of step with the writer and with every timer.
        let pause = Duration::from_micros(u64::try_from(number * 7919 % 20_000).unwrap_or(0));
        sleep(pause).await;
    }
    let written = writer.stop().await;
    report(options, &measured, &written);
    Ok(())
}

/// A program with the index of that server, which is whole.
async fn embedded(server: &Service, follower: &Caller) -> Authenticator {
    let client = Client::builder(&format!("http://{}", server.address()))
        .allow_plaintext()
        .caller_token(CallerToken::new(&follower.token).expect("a token"))
        .build()
        .expect("a client");
    let authenticator = Authenticator::embedded(&client, EmbeddedOptions::default());
    authenticator.ready().await;
    authenticator
}

/// Revokes a client through one server, while everybody is asked about its token.
async fn revoke(
    manager: &mut ApiClientServiceClient<Channel>,
    told: usize,
    asked: &[Asked],
    caller: &Caller,
    victim: &Known,
) -> Result<Revocation, String> {
    let accepted = Arc::new(Semaphore::new(0));
    let is_acknowledged = watch::Sender::new(false);
    let mut polling = Vec::new();
    for asked in asked {
        let polls = asked.pollers.iter().cloned().map(|poller| {
            let (token, accepted) = (victim.token.clone(), Arc::clone(&accepted));
            tokio::spawn(poll(poller, token, accepted, is_acknowledged.subscribe()))
        });
        polling.push(polls.collect::<Vec<_>>());
    }
    // Only when all are at it.
    let all = u32::try_from(polling.iter().map(Vec::len).sum::<usize>()).expect("a few");
    let begun = timeout(PATIENCE, accepted.acquire_many(all)).await;
    drop(begun.map_err(|late| format!("a good token was not accepted: {late}"))?);
    let revoked = when_not_overloaded(manager, caller, victim).await;
    let acknowledged = Instant::now();
    is_acknowledged.send_replace(true);
    revoked.map_err(|status| format!("not revoked: {status}"))?;

    let mut each = Vec::new();
    let mut turns = Vec::new();
    for (number, (asked, polls)) in asked.iter().zip(polling).enumerate() {
        let mut seen = Vec::new();
        for poll in polls {
            seen.push(poll.await.expect("it does not panic")?);
        }
        let first = seen.iter().map(|seen| seen.refused).min();
        let first = first.expect("at least one poller");
        if seen.iter().any(|seen| seen.accepted > first) {
            return Err(format!("asker {number} accepted what it had refused"));
        }
        turns.extend(seen.iter().map(|seen| seen.turn));
        each.push((asked.role, first.saturating_duration_since(acknowledged)));
    }
    Ok(Revocation {
        told: each[told].1,
        each,
        turn: Samples::of(turns).median(),
    })
}

/// Revokes a client. While the server has too much to do, it waits as long as it is asked to:
/// where everybody shares few cores with those who ask, that happens.
async fn when_not_overloaded(
    manager: &mut ApiClientServiceClient<Channel>,
    caller: &Caller,
    victim: &Known,
) -> Result<(), Status> {
    let begun = Instant::now();
    loop {
        let request = caller.says(calls::revoke(victim));
        let Err(status) = manager.revoke_api_client(request).await else {
            return Ok(());
        };
        let delay = status
            .get_details_retry_info()
            .and_then(|info| info.retry_delay);
        match delay {
            Some(delay) if begun.elapsed() < PATIENCE => sleep(delay).await,
            _ => return Err(status),
        }
    }
}

/// Asks about a token until it is refused: now and then, and without pause once the
/// revocation is acknowledged.
async fn poll(
    mut poller: Poller,
    token: String,
    accepted: Arc<Semaphore>,
    mut is_acknowledged: watch::Receiver<bool>,
) -> Result<Seen, String> {
    let begun = Instant::now();
    let mut last_accepted = begun;
    let mut took = Duration::ZERO;
    for turns in 1_u32.. {
        let asked = Instant::now();
        let said = poller.ask(&token).await?;
        let answered = Instant::now();
        took += answered - asked;
        match said {
            Said::Accepted => last_accepted = asked,
            Said::Revoked if turns == 1 => return Err("it was revoked already".to_owned()),
            Said::Revoked => {
                return Ok(Seen {
                    accepted: last_accepted,
                    refused: answered,
                    turn: took / turns,
                });
            }
        }
        if turns == 1 {
            accepted.add_permits(1);
        }
        if begun.elapsed() > PATIENCE {
            break;
        }
        if *is_acknowledged.borrow() {
            // An answer out of memory waits for nothing.
            tokio::task::yield_now().await;
        } else {
            tokio::select! {
                _ = is_acknowledged.wait_for(|is| *is) => {}
                () = sleep(PAUSE) => {}
            }
        }
    }
    Err(format!("still accepted after {PATIENCE:?}"))
}

fn report(options: &Options, measured: &[Revocation], written: &writer::Written) {
    let of =
        |get: &dyn Fn(&Revocation) -> Duration| Samples::of(measured.iter().map(get).collect());
    println!(
        "{} revocations, {} servers, {} replicas, a chain of {}, {} programs with an index, {} \
         clients, {:.0} other changes a second ({} refused)",
        measured.len(),
        options.servers,
        options.replicas,
        options.chained,
        options.embedded,
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
        ("the last program refuses", Role::Embedded, options.embedded),
    ] {
        if count > 0 {
            row(what, &of(&|revocation| revocation.last(Some(role))));
        }
    }
    row("the last of all refuses", &last);
    row("(one question takes)", &of(&|r| r.turn));
    table.print();
    println!(
        "bounds: p50 at most {}: {}; p99 at most {}: {}",
        milliseconds(MEDIAN_BOUND),
        met(last.median() <= MEDIAN_BOUND),
        milliseconds(P99_BOUND),
        met(last.p99() <= P99_BOUND),
    );
}
