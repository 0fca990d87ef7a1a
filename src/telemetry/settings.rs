//! What the standard variables of OpenTelemetry (`OTEL_…`) say: what is exported
//! over OTLP, where to, and which calls are traced. Nothing is exported where they
//! name no collector.
//!
//! They may be set by whoever runs the machine, and for all that runs there, so none of
//! them keeps the service from its work: what cannot be read, or is not there to be had,
//! is passed over, and told in the log once there is one. Values are not repeated there,
//! since they may be secret.

use std::{fmt, path::PathBuf, time::Duration};

use http::{HeaderName, HeaderValue, Uri};
use opentelemetry_sdk::metrics::Temporality;

mod reader;
#[cfg(test)]
mod tests;

use super::traces::Rule;
use reader::Reader;

/// What the variables say.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Where traces go, if anywhere.
    pub traces: Option<Collector>,
    /// Where metrics go, if anywhere. They are on `/metrics` in any case.
    pub metrics: Option<Collector>,
    /// Where log records go, if anywhere. They are on stderr in any case.
    pub logs: Option<Collector>,
    /// Which calls are traced.
    pub rule: Rule,
    /// What is said of this process beside its name.
    pub resource: Vec<(String, String)>,
    /// This process' name.
    pub service_name: String,
    /// How spans wait for their export.
    pub spans: Batches,
    /// How log records wait for theirs.
    pub records: Batches,
    /// How often metrics are exported.
    pub metrics_interval: Duration,
    /// Whether counts are exported as sums or as differences.
    pub temporality: Temporality,
    /// What is wrong with the variables.
    pub wrong: Vec<Wrong>,
}

/// What can be exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Spans.
    Traces,
    /// Metrics.
    Metrics,
    /// Log records.
    Logs,
}

impl Signal {
    /// Its name.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }
}

/// How collectors are spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `grpc`.
    Grpc,
    /// `http/protobuf`.
    Http,
}

/// Where something is exported to.
#[derive(Clone, PartialEq, Eq)]
pub struct Collector {
    /// Its address, with the path where there is one.
    pub endpoint: Uri,
    /// What it speaks.
    pub protocol: Protocol,
    /// What is sent with each export, such as a key.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// How long an export may take.
    pub timeout: Duration,
    /// Whether exports are compressed.
    pub gzip: bool,
    /// Whom to trust, where that is not whom the system trusts.
    pub certificate: Option<File>,
    /// What to show: a certificate and its key.
    pub identity: Option<(File, File)>,
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // There may be a secret in the headers.
        f.write_str("Collector")
    }
}

/// A file that a variable names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// The variable.
    pub variable: String,
    /// The file.
    pub path: PathBuf,
}

/// How much waits for its export, and how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Batches {
    /// So many at most: more are dropped.
    pub queue: usize,
    /// So many are exported at once.
    pub size: usize,
    /// So often they are.
    pub delay: Duration,
}

/// Something about a variable, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// It is passed over, or a part of it.
    #[error("{variable} {what}")]
    Ignored {
        /// The variable.
        variable: String,
        /// What is wrong with it.
        what: String,
    },
    /// Without it, something cannot be exported.
    #[error("{variable} {what}: no {} are exported", signal.word())]
    Off {
        /// What is not exported.
        signal: Signal,
        /// The variable.
        variable: String,
        /// What is wrong with it.
        what: String,
    },
}

impl Wrong {
    /// Tells of it in the log.
    pub(super) fn tell(&self) {
        match self {
            Self::Ignored { variable, .. } => tracing::warn!(variable, "{self}"),
            Self::Off { variable, .. } => tracing::error!(variable, "{self}"),
        }
    }
}

impl Settings {
    /// Reads the variables: `variable` gives the value of one, if it has any.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        // One that is set to nothing is not set.
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        Reader::read(&variable)
    }
}
