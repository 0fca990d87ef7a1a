//! What was measured, put into figures that people can compare: percentiles and
//! tables, in Markdown, so that a table can be put into a document as it is.

use std::{process::ExitCode, time::Duration};

/// Measurements of one thing, in order of size.
pub struct Samples(Vec<Duration>);

impl Samples {
    /// Takes measurements in any order. There must be one.
    pub fn of(mut all: Vec<Duration>) -> Self {
        assert!(!all.is_empty(), "nothing was measured");
        all.sort_unstable();
        Self(all)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The smallest one that at least that many of a thousand are not above:
    /// 500 gives the median.
    pub fn per_mille(&self, share: usize) -> Duration {
        let rank = (self.0.len() * share).div_ceil(1000).max(1);
        self.0[rank - 1]
    }

    /// The median.
    pub fn median(&self) -> Duration {
        self.per_mille(500)
    }

    /// The 99th of a hundred.
    pub fn p99(&self) -> Duration {
        self.per_mille(990)
    }

    /// The greatest.
    pub fn max(&self) -> Duration {
        self.per_mille(1000)
    }
}

/// The median of some rates.
pub fn median(rates: &[f64]) -> f64 {
    let mut rates = rates.to_vec();
    rates.sort_unstable_by(f64::total_cmp);
    let middle = rates.len() / 2;
    match rates.len() % 2 {
        0 => f64::midpoint(rates[middle - 1], rates[middle]),
        _ => rates[middle],
    }
}

/// Milliseconds for people.
pub fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

/// Whether a figure keeps to its bound, in words. Nothing fails for being slow.
pub fn met(is: bool) -> String {
    let text = if is { "met" } else { "MISSED" };
    text.to_owned()
}

/// A table.
pub struct Table(Vec<Vec<String>>);

impl Table {
    /// An empty one with those columns.
    pub fn new(columns: &[&str]) -> Self {
        Self(vec![
            columns.iter().map(|name| (*name).to_owned()).collect(),
        ])
    }

    /// Adds a row: one cell for each column.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.cells(cells.into());
    }

    /// The same, where it depends how many columns there are.
    pub fn cells(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.0[0].len(), "a cell for each column");
        self.0.push(cells);
    }

    /// Prints it, with the first column to the left and the others to the right.
    pub fn print(&self) {
        let width = |column: usize| {
            let cells = self.0.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0).max(3)
        };
        let widths: Vec<_> = (0..self.0[0].len()).map(width).collect();
        println!();
        for (number, row) in self.0.iter().enumerate() {
            let cell = |(column, text): (usize, &String)| match column {
                0 => format!("{text:<0$}", widths[0]),
                _ => format!("{text:>0$}", widths[column]),
            };
            let cells: Vec<_> = row.iter().enumerate().map(cell).collect();
            println!("| {} |", cells.join(" | "));
            if number == 0 {
                let rule = |(column, width): (usize, &usize)| match column {
                    0 => "-".repeat(*width),
                    _ => "-".repeat(width - 1) + ":",
                };
                let rules: Vec<_> = widths.iter().enumerate().map(rule).collect();
                println!("| {} |", rules.join(" | "));
            }
        }
        println!();
    }
}

/// How a benchmark ends that counted the answers which were not good.
pub fn verdict(failures: u64) -> ExitCode {
    match failures {
        0 => ended(Ok(())),
        some => ended(Err(format!("{some} answers were not good"))),
    }
}

/// How a benchmark ends, which says what was wrong.
#[expect(clippy::print_stdout, reason = "it belongs to the figures")]
pub fn ended(measured: Result<(), String>) -> ExitCode {
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(wrong) => {
            println!("WRONG: {wrong}");
            ExitCode::FAILURE
        }
    }
}
