//! What replicas cost the server that they follow, and how fast they are.
//!
//! A replica of a million clients takes a snapshot while its upstream is driven as hard as it
//! goes; and a thousand watchers, each on a connection of its own, are told of revocations.

#![expect(clippy::print_stdout, reason = "it prints what it measured")]
#![expect(unreachable_pub, reason = "a benchmark has no outside")]

use std::{process::ExitCode, time::Duration};

#[path = "../support.rs"]
mod support;

#[path = "replication/snapshot.rs"]
mod snapshot;
#[path = "replication/watchers.rs"]
mod watchers;

use support::{arguments::Arguments, cores, figures::ended};

fn main() -> ExitCode {
    let mut arguments = Arguments::read();
    let snapshot = snapshot::Options {
        clients: arguments.value("--clients", 1_000_000),
        rounds: arguments.value("--rounds", 3),
        time: arguments.time("--time", Duration::from_secs(2)),
    };
    let watchers = watchers::Options {
        watchers: arguments.value("--watchers", 1000),
        revocations: arguments.value("--revocations", 100),
    };
    arguments.done();
    let cores = cores::shared_out(1);
    println!("{cores}");
    let (postgres, runtime) = cores.start_others();
    let measured = watchers::measure(&postgres, &runtime, &cores, &watchers)
        .and_then(|()| snapshot::measure(&postgres, &runtime, &cores, &snapshot));
    ended(measured)
}
