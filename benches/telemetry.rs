//! What telemetry costs where calls are fastest: introspections out of memory, of a
//! server that exports nothing and of one that exports metrics and logs, and traces
//! one call in a hundred, to a collector of our own that takes everything.
//!
//! Both are there at once, on the same core and database; one load generator on
//! another core drives them in turns. Counting is in both of them, since there is no
//! server that does not count.

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

#[path = "support.rs"]
mod support;

use support::{
    arguments::Arguments,
    cores,
    figures::{Table, median},
    load::{Saturation, Shape, Style, Target, saturate},
    population,
    postgres::{Durability, Postgres},
    service::{Caller, Service},
};

/// How long each run goes on before it counts.
const WARM_UP: Duration = Duration::from_secs(1);
/// Clients that present their tokens, in turn.
const KNOWN: usize = 1000;
/// What must be left of the throughput.
const BOUND: f64 = 0.95;
/// The methods, and how many calls are under way at once on each connection.
const WAYS: [(&str, Style, usize); 2] = [
    ("Introspect", Style::Unary, 32),
    ("IntrospectStream", Style::Stream, 128),
];

/// What was measured of a server, in one of the ways.
struct Row {
    title: String,
    target: Target,
    calls: usize,
    runs: Vec<Saturation>,
}

impl Row {
    fn median(&self, figure: fn(&Saturation) -> f64) -> f64 {
        median(&self.runs.iter().map(figure).collect::<Vec<_>>())
    }
}

fn main() -> ExitCode {
    let mut arguments = Arguments::read();
    let rounds: usize = arguments.value("--rounds", 5);
    let time = arguments.time("--time", Duration::from_secs(3));
    let connections: usize = arguments.value("--connections", 4);
    let ratio: f64 = arguments.value("--ratio", 0.01);
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
    let collector = Collector::default();
    let (services, mut rows) = runtime.block_on(set_up(&postgres, &collector, of_server, ratio));
    println!(
        "{connections} connections; servers on core {of_server}, load generator on core \
         {of_generator}; {} % traced",
        ratio * 100.0
    );
    let mut failures = 0;
    cores::on(&[of_generator], || {
        for _ in 0..rounds {
            for row in &mut rows {
                let shape = Shape {
                    connections,
                    calls: row.calls,
                };
                let run = saturate(&row.target, shape, WARM_UP, time);
                let run = run.unwrap_or_else(|error| panic!("{}: {error}", row.title));
                failures += run.failures;
                row.runs.push(run);
            }
        }
    });
    drop(services);
    report(&rows, rounds, time, &collector);
    if failures == 0 {
        ExitCode::SUCCESS
    } else {
        println!("WRONG: {failures} answers were not good");
        ExitCode::FAILURE
    }
}

async fn set_up(
    postgres: &Postgres,
    collector: &Collector,
    core: usize,
    ratio: f64,
) -> ([Service; 2], Vec<Row>) {
    let database = postgres.migrated("bench").await;
    let known = population::fill(&database, KNOWN, KNOWN).await;
    let caller = Caller::create(&database);
    let endpoint = format!(
        "OTEL_EXPORTER_OTLP_ENDPOINT=http://{}",
        collector.serve().await
    );
    let ratio = format!("OTEL_TRACES_SAMPLER_ARG={ratio}");
    let variables = [
        "env",
        endpoint.as_str(),
        "OTEL_TRACES_SAMPLER=parentbased_traceidratio",
        ratio.as_str(),
        "OTEL_METRIC_EXPORT_INTERVAL=1000",
    ];
    let [off, on] = cores::on(&[core], || {
        [&[][..], &variables].map(|program| Service::start_under(program, &database, &[]))
    });
    let mut rows = Vec::new();
    for (title, style, calls) in WAYS {
        for (service, exports) in [(&off, "exports nothing"), (&on, "exports everything")] {
            service.serving().await;
            rows.push(Row {
                title: format!("{title}, {exports}"),
                target: Target::of(service, &caller, style, &known).await,
                calls,
                runs: Vec::new(),
            });
        }
    }
    ([off, on], rows)
}

fn report(rows: &[Row], rounds: usize, time: Duration, collector: &Collector) {
    let mut table = Table::new(&["", "calls/s", "ratio", "calls/s of work", "ratio "]);
    for pair in rows.chunks(2) {
        for row in pair {
            let (rate, at_work) = (
                row.median(|run| run.rate),
                row.median(|run| run.rate_at_work),
            );
            table.row([
                row.title.clone(),
                format!("{rate:.0}"),
                format!("{:.3}", rate / pair[0].median(|run| run.rate)),
                format!("{at_work:.0}"),
                format!("{:.3}", at_work / pair[0].median(|run| run.rate_at_work)),
            ]);
        }
    }
    table.print();
    let Kept { spans, metrics } = &*collector.kept;
    println!(
        "medians of {rounds} rounds of {time:?} each, in turns; the bound is {BOUND}; the \
         collector got {} spans, and metrics {} times",
        spans.load(Relaxed),
        metrics.load(Relaxed)
    );
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
