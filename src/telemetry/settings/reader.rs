//! Reads the variables by the rules of OpenTelemetry's specification: an empty one is
//! unset, keywords are case-insensitive, and an invalid value is reported and counts as
//! unset.

use std::{fmt::Display, ops::RangeInclusive, time::Duration};

use opentelemetry_sdk::metrics::Temporality;
use percent_encoding::percent_decode_str;

mod collector;

use super::{BatchLimits, ExportSettings, Rule, SettingProblem, Signal};

/// The default of `OTEL_SERVICE_NAME`.
const SERVICE_NAME: &str = "hitkeep-auth";
/// The default interval of metrics exports.
const METRICS_INTERVAL: Duration = Duration::from_mins(1);
/// The specification's defaults for the batches of spans and log records.
const SPANS: BatchLimits = BatchLimits {
    queue: 2048,
    size: 512,
    delay: Duration::from_secs(5),
};
const RECORDS: BatchLimits = BatchLimits {
    delay: Duration::from_secs(1),
    ..SPANS
};
/// Bounds of queue lengths. A queue is allocated in full at startup.
const QUEUES: RangeInclusive<u64> = 1..=1_000_000;
/// Bounds of durations, in milliseconds.
const TIMES: RangeInclusive<u64> = 1..=u32::MAX as u64;
/// Counts that the SDK reads itself, and ignores if they are invalid.
const LIMITS: [&str; 3] = [
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
];

/// Reads variables, and collects the problems.
pub(super) struct VariableReader<'v> {
    variable: &'v dyn Fn(&str) -> Option<String>,
    problems: Vec<SettingProblem>,
}

impl<'v> VariableReader<'v> {
    /// Reads all settings, with the problems found.
    pub(super) fn read(variable: &'v dyn Fn(&str) -> Option<String>) -> ExportSettings {
        let mut reader = Self {
            variable,
            problems: Vec::new(),
        };
        let settings = reader.settings();
        ExportSettings {
            problems: reader.problems,
            ..settings
        }
    }

    fn settings(&mut self) -> ExportSettings {
        if self.is_true(["OTEL_SDK_DISABLED".to_owned()]) {
            return ExportSettings::default();
        }
        let [traces, metrics, logs] =
            [Signal::Traces, Signal::Metrics, Signal::Logs].map(|signal| self.collector(signal));
        if traces.is_none() && metrics.is_none() && logs.is_none() {
            return ExportSettings::default();
        }
        for name in LIMITS {
            self.number(name, 0..=u64::from(u32::MAX));
        }
        let (service_name, resource) = self.resource();
        ExportSettings {
            rule: self.rule(),
            resource,
            service_name,
            spans: self.batches("OTEL_BSP", SPANS),
            records: self.batches("OTEL_BLRP", RECORDS),
            metrics_interval: self
                .milliseconds(["OTEL_METRIC_EXPORT_INTERVAL".to_owned()])
                .unwrap_or(METRICS_INTERVAL),
            temporality: self.temporality(),
            traces,
            metrics,
            logs,
            problems: Vec::new(),
        }
    }

