//! What Envoy's check costs: how many of them one core answers, beside a tonic handler
//! with the same messages that does nothing; and how much later an answer comes that
//! goes through Envoy with a check, than one that goes through the same Envoy without.
//!
//! The servers are there at once, on one core, and one load generator on another core
//! drives them in turns. For the latency, calls with and without a check take turns on
//! one connection each, through the configuration of `deploy/`.

#![expect(clippy::print_stdout, reason = "it prints what it measured")]
#![expect(unreachable_pub, reason = "a benchmark has no outside")]

use std::{
    hint::black_box,
    net::SocketAddr,
    process::ExitCode,
    time::{Duration, Instant},
};

use hitkeep_auth::{
    domain::route::Route,
    pb::envoy::service::auth::v3::{
        AttributeContext, CheckRequest,
        attribute_context::{HttpRequest, Peer, Request},
        authorization_client::AuthorizationClient,
        check_response::HttpResponse,
    },
};

#[path = "check/proxied.rs"]
mod proxied;
#[path = "check/servers.rs"]
mod servers;
#[path = "support.rs"]
mod support;

use servers::{Kind, Running};
use support::{
    arguments::Arguments,
    calls::framed,
    cores,
    figures::{Table, median, met},
    load::{Saturation, Shape, Style, Target, frames::Blocks, saturate},
    population::{self, Known},
    postgres::{Durability, Postgres},
    service::{Caller, Service},
};

const PATH: &str = "/envoy.service.auth.v3.Authorization/Check";
/// The settings of the route that is asked about.
const SETTINGS: [(&str, &str); 2] = [
    ("permission", "site.view"),
    ("site_path", "/api/sites/{site_id}/**"),
];
/// Clients whose tokens are presented, in turn.
const KNOWN: usize = 1000;
/// How long each run goes on before it counts.
const WARM_UP: Duration = Duration::from_secs(1);
/// What is wanted: so many times what the empty handler answers.
const BOUND: f64 = 1.2;

struct Options {
    clients: usize,
    rounds: usize,
    time: Duration,
    shape: Shape,
    proxied: usize,
}

/// A server, and what was measured of it.
struct Row {
    title: String,
    target: Target,
    runs: Vec<Saturation>,
}

impl Row {
    fn median(&self, figure: fn(&Saturation) -> f64) -> f64 {
        median(&self.runs.iter().map(figure).collect::<Vec<_>>())
    }
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
        proxied: arguments.value("--proxied", 20_000),
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
    let (mut rows, mut running) = (Vec::new(), Vec::new());
    let (service, caller, known) = runtime.block_on(set_up(
        &postgres,
        &options,
        of_server,
        &mut rows,
        &mut running,
    ));
    println!(
        "{} clients; {} connections with {} calls at once on each; {} bytes a request; server on \
         core {of_server}, load generator on core {of_generator}",
        options.clients,
        options.shape.connections,
        options.shape.calls,
        rows[0].target.messages[0].len()
    );
    let mut failures = cores::on(&[of_generator], || measure(&mut rows, &options));
    report(&rows, &options);
    drop(running);
    failures += proxied::measure(&service, &caller, &known, options.proxied, &cores);
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
) -> (Service, Caller, Vec<Known>) {
    let database = postgres.migrated("bench").await;
    let known = population::fill(&database, options.clients, KNOWN).await;
    let caller = Caller::create(&database);
    let service = cores::on(&[core], || Service::start(&database, &[]));
    service.serving().await;
    check(&service, &caller, &known).await;

    let blocks = Blocks::of(&caller, PATH).await;
    let messages: Vec<_> = known
        .iter()
        .map(|client| framed(&request(client)))
        .collect();
    let row = |title: &str, (address, pid): (SocketAddr, u32)| Row {
        title: title.to_owned(),
        target: Target {
            address,
            pid,
            blocks: blocks.clone(),
            messages: messages.clone(),
            style: Style::Unary,
        },
        runs: Vec::new(),
    };
    for kind in Kind::ALL {
        let server = cores::on(&[core], || kind.start());
        rows.push(row(kind.title(), (server.address, server.pid())));
        running.push(server);
    }
    let ours = (service.address(), service.pid());
    rows.push(row("hitkeep-auth", ours));
    (service, caller, known)
}

