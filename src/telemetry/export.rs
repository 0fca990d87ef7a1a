//! OTLP exporters, as configured. Each has its own thread and a bounded queue, and drops
//! what does not fit: no caller waits for a collector. The start and the end of a failure
//! are logged once each.

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
use tonic::{
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};

mod over_http;
mod tls;

use super::{
    settings::{Collector, ExportSettings, Protocol, SettingProblem, Signal},
    traces::DecidedSampler,
};
use over_http::{CollectorClient, LastCause};
use tls::CollectorTlsError;

#[derive(Debug, thiserror::Error)]
pub(super) enum ExportError {
    /// A file that a variable names cannot be used.
    #[error(transparent)]
    Tls(#[from] CollectorTlsError),
    /// The SDK rejects the configuration.
    #[error(transparent)]
    Build(#[from] ExporterBuildError),
    /// There can be no such connection.
    #[error(transparent)]
    Channel(#[from] tonic::transport::Error),
}

impl ExportError {
    /// The problem to report for the signal.
    pub(super) fn into_problem(self, signal: Signal) -> SettingProblem {
        let (variable, what) = match self {
            Self::Tls(error) => (error.variable().to_owned(), error.to_string()),
            Self::Build(error) => Self::unreachable(&error),
            Self::Channel(error) => Self::unreachable(&error),
        };
        SettingProblem::NotExported {
            signal,
            variable,
            what,
        }
    }

    /// The variable to correct, and what is wrong with it.
    fn unreachable(error: &dyn std::error::Error) -> (String, String) {
        let variable = "OTEL_EXPORTER_OTLP_ENDPOINT".to_owned();
        let what = format!("names a collector that nothing can be sent to ({error})");
        (variable, what)
    }
}

/// The resource attributes of everything that is exported.
pub(super) fn resource(settings: &ExportSettings, instance: String) -> Resource {
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

/// Builds an exporter of that kind for the collector's protocol.
macro_rules! exporter {
    ($builder:expr, $signal:expr, $collector:expr) => {{
        let cause = LastCause::default();
        let exporter = match $collector.protocol {
            Protocol::Grpc => over_grpc($builder.with_tonic(), $collector)?.build()?,
            Protocol::Http => over_http($builder.with_http(), $collector, &cause)?.build()?,
        };
        LoggedExporter::new($signal.as_str(), exporter, cause)
    }};
}

/// The pipeline for spans.
pub(super) fn traces(
    settings: &ExportSettings,
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
        .with_sampler(DecidedSampler(settings.rule))
        .with_resource(resource.clone())
        .with_span_processor(processor.build());
    Ok(Some(provider.build()))
}

/// The pipeline for log records.
pub(super) fn logs(
    settings: &ExportSettings,
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

/// The reader that exports the metrics.
pub(super) fn metrics(
    settings: &ExportSettings,
) -> Result<Option<PeriodicReader<LoggedExporter<MetricExporter>>>, ExportError> {
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
        .with_channel(channel(collector)?)
        .with_timeout(collector.timeout);
    if collector.gzip {
        builder = WithTonicConfig::with_compression(builder, Compression::Gzip);
    }
    if !collector.headers.is_empty() {
        let headers = collector.headers.iter().cloned().collect();
        builder = builder.with_metadata(MetadataMap::from_headers(headers));
    }
    Ok(builder)
}

/// A connection that is made with the first export. That of the exporter itself has its timeout
/// only for calls, so a collector that takes no connection would hold the export, and the word of
/// its failure, for as long as the system tries to connect.
fn channel(collector: &Collector) -> Result<Channel, ExportError> {
    let mut endpoint = Endpoint::from(collector.endpoint.clone())
        .connect_timeout(collector.timeout)
        .timeout(collector.timeout);
    if tls::is_used(collector) {
        endpoint = endpoint.tls_config(tls::for_grpc(collector)?)?;
    }
    Ok(endpoint.connect_lazy())
}

fn over_http<B>(builder: B, collector: &Collector, cause: &LastCause) -> Result<B, ExportError>
where
    B: WithExportConfig + WithHttpConfig,
{
    let mut builder = builder
        .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
        .with_endpoint(collector.endpoint.to_string())
        .with_timeout(collector.timeout)
        .with_http_client(CollectorClient::new(collector, cause.clone())?);
    if collector.gzip {
        builder = WithHttpConfig::with_compression(builder, Compression::Gzip);
    }
    Ok(builder)
}

/// An exporter that logs when it begins to fail and when it recovers, but not each failure.
pub(super) struct LoggedExporter<E> {
    what: &'static str,
    exporter: E,
    cause: LastCause,
    is_failing: AtomicBool,
}

impl<E> LoggedExporter<E> {
    const fn new(what: &'static str, exporter: E, cause: LastCause) -> Self {
        Self {
            what,
            exporter,
            cause,
            is_failing: AtomicBool::new(false),
        }
    }

    fn log_change(&self, done: OTelSdkResult) -> OTelSdkResult {
        let what = self.what;
        let was_failing = self.is_failing.swap(done.is_err(), Relaxed);
        let causes = self.cause.take();
        match &done {
            Ok(()) if was_failing => tracing::info!("{what} are exported again"),
            Err(error) if !was_failing => {
                tracing::warn!(
                    %error,
                    causes,
                    "{what} cannot be exported and are dropped until the collector recovers"
                );
            }
            Ok(()) | Err(_) => {}
        }
        done
    }
}
impl<E> fmt::Debug for LoggedExporter<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The exporter's headers may contain a secret.
        f.debug_tuple("LoggedExporter").field(&self.what).finish()
    }
}

impl<E: trace::SpanExporter> trace::SpanExporter for LoggedExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.log_change(self.exporter.export(batch).await)
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

impl<E: logs::LogExporter> logs::LogExporter for LoggedExporter<E> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        self.log_change(self.exporter.export(batch).await)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E: PushMetricExporter> PushMetricExporter for LoggedExporter<E> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        self.log_change(self.exporter.export(metrics).await)
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
