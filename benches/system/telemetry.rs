//! What telemetry costs where calls are fastest: introspections out of memory, of
//! servers that export nothing and of ones that export metrics and logs, and trace
//! one call in a hundred, to a collector of our own that takes everything.
//!
//! What others do on a machine slows a server down by a fifth from one moment to the
//! next, so servers take turns of a quarter of a second, on the same core and database,
//! driven by one load generator on another core. Each round starts them anew. Those that
//! export nothing are there twice: by as much as the second differs from the first,
//! these figures may be wrong. Counting is in all of them, since there is no server
//! that does not count.

#![expect(clippy::print_stdout, reason = "it prints what it measured")]
#![expect(unreachable_pub, reason = "a benchmark has no outside")]

use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use opentelemetry_proto::tonic::collector::{
    logs::v1::{
        ExportLogsServiceRequest, ExportLogsServiceResponse,
        logs_service_server::{LogsService, LogsServiceServer},
    },
    metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

#[path = "../support.rs"]
mod support;

use support::{
    arguments::Arguments,
    cores::{self, Cores},
    figures::{Table, verdict},
    load::{Saturation, Shape, Style, Target, saturate},
    population::{self, Known},
    service::{Caller, Service},
};

/// How long a new server is driven before anything counts.
const WARM_UP: Duration = Duration::from_secs(1);
/// How long a turn is, and how long it goes on before it counts.
const TURN: Duration = Duration::from_millis(250);
const BEFORE_EACH: Duration = Duration::from_millis(20);
/// Clients that present their tokens, in turn.
const KNOWN: usize = 1000;
/// What must be left of the throughput.
const BOUND: f64 = 0.95;
/// The methods, and how many calls are under way at once on each connection.
const WAYS: [(&str, Style, usize); 2] = [
    ("Introspect", Style::Unary, 32),
    ("IntrospectStream", Style::Stream, 128),
];

/// The servers that take turns. The others are compared with the first.
const KINDS: [(&str, bool); 3] = [
    ("exports nothing", false),
    ("exports nothing, again", false),
    ("exports everything", true),
];

/// What came of the turns that a server had in one round, in one of the ways.
struct Turns(Vec<Saturation>);

impl Turns {
    /// Answers a second.
    fn rate(&self) -> f64 {
        mean(self.0.iter().map(|turn| turn.rate))
    }

    /// Answers for each second of work. All turns are equally long.
    fn rate_at_work(&self) -> f64 {
        self.rate() / mean(self.0.iter().map(|turn| turn.server_busy))
    }
}

/// What was measured in one round, in one of the ways: of each kind.
type Round = [Turns; KINDS.len()];

/// What servers are started with, and driven by.
struct Setting {
    database: String,
    caller: Caller,
    known: Vec<Known>,
    /// What makes a server export, in front of its command line.
    exporting: Vec<String>,
    cores: Cores,
    connections: usize,
    /// How long each server is driven in a round, in each of the ways.
    time: Duration,
}

fn main() -> ExitCode {
    let mut arguments = Arguments::read();
    let rounds = arguments.value("--rounds", 6).max(2);
    let time = arguments.time("--time", Duration::from_secs(5));
    let connections: usize = arguments.value("--connections", 4);
    let ratio: f64 = arguments.value("--ratio", 0.01);
    arguments.done();
    let cores = cores::shared_out(1);
    let (postgres, runtime) = cores.start_others();
    let collector = Collector::default();
    let setting = runtime.block_on(async {
        let database = postgres.migrated("bench").await;
        Setting {
            known: population::fill(&database, KNOWN, KNOWN).await,
            caller: Caller::create(&database),
            database,
            exporting: vec![
                "env".to_owned(),
                format!(
                    "OTEL_EXPORTER_OTLP_ENDPOINT=http://{}",
                    collector.serve().await
                ),
                "OTEL_TRACES_SAMPLER=parentbased_traceidratio".to_owned(),
                format!("OTEL_TRACES_SAMPLER_ARG={ratio}"),
                "OTEL_METRIC_EXPORT_INTERVAL=1000".to_owned(),
            ],
            cores,
            connections,
            time,
        }
    });
    println!(
        "{connections} connections; {} % traced; {}",
        ratio * 100.0,
        setting.cores
    );
    let mut measured: [Vec<Round>; WAYS.len()] = Default::default();
    for _ in 0..rounds {
        let servers = setting.start();
        for (way, rounds) in WAYS.iter().zip(&mut measured) {
            let targets = runtime.block_on(setting.targets(&servers, way.1));
            rounds.push(setting.drive(way, &targets));
        }
    }
    report(&measured, rounds, time, &collector);
    let turns = measured
        .iter()
        .flatten()
        .flatten()
        .flat_map(|turns| &turns.0);
    let failures: u64 = turns.map(|turn| turn.failures).sum();
    verdict(failures)
}

impl Setting {
    /// Starts a server of each kind.
    fn start(&self) -> [Service; KINDS.len()] {
        let exporting: Vec<_> = self.exporting.iter().map(String::as_str).collect();
        cores::on(&self.cores.server, || {
            KINDS.map(|(_, exports)| {
                let program = if exports { exporting.as_slice() } else { &[] };
                Service::start_under(program, &self.database, &[])
            })
        })
    }

    async fn targets(&self, servers: &[Service; KINDS.len()], style: Style) -> Vec<Target> {
        let mut targets = Vec::new();
        for server in servers {
            server.serving().await;
            targets.push(Target::of(server, &self.caller, style, &self.known).await);
        }
        targets
    }

    /// Drives those servers in turns.
    fn drive(&self, (title, _, calls): &(&str, Style, usize), targets: &[Target]) -> Round {
        let shape = Shape {
            connections: self.connections,
            calls: *calls,
        };
        let turn = |kind: usize, before: Duration, time: Duration| {
            saturate(&targets[kind], shape, before, time)
                .unwrap_or_else(|error| panic!("{title}, {}: {error}", KINDS[kind].0))
        };
        let turns = self.time.as_millis().div_ceil(TURN.as_millis());
        let mut round = KINDS.map(|_| Turns(Vec::new()));
        cores::on(&[self.cores.generator], || {
            for kind in 0..KINDS.len() {
                turn(kind, WARM_UP, TURN);
            }
            for _ in 0..turns {
                for (kind, of_kind) in round.iter_mut().enumerate() {
                    of_kind.0.push(turn(kind, BEFORE_EACH, TURN));
                }
            }
        });
        round
    }
}

fn report(measured: &[Vec<Round>], rounds: usize, time: Duration, collector: &Collector) {
    let mut table = Table::new(&["", "calls/s", "ratio", "calls/s of work", "ratio "]);
    for ((title, ..), of_way) in WAYS.iter().zip(measured) {
        for (kind, (name, _)) in KINDS.iter().enumerate() {
            let rate = |figure: fn(&Turns) -> f64| {
                let rate = mean(of_way.iter().map(|round| figure(&round[kind])));
                format!("{rate:.0}")
            };
            let ratio = |figure: fn(&Turns) -> f64| {
                let ratio = |round: &Round| figure(&round[kind]) / figure(&round[0]);
                with_error(&of_way.iter().map(ratio).collect::<Vec<_>>())
            };
            table.row([
                format!("{title}, {name}"),
                rate(Turns::rate),
                ratio(Turns::rate),
                rate(Turns::rate_at_work),
                ratio(Turns::rate_at_work),
            ]);
        }
    }
    table.print();
    let Kept { spans, metrics } = &*collector.kept;
    println!(
        "means of {rounds} rounds, each with servers of its own and {time:?} for each of them; \
         with standard errors; the bound is {BOUND}; the collector got {} spans, and metrics {} \
         times",
        spans.load(Relaxed),
        metrics.load(Relaxed)
    );
}

fn mean(figures: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = u32::try_from(figures.len()).expect("fewer than four billion");
    figures.sum::<f64>() / f64::from(count)
}

/// The mean of some ratios, and how far it may be off: its standard error.
fn with_error(ratios: &[f64]) -> String {
    let mean_ratio = mean(ratios.iter().copied());
    let squares = ratios.iter().map(|ratio| (ratio - mean_ratio).powi(2));
    let variance = mean(squares);
    let others = u32::try_from(ratios.len()).expect("fewer than four billion") - 1;
    let error = (variance / f64::from(others)).sqrt();
    format!("{mean_ratio:.3} ± {error:.3}")
}

/// Takes everything.
#[derive(Clone, Default)]
struct Collector {
    kept: Arc<Kept>,
}

#[derive(Default)]
struct Kept {
    spans: AtomicU64,
    metrics: AtomicU64,
}

impl Collector {
    /// Serves, on a port of its own.
    async fn serve(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(self.clone()))
            .add_service(MetricsServiceServer::new(self.clone()))
            .add_service(LogsServiceServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.get_ref().resource_spans.iter();
        let scopes = resources.flat_map(|resource| &resource.scope_spans);
        let spans: usize = scopes.map(|scope| scope.spans.len()).sum();
        self.kept.spans.fetch_add(spans as u64, Relaxed);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        _: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.kept.metrics.fetch_add(1, Relaxed);
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Collector {
    async fn export(
        &self,
        _: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}
