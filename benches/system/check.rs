//! What Envoy's check costs: how many of them one core answers, beside a tonic handler
//! with the same messages that does nothing, with the system's allocator and with this
//! service's own; and how much later an answer comes that
//! goes through Envoy with a check, than one that goes through the same Envoy without.
//!
//! The servers are there at once, on one core, and one load generator on another core
//! drives them in turns. For the latency, calls with and without a check take turns on
//! one connection each, through the configuration of `deploy/`.

#![expect(clippy::print_stdout, reason = "it prints what it measured")]
#![expect(unreachable_pub, reason = "a benchmark has no outside")]

use std::{
    hint::black_box,
    process::ExitCode,
    time::{Duration, Instant},
};

use hitkeep_auth::{
    pb::envoy::service::auth::v3::{
        AttributeContext, CheckRequest,
        attribute_context::{HttpRequest, Peer, Request},
        authorization_client::AuthorizationClient,
        check_response::HttpResponse,
    },
    proxy_auth::route::RouteSettings,
};

#[path = "check/proxied.rs"]
mod proxied;
#[path = "check/servers.rs"]
mod servers;
#[path = "../support.rs"]
mod support;

use servers::Kind;
use support::{
    arguments::Arguments,
    calls::framed,
    comparison::{self, Allocator, Programs, Running},
    cores,
    figures::{met, verdict},
    filled::{Filled, Size},
    load::{Shape, Style, Target, frames::Blocks},
    population::Known,
    postgres::Postgres,
    saturation::{self, Rounds, Row},
};

const PATH: &str = "/envoy.service.auth.v3.Authorization/Check";
/// The settings of the route that is asked about.
const SETTINGS: [(&str, &str); 2] = [
    ("permission", "site.view"),
    ("site_path", "/api/sites/{site_id}/**"),
];
/// What this service is called in a table.
const OURS: &str = "hitkeep-auth";
/// Clients whose tokens are presented, in turn.
const KNOWN: usize = 1000;
/// What is wanted: so many times what the empty handler answers.
const BOUND: f64 = 1.2;

struct Options {
    clients: usize,
    rounds: Rounds,
    shape: Shape,
    proxied: usize,
    /// Another build of this service, to be measured in the same run.
    beside: String,
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
            warm_up: Duration::from_secs(1),
            time: arguments.time("--time", Duration::from_secs(3)),
        },
        shape: Shape {
            connections: arguments.value("--connections", 4),
            calls: arguments.value("--calls", 32),
        },
        proxied: arguments.value("--proxied", 20_000),
        beside: arguments.value("--beside", String::new()),
    };
    arguments.done();
    let programs = Programs::find();
    let cores = cores::shared_out(1);
    let (postgres, runtime) = cores.start_others();
    let (mut rows, mut running) = (Vec::new(), Vec::new());
    let ours = runtime.block_on(set_up(
        &postgres,
        &options,
        &programs,
        &cores.server,
        &mut rows,
        &mut running,
    ));
    println!(
        "{} clients; {} connections with {} calls at once on each; {} bytes a request; {cores}",
        options.clients,
        options.shape.connections,
        options.shape.calls,
        rows[0].target.messages[0].len()
    );
    let mut failures = cores::on(&[cores.generator], || {
        options.rounds.saturate(&mut rows, |_| options.shape)
    });
    report(&rows, &options);
    drop(running);
    if options.proxied > 0 {
        let (cores, ours) = (cores::available(), &ours[0]);
        let (caller, known) = (&ours.caller, &ours.known);
        failures += proxied::measure(&ours.service, caller, known, options.proxied, &cores);
    }
    verdict(failures)
}

/// Starts all servers on the same core, and returns those of this service.
async fn set_up(
    postgres: &Postgres,
    options: &Options,
    programs: &Programs,
    cores: &[usize],
    rows: &mut Vec<Row>,
    running: &mut Vec<(Allocator, Running)>,
) -> Vec<Filled> {
    let size = Size {
        clients: options.clients,
        known: KNOWN,
    };
    let ours = Filled::each(&options.beside, postgres, size, cores).await;
    for (filled, title) in ours.iter().zip([OURS, "hitkeep-auth, other build"]) {
        check(filled).await;
        rows.push(Row::new(title, target(filled).await));
    }
    let mut echoes = Vec::new();
    for kind in Kind::ALL {
        for (allocator, server) in cores::on(cores, || programs.start(kind.name())) {
            let target = rows[0].target.at(server.address, server.pid());
            echoes.push(Row::new(allocator.titled(kind.title()), target));
            running.push((allocator, server));
        }
    }
    // What others are compared with comes first.
    rows.splice(..0, echoes);
    ours
}

/// What the load generator has to know of a server.
async fn target(filled: &Filled) -> Target {
    let messages = filled.known.iter().map(|client| framed(&request(client)));
    Target {
        address: filled.service.address(),
        pid: filled.service.pid(),
        blocks: Blocks::of(&filled.caller, PATH).await,
        messages: messages.collect(),
        style: Style::Unary,
    }
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
async fn check(filled: &Filled) {
    let mut authorization = AuthorizationClient::new(filled.service.connect().await);
    for client in &filled.known {
        let request = filled.caller.says(request(client));
        let answer = authorization.check(request).await;
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

fn report(rows: &[Row], options: &Options) {
    saturation::report(rows, "calls/s of work");
    comparison::report(rows, OURS, &Kind::ALL.map(Kind::title));
    println!("{}", options.rounds);
    let first = &rows[0];
    let ours = rows.iter().find(|row| row.title == OURS);
    let ours = ours.expect("there is ours");
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
        let route = RouteSettings::read(black_box(SETTINGS)).expect("it is a good one");
        black_box(route.need(Some(black_box(path)))).expect("it names a site");
    }
    begun.elapsed() / TIMES
}
