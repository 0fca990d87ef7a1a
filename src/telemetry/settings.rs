//! The settings from OpenTelemetry's standard variables (`OTEL_…`): what is exported over
//! OTLP, to which collectors, and which calls are traced. Without a collector, nothing is
//! exported.
//!
//! A platform may set these variables for all its processes, so none of them stops the
//! service: an invalid or unavailable setting is skipped, and logged once logging is set up.
//! The log does not contain values, since they may be secret.

use std::{fmt, path::PathBuf, time::Duration};

use http::{HeaderName, HeaderValue, Uri};
use opentelemetry_sdk::metrics::Temporality;

mod reader;
#[cfg(test)]
mod tests;

use super::traces::Rule;
use reader::VariableReader;

/// The settings of all signals.
#[derive(Clone, Debug, Default)]
pub struct ExportSettings {
    /// The collector of traces, if they are exported.
    pub traces: Option<Collector>,
    /// The collector of metrics, if they are exported. `/metrics` has them in any case.
    pub metrics: Option<Collector>,
    /// The collector of log records, if they are exported. Stderr has them in any case.
    pub logs: Option<Collector>,
    pub rule: Rule,
    /// The resource attributes apart from the service's name.
    pub resource: Vec<(String, String)>,
    /// The resource attribute `service.name`.
    pub service_name: String,
    pub spans: BatchLimits,
    pub records: BatchLimits,
    pub metrics_interval: Duration,
    /// Whether counters are exported as totals or as increments.
    pub temporality: Temporality,
    /// The problems that were found in the variables.
    pub problems: Vec<SettingProblem>,
}

/// A kind of telemetry that can be exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Spans.
    Traces,
    /// Values of all instruments.
    Metrics,
    /// Log records.
    Logs,
}

impl Signal {
    /// The plural noun for messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }
}

/// A transport of OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// The keyword `grpc`.
    Grpc,
    /// The keyword `http/protobuf`.
    Http,
}

/// A collector for one signal.
#[derive(Clone, PartialEq, Eq)]
pub struct Collector {
    /// The address, with the path for HTTP.
    pub endpoint: Uri,
    pub protocol: Protocol,
    /// Sent with each export, for example an API key.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The limit of an export's duration.
    pub timeout: Duration,
    pub gzip: bool,
    /// The trusted CA certificates; `None` for those of the system.
    pub certificate: Option<File>,
    /// The client certificate and its key.
    pub identity: Option<(File, File)>,
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The headers may contain a secret.
        f.write_str("Collector")
    }
}

/// A file that a variable names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub variable: String,
    pub path: PathBuf,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchLimits {
    /// The most items in the queue; more are dropped.
    pub queue: usize,
    /// The most items in one export.
    pub size: usize,
    /// The time between two exports.
    pub delay: Duration,
}

/// A problem with a variable, and its consequence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingProblem {
    /// The variable, or a part of it, is ignored.
    #[error("{variable} {what}")]
    Ignored {
        variable: String,
        /// What is wrong, after the variable's name.
        what: String,
    },
    #[error("{variable} {what}: no {} are exported", signal.as_str())]
    NotExported {
        signal: Signal,
        variable: String,
        /// What is wrong, after the variable's name.
        what: String,
    },
}

impl SettingProblem {
    pub(super) fn log(&self) {
        match self {
            Self::Ignored { variable, .. } => tracing::warn!(variable, "{self}"),
            Self::NotExported { variable, .. } => tracing::error!(variable, "{self}"),
        }
    }
}

impl ExportSettings {
    /// Reads the settings; `variable` returns the value of a variable.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        // A variable with an empty value is unset.
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        VariableReader::read(&variable)
    }
}
