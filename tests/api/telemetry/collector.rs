//! A collector of OpenTelemetry: the real services over a real port, that keep what
//! they get.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderValue, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
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
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    process::Command,
    sync::watch,
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, codec::CompressionEncoding::Gzip, metadata::MetadataMap};

/// How long to wait for something to be exported until the test gives up.
const PATIENCE: Duration = Duration::from_mins(2);

const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");
/// What a body begins with that is compressed.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// A collector. Ends with the runtime that it was started on.
#[derive(Clone)]
pub struct Collector {
    pub address: SocketAddr,
    kept: Arc<Mutex<BufferedBytes>>,
    news: Arc<watch::Sender<u64>>,
}

/// What was exported so far.
#[derive(Clone, Debug, Default)]
pub struct BufferedBytes {
    pub spans: Vec<Span>,
    /// The metrics of the last export alone.
    pub metrics: Vec<Metric>,
    /// The instruments of which any export had a value: some have none before the index is
    /// loaded, or once the server is gone.
    pub instruments: BTreeSet<String>,
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
        let (collector, listener) = Self::bind().await;
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(collector.clone()).accept_compressed(Gzip))
            .add_service(MetricsServiceServer::new(collector.clone()).accept_compressed(Gzip))
            .add_service(LogsServiceServer::new(collector.clone()).accept_compressed(Gzip));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        collector
    }

    async fn bind() -> (Self, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let collector = Self {
            address: listener.local_addr().expect("it is bound"),
            kept: Arc::default(),
            news: Arc::default(),
        };
        (collector, listener)
    }

    /// One that is spoken to over HTTP, and over TLS where there is some.
    pub async fn over_http(tls: Option<TlsAcceptor>) -> Self {
        let (collector, listener) = Self::bind().await;
        let taking = collector.clone();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let (collector, tls) = (taking.clone(), tls.clone());
                tokio::spawn(async move {
                    let Some(tls) = tls else {
                        return collector.talk_http(connection).await;
                    };
                    if let Ok(connection) = tls.accept(connection).await {
                        collector.talk_http(connection).await;
                    }
                });
            }
        });
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
    pub fn kept(&self) -> BufferedBytes {
        self.kept.lock().expect("nobody panics with it").clone()
    }

    /// Waits until that can be found in what was exported.
    pub async fn until<T>(&self, what: &str, find: impl Fn(&BufferedBytes) -> Option<T>) -> T {
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

    /// Waits until every one of these instruments had a value in some export.
    pub async fn instruments(&self, wanted: &BTreeSet<String>) {
        let mut news = self.news.subscribe();
        let all = async {
            while !self.missing(wanted).is_empty() {
                news.changed().await.expect("we hold the other end");
            }
        };
        let arrived = tokio::time::timeout(PATIENCE, all).await;
        assert!(
            arrived.is_ok(),
            "never exported: {:?}",
            self.missing(wanted)
        );
    }

    fn missing(&self, wanted: &BTreeSet<String>) -> BTreeSet<String> {
        let kept = self.kept.lock().expect("nobody panics with it");
        wanted - &kept.instruments
    }

    /// Waits for a span of that name in that trace.
    pub async fn span(&self, trace: &str, name: &str) -> Span {
        self.until(name, |kept| kept.span(trace, name)).await
    }

    fn keep(
        &self,
        metadata: &MetadataMap,
        message: &impl Message,
        keep: impl FnOnce(&mut BufferedBytes),
    ) {
        let mut kept = self.kept.lock().expect("nobody panics with it");
        kept.metadata.push(metadata.clone());
        kept.bytes.extend(message.encode_to_vec());
        keep(&mut kept);
        drop(kept);
        self.news.send_modify(|number| *number += 1);
    }
}

impl BufferedBytes {
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
        self.keep_traces(request.metadata(), request.get_ref());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.keep_metrics(request.metadata(), request.get_ref());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Collector {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.keep_logs(request.metadata(), request.get_ref());
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

impl Collector {
    fn keep_traces(&self, metadata: &MetadataMap, message: &ExportTraceServiceRequest) {
        self.keep(metadata, message, |kept| {
            for of_resource in &message.resource_spans {
                let resource = of_resource.resource.as_ref();
                kept.resources
                    .push(resource.expect("a resource").attributes.clone());
                for scope in &of_resource.scope_spans {
                    kept.spans.extend(scope.spans.iter().cloned());
                }
            }
        });
    }

    fn keep_metrics(&self, metadata: &MetadataMap, message: &ExportMetricsServiceRequest) {
        self.keep(metadata, message, |kept| {
            // Each export has all of them.
            kept.metrics.clear();
            for of_resource in &message.resource_metrics {
                let resource = of_resource.resource.as_ref();
                kept.resources
                    .push(resource.expect("a resource").attributes.clone());
                for scope in &of_resource.scope_metrics {
                    let names = scope.metrics.iter().map(|metric| metric.name.clone());
                    kept.instruments.extend(names);
                    kept.metrics.extend(scope.metrics.iter().cloned());
                }
            }
        });
    }

    fn keep_logs(&self, metadata: &MetadataMap, message: &ExportLogsServiceRequest) {
        self.keep(metadata, message, |kept| {
            for of_resource in &message.resource_logs {
                let resource = of_resource.resource.as_ref();
                kept.resources
                    .push(resource.expect("a resource").attributes.clone());
                for scope in &of_resource.scope_logs {
                    kept.logs.extend(scope.log_records.iter().cloned());
                }
            }
        });
    }

    /// Takes what is exported over HTTP on a connection, encrypted or not.
    async fn talk_http(self, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let service = service_fn(move |request: http::Request<Incoming>| {
            let collector = self.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                let status = collector.take_http(&head, &body);
                let mut response = http::Response::new(Full::<Bytes>::default());
                *response.status_mut() = status;
                Ok::<_, hyper::Error>(response)
            }
        });
        let served = http1::Builder::new().serve_connection(TokioIo::new(io), service);
        // It ends as its peer does.
        drop(served.await);
    }

    fn take_http(&self, head: &http::request::Parts, body: &[u8]) -> StatusCode {
        let is_one =
            head.method == http::Method::POST && head.headers.get(CONTENT_TYPE) == Some(&PROTOBUF);
        if !is_one {
            return StatusCode::BAD_REQUEST;
        }
        let metadata = MetadataMap::from_headers(head.headers.clone());
        if head.headers.contains_key(CONTENT_ENCODING) {
            // Only that it came so is looked at.
            assert_eq!(body[..2], GZIP_MAGIC);
            self.keep(&metadata, &String::new(), |_| {});
            return StatusCode::OK;
        }
        match head.uri.path() {
            "/v1/traces" => self.keep_traces(&metadata, &decoded(body)),
            "/v1/metrics" => self.keep_metrics(&metadata, &decoded(body)),
            "/v1/logs" => self.keep_logs(&metadata, &decoded(body)),
            _ => return StatusCode::NOT_FOUND,
        }
        StatusCode::OK
    }
}

fn decoded<T: Message + Default>(body: &[u8]) -> T {
    T::decode(body).expect("it is what its path says")
}
