//! What is measured of each server: its maximum load, and the latency under half of others'
//! maximum loads, with the tables of both.

use super::{
    OURS, Options,
    servers::Kind,
    support::{
        comparison,
        figures::{Samples, Table, median},
        load::{Style, steady},
        saturation::{Row, report},
    },
};

/// What part of the load that a server can take all get for the latency.
const LATENCY_LOAD: f64 = 0.5;
/// The generator may be that busy before it is what limits a rate; and a server,
/// before its latency is that of a queue which only grows.
const TOO_BUSY: f64 = 0.9;

/// What all servers get for the latency, in calls a second.
struct Load {
    /// Whose half it is.
    whose: &'static str,
    rate: f64,
}

/// The median and the 99th of a hundred of a server's latencies under a load, in
/// microseconds: one of each for every round.
#[derive(Clone, Default)]
struct Latencies {
    p50: Vec<f64>,
    p99: Vec<f64>,
}

/// Drives all of them, and counts the answers that were not good.
pub fn measure(rows: &mut [Row], options: &Options) -> u64 {
    let mut failures = options.rounds.saturate(rows, |style| options.shape(style));
    let work = match options.threads {
        1 => "calls/s of work",
        _ => "calls/s of one core's work",
    };
    report(rows, work);
    for streams in ["", ", streams"] {
        let references = Kind::ALL.map(|kind| format!("{}{streams}", kind.title()));
        let references: Vec<_> = references.iter().map(String::as_str).collect();
        comparison::report(rows, &format!("{OURS}{streams}"), &references);
    }
    for style in [Style::Unary, Style::Stream] {
        let of_style = |row: &&Row| row.target.style == style;
        let rows: Vec<_> = rows.iter().filter(of_style).collect();
        failures += measure_latencies(&rows, options);
    }
    println!("{}", options.rounds);
    if rows.iter().any(|row| row.median(|run| run.busy) > TOO_BUSY) {
        println!("where the generator was at work all the time, the rate is its own");
    }
    failures
}

/// Measures the latencies of servers that are called in the same way.
fn measure_latencies(rows: &[&Row], options: &Options) -> u64 {
    let mut failures = 0;
    let loads = loads(rows);
    let mut latencies = vec![vec![Latencies::default(); rows.len()]; loads.len()];
    for _ in 0..options.rounds.count {
        for (at, row) in rows.iter().enumerate() {
            for (load, latencies) in loads.iter().zip(&mut latencies) {
                failures += bear(row, load, &mut latencies[at], options);
            }
        }
    }
    for (load, latencies) in loads.iter().zip(&latencies) {
        report_latencies(load, rows, latencies);
    }
    failures
}

/// Half of what the first one can take, which is tonic's echo, and half of what
/// this service can.
fn loads(rows: &[&Row]) -> Vec<Load> {
    let load = |whose, row: &&Row| Load {
        whose,
        rate: row.median(|run| run.rate) * LATENCY_LOAD,
    };
    let ours = rows.iter().find(|row| row.title.starts_with(OURS));
    let first = rows.first().filter(|row| !row.title.starts_with(OURS));
    let first = first.map(|row| load("tonic's load", row));
    let ours = ours.map(|row| load("ours", row));
    first.into_iter().chain(ours).collect()
}

fn can_take(row: &Row, load: &Load) -> bool {
    row.median(|run| run.rate) * TOO_BUSY >= load.rate
}

/// Measures the latency under a load, if the server can take that: otherwise it would
/// only say how long it was measured. Gives the answers that were not good.
fn bear(row: &Row, load: &Load, latencies: &mut Latencies, options: &Options) -> u64 {
    if !can_take(row, load) {
        return 0;
    }
    let shape = options.shape(row.target.style);
    let (warm_up, time) = (options.rounds.warm_up, options.rounds.time);
    let run = steady(&row.target, shape, load.rate, warm_up, time);
    let run = match run {
        Ok(run) => run,
        // A reference that gives up has no figure.
        Err(error) if !row.title.starts_with(OURS) => {
            println!("{}: {error}", row.title);
            return 0;
        }
        Err(error) => panic!("{}: {error}", row.title),
    };
    // Kept from its work so long that no call was made in the time that counts.
    if run.latencies.is_empty() {
        return run.failures;
    }
    let samples = Samples::of(run.latencies);
    latencies.p50.push(samples.median().as_secs_f64() * 1e6);
    latencies.p99.push(samples.p99().as_secs_f64() * 1e6);
    run.failures
}

fn report_latencies(load: &Load, rows: &[&Row], latencies: &[Latencies]) {
    let title = format!("half of {}: {:.0} calls/s", load.whose, load.rate);
    let mut table = Table::new(&[&title, "p50", "p99"]);
    for (row, Latencies { p50, p99 }) in rows.iter().zip(latencies) {
        let latency = |of: &[f64]| {
            match of {
                _ if !can_take(row, load) => "overloaded".to_owned(),
                // In each round, the server was kept from its work.
                [] => "none".to_owned(),
                all => format!("{:.0} µs", median(all)),
            }
        };
        table.row([row.title.clone(), latency(p50), latency(p99)]);
    }
    table.print();
}
