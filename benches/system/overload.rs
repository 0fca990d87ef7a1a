//! What callers feel when twice as many calls come as can be served: those that are
//! accepted are to take about as long as ever, the others are to be told at once
//! that it is too much, and introspections, which need no Postgres, are to notice
//! nothing of all that.
//!
//! First it is found what the server can take of `GetApiClient`, which asks
//! Postgres, with a fixed number of calls under way: as many as the server's queue has
//! where it lasts, so that none is refused. Then the calls come at random
//! moments, whether or not those before them were answered: half as many, as many,
//! and twice as many. Each counts from the moment at which it was to be made.
//!
//! Postgres is as far away as a network makes it (`--away`). So its connections are what
//! is short, as they are where a database has a machine of its own, and neither the
//! server nor whoever measures it waits for a core.

#![expect(clippy::print_stdout, reason = "it prints what it measured")]
#![expect(unreachable_pub, reason = "a benchmark has no outside")]

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

#[path = "overload/calls.rs"]
mod calls;
#[path = "../support.rs"]
mod support;

use calls::{Calls, Kind, Tally, closed, open, percentile};
use support::{
    arguments::Arguments,
    cores::{self, work_of},
    distance,
    figures::Table,
    population::{self, Known, check},
    postgres::Postgres,
    service::{Caller, Service},
};

/// Clients, and those among them that are asked for.
const CLIENTS: usize = 10_000;
const KNOWN: usize = 1000;
/// How long each run goes on before it counts: longer than the server lets a crowd in.
const WARM_UP: Duration = Duration::from_secs(2);
/// The loads, as parts of what the server can take.
const LOADS: [(&str, f64); 3] = [("half of that", 0.5), ("that", 1.0), ("twice that", 2.0)];
const OVERLOAD: f64 = 2.0;

struct Options {
    rounds: usize,
    time: Duration,
    connections: usize,
    /// Calls under way while it is found what the server can take.
    at_once: usize,
    /// Introspections a second.
    introspections: f64,
}

/// What the server is set to, and where its Postgres is.
struct Setting {
    /// How long a byte takes to Postgres, and back.
    away: Duration,
    /// As it is by itself where it is 0.
    max_calls: usize,
}

fn main() -> ExitCode {
    let mut arguments = Arguments::read();
    let options = Options {
        rounds: arguments.value("--rounds", 3),
        time: arguments.time("--time", Duration::from_secs(3)),
        connections: arguments.value("--connections", 4),
        at_once: arguments.value("--calls", 64),
        introspections: arguments.value("--introspections", 1000.0),
    };
    let setting = Setting {
        away: arguments.time("--away", Duration::from_millis(2)),
        max_calls: arguments.value("--max-calls", 0),
    };
    arguments.done();
    let cores = cores::around_generator(2);
    println!("{cores}");
    let (postgres, runtime) = cores.start_others();
    let (service, caller, known) = runtime.block_on(set_up(&postgres, &cores.server, &setting));
    let wrong = cores::on(&[cores.generator], || {
        // The connections belong to the thread that calls, too.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.expect("a runtime starts");
        runtime.block_on(measure(&service, &caller, &known, &options))
    });
    drop(service);
    if wrong == 0 {
        println!("no answer but OK, and UNAVAILABLE because of OVERLOADED");
        ExitCode::SUCCESS
    } else {
        println!("WRONG ANSWERS: {wrong}");
        ExitCode::FAILURE
    }
}

async fn set_up(
    postgres: &Postgres,
    cores: &[usize],
    setting: &Setting,
) -> (Service, Caller, Arc<[Known]>) {
    let database = postgres.migrated("bench").await;
    let known = population::fill(&database, CLIENTS, KNOWN).await;
    let caller = Caller::create(&database);
    let database = match setting.away {
        Duration::ZERO => database,
        away => distance::to(postgres, &database, away),
    };
    let limit = setting.max_calls.to_string();
    let settings = match setting.max_calls {
        0 => vec![],
        _ => vec!["--max-calls", &*limit],
    };
    let service = cores::on(cores, || Service::start(&database, &settings));
    service.serving().await;
    check(&service, &caller, &known).await;
    (service, caller, known.into())
}

