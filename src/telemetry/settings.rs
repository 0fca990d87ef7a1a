//! What the standard variables of OpenTelemetry (`OTEL_…`) say: what is exported
//! over OTLP, where to, and which calls are traced. Nothing is exported where they
//! name no collector.
//!
//! What cannot be read, or is not there to be had, is told with all the rest that is
//! wrong, and not passed over. Values are not repeated where they may be secret.

use std::{fmt, path::PathBuf, time::Duration};

use http::{HeaderName, HeaderValue, Uri};
use opentelemetry_sdk::metrics::Temporality;
use percent_encoding::percent_decode_str;

use super::traces::Rule;

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
    /// How often metrics are exported.
    pub metrics_interval: Duration,
    /// Whether counts are exported as sums or as differences.
    pub temporality: Temporality,
}

/// Where something is exported to.
#[derive(Clone, PartialEq, Eq)]
pub struct Collector {
    /// Its address.
    pub endpoint: Uri,
    /// What is sent with each export, such as a key.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// How long an export may take.
    pub timeout: Duration,
    /// Whether exports are compressed.
    pub gzip: bool,
    /// Whom to trust, where that is not whom the system trusts.
    pub certificate: Option<PathBuf>,
    /// What to show: a certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // There may be a secret in the headers.
        f.write_str("Collector")
    }
}

/// Variables that are wrong, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct WrongSettings(Vec<String>);

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

impl Settings {
    /// Reads the variables: `variable` gives the value of one, if it has any.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, WrongSettings> {
        let mut reader = Reader {
            // One that is set to nothing is not set.
            variable: &|name| variable(name).filter(|value| !value.trim().is_empty()),
            wrong: Vec::new(),
        };
        let settings = reader.settings();
        if reader.wrong.is_empty() {
            Ok(settings)
        } else {
            Err(WrongSettings(reader.wrong))
        }
    }

    /// Whether anything is exported.
    pub const fn exports(&self) -> bool {
        self.traces.is_some() || self.metrics.is_some() || self.logs.is_some()
    }
}

struct Reader<'v> {
    variable: &'v dyn Fn(&str) -> Option<String>,
    wrong: Vec<String>,
}

