//! How long answers take, however many calls are under way at once: each connection
//! keeps so many under way, from one to hundreds, and none may ever take as long as a
//! packet waits that is held back for the acknowledgement of the one before it.

#![expect(clippy::print_stdout, reason = "it prints what it measured")]
#![expect(unreachable_pub, reason = "a benchmark has no outside")]

use std::{process::ExitCode, time::Duration};

#[path = "../support.rs"]
mod support;

use support::{
    arguments::Arguments,
    build::Build,
    cores,
    figures::{Samples, Table, met, verdict},
    filled::{Filled, Size},
    load::{Shape, Style, Target, timed},
    postgres::Postgres,
};

/// Clients, all of which present their tokens.
const CLIENTS: usize = 1000;
/// Connections, and the most calls at once on each of them.
const CONNECTIONS: [usize; 2] = [1, 4];
const MOST_CALLS: usize = 256;
/// How long each run goes on before it counts.
const WARM_UP: Duration = Duration::from_millis(200);
/// A packet that is held back waits 40 ms for an acknowledgement.
const STALL: Duration = Duration::from_millis(35);

fn main() -> ExitCode {
    let mut arguments = Arguments::read();
    let time = arguments.time("--time", Duration::from_secs(1));
    arguments.done();
    let cores = cores::shared_out(1);
    println!("{cores}");
    let (postgres, runtime) = cores.start_others();
    let (filled, targets) = runtime.block_on(set_up(&postgres, &cores.server));
    let mut failures = 0;
    for (title, target) in targets {
        failures += cores::on(&[cores.generator], || report(title, &target, time));
    }
    drop(filled);
    verdict(failures)
}

async fn set_up(postgres: &Postgres, cores: &[usize]) -> (Filled, [(&'static str, Target); 2]) {
    let size = Size {
        clients: CLIENTS,
        known: CLIENTS,
    };
    let filled = Filled::start(&Build::this(), postgres, "bench", size, cores).await;
    let unary = filled.target(Style::Unary).await;
    let stream = filled.target(Style::Stream).await;
    let targets = [("Introspect", unary), ("IntrospectStream", stream)];
    (filled, targets)
}

/// Measures one way to call, and gives the answers that were not good.
fn report(title: &str, target: &Target, time: Duration) -> u64 {
    let mut table = Table::new(&[
        title,
        "calls at once",
        "calls/s",
        "p50",
        "p99",
        "p99.9",
        "longest",
        "35 ms or longer",
    ]);
    let (mut failures, mut stalls) = (0, 0);
    for connections in CONNECTIONS {
        let all = std::iter::successors(Some(1), |calls| Some(calls * 2));
        for calls in all.take_while(|calls| *calls <= MOST_CALLS) {
            let shape = Shape { connections, calls };
            let run = timed(target, shape, WARM_UP, time);
            let (saturation, run) = run.unwrap_or_else(|error| panic!("{title}: {error}"));
            failures += run.failures;
            let stalled = run.latencies.iter().filter(|latency| **latency >= STALL);
            let stalled = stalled.count();
            stalls += stalled;
            let samples = Samples::of(run.latencies);
            let microseconds = |time: Duration| format!("{} µs", time.as_micros());
            table.row([
                match connections {
                    1 => "1 connection".to_owned(),
                    several => format!("{several} connections"),
                },
                format!("{connections} × {calls}"),
                format!("{:.0}", saturation.rate),
                microseconds(samples.median()),
                microseconds(samples.p99()),
                microseconds(samples.per_mille(999)),
                microseconds(samples.max()),
                stalled.to_string(),
            ]);
        }
    }
    table.print();
    println!(
        "{time:?} each; no answer took {STALL:?}: {}",
        met(stalls == 0)
    );
    failures
}