/// What Envoy asks about a browser's request, where nobody tells it which headers to
/// send: to a route with a template, on a site of the client's.
fn request(client: &Known) -> CheckRequest {
    let bearer = format!("Bearer {}", client.token);
    let path = format!(
        "/api/sites/{}/hits?from=2026-11-01&to=2026-11-23",
        client.sites[0]
    );
    let headers = [
        (":authority", "hitkeep.example"),
        (":method", "GET"),
        (":path", &path),
        (":scheme", "https"),
        ("accept", "application/json, text/plain, */*"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("accept-language", "en-GB,en;q=0.9,de;q=0.8"),
        ("authorization", &bearer),
        ("cache-control", "no-cache"),
        (
            "cookie",
            "theme=dark; consent=0; session=5f2d7a6b9c3e4f1a8b7c6d5e4f3a2b1c",
        ),
        ("referer", "https://hitkeep.example/dashboard/sites"),
        ("sec-fetch-dest", "empty"),
        ("sec-fetch-mode", "cors"),
        ("sec-fetch-site", "same-origin"),
        (
            "user-agent",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0",
        ),
        ("x-forwarded-for", "192.0.2.17"),
        ("x-forwarded-proto", "https"),
        ("x-request-id", "8810dc54-0b46-4987-9b5c-cf54990017de"),
    ];
    let text = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(Peer::default()),
            destination: Some(Peer::default()),
            request: Some(Request {
                time: Some(prost_types::Timestamp {
                    seconds: 1_795_000_000,
                    nanos: 123_456_000,
                }),
                http: Some(HttpRequest {
                    id: "4711".to_owned(),
                    method: "GET".to_owned(),
                    headers: headers.map(text).into(),
                    path: path.clone(),
                    host: "hitkeep.example".to_owned(),
                    scheme: "https".to_owned(),
                    protocol: "HTTP/1.1".to_owned(),
                    ..HttpRequest::default()
                }),
            }),
            context_extensions: SETTINGS.map(text).into(),
            ..AttributeContext::default()
        }),
    }
}

/// Every question that is going to be asked gets the answer that it should.
async fn check(service: &Service, caller: &Caller, known: &[Known]) {
    let mut authorization = AuthorizationClient::new(service.connect().await);
    for client in known {
        let answer = authorization.check(caller.says(request(client))).await;
        let answer = answer.expect("it is answered").into_inner();
        let Some(HttpResponse::OkResponse(ok)) = answer.http_response else {
            panic!("it may pass: {answer:?}");
        };
        let told = ok.headers[0].header.as_ref().expect("a header");
        assert_eq!(
            (&*told.key, &told.value),
            ("x-hitkeep-client-id", &client.id)
        );
    }
}

/// Drives all of them, and counts the answers that were not good.
fn measure(rows: &mut [Row], options: &Options) -> u64 {
    let mut failures = 0;
    for _ in 0..options.rounds {
        for row in &mut *rows {
            let run = saturate(&row.target, options.shape, WARM_UP, options.time);
            let run = run.unwrap_or_else(|error| panic!("{}: {error}", row.title));
            failures += run.failures;
            row.runs.push(run);
        }
    }
    failures
}

fn report(rows: &[Row], options: &Options) {
    let mut rates = Table::new(&[
        "all that it can take",
        "calls/s",
        "ratio",
        "server at work",
        "generator at work",
        "calls/s of work",
        "ratio ",
    ]);
    let first = &rows[0];
    for row in rows {
        let rate = row.median(|run| run.rate);
        let at_work = row.median(|run| run.rate_at_work);
        rates.row([
            row.title.clone(),
            format!("{rate:.0}"),
            format!("{:.2}", rate / first.median(|run| run.rate)),
            format!("{:.0} %", row.median(|run| run.server_busy) * 100.0),
            format!("{:.0} %", row.median(|run| run.busy) * 100.0),
            format!("{at_work:.0}"),
            format!("{:.2}", at_work / first.median(|run| run.rate_at_work)),
        ]);
    }
    rates.print();
    println!(
        "medians of {} rounds of {:?} each, in turns",
        options.rounds, options.time
    );
    let ours = rows.last().expect("there is ours");
    let ratio = ours.median(|run| run.rate_at_work) / first.median(|run| run.rate_at_work);
    println!("{BOUND} times the empty handler: {}", met(ratio >= BOUND));
    println!(
        "of that, reading the route and the path takes {:.0} ns",
        route_time().as_secs_f64() * 1e9
    );
}

/// How long it takes to read a route from its settings, and to find the site in a path.
fn route_time() -> Duration {
    const TIMES: u32 = 1_000_000;
    let path = "/api/sites/01930000-0000-7000-8000-000000517e01/hits?from=2026-11-01";
    let begun = Instant::now();
    for _ in 0..TIMES {
        let route = Route::read(black_box(SETTINGS)).expect("it is a good one");
        black_box(route.need(Some(black_box(path)))).expect("it names a site");
    }
    begun.elapsed() / TIMES
}