impl Reader<'_> {
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
        let attributes = self.given(name).map_or(Some(Vec::new()), |text| pairs(&text));
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
        (called.unwrap_or_else(|| SERVICE_NAME.to_owned()), attributes)
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
        let ratio = value.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
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
                _ => self.wrong(name, "must be tracecontext, baggage or none: there is no other"),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, WrongSettings> {
        Settings::read(|name| {
            let mut variables = variables.iter();
            let (_, value) = variables.find(|(other, _)| *other == name)?;
            Some((*value).to_owned())
        })
    }

    const COLLECTOR: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");

    #[test]
    fn nothing_is_exported_without_a_collector() {
        for variables in [
            &[][..],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")],
            &[("OTEL_TRACES_SAMPLER", "always_on"), ("OTEL_SERVICE_NAME", "x")],
            &[COLLECTOR, ("OTEL_SDK_DISABLED", "true")],
            &[
                COLLECTOR,
                ("OTEL_TRACES_EXPORTER", "none"),
                ("OTEL_METRICS_EXPORTER", "none"),
                ("OTEL_LOGS_EXPORTER", "none"),
            ],
        ] {
            assert!(!read(variables).unwrap().exports(), "{variables:?}");
        }
    }

    #[test]
    fn one_collector_gets_everything() {
        let settings = read(&[
            COLLECTOR,
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20secret, x-tenant=one,"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,deployment.environment.name=test"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "5000"),
        ])
        .unwrap();
        let traces = settings.traces.clone().unwrap();
        assert_eq!(traces.endpoint.to_string(), "http://collector:4317/");
        assert_eq!(traces.timeout, Duration::from_millis(2500));
        assert!(traces.gzip);
        let headers: Vec<_> = traces
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        assert_eq!(headers, [("x-key", "a secret"), ("x-tenant", "one")]);
        assert_eq!(settings.metrics.as_ref(), Some(&traces));
        assert_eq!(settings.logs.as_ref(), Some(&traces));
        assert_eq!(settings.service_name, "other");
        let environment = ("deployment.environment.name".to_owned(), "test".to_owned());
        assert_eq!(settings.resource, [environment]);
        assert_eq!(settings.metrics_interval, Duration::from_secs(5));
        assert!(!format!("{settings:?}").contains("secret"));
    }

    #[test]
    fn a_signals_own_variable_is_worth_more() {
        let settings = read(&[
            COLLECTOR,
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://traces.example:443"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "1"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2"),
            ("OTEL_LOGS_EXPORTER", "none"),
            ("OTEL_METRICS_EXPORTER", "prometheus"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other"),
            ("OTEL_SERVICE_NAME", "mine"),
        ])
        .unwrap();
        let traces = settings.traces.unwrap();
        assert_eq!(traces.endpoint.to_string(), "https://traces.example:443/");
        assert_eq!(traces.timeout, Duration::from_millis(1));
        assert!(settings.logs.is_none() && settings.metrics.is_none());
        assert_eq!(settings.service_name, "mine");
    }

    #[test]
    fn an_address_without_a_scheme_is_encrypted_unless_said_otherwise() {
        let name = "OTEL_EXPORTER_OTLP_ENDPOINT";
        let endpoint = |more: &[(&str, &str)]| {
            let all = [&[(name, "collector:4317")], more].concat();
            read(&all).unwrap().traces.unwrap().endpoint.to_string()
        };
        assert_eq!(endpoint(&[]), "https://collector:4317/");
        let insecure = ("OTEL_EXPORTER_OTLP_INSECURE", "true");
        assert_eq!(endpoint(&[insecure]), "http://collector:4317/");
    }

    #[test]
    fn samplers_are_those_of_the_specification() {
        let rule = |sampler, argument| {
            let sampler = ("OTEL_TRACES_SAMPLER", sampler);
            let argument = ("OTEL_TRACES_SAMPLER_ARG", argument);
            let rule = read(&[COLLECTOR, sampler, argument]).unwrap().rule;
            (rule.ratio, rule.by_parent)
        };
        assert_eq!(rule("", ""), (1.0, true));
        assert_eq!(rule("always_on", "0.5"), (1.0, false));
        assert_eq!(rule("always_off", ""), (0.0, false));
        assert_eq!(rule("traceidratio", "0.25"), (0.25, false));
        assert_eq!(rule("traceidratio", ""), (1.0, false));
        assert_eq!(rule("parentbased_always_on", ""), (1.0, true));
        assert_eq!(rule("parentbased_always_off", ""), (0.0, true));
        assert_eq!(rule("parentbased_traceidratio", "0.01"), (0.01, true));
        let takes = |propagators| {
            let propagators = ("OTEL_PROPAGATORS", propagators);
            read(&[COLLECTOR, propagators]).unwrap().rule.takes_parents
        };
        assert!(takes("") && takes("tracecontext,baggage") && !takes("none"));
    }

    #[test]
    fn everything_that_is_wrong_is_told_and_no_secret() {
        let endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT";
        for wrong in [
            &[("OTEL_SDK_DISABLED", "perhaps")][..],
            &[("OTEL_TRACES_EXPORTER", "otlp")],
            &[("OTEL_METRICS_EXPORTER", "console"), COLLECTOR],
            &[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"), COLLECTOR],
            &[("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/json"), COLLECTOR],
            &[(endpoint, "ftp://secret")],
            &[(endpoint, "http://")],
            &[(endpoint, "http://somebody:secret@collector:4317")],
            &[(endpoint, "http://collector:4318/v1/traces?secret")],
            &[(endpoint, "http://secret collector")],
            &[("OTEL_EXPORTER_OTLP_HEADERS", "secret"), COLLECTOR],
            &[("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a b=secret"), COLLECTOR],
            &[("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"), COLLECTOR],
            &[("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "0"), COLLECTOR],
            &[("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"), COLLECTOR],
            &[("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/secret"), COLLECTOR],
            &[("OTEL_RESOURCE_ATTRIBUTES", "secret"), COLLECTOR],
            &[("OTEL_TRACES_SAMPLER", "jaeger_remote"), COLLECTOR],
            &[
                ("OTEL_TRACES_SAMPLER_ARG", "1.5"),
                ("OTEL_TRACES_SAMPLER", "traceidratio"),
                COLLECTOR,
            ],
            &[("OTEL_PROPAGATORS", "b3"), COLLECTOR],
            &[("OTEL_METRIC_EXPORT_INTERVAL", "often"), COLLECTOR],
            &[("OTEL_BSP_MAX_QUEUE_SIZE", "-1"), COLLECTOR],
            &[
                ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "x"),
                COLLECTOR,
            ],
        ] {
            let (name, _) = wrong[0];
            let told = read(wrong).expect_err(name).to_string();
            assert!(told.contains(name), "{told}");
            assert!(!told.contains("secret"), "{told}");
        }
        let several = [
            COLLECTOR,
            ("OTEL_TRACES_SAMPLER", "x"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "x"),
        ];
        let told = read(&several).unwrap_err().to_string();
        assert!(told.contains("OTEL_TRACES_SAMPLER "), "{told}");
        assert!(told.contains("OTEL_EXPORTER_OTLP_COMPRESSION "), "{told}");
    }
}
