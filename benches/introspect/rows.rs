//! What is measured of each server, and the tables of it.

use super::{
    OURS, Options,
    support::{
        figures::{Samples, Table, median},
        load::{Saturation, Style, Target, saturate, steady},
    },
};
use std::time::Duration;

/// How long each run goes on before it counts.
const WARM_UP: Duration = Duration::from_millis(500);
/// What part of the load that a server can take all get for the latency.
const LATENCY_LOAD: f64 = 0.5;
/// The generator may be that busy before it is what limits a rate; and a server,
/// before its latency is that of a queue which only grows.
const TOO_BUSY: f64 = 0.9;

/// A server, and what was measured of it.
pub struct Row {
    pub title: String,
    pub target: Target,
    runs: Vec<Saturation>,
    /// For each of the loads, the median and the 99th of a hundred, one of each
    /// for every round.
    latencies: [Latencies; 2],
}

#[derive(Default)]
struct Latencies {
    p50: Vec<f64>,
    p99: Vec<f64>,
}

/// What all servers get for the latency, in calls a second.
struct Load {
    /// Whose half it is.
    whose: &'static str,
    rate: f64,
}

impl Row {
    pub fn new(title: String, target: Target) -> Self {
        Self {
            title,
            target,
            runs: Vec::new(),
            latencies: Default::default(),
        }
    }

    fn median(&self, figure: fn(&Saturation) -> f64) -> f64 {
        median(&self.runs.iter().map(figure).collect::<Vec<_>>())
    }

    fn can_take(&self, load: &Load) -> bool {
        self.median(|run| run.rate) * TOO_BUSY >= load.rate
    }
}

/// Drives all of them, and counts the answers that were not good.
pub fn measure(rows: &mut [Row], options: &Options) -> u64 {
    let mut failures = 0;
    for _ in 0..options.rounds {
        for row in &mut *rows {
            let shape = options.shape(row.target.style);
            let run = saturate(&row.target, shape, WARM_UP, options.time);
            let run = run.unwrap_or_else(|error| panic!("{}: {error}", row.title));
            failures += run.failures;
            row.runs.push(run);
        }
    }
    report_rates(rows, options);
    for style in [Style::Unary, Style::Stream] {
        let mut rows: Vec<_> = rows
            .iter_mut()
            .filter(|row| row.target.style == style)
            .collect();
        if rows.is_empty() {
            continue;
        }
        let loads = loads(&rows);
        for _ in 0..options.rounds {
            for row in &mut rows {
                for (at, load) in loads.iter().enumerate() {
                    failures += row.bear(at, load, options);
                }
            }
        }
        report_latencies(&rows, &loads);
    }
    println!(
        "medians of {} rounds of {:?} each, in turns",
        options.rounds, options.time
    );
    if rows.iter().any(|row| row.median(|run| run.busy) > TOO_BUSY) {
        println!("where the generator was at work all the time, the rate is its own");
    }
    failures
}

/// Half of what the first one can take, which is tonic's echo, and half of what
/// this service can.
fn loads(rows: &[&mut Row]) -> Vec<Load> {
    let load = |whose, row: &Row| Load {
        whose,
        rate: row.median(|run| run.rate) * LATENCY_LOAD,
    };
    let ours = rows.iter().find(|row| row.title.starts_with(OURS));
    let first = rows.first().filter(|row| !row.title.starts_with(OURS));
    let first = first.map(|row| load("tonic's", row));
    let ours = ours.map(|row| load("ours", row));
    first.into_iter().chain(ours).collect()
}

impl Row {
    /// Measures the latency under one of the loads, if it can take that: otherwise
    /// it would only say how long it was measured. Gives the answers that were not
    /// good.
    fn bear(&mut self, at: usize, load: &Load, options: &Options) -> u64 {
        if !self.can_take(load) {
            return 0;
        }
        let shape = options.shape(self.target.style);
        let run = steady(&self.target, shape, load.rate, WARM_UP, options.time);
        let run = run.unwrap_or_else(|error| panic!("{}: {error}", self.title));
        // Kept from its work so long that no call was made in the time that counts.
        if run.latencies.is_empty() {
            return run.failures;
        }
        let samples = Samples::of(run.latencies);
        let latencies = &mut self.latencies[at];
        latencies.p50.push(samples.median().as_secs_f64() * 1e6);
        latencies.p99.push(samples.p99().as_secs_f64() * 1e6);
        run.failures
    }
}

fn report_rates(rows: &[Row], options: &Options) {
    let work = match options.threads {
        1 => "calls/s of work",
        _ => "calls/s of one core's work",
    };
    let mut table = Table::new(&[
        "all that it can take",
        "calls/s",
        "ratio",
        "lowest to highest",
        "server at work",
        "generator at work",
        work,
        "ratio ",
    ]);
    for row in rows {
        let rate = row.median(|run| run.rate);
        let at_work = row.median(|run| run.rate_at_work);
        let all = row.runs.iter().map(|run| run.rate);
        let lowest = all.clone().fold(f64::INFINITY, f64::min);
        let highest = all.fold(0.0, f64::max);
        table.row([
            row.title.clone(),
            format!("{rate:.0}"),
            format!("{:.2}", rate / rows[0].median(|run| run.rate)),
            format!("{lowest:.0} to {highest:.0}"),
            format!("{:.0} %", row.median(|run| run.server_busy) * 100.0),
            format!("{:.0} %", row.median(|run| run.busy) * 100.0),
            format!("{at_work:.0}"),
            format!("{:.2}", at_work / rows[0].median(|run| run.rate_at_work)),
        ]);
    }
    table.print();
}

fn report_latencies(rows: &[&mut Row], loads: &[Load]) {
    for (at, load) in loads.iter().enumerate() {
        let title = format!("half of {} load: {:.0} calls/s", load.whose, load.rate);
        let mut table = Table::new(&[&title, "p50", "p99"]);
        for row in rows {
            let latency = |of: &[f64]| {
                if row.can_take(load) {
                    format!("{:.0} µs", median(of))
                } else {
                    "overloaded".to_owned()
                }
            };
            let Latencies { p50, p99 } = &row.latencies[at];
            table.row([row.title.clone(), latency(p50), latency(p99)]);
        }
        table.print();
    }
}
