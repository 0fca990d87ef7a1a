//! How many instructions one call costs, by callgrind's count: the same on any
//! machine, however busy it is, so that a change that costs more is seen.
//!
//! Of the whole server, in user space: HTTP/2, the runtime, and the answer. What the
//! kernel does for it is not in there, and what the feed does meanwhile is, which is
//! little beside this many calls. Needs valgrind.

#![expect(clippy::print_stdout, reason = "it prints what it measured")]
#![expect(unreachable_pub, reason = "a benchmark has no outside")]

use std::{
    path::Path,
    process::{Command, ExitCode},
};

#[path = "../support.rs"]
mod support;

use support::{
    arguments::Arguments,
    figures::Table,
    load::{Shape, Style, Target, exactly},
    population,
    postgres::{Durability, Postgres},
    service::{Caller, Service},
};

/// Clients that present their tokens, in turn.
const KNOWN: usize = 1000;
/// How it is called, and how many calls are under way at once on one connection.
const WAYS: [(&str, Style, usize); 3] = [
    ("Introspect, one call at a time", Style::Unary, 1),
    ("Introspect, 32 calls at once", Style::Unary, 32),
    ("IntrospectStream, 128 requests at once", Style::Stream, 128),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::read();
    let calls: u64 = arguments.value("--calls", 20_000);
    arguments.done();
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("SKIPPED: valgrind is not installed");
        return ExitCode::SUCCESS;
    }
    let postgres = Postgres::start(Durability::ThrownAway);
    let folder = std::env::temp_dir().join(format!("hitkeep-auth-calls-{}", std::process::id()));
    std::fs::create_dir(&folder).expect("a folder of our own");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let counted = runtime.block_on(count(&postgres, &folder, calls));
    drop(std::fs::remove_dir_all(&folder));
    let mut table = Table::new(&["what", "instructions a call"]);
    for (title, instructions) in counted {
        table.row([title.to_owned(), instructions.to_string()]);
    }
    table.print();
    println!("{calls} calls each, on one connection, after as many that are not counted");
    ExitCode::SUCCESS
}

async fn count(postgres: &Postgres, folder: &Path, calls: u64) -> Vec<(&'static str, u64)> {
    let database = postgres.migrated("bench").await;
    let known = population::fill(&database, KNOWN, KNOWN).await;
    let caller = Caller::create(&database);
    let output = format!("--callgrind-out-file={}/out", folder.display());
    let callgrind = [
        "valgrind",
        "--tool=callgrind",
        "--instr-atstart=no",
        "--quiet",
        output.as_str(),
    ];
    let service = Service::start_under(&callgrind, &database, &["--threads", "1"]);
    service.serving().await;
    let mut counted = Vec::new();
    for (title, style, at_once) in WAYS {
        let target = Target::of(&service, &caller, style, &known).await;
        let shape = Shape {
            connections: 1,
            calls: at_once,
        };
        let run = || {
            let failures = exactly(&target, shape, calls).expect("the server answers");
            assert_eq!(failures, 0, "answers that were not good");
        };
        tokio::task::block_in_place(run);
        control(&service, "--instr=on");
        tokio::task::block_in_place(run);
        control(&service, "--instr=off");
        control(&service, "--dump");
        counted.push((title, last_dump(folder) / calls));
    }
    counted
}

fn control(service: &Service, order: &str) {
    let done = Command::new("callgrind_control")
        .args([order, &service.pid().to_string()])
        .output()
        .expect("it comes with valgrind");
    assert!(done.status.success(), "{done:?}");
}

/// The instructions in the dump that was written last, by all threads.
fn last_dump(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).expect("the folder is there");
    let number = |path: &Path| {
        let name = path
            .extension()
            .map(|name| name.to_string_lossy().into_owned());
        name.and_then(|name| name.parse::<u32>().ok())
    };
    let dumps = files.filter_map(|file| {
        let path = file.ok()?.path();
        Some((number(&path)?, path))
    });
    let (_, last) = dumps.max().expect("a dump was written");
    let dump = std::fs::read_to_string(last).expect("it is text");
    let totals = dump
        .lines()
        .filter_map(|line| line.strip_prefix("totals: "));
    let totals = totals.map(|total| total.trim().parse::<u64>().expect("a number"));
    totals.sum()
}
