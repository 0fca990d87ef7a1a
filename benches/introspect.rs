//! How many introspections one core answers, beside what HTTP/2 costs by itself
//! in Rust: an echo made with tonic as everybody writes it, the same on one
//! thread, and hyper alone with a fixed answer.
//!
//! All servers are there at once, on the same core; one load generator on another
//! core drives them in turns, with the same headers and messages. Then each gets
//! half the calls of which tonic's echo can take, at random moments, for the
//! latency; that counts from the moment at which a call was to be made.

#![expect(clippy::print_stdout, reason = "it prints what it measured")]
#![expect(unreachable_pub, reason = "a benchmark has no outside")]

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use hitkeep_auth::pb::{
    FILE_DESCRIPTOR_SET, introspection_service_client::IntrospectionServiceClient,
};

#[path = "introspect/servers.rs"]
mod servers;
#[path = "support.rs"]
mod support;

use servers::{Kind, Running};
use support::{
    arguments::Arguments,
    calls, cores,
    figures::{Samples, Table, median},
    load::{Saturation, Shape, Style, Target, frames::Blocks, saturate, steady},
    population::{self, Known},
    postgres::{Durability, Postgres},
    service::{Caller, Service},
};

/// The methods.
const UNARY_PATH: &str = "/hitkeep.auth.v1.IntrospectionService/Introspect";
const STREAM_PATH: &str = "/hitkeep.auth.v1.IntrospectionService/IntrospectStream";
/// The stream's name, which tells whether this version has it.
const STREAM_NAME: &[u8] = b"IntrospectStream";
/// How long each run goes on before it counts.
const WARM_UP: Duration = Duration::from_secs(1);
/// What part of the load that the first server can take all get for the latency.
const LATENCY_LOAD: f64 = 0.5;
/// The generator may be that busy before it is what limits a rate.
const TOO_BUSY: f64 = 0.9;

struct Options {
    clients: usize,
    rounds: usize,
    time: Duration,
    shape: Shape,
    /// Calls at once on each connection, where they share a stream.
    pipelined: usize,
    /// Clients whose tokens are presented, in turn.
    known: usize,
    /// What the title of a row has to contain: for a look at one server alone.
    only: String,
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

/// A server, and what was measured of it.
struct Row {
    title: String,
    target: Target,
    runs: Vec<Saturation>,
    /// At half of the first server's load: the median and the 99th of a hundred,
    /// one of each for every round.
    latencies: [Vec<f64>; 2],
}

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args().collect();
    if let [_, option, name] = words.as_slice()
        && option == servers::OPTION
    {
        Kind::be(name);
        return ExitCode::SUCCESS;
    }
    let mut arguments = Arguments::read();
    let options = Options {
        clients: arguments.value("--clients", 100_000),
        rounds: arguments.value("--rounds", 3),
        time: arguments.time("--time", Duration::from_secs(3)),
        shape: Shape {
            connections: arguments.value("--connections", 4),
            calls: arguments.value("--calls", 32),
        },
        pipelined: arguments.value("--pipelined", 128),
        known: arguments.value("--known", 1000),
        only: arguments.value("--only", String::new()),
    };
    arguments.done();
    let cores = cores::available();
    let (of_server, of_generator, others) = match cores.as_slice() {
        [first, second, others @ ..] if !others.is_empty() => (*first, *second, others),
        _ => {
            println!("fewer than three cores: these figures are not worth much");
            (cores[0], cores[cores.len() - 1], cores.as_slice())
        }
    };
    let postgres = cores::on(others, || Postgres::start(Durability::ThrownAway));
    let runtime = cores::on(others, || {
        tokio::runtime::Runtime::new().expect("a runtime starts")
    });
    let mut rows = Vec::new();
    let mut running = Vec::new();
    let service = runtime.block_on(set_up(
        &postgres,
        &options,
        of_server,
        &mut rows,
        &mut running,
    ));
    println!(
        "{} clients, of which {} present their tokens; {} connections with {} calls at once on \
         each, or {} on one stream; server on core {of_server}, load generator on core \
         {of_generator}",
        options.clients,
        options.known,
        options.shape.connections,
        options.shape.calls,
        options.pipelined
    );
    let failures = cores::on(&[of_generator], || measure(&mut rows, &options));
    drop((service, running));
    if failures == 0 {
        ExitCode::SUCCESS
    } else {
        println!("WRONG: {failures} answers were not good");
        ExitCode::FAILURE
    }
}

