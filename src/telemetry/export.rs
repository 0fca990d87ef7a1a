//! Exporters over OTLP, as the settings say. Each has a thread and a queue of its
//! own, and drops what does not fit: nobody waits for a collector. That one cannot be
//! reached is told once, and so is that it can be again.

use std::{
    fmt, fs, io,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use opentelemetry::KeyValue;
use opentelemetry_otlp::{
    Compression, ExporterBuildError, LogExporter, MetricExporter, SpanExporter, WithExportConfig,
    WithTonicConfig,
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    logs::{self, LogBatch, SdkLoggerProvider},
    metrics::{PeriodicReader, Temporality, data::ResourceMetrics, exporter::PushMetricExporter},
    trace::{self, SdkTracerProvider, SpanData},
};
use tonic::{
    metadata::MetadataMap,
    transport::{Certificate, ClientTlsConfig, Identity},
};

use super::{
    settings::{Collector, Settings},
    traces::AsDecided,
};

/// Why exporters cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A file that a variable names cannot be read.
    #[error("{path}, which a variable OTEL_EXPORTER_OTLP_… names, cannot be read")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// An exporter cannot be made of what the variables say.
    #[error("nothing can be exported to the collector")]
    Build(#[from] ExporterBuildError),
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

/// Where spans go.
pub(super) fn traces(
    settings: &Settings,
    resource: &Resource,
) -> Result<Option<SdkTracerProvider>, ExportError> {
    let Some(collector) = &settings.traces else {
        return Ok(None);
    };
    let exporter = set_up(SpanExporter::builder().with_tonic(), collector)?.build()?;
    let provider = SdkTracerProvider::builder()
        .with_sampler(AsDecided(settings.rule))
        .with_resource(resource.clone())
        .with_batch_exporter(Telling::new("traces", exporter));
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
    let exporter = set_up(LogExporter::builder().with_tonic(), collector)?.build()?;
    let provider = SdkLoggerProvider::builder()
        .with_resource(resource.clone())
        .with_batch_exporter(Telling::new("logs", exporter));
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
    let exporter = set_up(builder.with_tonic(), collector)?.build()?;
    let reader = PeriodicReader::builder(Telling::new("metrics", exporter))
        .with_interval(settings.metrics_interval);
    Ok(Some(reader.build()))
}

fn set_up<B>(builder: B, collector: &Collector) -> Result<B, ExportError>
where
    B: WithExportConfig + WithTonicConfig,
{
    let mut builder = builder
        .with_endpoint(collector.endpoint.to_string())
        .with_timeout(collector.timeout);
    if collector.gzip {
        builder = builder.with_compression(Compression::Gzip);
    }
    if !collector.headers.is_empty() {
        let headers = collector.headers.iter().cloned().collect();
        builder = builder.with_metadata(MetadataMap::from_headers(headers));
    }
    if collector.endpoint.scheme_str() == Some("https") {
        builder = builder.with_tls_config(tls(collector)?);
    }
    Ok(builder)
}

fn tls(collector: &Collector) -> Result<ClientTlsConfig, ExportError> {
    let read = |path: &PathBuf| {
        fs::read(path).map_err(|source| ExportError::File {
            path: path.clone(),
            source,
        })
    };
    let mut tls = ClientTlsConfig::new();
    tls = match &collector.certificate {
        Some(path) => tls.ca_certificate(Certificate::from_pem(read(path)?)),
        None => tls.with_native_roots(),
    };
    if let Some((certificate, key)) = &collector.identity {
        tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(tls)
}

/// An exporter that tells when it begins to fail, and when it works again: not each
/// time.
pub(super) struct Telling<E> {
    what: &'static str,
    exporter: E,
    is_failing: AtomicBool,
}

impl<E> Telling<E> {
    const fn new(what: &'static str, exporter: E) -> Self {
        Self {
            what,
            exporter,
            is_failing: AtomicBool::new(false),
        }
    }

    fn tell(&self, done: OTelSdkResult) -> OTelSdkResult {
        let what = self.what;
        let was_failing = self.is_failing.swap(done.is_err(), Relaxed);
        match &done {
            Ok(()) if was_failing => tracing::info!("{what} are exported again"),
            Err(error) if !was_failing => {
                tracing::warn!(%error, "{what} cannot be exported, and are lost until they can");
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
