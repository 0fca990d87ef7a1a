//! Servers that end, and certificates that are replaced, while callers ask as much
//! as can be answered: three times each, and no call may fail.
//!
//! Two servers are told to end in turns, by SIGTERM, and are started again; whoever
//! asked the one goes on with the other, so that each time all the load is on the
//! server that ends, but for the first time. A call that a server took must be
//! answered, and well. One that no server took is made again and counted apart:
//! gRPC's clients do that by themselves, or leave it to their users.
//!
//! The certificate of another server is replaced on disk while some callers keep
//! their connections and others come anew all the time. None of them may notice.

#![expect(clippy::print_stdout, reason = "it prints what it measured")]
#![expect(unreachable_pub, reason = "a benchmark has no outside")]
#![expect(
    clippy::unwrap_used,
    reason = "what makes the certificates is the tests' own"
)]

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tokio::{
    task::{JoinSet, block_in_place},
    time::sleep,
};
use tonic::transport::Endpoint;

#[path = "handover/callers.rs"]
mod callers;
#[path = "handover/certificates.rs"]
mod certificates;
#[path = "../support.rs"]
mod support;

use callers::{Asked, Line, Outcomes, come_anew, start};
use certificates::Certificates;
use support::{
    arguments::Arguments,
    cores,
    figures::Table,
    population::{self, check},
    postgres::{Durability, Postgres},
    service::{Caller, LISTEN, Service},
};

/// Clients, all of which present their tokens.
const CLIENTS: usize = 1000;
/// Callers that come anew, and how many calls they make before they go.
const NEWCOMERS: usize = 4;
const CALLS_OF_NEWCOMERS: usize = 20;

struct Options {
    times: usize,
    /// How long it goes on before and after each of them.
    time: Duration,
    connections: usize,
    calls: usize,
}

fn main() -> ExitCode {
    let mut arguments = Arguments::read();
    let options = Options {
        times: arguments.value("--times", 3),
        time: arguments.time("--time", Duration::from_secs(2)),
        connections: arguments.value("--connections", 8),
        calls: arguments.value("--calls", 32),
    };
    arguments.done();
    let cores = cores::shared_out(1);
    let mut rest = cores.others.clone();
    rest.push(cores.generator);
    println!(
        "cores: {:?} for the servers, {rest:?} for callers",
        cores.server
    );
    let postgres = cores::on(&rest, || Postgres::start(Durability::ThrownAway));
    let runtime = cores::on(&rest, || {
        tokio::runtime::Runtime::new().expect("a runtime starts")
    });
    let wrong = runtime.block_on(measure(&postgres, &cores.server, &options));
    if wrong == 0 {
        println!("no call failed, and every server ended well");
        ExitCode::SUCCESS
    } else {
        println!("WRONG: {wrong}");
        ExitCode::FAILURE
    }
}

/// Counts what went wrong.
async fn measure(postgres: &Postgres, cores: &[usize], options: &Options) -> u64 {
    let database = postgres.migrated("bench").await;
    let known = population::fill(&database, CLIENTS, CLIENTS).await;
    let caller = Caller::create(&database);
    let asked = || {
        Arc::new(Asked {
            caller: caller.clone(),
            known: known.clone(),
            is_over: AtomicBool::new(false),
        })
    };
    let mut table = Table::new(&[
        "while",
        "calls answered",
        "a second",
        "failed",
        "not taken, and made again",
        "longest",
    ]);
    let place = Place {
        database: &database,
        cores,
    };
    let (first, mut wrong) = servers_end(&place, &asked(), options).await;
    report(&mut table, "servers end", &first);
    let (second, more) = certificates_change(&place, &asked(), options).await;
    report(&mut table, "certificates change", &second);
    wrong += more;
    table.print();
    for (outcomes, _) in [&first, &second] {
        for (why, count) in &outcomes.untaken {
            println!("not taken: {count} times {why}");
        }
        for (how, count) in &outcomes.failed {
            println!("failed: {count} times {how}");
        }
        wrong += outcomes.failures();
    }
    println!(
        "{} connections with {} calls at once on each; {} connections were made anew while \
         certificates changed",
        options.connections, options.calls, second.0.connected
    );
    wrong
}

/// Where servers run.
struct Place<'a> {
    database: &'a str,
    cores: &'a [usize],
}

impl Place<'_> {
    fn start(&self, settings: &[&str]) -> Service {
        cores::on(self.cores, || Service::start(self.database, settings))
    }
}

