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
use opentelemetry_sdk::{
    error::OTelSdkResult,
    logs::SdkLoggerProvider,
    trace::{SdkTracer, SdkTracerProvider},
};
use tokio::sync::mpsc;
use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::LevelFilter, filter::Targets, layer::SubscriberExt,
    util::SubscriberInitExt,
};

mod export;
mod lines;
#[cfg(test)]
pub(crate) mod logged;
pub mod metrics;
pub mod settings;
pub mod traces;

use export::ExportError;
use metrics::Metrics;
use settings::{Settings, Signal, Wrong};
use traces::Sampling;

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// Human-readable text.
    Text,
    /// One JSON object per line.
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
    let settings = &options.export;
    let mut wrong = settings.wrong.clone();
    let resource = export::resource(settings, instance());
    let traces = export::traces(settings, &resource);
    let traces = made(Signal::Traces, traces, &mut wrong);
    let logs = made(Signal::Logs, export::logs(settings, &resource), &mut wrong);
    let reader = made(Signal::Metrics, export::metrics(settings), &mut wrong);
    let exports = traces.is_some() || logs.is_some() || reader.is_some();
    let tracer = traces
        .as_ref()
        .map(|provider| provider.tracer(env!("CARGO_PKG_NAME")));
    subscriber(options, tracer.clone(), logs.as_ref())?.try_init()?;
    panic::set_hook(Box::new(tell_panic));
    // Now that there is a log to tell it in.
    for wrong in &wrong {
        wrong.tell();
    }
    Ok(Telemetry {
        sampling: tracer
            .map(|tracer| Sampling::by(settings.rule, tracer))
            .unwrap_or_default(),
        metrics: Metrics::exported(resource, reader),
        traces,
        logs,
        exports,
    })
}

/// An exporter, if it could be made. Nobody has to do without the service because there
/// is none.
fn made<E>(
    signal: Signal,
    exporter: Result<Option<E>, ExportError>,
    wrong: &mut Vec<Wrong>,
) -> Option<E> {
    exporter.unwrap_or_else(|error| {
        wrong.push(error.ends(signal));
        None
    })
}

/// What is made of events and spans: lines always, spans and log records where they are
/// exported.
///
/// Those are in a list, and not one upon the other with nothing where one is missing:
/// then whatever is instrumented anywhere, such as each frame of HTTP/2, would be made
/// into a span and thrown away.
fn subscriber(
    options: &Options,
    tracer: Option<SdkTracer>,
    logs: Option<&SdkLoggerProvider>,
) -> Result<impl Subscriber + Send + Sync + use<>, TelemetryError> {
    // First, so that the others find themselves in a trace.
    let mut layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> = Vec::new();
    if let Some(tracer) = tracer {
        let spans = tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false);
        // None of them is of a lower level. Were it allowed, whatever has one anywhere
        // would have to ask whether it is wanted, each time.
        let only = Targets::new().with_target(traces::TARGET, LevelFilter::INFO);
        layers.push(spans.with_filter(only).boxed());
    }
    if let Some(logs) = logs {
        let mut quiet = log_filter(&options.filter)?;
        for of_exporters in OF_EXPORTERS {
            let directive = format!("{of_exporters}=off");
            quiet = quiet.add_directive(directive.parse()?);
        }
        let records = OpenTelemetryTracingBridge::new(logs);
        layers.push(records.with_filter(quiet).boxed());
    }
    layers.push(lines(options)?);
    Ok(tracing_subscriber::registry().with(layers))
}

fn lines(options: &Options) -> Result<Box<dyn Layer<Registry> + Send + Sync>, TelemetryError> {
    let is_terminal = std::io::stderr().is_terminal();
    let json = match options.format {
        LogFormat::Auto => !is_terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let filter = log_filter(&options.filter)?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    Ok(if json {
        let (format, fields) = lines::for_programs();
        let lines = lines.event_format(format).fmt_fields(fields);
        lines.with_filter(filter).boxed()
    } else {
        let (format, fields) = lines::for_people(is_terminal);
        let lines = lines.with_ansi(is_terminal);
        let lines = lines.event_format(format).fmt_fields(fields);
        lines.with_filter(filter).boxed()
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

#[cfg(test)]
mod tests {
    use tracing::{Dispatch, Level, dispatcher::with_default, enabled, span_enabled};

    use super::*;

    fn subscriber_with(
        log: &str,
        exports_traces: bool,
        exports_logs: bool,
    ) -> impl Subscriber + use<> {
        let options = Options {
            filter: log.to_owned(),
            format: LogFormat::Json,
            export: Settings::default(),
        };
        let tracer = SdkTracerProvider::default().tracer("tests");
        let logs = SdkLoggerProvider::builder().build();
        let subscriber = subscriber(
            &options,
            exports_traces.then_some(tracer),
            exports_logs.then_some(&logs),
        );
        subscriber.unwrap()
    }

    #[test]
    fn whatever_is_exported_nobody_asks_for_more_than_is_wanted() {
        for (traces, logs) in [(false, false), (false, true), (true, false), (true, true)] {
            let case = format!("traces {traces}, logs {logs}");
            let subscriber = subscriber_with("warn", traces, logs);
            let hint = subscriber.max_level_hint();
            // Spans are of the level INFO.
            let most = if traces {
                LevelFilter::INFO
            } else {
                LevelFilter::WARN
            };
            assert_eq!(hint, Some(most), "{case}");
            with_default(&Dispatch::new(subscriber), || {
                assert!(!span_enabled!(target: "h2", Level::TRACE, "x"), "{case}");
                assert!(enabled!(target: "h2", Level::WARN), "{case}");
                assert!(!enabled!(target: "h2", Level::INFO), "{case}");
                let is_traced = span_enabled!(target: traces::TARGET, Level::INFO, "x");
                assert_eq!(is_traced, traces, "{case}");
            });
        }
    }
}
