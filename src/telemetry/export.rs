//! Exporters over OTLP, as the settings say. Each has a thread and a queue of its
//! own, and drops what does not fit: nobody waits for a collector. That one cannot be
//! reached is told once, and so is that it can be again.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use opentelemetry::KeyValue;
use opentelemetry_otlp::{
    Compression, ExporterBuildError, LogExporter, MetricExporter, SpanExporter, WithExportConfig,
    WithHttpConfig, WithTonicConfig,
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    logs::{self, BatchLogProcessor, LogBatch, SdkLoggerProvider},
    metrics::{PeriodicReader, Temporality, data::ResourceMetrics, exporter::PushMetricExporter},
    trace::{self, BatchSpanProcessor, SdkTracerProvider, SpanData},
};
use tonic::metadata::MetadataMap;

mod over_http;
mod tls;

use super::{
    settings::{Collector, Protocol, Settings, Signal, Wrong},
    traces::AsDecided,
};
use over_http::{Client, LastCause};
use tls::TlsError;

/// Why exporters cannot be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExportError {
    /// A file that a variable names is of no use.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An exporter cannot be made of what the variables say.
    #[error(transparent)]
    Build(#[from] ExporterBuildError),
}

impl ExportError {
    /// What comes of it.
    pub(super) fn ends(self, signal: Signal) -> Wrong {
        let (variable, what) = match self {
            Self::Tls(error) => (error.variable().to_owned(), error.to_string()),
            Self::Build(error) => (
                "OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(),
                format!("names a collector that nothing can be sent to ({error})"),
            ),
        };
        Wrong::Off {
            signal,
            variable,
            what,
        }
    }
}

/// What is said of this process with everything that is exported.
pub(super) fn resource(settings: &Settings, instance: String) -> Resource {
    let given = settings.resource.iter();
    let given = given.map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
    Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", instance),
            KeyValue::new("telemetry.sdk.name", "opentelemetry"),
            KeyValue::new("telemetry.sdk.language", "rust"),
        ])
        .with_attributes(given)
        .with_service_name(settings.service_name.clone())
        .build()
}

/// An exporter of that kind, for what the collector speaks.
macro_rules! exporter {
    ($builder:expr, $signal:expr, $collector:expr) => {{
        let cause = LastCause::default();
        let exporter = match $collector.protocol {
            Protocol::Grpc => over_grpc($builder.with_tonic(), $collector)?.build()?,
            Protocol::Http => over_http($builder.with_http(), $collector, &cause)?.build()?,
        };
        Telling::new($signal.word(), exporter, cause)
    }};
}

/// Where spans go.
pub(super) fn traces(
    settings: &Settings,
    resource: &Resource,
) -> Result<Option<SdkTracerProvider>, ExportError> {
    let Some(collector) = &settings.traces else {
        return Ok(None);
    };
    let exporter = exporter!(SpanExporter::builder(), Signal::Traces, collector);
    let batches = trace::BatchConfigBuilder::default()
        .with_max_queue_size(settings.spans.queue)
        .with_max_export_batch_size(settings.spans.size)
        .with_scheduled_delay(settings.spans.delay)
        .build();
    let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches);
    let provider = SdkTracerProvider::builder()
        .with_sampler(AsDecided(settings.rule))
        .with_resource(resource.clone())
        .with_span_processor(processor.build());
    Ok(Some(provider.build()))
}

/// Where log records go.
pub(super) fn logs(
    settings: &Settings,
    resource: &Resource,
) -> Result<Option<SdkLoggerProvider>, ExportError> {
    let Some(collector) = &settings.logs else {
        return Ok(None);
    };
    let exporter = exporter!(LogExporter::builder(), Signal::Logs, collector);
    let batches = logs::BatchConfigBuilder::default()
        .with_max_queue_size(settings.records.queue)
        .with_max_export_batch_size(settings.records.size)
        .with_scheduled_delay(settings.records.delay)
        .build();
    let processor = BatchLogProcessor::builder(exporter).with_batch_config(batches);
    let provider = SdkLoggerProvider::builder()
        .with_resource(resource.clone())
        .with_log_processor(processor.build());
    Ok(Some(provider.build()))
}

/// What reads the metrics to export them.
pub(super) fn metrics(
    settings: &Settings,
) -> Result<Option<PeriodicReader<Telling<MetricExporter>>>, ExportError> {
    let Some(collector) = &settings.metrics else {
        return Ok(None);
    };
    let builder = MetricExporter::builder().with_temporality(settings.temporality);
    let exporter = exporter!(builder, Signal::Metrics, collector);
    let reader = PeriodicReader::builder(exporter).with_interval(settings.metrics_interval);
    Ok(Some(reader.build()))
}

fn over_grpc<B>(builder: B, collector: &Collector) -> Result<B, ExportError>
where
    B: WithExportConfig + WithTonicConfig,
{
    let mut builder = builder
        .with_endpoint(collector.endpoint.to_string())
        .with_timeout(collector.timeout);
    if collector.gzip {
        builder = WithTonicConfig::with_compression(builder, Compression::Gzip);
    }
    if !collector.headers.is_empty() {
        let headers = collector.headers.iter().cloned().collect();
        builder = builder.with_metadata(MetadataMap::from_headers(headers));
    }
    if tls::is_used(collector) {
        builder = builder.with_tls_config(tls::for_grpc(collector)?);
    }
    Ok(builder)
}

fn over_http<B>(builder: B, collector: &Collector, cause: &LastCause) -> Result<B, ExportError>
where
    B: WithExportConfig + WithHttpConfig,
{
    let mut builder = builder
        .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
        .with_endpoint(collector.endpoint.to_string())
        .with_timeout(collector.timeout)
        .with_http_client(Client::new(collector, cause.clone())?);
    if collector.gzip {
        builder = WithHttpConfig::with_compression(builder, Compression::Gzip);
    }
    Ok(builder)
}

/// An exporter that tells when it begins to fail, and when it works again: not each
/// time.
pub(super) struct Telling<E> {
    what: &'static str,
    exporter: E,
    cause: LastCause,
    is_failing: AtomicBool,
}

impl<E> Telling<E> {
    const fn new(what: &'static str, exporter: E, cause: LastCause) -> Self {
        Self {
            what,
            exporter,
            cause,
            is_failing: AtomicBool::new(false),
        }
    }

    fn tell(&self, done: OTelSdkResult) -> OTelSdkResult {
        let what = self.what;
        let was_failing = self.is_failing.swap(done.is_err(), Relaxed);
        let causes = self.cause.take();
        match &done {
            Ok(()) if was_failing => tracing::info!("{what} are exported again"),
            Err(error) if !was_failing => {
                tracing::warn!(
                    %error,
                    causes,
                    "{what} cannot be exported, and are lost until they can"
                );
            }
            Ok(()) | Err(_) => {}
        }
        done
    }
}
impl<E> fmt::Debug for Telling<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // There may be a secret in the exporter's headers.
        f.debug_tuple("Telling").field(&self.what).finish()
    }
}

impl<E: trace::SpanExporter> trace::SpanExporter for Telling<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.tell(self.exporter.export(batch).await)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E: logs::LogExporter> logs::LogExporter for Telling<E> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        self.tell(self.exporter.export(batch).await)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E: PushMetricExporter> PushMetricExporter for Telling<E> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        self.tell(self.exporter.export(metrics).await)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}
