//! Whether introspections get slower with the number of API clients: two servers at
//! once on the same core, one with a thousand clients and one with a million, driven
//! in turns.
//!
//! Of the million, a hundred thousand present their tokens, in random order, so that
//! what is looked at for each of them is in no processor's cache.

#![expect(clippy::print_stdout, reason = "it prints what it measured")]
#![expect(unreachable_pub, reason = "a benchmark has no outside")]

use std::{process::ExitCode, time::Duration};

#[path = "../support.rs"]
mod support;

use support::{
    arguments::Arguments,
    cores,
    dice::Dice,
    figures::{Table, median, met, verdict},
    load::{Saturation, Shape, Style, Target, saturate},
    population::{self, check},
    postgres::Postgres,
    service::{Caller, Service},
};

/// The clients of the small database, all of which present their tokens.
const FEW: usize = 1000;
/// How long each run goes on before it counts.
const WARM_UP: Duration = Duration::from_millis(500);
/// What a million clients may cost: this part of the throughput is left.
const BOUND: f64 = 0.9;

struct Options {
    clients: usize,
    known: usize,
    rounds: usize,
    time: Duration,
    connections: usize,
    calls: usize,
    pipelined: usize,
}

/// A way to call, on the small database and on the large one.
struct Pair {
    title: &'static str,
    targets: [Target; 2],
    calls: usize,
    runs: [Vec<Saturation>; 2],
}

fn main() -> ExitCode {
    let mut arguments = Arguments::read();
    let options = Options {
        clients: arguments.value("--clients", 1_000_000),
        known: arguments.value("--known", 100_000),
        rounds: arguments.value("--rounds", 5),
        time: arguments.time("--time", Duration::from_secs(2)),
        connections: arguments.value("--connections", 4),
        calls: arguments.value("--calls", 32),
        pipelined: arguments.value("--pipelined", 128),
    };
    arguments.done();
    let cores = cores::shared_out(1);
    println!("{cores}");
    let (postgres, runtime) = cores.start_others();
    let few = start(&postgres, "few", [FEW, FEW], &cores.server);
    let (few_service, few) = runtime.block_on(few);
    let size = [options.clients, options.known];
    let many = start(&postgres, "many", size, &cores.server);
    let (many_service, many) = runtime.block_on(many);
    let [few_unary, few_stream] = few;
    let [many_unary, many_stream] = many;
    let pair = |title, targets, calls| Pair {
        title,
        targets,
        calls,
        runs: Default::default(),
    };
    let mut pairs = [
        pair("Introspect", [few_unary, many_unary], options.calls),
        pair(
            "IntrospectStream",
            [few_stream, many_stream],
            options.pipelined,
        ),
    ];
    let failures = cores::on(&[cores.generator], || measure(&mut pairs, &options));
    drop((few_service, many_service));
    report(&pairs, &options);
    verdict(failures)
}

/// Starts a server on a database with so many clients, of which so many present
/// their tokens, one call for each and all on one stream.
async fn start(
    postgres: &Postgres,
    name: &str,
    [clients, known]: [usize; 2],
    cores: &[usize],
) -> (Service, [Target; 2]) {
    let database = postgres.migrated(name).await;
    let mut known = population::fill(&database, clients, known).await;
    Dice::new(1).shuffle(&mut known);
    let caller = Caller::create(&database);
    let service = cores::on(cores, || Service::start(&database, &[]));
    service.serving().await;
    check(&service, &caller, &known[..FEW]).await;
    let unary = Target::of(&service, &caller, Style::Unary, &known).await;
    let stream = Target::of(&service, &caller, Style::Stream, &known).await;
    (service, [unary, stream])
}

fn measure(pairs: &mut [Pair], options: &Options) -> u64 {
    let mut failures = 0;
    for _ in 0..options.rounds {
        for pair in &mut *pairs {
            let shape = Shape {
                connections: options.connections,
                calls: pair.calls,
            };
            for (target, runs) in pair.targets.iter().zip(&mut pair.runs) {
                let run = saturate(target, shape, WARM_UP, options.time);
                let run = run.unwrap_or_else(|error| panic!("{}: {error}", pair.title));
                failures += run.failures;
                runs.push(run);
            }
        }
    }
    failures
}

fn report(pairs: &[Pair], options: &Options) {
    let titles = [
        "what",
        "clients",
        "tokens",
        "calls/s",
        "ratio",
        "calls/s of work",
        "ratio ",
    ];
    let mut table = Table::new(&titles);
    let mut left = Vec::new();
    for pair in pairs {
        // Those of one round are compared, since a machine has its moods.
        let ratio = |figure: fn(&Saturation) -> f64| {
            let [few, many] = &pair.runs;
            let ratios = few.iter().zip(many);
            median(
                &ratios
                    .map(|(few, many)| figure(many) / figure(few))
                    .collect::<Vec<_>>(),
            )
        };
        let ratios = [ratio(|run| run.rate), ratio(|run| run.rate_at_work)];
        left.push((pair.title, ratios[1]));
        let sizes = [FEW, options.clients].into_iter().zip([FEW, options.known]);
        let rows = sizes.zip(&pair.runs).zip([[1.0; 2], ratios]);
        for (((clients, known), runs), [ratio, ratio_at_work]) in rows {
            let figure =
                |of: fn(&Saturation) -> f64| median(&runs.iter().map(of).collect::<Vec<_>>());
            table.row([
                pair.title.to_owned(),
                clients.to_string(),
                known.to_string(),
                format!("{:.0}", figure(|run| run.rate)),
                format!("{ratio:.2}"),
                format!("{:.0}", figure(|run| run.rate_at_work)),
                format!("{ratio_at_work:.2}"),
            ]);
        }
    }
    table.print();
    println!(
        "medians of {} rounds of {:?} each, in turns; ratios are of one round each",
        options.rounds, options.time
    );
    for (title, left) in left {
        let is_met = met(left >= BOUND);
        println!("{title}: at least {BOUND} of the throughput of work is left: {is_met}");
    }
}
