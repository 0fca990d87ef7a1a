//! Logs, traces and metrics. Logs are always on stderr: for people on a terminal, as
//! JSON otherwise. Metrics are always counted, for whoever reads their page. All three
//! are exported over OTLP where the standard variables name a collector.
//!
//! A token cannot get in: no type that holds one can be printed.

use std::{
    any::Any,
    backtrace::{Backtrace, BacktraceStatus},
    hash::{BuildHasher, Hasher, RandomState},
    io::IsTerminal,
    panic::{self, PanicHookInfo},
    time::Duration,
};

use opentelemetry::trace::TracerProvider;
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_sdk::{error::OTelSdkResult, logs::SdkLoggerProvider, trace::SdkTracerProvider};
use tokio::sync::mpsc;
use tracing_subscriber::{
    EnvFilter, Layer, filter::LevelFilter, filter::Targets, layer::SubscriberExt,
    util::SubscriberInitExt,
};

mod export;
mod lines;
pub mod metrics;
pub mod settings;
pub mod traces;

use export::ExportError;
use metrics::Metrics;
use settings::{Settings, WrongSettings};
use traces::Sampling;

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged, and how, and what is exported.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directives as in `info` or `hitkeep_auth=debug,h2=off`.
    pub filter: String,
    /// How lines are written.
    pub format: LogFormat,
    /// What is exported; nothing by default.
    pub export: Settings,
}

/// Why there is no telemetry.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// A directive is malformed.
    #[error("the log filter cannot be read")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// A variable of OpenTelemetry's is wrong.
    #[error(transparent)]
    Settings(#[from] WrongSettings),
    /// What they say cannot be done.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// Set up twice.
    #[error("logging is set up already")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// What was set up for the whole process.
#[derive(Clone)]
pub struct Telemetry {
    /// Where everything is counted.
    pub metrics: Metrics,
    /// Which calls are traced.
    pub sampling: Sampling,
    traces: Option<SdkTracerProvider>,
    logs: Option<SdkLoggerProvider>,
    exports: bool,
}

/// What is never exported as a log: whatever the exporters themselves are made of,
/// which would go round in circles.
const OF_EXPORTERS: [&str; 9] = [
    "h2",
    "hyper",
    "hyper_util",
    "opentelemetry",
    "opentelemetry_otlp",
    "opentelemetry_sdk",
    "rustls",
    "tonic",
    "tower",
];

/// Sets up logging for the whole process, and what is exported. The latter needs a
/// runtime, and ends with it.
///
/// # Errors
/// Each says what is wrong.
pub fn start(options: &Options) -> Result<Telemetry, TelemetryError> {
    let is_terminal = std::io::stderr().is_terminal();
    let json = match options.format {
        LogFormat::Auto => !is_terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = if json {
        let (format, fields) = lines::for_programs();
        lines.event_format(format).fmt_fields(fields).boxed()
    } else {
        let (format, fields) = lines::for_people(is_terminal);
        let lines = lines.with_ansi(is_terminal);
        lines.event_format(format).fmt_fields(fields).boxed()
    };
    let settings = &options.export;
    let resource = export::resource(settings, instance());
    let traces = export::traces(settings, &resource)?;
    let logs = export::logs(settings, &resource)?;
    let tracer = traces
        .as_ref()
        .map(|provider| provider.tracer(env!("CARGO_PKG_NAME")));
    let spans = tracer.clone().map(|tracer| {
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(Targets::new().with_target(traces::TARGET, LevelFilter::TRACE))
    });
    let mut quiet = log_filter(&options.filter)?;
    for of_exporters in OF_EXPORTERS {
        let directive = format!("{of_exporters}=off");
        quiet = quiet.add_directive(directive.parse()?);
    }
    let records = logs.as_ref().map(OpenTelemetryTracingBridge::new);
    tracing_subscriber::registry()
        // First, so that the others find themselves in a trace.
        .with(spans)
        .with(records.map(|records| records.with_filter(quiet)))
        .with(lines.with_filter(log_filter(&options.filter)?))
        .try_init()?;
    panic::set_hook(Box::new(tell_panic));
    let reader = export::metrics(settings)?;
    Ok(Telemetry {
        sampling: tracer
            .map(|tracer| Sampling::by(settings.rule, tracer))
            .unwrap_or_default(),
        metrics: Metrics::exported(resource, reader),
        traces,
        logs,
        exports: settings.exports(),
    })
}

impl Telemetry {
    /// Exports what is left, for so long at most, and no more after that.
    pub async fn stop(self, limit: Duration) {
        if !self.exports {
            return;
        }
        let Self {
            metrics,
            traces,
            logs,
            ..
        } = self;
        let (done, mut all_done) = mpsc::channel::<OTelSdkResult>(3);
        // Each waits for its collector, so on threads of their own, that keep nobody
        // from ending the process.
        let stop = |stop: Box<dyn FnOnce() -> OTelSdkResult + Send>| {
            let done = done.clone();
            std::thread::spawn(move || done.blocking_send(stop()));
        };
        stop(Box::new(move || metrics.stop(limit)));
        if let Some(traces) = traces {
            stop(Box::new(move || traces.shutdown_with_timeout(limit)));
        }
        if let Some(logs) = logs {
            stop(Box::new(move || logs.shutdown_with_timeout(limit)));
        }
        drop(done);
        let all = async {
            let mut all_good = true;
            while let Some(done) = all_done.recv().await {
                all_good &= done.is_ok();
            }
            all_good
        };
        if tokio::time::timeout(limit, all).await != Ok(true) {
            tracing::warn!("stopped before all telemetry was exported");
        }
    }
}

/// What gets into the log. Spans that are made to be exported do not.
fn log_filter(directives: &str) -> Result<EnvFilter, TelemetryError> {
    let filter = EnvFilter::builder().parse(directives)?;
    let no_traces = format!("{}=off", traces::TARGET);
    Ok(filter.add_directive(no_traces.parse()?))
}

/// What tells this process from others of the same name.
fn instance() -> String {
    let random = || RandomState::new().build_hasher().finish().to_be_bytes();
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&random());
    bytes[8..].copy_from_slice(&random());
    uuid::Builder::from_random_bytes(bytes)
        .into_uuid()
        .to_string()
}

/// Tells of a panic as of everything else, so that lines stay lines.
fn tell_panic(panic: &PanicHookInfo<'_>) {
    let at = panic
        .location()
        .map(ToString::to_string)
        .unwrap_or_default();
    let backtrace = Backtrace::capture();
    let backtrace = match backtrace.status() {
        BacktraceStatus::Captured => Some(backtrace.to_string()),
        _ => None,
    };
    let said = panic_message(panic.payload());
    tracing::error!(at, backtrace, "a panic at {at}: {said}");
}

/// What a panic says, for the log.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