/// Starts all servers on one core.
async fn set_up(
    postgres: &Postgres,
    options: &Options,
    core: usize,
    rows: &mut Vec<Row>,
    running: &mut Vec<Running>,
) -> Service {
    let database = postgres.migrated("bench").await;
    let known = population::fill(&database, options.clients, options.known).await;
    let caller = Caller::create(&database);
    let service = cores::on(&[core], || Service::start(&database, &[]));
    service.serving().await;
    check(&service, &caller, &known).await;

    let unary = Blocks::of(&caller, UNARY_PATH).await;
    let stream = Blocks::of(&caller, STREAM_PATH).await;
    let messages: Vec<_> = known
        .iter()
        .map(|client| calls::framed(&calls::introspect(&client.token)))
        .collect();
    let row = |title: &str, (address, pid): (SocketAddr, u32), style: Style| Row {
        title: match style {
            Style::Unary => title.to_owned(),
            Style::Stream => format!("{title}, streams"),
        },
        target: Target {
            address,
            pid,
            blocks: match style {
                Style::Unary => unary.clone(),
                Style::Stream => stream.clone(),
            },
            messages: messages.clone(),
            style,
        },
        runs: Vec::new(),
        latencies: [Vec::new(), Vec::new()],
    };
    for kind in Kind::ALL {
        let server = cores::on(&[core], || kind.start());
        rows.push(row(
            kind.title(),
            (server.address, server.pid()),
            Style::Unary,
        ));
        running.push(server);
    }
    let ours = (service.address.parse().expect("an address"), service.pid());
    rows.push(row("hitkeep-auth", ours, Style::Unary));
    let has_streams = FILE_DESCRIPTOR_SET
        .windows(STREAM_NAME.len())
        .any(|name| name == STREAM_NAME);
    if has_streams {
        let tuned = (running[1].address, running[1].pid());
        rows.push(row(Kind::Tuned.title(), tuned, Style::Stream));
        rows.push(row("hitkeep-auth", ours, Style::Stream));
    }
    rows.retain(|row| row.title.contains(&options.only));
    assert!(!rows.is_empty(), "nothing is called {:?}", options.only);
    service
}

/// Every token that is going to be presented gets the answer that it should.
async fn check(service: &Service, caller: &Caller, known: &[Known]) {
    let mut introspection = IntrospectionServiceClient::new(service.connect().await);
    for client in known {
        let request = caller.says(calls::introspect(&client.token));
        let answer = introspection.introspect(request).await;
        let answer = answer.expect("it is answered").into_inner();
        let is_right = answer.active
            && answer.client_id == client.id
            && answer.owner.as_ref() == Some(&client.owner)
            && answer.site_grants.len() == client.sites.len();
        assert!(is_right, "{answer:?}");
    }
}

/// Drives all of them, and counts the answers that were not good.
fn measure(rows: &mut [Row], options: &Options) -> u64 {
    let mut failures = 0;
    for _ in 0..options.rounds {
        for row in &mut *rows {
            let run = saturate(
                &row.target,
                options.shape(row.target.style),
                WARM_UP,
                options.time,
            );
            let run = run.unwrap_or_else(|error| panic!("{}: {error}", row.title));
            failures += run.failures;
            row.runs.push(run);
        }
    }
    let load = rows[0].median(|run| run.rate) * LATENCY_LOAD;
    for _ in 0..options.rounds {
        for row in &mut *rows {
            // A load that a server cannot take says nothing about its latency.
            if row.median(|run| run.rate) < load / TOO_BUSY {
                continue;
            }
            let run = steady(
                &row.target,
                options.shape(row.target.style),
                load,
                WARM_UP,
                options.time,
            );
            let run = run.unwrap_or_else(|error| panic!("{}: {error}", row.title));
            failures += run.failures;
            let samples = Samples::of(run.latencies);
            let [p50, p99] = &mut row.latencies;
            p50.push(samples.median().as_secs_f64() * 1e6);
            p99.push(samples.p99().as_secs_f64() * 1e6);
        }
    }
    report(rows, options, load);
    failures
}

impl Row {
    fn median(&self, figure: fn(&Saturation) -> f64) -> f64 {
        median(&self.runs.iter().map(figure).collect::<Vec<_>>())
    }
}

fn report(rows: &[Row], options: &Options, load: f64) {
    let mut rates = Table::new(&[
        "all that it can take",
        "calls/s",
        "ratio",
        "lowest to highest",
        "server at work",
        "generator at work",
        "calls/s of work",
        "ratio ",
    ]);
    let mut latencies = Table::new(&["half of tonic's load", "p50", "p99"]);
    for row in rows {
        let rate = row.median(|run| run.rate);
        let at_work = row.median(|run| run.rate_at_work);
        let all = row.runs.iter().map(|run| run.rate);
        let lowest = all.clone().fold(f64::INFINITY, f64::min);
        let highest = all.fold(0.0, f64::max);
        rates.row([
            row.title.clone(),
            format!("{rate:.0}"),
            format!("{:.2}", rate / rows[0].median(|run| run.rate)),
            format!("{lowest:.0} to {highest:.0}"),
            format!("{:.0} %", row.median(|run| run.server_busy) * 100.0),
            format!("{:.0} %", row.median(|run| run.busy) * 100.0),
            format!("{at_work:.0}"),
            format!("{:.2}", at_work / rows[0].median(|run| run.rate_at_work)),
        ]);
        let latency = |of: &[f64]| match of {
            [] => "-".to_owned(),
            of => format!("{:.0} µs", median(of)),
        };
        let [p50, p99] = &row.latencies;
        latencies.row([row.title.clone(), latency(p50), latency(p99)]);
    }
    rates.print();
    latencies.print();
    println!(
        "medians of {} rounds of {:?} each, in turns; half of tonic's load is {load:.0} calls/s",
        options.rounds, options.time
    );
    if rows.iter().any(|row| row.median(|run| run.busy) > TOO_BUSY) {
        println!("where the generator was at work all the time, the rate is its own");
    }
}
