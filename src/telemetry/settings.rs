//! What the standard variables of OpenTelemetry (`OTEL_…`) say: what is exported
//! over OTLP, where to, and which calls are traced. Nothing is exported where they
//! name no collector.
//!
//! What cannot be read, or is not there to be had, is told with all the rest that is
//! wrong, and not passed over. Values are not repeated where they may be secret.

use std::{fmt, path::PathBuf, time::Duration};

use http::{HeaderName, HeaderValue, Uri};
use opentelemetry_sdk::metrics::Temporality;

mod reader;

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

impl Settings {
    /// Reads the variables: `variable` gives the value of one, if it has any.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, WrongSettings> {
        // One that is set to nothing is not set.
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let (settings, wrong) = Reader::read(&variable);
        if wrong.is_empty() {
            Ok(settings)
        } else {
            Err(WrongSettings(wrong))
        }
    }

    /// Whether anything is exported.
    pub const fn exports(&self) -> bool {
        self.traces.is_some() || self.metrics.is_some() || self.logs.is_some()
    }
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
            &[
                ("OTEL_TRACES_SAMPLER", "always_on"),
                ("OTEL_SERVICE_NAME", "x"),
            ],
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
            (
                "OTEL_EXPORTER_OTLP_HEADERS",
                "x-key=a%20secret, x-tenant=one,",
            ),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            (
                "OTEL_RESOURCE_ATTRIBUTES",
                "service.name=other,deployment.environment.name=test",
            ),
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
            (
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                "https://traces.example:443",
            ),
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
            &[
                ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a b=secret"),
                COLLECTOR,
            ],
            &[("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"), COLLECTOR],
            &[("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "0"), COLLECTOR],
            &[("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"), COLLECTOR],
            &[
                ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/secret"),
                COLLECTOR,
            ],
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
