//! Logs, traces and metrics. Logs always go to stderr: as text on a terminal, as JSON
//! otherwise. Metrics are always collected, for the metrics page. All three are exported
//! over OTLP if the standard variables name a collector.
//!
//! Tokens cannot get in: no type that holds one implements `Display` or a revealing `Debug`.

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
mod sink;
pub mod traces;

use export::ExportError;
use metrics::Metrics;
use settings::{ExportSettings, SettingProblem, Signal};
use sink::{FlushAtEnd, LogSink};
use traces::Sampling;

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

/// What is logged, in which format, and what is exported.
#[derive(Clone, Debug)]
pub struct TelemetryOptions {
    /// Filter directives, such as `info` or `hitkeep_auth=debug,h2=off`.
    pub filter: String,
    pub format: LogFormat,
    /// Whether log lines may be coloured, on a terminal.
    pub colours: bool,
    /// What is exported; nothing by default.
    pub export: ExportSettings,
}

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("the log filter cannot be read")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Telemetry was set up before in this process.
    #[error("logging is set up already")]
    AlreadyStarted(#[from] tracing_subscriber::util::TryInitError),
    /// There can be no thread that writes the log.
    #[error("the log cannot be written")]
    Sink(#[source] std::io::Error),
}

/// The telemetry of this process.
#[derive(Clone)]
pub struct Telemetry {
    pub metrics: Metrics,
    pub sampling: Sampling,
    traces: Option<SdkTracerProvider>,
    logs: Option<SdkLoggerProvider>,
    exports: bool,
    lines: LogSink,
}

/// Targets whose events are never exported as logs: the exporters themselves depend on
/// them, and would feed back.
const EXPORTER_TARGETS: [&str; 9] = [
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

/// Sets up logging for the whole process, and the exporters. These need a runtime, and end
/// with it.
///
/// # Errors
/// If the filter is malformed, or telemetry is set up already.
pub fn start(options: &TelemetryOptions) -> Result<Telemetry, TelemetryError> {
    let settings = &options.export;
    let mut problems = settings.problems.clone();
    let resource = export::resource(settings, instance());
    let traces = export::traces(settings, &resource);
    let traces = or_report(Signal::Traces, traces, &mut problems);
    let logs = or_report(
        Signal::Logs,
        export::logs(settings, &resource),
        &mut problems,
    );
    let reader = or_report(Signal::Metrics, export::metrics(settings), &mut problems);
    let exports = traces.is_some() || logs.is_some() || reader.is_some();
    let tracer = traces
        .as_ref()
        .map(|provider| provider.tracer(env!("CARGO_PKG_NAME")));
    let lines = LogSink::to(std::io::stderr()).map_err(TelemetryError::Sink)?;
    subscriber(options, &lines, tracer.clone(), logs.as_ref())?.try_init()?;
    panic::set_hook(Box::new(log_panic));
    // Only now is there a log to report them in.
    for problem in &problems {
        problem.log();
    }
    let metrics = Metrics::exported(resource, reader);
    let of = lines.clone();
    metrics.counter(
        "hitkeep_auth.log.dropped",
        "{line}",
        "Log lines that were not written, because stderr was not read fast enough or took none.",
        move || of.dropped(),
    );
    Ok(Telemetry {
        sampling: tracer
            .map(|tracer| Sampling::by(settings.rule, tracer))
            .unwrap_or_default(),
        metrics,
        traces,
        logs,
        exports,
        lines,
    })
}

/// The exporter, or `None` after adding the problem: the service works without one.
fn or_report<E>(
    signal: Signal,
    exporter: Result<Option<E>, ExportError>,
    problems: &mut Vec<SettingProblem>,
) -> Option<E> {
    exporter.unwrap_or_else(|error| {
        problems.push(error.into_problem(signal));
        None
    })
}

/// The subscriber for events and spans: log lines always, spans and log records if they are
/// exported.
///
/// The layers are in a list, not stacked with `None` for a missing one. A `None` layer would
/// enable everything that is instrumented anywhere, such as each HTTP/2 frame, and so make
/// spans only to discard them.
fn subscriber(
    options: &TelemetryOptions,
    sink: &LogSink,
    tracer: Option<SdkTracer>,
    logs: Option<&SdkLoggerProvider>,
) -> Result<impl Subscriber + Send + Sync + use<>, TelemetryError> {
    // First, so that the other layers see the trace.
    let mut layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> = Vec::new();
    if let Some(tracer) = tracer {
        let spans = tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false);
        // No exported span has a lower level. If the filter allowed one, every such callsite
        // would have to evaluate the filter each time.
        let only = Targets::new().with_target(traces::TARGET, LevelFilter::INFO);
        layers.push(spans.with_filter(only).boxed());
    }
    if let Some(logs) = logs {
        let mut quiet = log_filter(&options.filter)?;
        for of_exporters in EXPORTER_TARGETS {
            let directive = format!("{of_exporters}=off");
            quiet = quiet.add_directive(directive.parse()?);
        }
        let records = OpenTelemetryTracingBridge::new(logs);
        layers.push(records.with_filter(quiet).boxed());
    }
    layers.push(lines(options, sink)?);
    Ok(tracing_subscriber::registry().with(layers))
}

fn lines(
    options: &TelemetryOptions,
    sink: &LogSink,
) -> Result<Box<dyn Layer<Registry> + Send + Sync>, TelemetryError> {
    let is_terminal = std::io::stderr().is_terminal();
    let json = match options.format {
        LogFormat::Auto => !is_terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let filter = log_filter(&options.filter)?;
    let lines = tracing_subscriber::fmt::layer().with_writer(sink.clone());
    Ok(if json {
        let (format, fields) = lines::json_lines();
        let lines = lines.event_format(format).fmt_fields(fields);
        lines.with_filter(filter).boxed()
    } else {
        let is_coloured = is_terminal && options.colours;
        let (format, fields) = lines::text_lines(is_coloured);
        let lines = lines.with_ansi(is_coloured);
        let lines = lines.event_format(format).fmt_fields(fields);
        lines.with_filter(filter).boxed()
    })
}

impl Telemetry {
    /// What is logged is written by a thread of its own, so the process must keep this until
    /// its last line.
    pub(crate) fn flush_at_end(&self) -> FlushAtEnd {
        FlushAtEnd(self.lines.clone())
    }

    /// Exports what is pending, within `limit`, and nothing after that.
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
        // Each waits for its collector, so each has its own thread, which does not keep the
        // process from ending.
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

/// The filter of the log. Spans that exist only for the exporter are excluded.
fn log_filter(directives: &str) -> Result<EnvFilter, TelemetryError> {
    let filter = EnvFilter::builder().parse(directives)?;
    let no_traces = format!("{}=off", traces::TARGET);
    Ok(filter.add_directive(no_traces.parse()?))
}

/// Distinguishes this process from others of the same service.
fn instance() -> String {
    let random = || RandomState::new().build_hasher().finish().to_be_bytes();
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&random());
    bytes[8..].copy_from_slice(&random());
    uuid::Builder::from_random_bytes(bytes)
        .into_uuid()
        .to_string()
}

/// Logs a panic like any other event, so that the log stays one line for each event.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let at = panic
        .location()
        .map(ToString::to_string)
        .unwrap_or_default();
    let backtrace = Backtrace::capture();
    let backtrace = match backtrace.status() {
        BacktraceStatus::Captured => Some(backtrace.to_string()),
        _ => None,
    };
    let message = panic_message(panic.payload());
    tracing::error!(at, backtrace, "panicked at {at}: {message}");
}

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
        let options = TelemetryOptions {
            filter: log.to_owned(),
            format: LogFormat::Json,
            colours: false,
            export: ExportSettings::default(),
        };
        let tracer = SdkTracerProvider::default().tracer("tests");
        let logs = SdkLoggerProvider::builder().build();
        let sink = LogSink::to(std::io::sink()).unwrap();
        let subscriber = subscriber(
            &options,
            &sink,
            exports_traces.then_some(tracer),
            exports_logs.then_some(&logs),
        );
        subscriber.unwrap()
    }

    #[test]
    fn exporters_do_not_enable_more_callsites() {
        for (traces, logs) in [(false, false), (false, true), (true, false), (true, true)] {
            let case = format!("traces {traces}, logs {logs}");
            let subscriber = subscriber_with("warn", traces, logs);
            let hint = subscriber.max_level_hint();
            // Spans have the level INFO.
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
