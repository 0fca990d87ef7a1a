//! Reading the variables one by one, as OpenTelemetry's specification has them.

use std::{fmt, time::Duration};

use http::{HeaderName, HeaderValue, Uri};
use opentelemetry_sdk::metrics::Temporality;
use percent_encoding::percent_decode_str;

use super::{Collector, Rule, Settings};

/// What this program is called where nobody calls it something else.
const SERVICE_NAME: &str = "hitkeep-auth";
/// How long an export may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often metrics are exported.
const METRICS_INTERVAL: Duration = Duration::from_mins(1);
/// Numbers that the SDK reads by itself, and passes over where they are none.
const NUMBERS: [&str; 13] = [
    "OTEL_BLRP_EXPORT_TIMEOUT",
    "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_BLRP_MAX_QUEUE_SIZE",
    "OTEL_BLRP_SCHEDULE_DELAY",
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_METRIC_EXPORT_TIMEOUT",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
];

/// What can be exported, as variables spell it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Signal {
    Traces,
    Metrics,
    Logs,
}

impl Signal {
    const fn word(self) -> &'static str {
        match self {
            Self::Traces => "TRACES",
            Self::Metrics => "METRICS",
            Self::Logs => "LOGS",
        }
    }
}

/// Reads variables, and notes what is wrong with them.
pub(super) struct Reader<'v> {
    variable: &'v dyn Fn(&str) -> Option<String>,
    wrong: Vec<String>,
}

impl<'v> Reader<'v> {
    /// What the variables say, and all that is wrong with them.
    pub(super) fn read(variable: &'v dyn Fn(&str) -> Option<String>) -> (Settings, Vec<String>) {
        let mut reader = Self {
            variable,
            wrong: Vec::new(),
        };
        let settings = reader.settings();
        (settings, reader.wrong)
    }

    fn settings(&mut self) -> Settings {
        if self.yes_or_no("OTEL_SDK_DISABLED") {
            return Settings::default();
        }
        let [traces, metrics, logs] =
            [Signal::Traces, Signal::Metrics, Signal::Logs].map(|signal| self.collector(signal));
        if traces.is_none() && metrics.is_none() && logs.is_none() {
            return Settings::default();
        }
        for name in NUMBERS {
            self.number(name);
        }
        let (service_name, resource) = self.resource();
        Settings {
            rule: self.rule(),
            resource,
            service_name,
            metrics_interval: self
                .milliseconds("OTEL_METRIC_EXPORT_INTERVAL")
                .unwrap_or(METRICS_INTERVAL),
            temporality: self.temporality(),
            traces,
            metrics,
            logs,
        }
    }

    fn wrong(&mut self, name: &str, why: impl fmt::Display) {
        let wrong = format!("{name} {why}");
        // What is for all signals is read for each.
        if !self.wrong.contains(&wrong) {
            self.wrong.push(wrong);
        }
    }

    fn given(&self, name: &str) -> Option<String> {
        (self.variable)(name).map(|value| value.trim().to_owned())
    }

    /// A signal's own variable, or else the one for all signals, with its name.
    fn of_signal(&self, signal: Signal, what: &str) -> Option<(String, String)> {
        let own = format!("OTEL_EXPORTER_OTLP_{}_{what}", signal.word());
        let of_all = format!("OTEL_EXPORTER_OTLP_{what}");
        [own, of_all]
            .into_iter()
            .find_map(|name| self.given(&name).map(|value| (name, value)))
    }

    fn yes_or_no(&mut self, name: &str) -> bool {
        let Some(value) = self.given(name) else {
            return false;
        };
        match value.to_ascii_lowercase().as_str() {
            "true" => true,
            "false" => false,
            _ => {
                self.wrong(name, "must be true or false");
                false
            }
        }
    }

    fn number(&mut self, name: &str) -> Option<u64> {
        let value = self.given(name)?;
        let number = value.parse().ok().filter(|number| *number > 0);
        if number.is_none() {
            self.wrong(name, "must be a whole number of at least 1");
        }
        number
    }