/// Counts the wrong answers.
async fn measure(
    service: &Service,
    caller: &Caller,
    known: &Arc<[Known]>,
    options: &Options,
) -> u64 {
    let calls = async |kind| Calls::to(service, kind, options.connections, caller, known).await;
    let (gets, introspections) = (calls(Kind::Get).await, calls(Kind::Introspect).await);
    let work = Work(service.pid());
    let mut saturated = Tally::default();
    for _ in 0..options.rounds {
        let found = closed(&gets, options.at_once, WARM_UP, options.time);
        add(work.of(async { vec![found.await] }).await, [&mut saturated]);
    }
    let seconds = options.time.as_secs_f64() * count(options.rounds);
    let rate = count(saturated.accepted.len()) / seconds;
    let mut loads = LOADS.map(|(title, part)| (title, part, Tally::default()));
    let [mut alone, mut beside] = [(); 2].map(|()| Tally::default());
    let mut overload = Tally::default();
    for _ in 0..options.rounds {
        for (_, part, tally) in &mut loads {
            let load = [(&gets, rate * *part)];
            let found = work.of(open(&load, WARM_UP, options.time)).await;
            add(found, [tally]);
        }
        let quiet = [(&introspections, options.introspections)];
        let found = work.of(open(&quiet, WARM_UP, options.time)).await;
        add(found, [&mut alone]);
        let both = [quiet[0], (&gets, rate * OVERLOAD)];
        let found = work.of(open(&both, WARM_UP, options.time)).await;
        add(found, [&mut beside, &mut overload]);
    }
    let mut wrong = 0;
    let mut table = Table::new(&[
        "GetApiClient",
        "come/s",
        "accepted/s",
        "p50",
        "p99",
        "refused/s",
        "p50",
        "p99",
        "others",
        "server at work",
    ]);
    let title = format!("{} at once", options.at_once);
    row(&mut table, &title, rate, &saturated, seconds);
    for (title, part, tally) in &loads {
        row(&mut table, title, rate * part, tally, seconds);
    }
    let title = "twice that, beside introspections";
    row(&mut table, title, rate * OVERLOAD, &overload, seconds);
    table.print();
    let mut table = Table::new(&["Introspect", "answered/s", "p50", "p99", "p99.9", "refused"]);
    for (title, tally) in [("alone", &alone), ("beside twice that", &beside)] {
        table.row([
            title.to_owned(),
            format!("{:.0}", count(tally.accepted.len()) / seconds),
            percentile(&tally.accepted, 500),
            percentile(&tally.accepted, 990),
            percentile(&tally.accepted, 999),
            tally.refused.len().to_string(),
        ]);
    }
    table.print();
    let rounds = options.rounds;
    println!("{rounds} rounds of {:?} each", options.time);
    let tallies = loads.iter().map(|(_, _, tally)| tally);
    for tally in tallies.chain([&saturated, &overload, &alone, &beside]) {
        wrong += tally.wrong();
        for (what, count) in &tally.others {
            println!("wrong: {count} times {what}");
        }
    }
    let late = [&overload, &beside].map(|tally| percentile(&tally.late, 990));
    println!("the generator was late by (p99) {}", late.join(" and "));
    wrong
}

/// Sees how much a process works, by its number.
struct Work(u32);

impl Work {
    /// While something is measured; it belongs to each of the loads.
    async fn of(&self, measured: impl Future<Output = Vec<Tally>>) -> Vec<Tally> {
        let (begun, before) = (Instant::now(), work_of(self.0));
        let mut found = measured.await;
        for tally in &mut found {
            tally.work = work_of(self.0).saturating_sub(before);
            tally.elapsed = begun.elapsed();
        }
        found
    }
}

/// Adds what was found to what is known, load by load.
fn add<const N: usize>(found: Vec<Tally>, known: [&mut Tally; N]) {
    assert_eq!(found.len(), N, "a tally for each load");
    for (known, found) in known.into_iter().zip(found) {
        known.merge(found);
    }
}

fn row(table: &mut Table, title: &str, rate: f64, tally: &Tally, seconds: f64) {
    let a_second = |all: &[Duration]| format!("{:.0}", count(all.len()) / seconds);
    table.row([
        title.to_owned(),
        format!("{rate:.0}"),
        a_second(&tally.accepted),
        percentile(&tally.accepted, 500),
        percentile(&tally.accepted, 990),
        a_second(&tally.refused),
        percentile(&tally.refused, 500),
        percentile(&tally.refused, 990),
        tally.wrong().to_string(),
        format!(
            "{:.2} cores",
            tally.work.as_secs_f64() / tally.elapsed.as_secs_f64()
        ),
    ]);
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).expect("fewer than four billion"))
}
