//! What callers see while Postgres is killed and started again, five times in a
//! minute, once for longer than replicas may answer from memory.
//!
//! Two things must never be seen, whatever else is: that a token which works is
//! answered as inactive, also one that was made a moment ago; and that a revoked
//! token is accepted later after the acknowledgement than the bound. To answer
//! with UNAVAILABLE is allowed. A change whose acknowledgement was lost may have
//! been made or not: its token is not looked at.
//!
//! With `--failover`, another server takes the place of Postgres instead, five times.

#![expect(clippy::print_stdout, reason = "it prints what it measured")]
#![expect(unreachable_pub, reason = "a benchmark has no outside")]
#![expect(
    clippy::unwrap_used,
    reason = "what starts servers and re-points an address is the tests' own"
)]

use std::{
    process::ExitCode,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::{
    task::JoinSet,
    time::{sleep, sleep_until},
};

#[path = "outage/checker.rs"]
mod checker;
#[path = "outage/doors.rs"]
mod doors;
#[path = "outage/failover.rs"]
mod failover;
#[path = "../../tests/support/nodes.rs"]
#[expect(dead_code, reason = "some of it is for tests")]
mod nodes;
#[path = "outage/pair.rs"]
mod pair;
#[path = "../../tests/support/proxy.rs"]
#[expect(dead_code, reason = "most of it is for tests")]
mod proxy;
#[path = "../support.rs"]
mod support;
#[path = "outage/tokens.rs"]
mod tokens;
#[path = "outage/witness.rs"]
mod witness;
#[path = "outage/writer.rs"]
mod writer;

use checker::{Checker, Findings};
use doors::{Asker, Door};
use support::{
    arguments::Arguments,
    figures::Table,
    population,
    postgres::{Durability, Postgres},
    service::{Caller, Service, serve_takes},
};
use tokens::Tokens;
use writer::Writer;

/// Clients in the database, and those among them whose tokens are known.
const CLIENTS: usize = 3000;
const KNOWN: usize = 2000;
/// How long Postgres stays away each time, in seconds; the longest one is added
/// to the bound.
const AWAY: [f64; OUTAGES] = [0.0, 1.0, 3.0, 3.0, 2.0];
const OUTAGES: usize = 5;
const LONGEST: usize = 3;
/// How much of the whole time Postgres may be away: where it is shortened, the
/// outages are shortened too.
const AWAY_SHARE: f64 = 0.5;

struct Options {
    duration: Duration,
    replicas: usize,
    connections: usize,
    /// How late after its revocation a token may be accepted.
    bound: Duration,
    /// How many there are, where there are any.
    failovers: usize,
}

fn main() -> ExitCode {
    let mut arguments = Arguments::read();
    let fails_over = arguments.flag("--failover");
    let options = Options {
        duration: arguments.time("--duration", Duration::from_mins(1)),
        replicas: arguments.value("--replicas", 3),
        connections: arguments.value("--connections", 4),
        bound: arguments.time("--max-staleness", Duration::from_secs(10)),
        failovers: arguments.value("--failovers", 5),
    };
    arguments.done();
    let runtime = || tokio::runtime::Runtime::new().expect("a runtime starts");
    let wrong = if fails_over {
        runtime().block_on(failover::measure(&options))
    } else {
        let postgres = Postgres::start(Durability::Kept);
        runtime().block_on(measure(&postgres, &options))
    };
    if wrong == 0 {
        println!("no wrong answer");
        ExitCode::SUCCESS
    } else {
        println!("WRONG ANSWERS: {wrong}");
        ExitCode::FAILURE
    }
}

/// Counts the wrong answers.
async fn measure(postgres: &Postgres, options: &Options) -> u64 {
    let database = postgres.migrated("bench").await;
    let known = population::fill(&database, CLIENTS, KNOWN).await;
    let caller = Caller::create(&database);
    let bound = humantime::format_duration(options.bound).to_string();
    let mut settings = vec!["--max-clients-per-owner", "1000000"];
    if serve_takes("--max-staleness") {
        settings.extend(["--max-staleness", &bound]);
    }
    let replicas: Vec<_> = (0..options.replicas)
        .map(|_| Service::start(&database, &settings))
        .collect();
    let tokens = Arc::new(Tokens::new(known));
    let mut findings = Vec::new();
    let mut at_work = JoinSet::new();
    for (number, replica) in replicas.iter().enumerate() {
        replica.serving().await;
        let of_replica = Arc::new(Findings::new(format!("replica {number}"), &tokens));
        for connection in 0..options.connections {
            let checker = Checker::new(
                Asker::at(Door::Introspect, replica, &caller).await,
                Arc::clone(&tokens),
                Arc::clone(&of_replica),
                options.bound,
            );
            at_work.spawn(checker.run(number * options.connections + connection));
        }
        findings.push(of_replica);
        let writer = Writer::new(replica.connect().await, caller.clone(), Arc::clone(&tokens));
        at_work.spawn(writer.run(number));
    }
    interrupt(postgres, options).await;
    tokens.end();
    at_work.join_all().await;
    // When all is well again, everything is asked once more.
    for replica in &replicas {
        replica.serving().await;
    }
    let mut wrong = 0;
    for (replica, findings) in replicas.iter().zip(&findings) {
        let asker = Asker::at(Door::Introspect, replica, &caller).await;
        let (tokens, findings) = (Arc::clone(&tokens), Arc::clone(findings));
        wrong += checker::ask_everything(asker, tokens, findings).await;
    }
    report(options, &tokens, &findings);
    wrong
        + findings
            .iter()
            .map(|of| of.wrong.load(Ordering::Relaxed))
            .sum::<u64>()
}

/// Kills Postgres and starts it again, five times within the duration.
async fn interrupt(postgres: &Postgres, options: &Options) {
    let mut away = AWAY.map(Duration::from_secs_f64);
    away[LONGEST] += options.bound;
    let wanted: Duration = away.iter().sum();
    let share = options.duration.mul_f64(AWAY_SHARE).as_secs_f64() / wanted.as_secs_f64();
    let away = away.map(|time| time.mul_f64(share.min(1.0)));
    let back = options.duration.saturating_sub(away.iter().sum()) / 6;
    let begun = Instant::now();
    for time in away {
        sleep(back).await;
        postgres.kill();
        let killed = Instant::now();
        sleep(time).await;
        postgres.start_again();
        println!(
            "{:5.1} s: killed; back after {:.2} s",
            (killed - begun).as_secs_f64(),
            killed.elapsed().as_secs_f64()
        );
    }
    sleep_until((begun + options.duration).into()).await;
}

fn report(options: &Options, tokens: &Tokens, findings: &[Arc<Findings>]) {
    let changes = tokens.changes();
    println!(
        "{} replicas; {} creations and {} revocations acknowledged, {} changes without an \
         acknowledgement",
        options.replicas, changes.created, changes.revoked, changes.unknown
    );
    let mut table = Table::new(&["answers", "to tokens that work", "to revoked tokens"]);
    for (answer, [good, revoked]) in checker::answers(findings) {
        table.row([answer, good.to_string(), revoked.to_string()]);
    }
    table.print();
    let mut table = Table::new(&[
        "replica",
        "longest without an answer",
        "longest acceptance after a revocation",
    ]);
    for (number, of) in findings.iter().enumerate() {
        let seconds = |time: Duration| format!("{:.3} s", time.as_secs_f64());
        let acceptance = seconds(of.longest_acceptance());
        table.row([
            number.to_string(),
            seconds(of.longest_silence()),
            acceptance,
        ]);
    }
    table.print();
    println!("bound on acceptance: {:?}", options.bound);
}
