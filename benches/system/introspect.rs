//! How many introspections one core answers, beside what HTTP/2 costs by itself
//! in Rust: an echo made with tonic as everybody writes it, the same on one
//! thread, and hyper alone with a fixed answer. Each of these is there twice: with the
//! system's allocator and with this service's own.
//!
//! All servers are there at once, on the same core; one load generator on another
//! core drives them in turns, with the same headers and messages. Then each gets
//! half the calls that tonic's echo can take, and half of those that hitkeep-auth
//! can, at random moments, for the latency; that counts from the moment at which a
//! call was to be made.

#![expect(clippy::print_stdout, reason = "it prints what it measured")]
#![expect(unreachable_pub, reason = "a benchmark has no outside")]

use std::{process::ExitCode, time::Duration};

#[path = "introspect/rows.rs"]
mod rows;
#[path = "introspect/servers.rs"]
mod servers;
#[path = "../support.rs"]
mod support;

use rows::measure;
use servers::Kind;
use support::{
    arguments::Arguments,
    comparison::{self, Allocator, Programs, Running},
    cores,
    figures::verdict,
    filled::{Filled, Size},
    load::{Shape, Style},
    postgres::Postgres,
    saturation::{Rounds, Row},
};

/// What this service is called in a table.
const OURS: &str = "hitkeep-auth";

struct Options {
    clients: usize,
    rounds: Rounds,
    shape: Shape,
    /// Calls at once on each connection, where they share a stream.
    pipelined: usize,
    /// Clients whose tokens are presented, in turn.
    known: usize,
    /// Cores for each server, and threads with them.
    threads: usize,
    /// What the title of a row has to contain: for a look at one server alone.
    only: String,
    /// Another build of this service, to be measured in the same run.
    beside: String,
}

impl Options {
    fn shape(&self, style: Style) -> Shape {
        match style {
            Style::Unary => self.shape,
            Style::Stream => Shape {
                calls: self.pipelined,
                ..self.shape
            },
        }
    }
}

/// What has to be there while it is measured.
struct Servers {
    _echoes: Vec<(Allocator, Running)>,
    _ours: Vec<Filled>,
}

fn main() -> ExitCode {
    if let Some(name) = comparison::name() {
        Kind::named(&name).expect("there is such a server").be();
        return ExitCode::SUCCESS;
    }
    let mut arguments = Arguments::read();
    let options = Options {
        clients: arguments.value("--clients", 100_000),
        rounds: Rounds {
            count: arguments.value("--rounds", 3),
            warm_up: Duration::from_millis(500),
            time: arguments.time("--time", Duration::from_secs(2)),
        },
        shape: Shape {
            connections: arguments.value("--connections", 4),
            calls: arguments.value("--calls", 32),
        },
        pipelined: arguments.value("--pipelined", 128),
        known: arguments.value("--known", 1000),
        threads: arguments.value("--threads", 1),
        only: arguments.value("--only", String::new()),
        beside: arguments.value("--beside", String::new()),
    };
    arguments.done();
    let programs = Programs::find();
    let cores = cores::shared_out(options.threads);
    let (postgres, runtime) = cores.start_others();
    let mut rows = Vec::new();
    let set_up = set_up(&postgres, &options, &programs, &cores.server, &mut rows);
    let servers = runtime.block_on(set_up);
    println!(
        "{} clients, of which {} present their tokens; {} connections with {} calls at once on \
         each, or {} on one stream; {cores}",
        options.clients,
        options.known,
        options.shape.connections,
        options.shape.calls,
        options.pipelined
    );
    let failures = cores::on(&[cores.generator], || measure(&mut rows, &options));
    drop(servers);
    verdict(failures)
}

/// Starts all servers on the same cores.
async fn set_up(
    postgres: &Postgres,
    options: &Options,
    programs: &Programs,
    cores: &[usize],
    rows: &mut Vec<Row>,
) -> Servers {
    let size = Size {
        clients: options.clients,
        known: options.known,
    };
    let ours = Filled::each(&options.beside, postgres, size, cores).await;

    // On several cores those on one thread are no match.
    let kinds = Kind::ALL.into_iter();
    let kinds: Vec<_> = kinds
        .filter(|kind| options.threads == 1 || !kind.is_on_one_thread())
        .collect();
    let start = |kind: &Kind| cores::on(cores, || programs.start(kind.name()));
    let echoes: Vec<_> = kinds.into_iter().map(|kind| (kind, start(&kind))).collect();
    for (style, streams) in [(Style::Unary, ""), (Style::Stream, ", streams")] {
        let mut targets = Vec::new();
        for filled in &ours {
            targets.push(filled.target(style).await);
        }
        for (kind, servers) in &echoes {
            if style == Style::Stream && !kind.has_streams() {
                continue;
            }
            for (allocator, server) in servers {
                let title = allocator.titled(&format!("{}{streams}", kind.title()));
                let target = targets[0].at(server.address, server.pid());
                rows.push(Row::new(title, target));
            }
        }
        for (target, what) in targets.into_iter().zip(["", ", other build"]) {
            rows.push(Row::new(format!("{OURS}{what}{streams}"), target));
        }
    }
    rows.retain(|row| row.title.contains(&options.only));
    assert!(!rows.is_empty(), "nothing is called {:?}", options.only);
    Servers {
        _echoes: echoes
            .into_iter()
            .flat_map(|(_, servers)| servers)
            .collect(),
        _ours: ours,
    }
}