    fn milliseconds(&mut self, name: &str) -> Option<Duration> {
        self.number(name).map(Duration::from_millis)
    }

    /// Where a signal goes.
    fn collector(&mut self, signal: Signal) -> Option<Collector> {
        let exporter = format!("OTEL_{}_EXPORTER", signal.word());
        let (named, over_otlp) = self.exporter(&exporter, signal);
        let Some((name, value)) = self.of_signal(signal, "ENDPOINT") else {
            if named && over_otlp {
                let variables = format!(
                    "is otlp, so OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_{}_ENDPOINT \
                     must name a collector",
                    signal.word()
                );
                self.wrong(&exporter, variables);
            }
            return None;
        };
        if !over_otlp {
            return None;
        }
        self.protocol(signal);
        let endpoint = self.endpoint(signal, &name, &value);
        let headers = self.headers(signal);
        let timeout = match self.of_signal(signal, "TIMEOUT") {
            // The one for all is looked at with the other numbers.
            Some((name, value)) if name == "OTEL_EXPORTER_OTLP_TIMEOUT" => {
                value.parse().ok().map(Duration::from_millis)
            }
            Some((name, _)) => self.milliseconds(&name),
            None => None,
        };
        let file = |what| self.of_signal(signal, what).map(|(_, path)| path.into());
        let certificate = file("CERTIFICATE");
        let identity = match (file("CLIENT_CERTIFICATE"), file("CLIENT_KEY")) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                let both = "and OTEL_EXPORTER_OTLP_CLIENT_KEY go together: one of them is missing";
                self.wrong("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", both);
                None
            }
        };
        Some(Collector {
            endpoint: endpoint?,
            headers,
            timeout: timeout.unwrap_or(TIMEOUT),
            gzip: self.compression(signal),
            certificate,
            identity,
        })
    }

    /// Whether a signal's exporter is named, and whether it is OTLP.
    fn exporter(&mut self, name: &str, signal: Signal) -> (bool, bool) {
        let Some(value) = self.given(name) else {
            return (false, true);
        };
        let mut over_otlp = false;
        for word in value.split(',').map(str::trim) {
            match word {
                "otlp" => over_otlp = true,
                "none" => {}
                // There is always a page for it.
                "prometheus" if signal == Signal::Metrics => {}
                _ => self.wrong(name, "must be otlp or none: there is no other exporter"),
            }
        }
        (true, over_otlp)
    }

    fn protocol(&mut self, signal: Signal) {
        match self.of_signal(signal, "PROTOCOL") {
            None => {}
            Some((_, protocol)) if protocol == "grpc" => {}
            Some((name, _)) => self.wrong(
                &name,
                "must be grpc, which is all that is spoken to collectors; their port for it is \
                 usually 4317",
            ),
        }
    }

    fn endpoint(&mut self, signal: Signal, name: &str, value: &str) -> Option<Uri> {
        let insecure = self
            .of_signal(signal, "INSECURE")
            .is_some_and(|(name, _)| self.yes_or_no(&name));
        let complete = match (value.contains("://"), insecure) {
            (true, _) => value.to_owned(),
            (false, true) => format!("http://{value}"),
            (false, false) => format!("https://{value}"),
        };
        let uri: Option<Uri> = complete.parse().ok();
        let is_usable = |uri: &Uri| {
            let known = matches!(uri.scheme_str(), Some("http" | "https"));
            let has_host = uri.host().is_some_and(|host| !host.is_empty());
            let plain = uri.authority().is_some_and(|at| !at.as_str().contains('@'));
            known && has_host && plain && uri.path() == "/" && uri.query().is_none()
        };
        let uri = uri.filter(is_usable);
        if uri.is_none() {
            self.wrong(
                name,
                "must be a collector's address for gRPC and no more, such as \
                 http://collector:4317",
            );
        }
        uri
    }

    fn headers(&mut self, signal: Signal) -> Vec<(HeaderName, HeaderValue)> {
        let Some((name, value)) = self.of_signal(signal, "HEADERS") else {
            return Vec::new();
        };
        let read = pairs(&value).and_then(|pairs| {
            let header = |(key, value): (String, String)| {
                let mut value = HeaderValue::from_str(&value).ok()?;
                value.set_sensitive(true);
                Some((HeaderName::from_bytes(key.as_bytes()).ok()?, value))
            };
            pairs.into_iter().map(header).collect()
        });
        read.unwrap_or_else(|| {
            self.wrong(&name, "must be headers, as in name=value,name=value");
            Vec::new()
        })
    }

    fn compression(&mut self, signal: Signal) -> bool {
        match self.of_signal(signal, "COMPRESSION") {
            None => false,
            Some((_, value)) if value == "gzip" => true,
            Some((_, value)) if value == "none" => false,
            Some((name, _)) => {
                self.wrong(&name, "must be gzip or none");
                false
            }
        }
    }

    fn temporality(&mut self) -> Temporality {
        let name = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
        let Some(value) = self.given(name) else {
            return Temporality::Cumulative;
        };
        match value.to_ascii_lowercase().as_str() {
            "cumulative" => Temporality::Cumulative,
            "delta" => Temporality::Delta,
            "lowmemory" => Temporality::LowMemory,
            _ => {
                self.wrong(name, "must be cumulative, delta or lowmemory");
                Temporality::Cumulative
            }
        }
    }

    /// The process' name, and what else is said of it.
    fn resource(&mut self) -> (String, Vec<(String, String)>) {
        let name = "OTEL_RESOURCE_ATTRIBUTES";
        let attributes = self
            .given(name)
            .map_or(Some(Vec::new()), |text| pairs(&text));
        let mut attributes = attributes.unwrap_or_else(|| {
            self.wrong(name, "must be attributes, as in name=value,name=value");
            Vec::new()
        });
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
        let name = "OTEL_TRACES_SAMPLER";
        let sampler = self.given(name);
        let sampler = sampler.as_deref().unwrap_or("parentbased_always_on");
        let (by_parent, of_roots) = match sampler.strip_prefix("parentbased_") {
            Some(of_roots) => (true, of_roots),
            None => (false, sampler),
        };
        let ratio = match of_roots {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => self.ratio(),
            _ => {
                self.wrong(
                    name,
                    "must be always_on, always_off or traceidratio, with or without parentbased_ \
                     before it: there is no other sampler",
                );
                1.0
            }
        };
        Rule {
            ratio,
            by_parent,
            takes_parents,
        }
    }

    fn ratio(&mut self) -> f64 {
        let name = "OTEL_TRACES_SAMPLER_ARG";
        let Some(value) = self.given(name) else {
            return 1.0;
        };
        let ratio = value
            .parse()
            .ok()
            .filter(|ratio| (0.0..=1.0).contains(ratio));
        ratio.unwrap_or_else(|| {
            self.wrong(name, "must be a number from 0 to 1");
            1.0
        })
    }

    /// Whether the trace context of callers is taken.
    fn propagators(&mut self) -> bool {
        let name = "OTEL_PROPAGATORS";
        let Some(value) = self.given(name) else {
            return true;
        };
        let mut takes = false;
        for word in value.split(',').map(str::trim) {
            match word {
                "tracecontext" => takes = true,
                // Nothing here reads it.
                "baggage" | "none" => {}
                _ => self.wrong(
                    name,
                    "must be tracecontext, baggage or none: there is no other",
                ),
            }
        }
        takes
    }
}

/// Reads `key=value,key=value`, with values percent-encoded (W3C baggage).
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=')?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
        let key = key.trim();
        (!key.is_empty()).then(|| (key.to_owned(), value.into_owned()))
    };
    text.split(',')
        .filter(|pair| !pair.trim().is_empty())
        .map(pair)
        .collect()
}