    fn report(&mut self, problem: SettingProblem) {
        // A variable for all signals is read once for each.
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// Reports a problem with a variable.
    fn report_ignored(&mut self, variable: &str, what: impl Display) {
        self.report(SettingProblem::Ignored {
            variable: variable.to_owned(),
            what: what.to_string(),
        });
    }

    /// Reports that a variable is ignored.
    fn ignore(&mut self, variable: &str, must: &str) {
        self.report_ignored(variable, format_args!("is ignored: it must be {must}"));
    }

    fn given(&self, name: &str) -> Option<String> {
        (self.variable)(name).map(|value| value.trim().to_owned())
    }

    /// The first valid value among the variables.
    fn first<T>(
        &mut self,
        names: impl IntoIterator<Item = String>,
        must: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        for name in names {
            let Some(value) = self.given(&name) else {
                continue;
            };
            let value = read(&value);
            if value.is_some() {
                return value;
            }
            self.ignore(&name, must);
        }
        None
    }

    /// The first valid keyword among the variables, in lower case.
    fn word<T>(
        &mut self,
        names: impl IntoIterator<Item = String>,
        must: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        self.first(names, must, |value| read(&value.to_ascii_lowercase()))
    }

    /// The items of a list, in lower case.
    fn words(&self, name: &str) -> Vec<String> {
        let value = self.given(name).unwrap_or_default().to_ascii_lowercase();
        let words = value.split(',').map(str::trim);
        let words = words.filter(|word| !word.is_empty());
        words.map(str::to_owned).collect()
    }

    /// Only `true` is true.
    fn is_true(&mut self, names: impl IntoIterator<Item = String>) -> bool {
        let mut given = names.into_iter();
        let given = given.find_map(|name| Some((self.given(&name)?, name)));
        let Some((value, name)) = given else {
            return false;
        };
        let is_true = value.eq_ignore_ascii_case("true");
        if !is_true && !value.eq_ignore_ascii_case("false") {
            self.report_ignored(&name, "counts as false: it must be true or false");
        }
        is_true
    }

    fn number(&mut self, name: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let must = format!("a whole number from {} to {}", range.start(), range.end());
        self.first([name.to_owned()], &must, |value| {
            value.parse().ok().filter(|number| range.contains(number))
        })
    }

    fn milliseconds(&mut self, names: impl IntoIterator<Item = String>) -> Option<Duration> {
        let number = self.first(names, "a number of milliseconds, of at least 1", |value| {
            value.parse().ok().filter(|number| TIMES.contains(number))
        });
        number.map(Duration::from_millis)
    }

    fn batches(&mut self, prefix: &str, default: BatchLimits) -> BatchLimits {
        let mut count = |what, default| {
            let number = self.number(&format!("{prefix}_{what}"), QUEUES);
            number
                .and_then(|number| number.try_into().ok())
                .unwrap_or(default)
        };
        BatchLimits {
            queue: count("MAX_QUEUE_SIZE", default.queue),
            size: count("MAX_EXPORT_BATCH_SIZE", default.size),
            delay: self
                .milliseconds([format!("{prefix}_SCHEDULE_DELAY")])
                .unwrap_or(default.delay),
        }
    }

    fn temporality(&mut self) -> Temporality {
        let name = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE".to_owned();
        let must = "cumulative, delta or lowmemory";
        let temporality = self.word([name], must, |word| match word {
            "cumulative" => Some(Temporality::Cumulative),
            "delta" => Some(Temporality::Delta),
            "lowmemory" => Some(Temporality::LowMemory),
            _ => None,
        });
        temporality.unwrap_or(Temporality::Cumulative)
    }

    /// The service's name, and the other resource attributes.
    fn resource(&mut self) -> (String, Vec<(String, String)>) {
        let name = "OTEL_RESOURCE_ATTRIBUTES".to_owned();
        let must = "attributes, as in name=value,name=value";
        let mut attributes = self.first([name], must, pairs).unwrap_or_default();
        let mut called = None;
        attributes.retain(|(key, value)| {
            let is_name = key == "service.name";
            if is_name {
                called = Some(value.clone());
            }
            !is_name
        });
        let called = self.given("OTEL_SERVICE_NAME").or(called);
        (
            called.unwrap_or_else(|| SERVICE_NAME.to_owned()),
            attributes,
        )
    }

    /// Which calls are traced.
    fn rule(&mut self) -> Rule {
        let takes_parents = self.propagators();
        let name = "OTEL_TRACES_SAMPLER".to_owned();
        let must = "always_on, always_off or traceidratio, with or without parentbased_ before it";
        // The parts of the rule that a sampler's argument does not set.
        let sampler = self.word([name], must, |word| {
            let (by_parent, of_roots) = match word.strip_prefix("parentbased_") {
                Some(of_roots) => (true, of_roots),
                None => (false, word),
            };
            match of_roots {
                "always_on" => Some((by_parent, Some(1.0))),
                "always_off" => Some((by_parent, Some(0.0))),
                "traceidratio" => Some((by_parent, None)),
                _ => None,
            }
        });
        let (by_parent, ratio) = sampler.unwrap_or((true, Some(1.0)));
        Rule {
            ratio: ratio.unwrap_or_else(|| self.ratio()),
            by_parent,
            takes_parents,
        }
    }

    fn ratio(&mut self) -> f64 {
        let name = "OTEL_TRACES_SAMPLER_ARG".to_owned();
        let ratio = self.first([name], "a number from 0 to 1", |value| {
            let ratio = value.parse().ok();
            ratio.filter(|ratio| (0.0..=1.0).contains(ratio))
        });
        ratio.unwrap_or(1.0)
    }

    /// Whether the callers' trace context is used.
    fn propagators(&mut self) -> bool {
        let name = "OTEL_PROPAGATORS";
        let mut takes = None;
        for word in self.words(name) {
            match word.as_str() {
                "tracecontext" => takes = Some(true),
                // Not used here.
                "baggage" | "none" => takes = takes.or(Some(false)),
                _ => self.report_ignored(
                    name,
                    "names a propagator that is ignored: there are tracecontext, baggage and none",
                ),
            }
        }
        takes.unwrap_or(true)
    }
}

/// Parses `key=value,key=value`; `None` if one of the pairs is invalid.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    parts(text).map(pair).collect()
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').filter(|part| !part.trim().is_empty())
}

/// Parses `key=value`, with the value percent-encoded (W3C baggage).
fn pair(text: &str) -> Option<(String, String)> {
    let (key, value) = text.split_once('=')?;
    let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
    let key = key.trim();
    (!key.is_empty()).then(|| (key.to_owned(), value.into_owned()))
}
