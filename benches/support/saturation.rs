//! All that each of several servers can take: they are driven in turns, since a machine
//! has its moods, and compared with the first.

use std::{fmt, time::Duration};

use super::{
    figures::{Table, median},
    load::{Saturation, Shape, Style, Target, saturate},
};

/// A server, and what was measured of it.
pub struct Row {
    pub title: String,
    pub target: Target,
    /// One for each round.
    runs: Vec<Saturation>,
}

/// How often all are driven, and how long each.
#[derive(Clone, Copy)]
pub struct Rounds {
    pub count: usize,
    /// How long each run goes on before it counts.
    pub warm_up: Duration,
    /// How long it counts.
    pub time: Duration,
}

impl Row {
    pub fn new(title: impl Into<String>, target: Target) -> Self {
        Self {
            title: title.into(),
            target,
            runs: Vec::new(),
        }
    }

    /// The median of what was measured.
    pub fn median(&self, figure: fn(&Saturation) -> f64) -> f64 {
        median(&self.runs.iter().map(figure).collect::<Vec<_>>())
    }
}

impl Rounds {
    /// Drives all of them, and counts the answers that were not good.
    pub fn saturate(&self, rows: &mut [Row], shape: impl Fn(Style) -> Shape) -> u64 {
        let mut failures = 0;
        for _ in 0..self.count {
            for row in &mut *rows {
                let shape = shape(row.target.style);
                let run = saturate(&row.target, shape, self.warm_up, self.time);
                let run = run.unwrap_or_else(|error| panic!("{}: {error}", row.title));
                failures += run.failures;
                row.runs.push(run);
            }
        }
        failures
    }
}

impl fmt::Display for Rounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, time, .. } = self;
        write!(f, "medians of {count} rounds of {time:?} each, in turns")
    }
}

/// How many times as much one does as the other, for each second of its work.
pub fn ratio_at_work(row: &Row, other: &Row) -> String {
    let [one, other] = [row, other].map(|row| row.median(|run| run.rate_at_work));
    format!("{:.2}", one / other)
}

/// Prints what each can take, and for each second of its work, under that title.
pub fn report(rows: &[Row], at_work: &str) {
    let mut table = Table::new(&[
        "maximum load",
        "calls/s",
        "ratio",
        "lowest to highest",
        "server at work",
        "generator at work",
        at_work,
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
            ratio_at_work(row, &rows[0]),
        ]);
    }
    table.print();
}
