//! A replica that begins with nothing: how long until it serves, what it costs its upstream
//! meanwhile, and how much memory it has in the end.

use std::time::Duration;

use tokio::runtime::Runtime;

use crate::support::{
    cores::{self, Cores},
    figures::{Table, median, met},
    load::{Shape, Style, Target, saturate},
    population,
    postgres::Postgres,
    service::{Caller, Service},
};

/// Clients that present their tokens.
const KNOWN: usize = 10_000;
/// How long each run goes on before it counts.
const WARM_UP: Duration = Duration::from_millis(200);
/// What the upstream is asked with: connections, and calls in flight on each.
const SHAPE: Shape = Shape {
    connections: 4,
    calls: 32,
};
/// The bounds.
const READY: Duration = Duration::from_secs(15);
const MEMORY: f64 = 1.1;
const THROUGHPUT: f64 = 0.9;
const MIB: f64 = 1_048_576.0;

pub struct Options {
    pub clients: usize,
    pub rounds: usize,
    pub time: Duration,
}

/// One replica's begin.
struct Round {
    /// From the start of its process until it serves, beside an upstream without load.
    ready: Duration,
    /// Calls of the upstream before, and while a replica loads, for each second of its work:
    /// what else goes on on its core does not count, and what the snapshot costs it does.
    rates: [f64; 2],
    /// Whether the replica loaded for as long as the second rate was measured.
    is_covered: bool,
    /// Memory of the replica beside the upstream's, in bytes.
    memory: [f64; 2],
}

pub fn measure(
    postgres: &Postgres,
    runtime: &Runtime,
    cores: &Cores,
    options: &Options,
) -> Result<(), String> {
    let database = runtime.block_on(postgres.migrated("snapshot"));
    let known = runtime.block_on(population::fill(&database, options.clients, KNOWN));
    let (caller, follower) = (Caller::create(&database), Caller::replica(&database));
    let upstream = cores::on(&cores.server, || Service::start(&database, &[]));
    runtime.block_on(upstream.serving());
    let target = runtime.block_on(Target::of(&upstream, &caller, Style::Unary, &known));
    let mut rounds = Vec::new();
    for _ in 0..options.rounds {
        rounds.push(round(
            runtime, cores, &upstream, &follower, &target, options,
        )?);
    }
    report(options, &rounds);
    Ok(())
}

fn round(
    runtime: &Runtime,
    cores: &Cores,
    upstream: &Service,
    follower: &Caller,
    target: &Target,
    options: &Options,
) -> Result<Round, String> {
    let start = || {
        cores::on(&cores.others, || {
            Service::start_replica(upstream, follower, &[])
        })
    };
    let alone = start();
    let ready = runtime.block_on(alone.serving());
    let memory = [&alone, upstream].map(|service| bytes(service.memory().resident));
    drop(alone);
    let rate = || {
        let run = cores::on(&[cores.generator], || {
            saturate(target, SHAPE, WARM_UP, options.time)
        });
        let run = run.map_err(|error| error.to_string())?;
        match run.failures {
            0 => Ok(run.rate_at_work),
            failures => Err(format!("{failures} answers were not good")),
        }
    };
    let before = rate()?;
    let beside = start();
    let meanwhile = rate()?;
    let is_covered = !runtime.block_on(beside.is_serving());
    let rates = [before, meanwhile];
    Ok(Round {
        ready,
        rates,
        is_covered,
        memory,
    })
}

#[expect(clippy::cast_precision_loss, reason = "sizes for people")]
fn bytes(size: u64) -> f64 {
    size as f64
}

#[expect(clippy::print_stdout, reason = "it prints what it measured")]
fn report(options: &Options, rounds: &[Round]) {
    let of = |figure: fn(&Round) -> f64| median(&rounds.iter().map(figure).collect::<Vec<_>>());
    let ready = of(|round| round.ready.as_secs_f64());
    let throughput = of(|round| round.rates[1] / round.rates[0]);
    let memory = of(|round| round.memory[0] / round.memory[1]);
    let mut table = Table::new(&["a replica begins with nothing", "figure", "bound"]);
    table.row([
        format!("{} clients, until it serves", options.clients),
        format!("{ready:.2} s"),
        format!("{READY:?}: {}", met(ready <= READY.as_secs_f64())),
    ]);
    table.row([
        "its memory, beside that of its upstream".to_owned(),
        format!(
            "{memory:.2} ({:.0} MiB to {:.0} MiB)",
            of(|round| round.memory[0]) / MIB,
            of(|round| round.memory[1]) / MIB
        ),
        format!("{MEMORY}: {}", met(memory <= MEMORY)),
    ]);
    table.row([
        "the upstream's throughput meanwhile".to_owned(),
        format!(
            "{throughput:.2} ({:.0} to {:.0} calls/s of work)",
            of(|round| round.rates[1]),
            of(|round| round.rates[0])
        ),
        format!("{THROUGHPUT}: {}", met(throughput >= THROUGHPUT)),
    ]);
    table.print();
    let uncovered = rounds.iter().filter(|round| !round.is_covered).count();
    println!(
        "medians of {} rounds; in {uncovered} of them the replica was ready before the end",
        rounds.len()
    );
}