/// Two servers end and are started again, in turns.
async fn servers_end(
    place: &Place<'_>,
    asked: &Arc<Asked>,
    options: &Options,
) -> ((Outcomes, Duration), u64) {
    let mut servers = [(); 2].map(|()| Some(place.start(&[])));
    let mut endpoints = Vec::new();
    for server in servers.iter().flatten() {
        server.serving().await;
        check(server, &asked.caller, &asked.known).await;
        endpoints.push(server.endpoint());
    }
    let begun = Instant::now();
    let mut callers = call(asked, &endpoints, options).await;
    let mut wrong = 0;
    sleep(options.time).await;
    for turn in 0..options.times {
        let server = &mut servers[turn % 2];
        let ended = server.take().expect("it was started again");
        let address = ended.address().to_string();
        let told = Instant::now();
        let (status, log) = block_in_place(|| ended.stop());
        println!(
            "{address}: told to end; {status} after {:?}",
            told.elapsed()
        );
        if !status.success() {
            wrong += 1;
            println!("{log}");
        }
        sleep(options.time / 2).await;
        let again = server.insert(place.start(&[LISTEN, &address]));
        again.serving().await;
        sleep(options.time / 2).await;
    }
    let outcomes = end(asked, &mut callers).await;
    let time = begun.elapsed();
    for server in servers.into_iter().flatten() {
        let (status, _) = block_in_place(|| server.stop());
        wrong += u64::from(!status.success());
    }
    ((outcomes, time), wrong)
}

/// The certificate of a server is replaced, again and again.
async fn certificates_change(
    place: &Place<'_>,
    asked: &Arc<Asked>,
    options: &Options,
) -> ((Outcomes, Duration), u64) {
    let mut certificates = Certificates::new();
    let [certificate, key] = certificates.files();
    let settings = [("--tls-cert", &certificate), ("--tls-key", &key)];
    let settings: Vec<_> = settings
        .iter()
        .flat_map(|(name, path)| [name, path.to_str().expect("it is text")])
        .collect();
    let server = place.start(&settings);
    let address = server.address();
    let endpoint = certificates.endpoint(address);
    let channel = endpoint.connect().await.expect("the server accepts");
    server.serving_over(channel).await;
    let begun = Instant::now();
    let mut callers = call(asked, std::slice::from_ref(&endpoint), options).await;
    for _ in 0..NEWCOMERS {
        let (asked, endpoint) = (Arc::clone(asked), endpoint.clone());
        callers.spawn(come_anew(asked, endpoint, CALLS_OF_NEWCOMERS));
    }
    let mut wrong = 0;
    sleep(options.time).await;
    for _ in 0..options.times {
        certificates.replace();
        server.signal(Signal::HUP);
        let shown = certificates.until_shown(address).await;
        wrong += u64::from(shown.is_none());
        let shown = shown.map_or_else(
            || "does not show another certificate".to_owned(),
            |time| format!("shows another certificate after {time:?}"),
        );
        println!("{address}: {shown}");
        sleep(options.time).await;
    }
    let mut outcomes = end(asked, &mut callers).await;
    let time = begun.elapsed();
    // Nobody ended a connection.
    for (why, count) in std::mem::take(&mut outcomes.untaken) {
        outcomes.failed.insert(why.to_owned(), count);
    }
    let (status, _) = block_in_place(|| server.stop());
    wrong += u64::from(!status.success());
    ((outcomes, time), wrong)
}

/// Callers on as many connections as there are to be, begun on one server after the
/// other.
async fn call(asked: &Arc<Asked>, servers: &[Endpoint], options: &Options) -> JoinSet<Outcomes> {
    let mut lines = Vec::new();
    for first in 0..options.connections {
        lines.push(Line::to(servers, first).await);
    }
    let mut callers = JoinSet::new();
    start(&mut callers, asked, &lines, options.calls);
    callers
}

async fn end(asked: &Asked, callers: &mut JoinSet<Outcomes>) -> Outcomes {
    asked.is_over.store(true, Ordering::Relaxed);
    let mut all = Outcomes::default();
    while let Some(outcomes) = callers.join_next().await {
        all.merge(outcomes.expect("it does not panic"));
    }
    all
}

fn report(table: &mut Table, title: &str, (outcomes, time): &(Outcomes, Duration)) {
    let answered = u32::try_from(outcomes.answered).expect("fewer than four billion");
    table.row([
        title.to_owned(),
        answered.to_string(),
        format!("{:.0}", f64::from(answered) / time.as_secs_f64()),
        outcomes.failures().to_string(),
        outcomes.untaken.values().sum::<u64>().to_string(),
        format!("{:.1} ms", outcomes.longest.as_secs_f64() * 1e3),
    ]);
}
