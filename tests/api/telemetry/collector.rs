//! A collector of OpenTelemetry: the real services over a real port, that keep what
//! they get.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::{
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
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    logs::v1::LogRecord,
    metrics::v1::Metric,
    trace::v1::Span,
};
use prost::Message;
use tokio::{net::TcpListener, process::Command, sync::watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, codec::CompressionEncoding::Gzip, metadata::MetadataMap};

/// How long to wait for something to be exported until the test gives up.
const PATIENCE: Duration = Duration::from_mins(2);

/// A collector. Ends with the runtime that it was started on.
#[derive(Clone)]
pub struct Collector {
    pub address: SocketAddr,
    kept: Arc<Mutex<Kept>>,
    news: Arc<watch::Sender<u64>>,
}

/// What was exported so far.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    pub spans: Vec<Span>,
    pub metrics: Vec<Metric>,
    pub logs: Vec<LogRecord>,
    /// What each export said of where it came from.
    pub resources: Vec<Vec<KeyValue>>,
    /// The metadata of each export.
    pub metadata: Vec<MetadataMap>,
    /// Everything, as it was sent.
    pub bytes: Vec<u8>,
}

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let collector = Self {
            address: listener.local_addr().expect("it is bound"),
            kept: Arc::default(),
            news: Arc::default(),
        };
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(collector.clone()).accept_compressed(Gzip))
            .add_service(MetricsServiceServer::new(collector.clone()).accept_compressed(Gzip))
            .add_service(LogsServiceServer::new(collector.clone()).accept_compressed(Gzip));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        collector
    }

    /// Tells a command to export here, and soon.
    pub fn of(&self, command: &mut Command) {
        let soon = "20";
        command
            .env(
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                format!("http://{}", self.address),
            )
            .env("OTEL_BSP_SCHEDULE_DELAY", soon)
            .env("OTEL_BLRP_SCHEDULE_DELAY", soon)
            .env("OTEL_METRIC_EXPORT_INTERVAL", soon);
    }

    /// What was exported so far.
    pub fn kept(&self) -> Kept {
        self.kept.lock().expect("nobody panics with it").clone()
    }

    /// Waits until that can be found in what was exported.
    pub async fn until<T>(&self, what: &str, find: impl Fn(&Kept) -> Option<T>) -> T {
        let mut news = self.news.subscribe();
        let found = async {
            loop {
                if let Some(found) = find(&self.kept()) {
                    return found;
                }
                news.changed().await.expect("we hold the other end");
            }
        };
        let found = tokio::time::timeout(PATIENCE, found).await;
        found.unwrap_or_else(|_| panic!("no {what} in {:#?}", self.kept()))
    }

    /// Waits for a span of that name in that trace.
    pub async fn span(&self, trace: &str, name: &str) -> Span {
        self.until(name, |kept| kept.span(trace, name)).await
    }

    fn keep<T: Message>(&self, request: &Request<T>, keep: impl FnOnce(&mut Kept, &T)) {
        let mut kept = self.kept.lock().expect("nobody panics with it");
        kept.metadata.push(request.metadata().clone());
        let message = request.get_ref();
        kept.bytes.extend(message.encode_to_vec());
        keep(&mut kept, message);
        drop(kept);
        self.news.send_modify(|number| *number += 1);
    }
}

impl Kept {
    /// The span of that name in that trace.
    pub fn span(&self, trace: &str, name: &str) -> Option<Span> {
        let mut spans = self.spans.iter();
        let is_it = |span: &&Span| span.name == name && hex(&span.trace_id) == trace;
        spans.find(is_it).cloned()
    }
}

/// Bytes as traces are written.
pub fn hex(bytes: &[u8]) -> String {
    let each: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    each.concat()
}

/// An attribute's value as text; empty where there is none.
pub fn attribute(attributes: &[KeyValue], key: &str) -> String {
    let mut attributes = attributes.iter();
    let attribute = attributes.find(|attribute| attribute.key == key);
    attribute.map_or_else(String::new, |attribute| text(attribute.value.as_ref()))
}

/// A value as text.
pub fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(value)) => value.to_string(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.keep(&request, |kept, message| {
            for of_resource in &message.resource_spans {
                let resource = of_resource.resource.as_ref();
                kept.resources
                    .push(resource.expect("a resource").attributes.clone());
                for scope in &of_resource.scope_spans {
                    kept.spans.extend(scope.spans.iter().cloned());
                }
            }
        });
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.keep(&request, |kept, message| {
            // Each export has all of them.
            kept.metrics.clear();
            for of_resource in &message.resource_metrics {
                let resource = of_resource.resource.as_ref();
                kept.resources
                    .push(resource.expect("a resource").attributes.clone());
                for scope in &of_resource.scope_metrics {
                    kept.metrics.extend(scope.metrics.iter().cloned());
                }
            }
        });
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Collector {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.keep(&request, |kept, message| {
            for of_resource in &message.resource_logs {
                let resource = of_resource.resource.as_ref();
                kept.resources
                    .push(resource.expect("a resource").attributes.clone());
                for scope in &of_resource.scope_logs {
                    kept.logs.extend(scope.log_records.iter().cloned());
                }
            }
        });
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}
