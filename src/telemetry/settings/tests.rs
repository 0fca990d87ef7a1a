//! What the variables result in, and which problems are reported.

use std::{cell::RefCell, collections::BTreeSet};

use super::*;

fn read(variables: &[(&str, &str)]) -> ExportSettings {
    ExportSettings::read(|name| {
        let mut variables = variables.iter();
        let (_, value) = variables.find(|(other, _)| *other == name)?;
        Some((*value).to_owned())
    })
}

/// The same, for variables without problems.
fn sound(variables: &[(&str, &str)]) -> ExportSettings {
    let settings = read(variables);
    assert_eq!(settings.problems, [], "{variables:?}");
    settings
}

impl ExportSettings {
    fn exports(&self) -> bool {
        self.traces.is_some() || self.metrics.is_some() || self.logs.is_some()
    }
}

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
const COLLECTOR: (&str, &str) = (ENDPOINT, "http://collector:4317");

#[test]
fn nothing_is_exported_without_a_collector() {
    for variables in [
        &[][..],
        &[(ENDPOINT, "")],
        &[(ENDPOINT, " ")],
        &[
            ("OTEL_TRACES_SAMPLER", "always_on"),
            ("OTEL_SERVICE_NAME", "x"),
        ],
        &[COLLECTOR, ("OTEL_SDK_DISABLED", "True")],
        &[
            COLLECTOR,
            ("OTEL_TRACES_EXPORTER", "none"),
            ("OTEL_METRICS_EXPORTER", "None"),
            ("OTEL_LOGS_EXPORTER", "none,"),
        ],
    ] {
        assert!(!sound(variables).exports(), "{variables:?}");
    }
}

#[test]
fn one_collector_gets_everything() {
    let settings = sound(&[
        COLLECTOR,
        (PROTOCOL, "GRPC"),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "x-key=a%20secret, x-tenant=one,",
        ),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "GZip"),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "service.name=other,deployment.environment.name=test",
        ),
        ("OTEL_METRIC_EXPORT_INTERVAL", "5000"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "20"),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "0"),
    ]);
    let traces = settings.traces.clone().unwrap();
    assert_eq!(traces.endpoint.to_string(), "http://collector:4317/");
    assert_eq!(traces.protocol, Protocol::Grpc);
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
    assert_eq!((settings.spans.queue, settings.spans.size), (100, 512));
    assert_eq!(settings.spans.delay, Duration::from_secs(5));
    assert_eq!(settings.records.queue, 2048);
    assert_eq!(settings.records.delay, Duration::from_millis(20));
    assert!(!format!("{settings:?}").contains("secret"));
}

#[test]
fn a_signals_own_variable_takes_precedence() {
    let settings = sound(&[
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
    ]);
    let traces = settings.traces.unwrap();
    assert_eq!(traces.endpoint.to_string(), "https://traces.example:443/");
    assert_eq!(traces.timeout, Duration::from_millis(1));
    assert!(settings.logs.is_none() && settings.metrics.is_none());
    assert_eq!(settings.service_name, "mine");
}

#[test]
fn an_endpoint_without_a_scheme_uses_tls_by_default() {
    let endpoint = |more: &[(&str, &str)]| {
        let all = [&[(ENDPOINT, "collector:4317")], more].concat();
        sound(&all).traces.unwrap().endpoint.to_string()
    };
    assert_eq!(endpoint(&[]), "https://collector:4317/");
    let insecure = ("OTEL_EXPORTER_OTLP_INSECURE", "TRUE");
    assert_eq!(endpoint(&[insecure]), "http://collector:4317/");
}

/// The protocol variable decides, then the endpoint, and the default is gRPC.
#[test]
fn both_protocols_are_supported() {
    let own = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
    let (grpc, http) = ((PROTOCOL, "grpc"), (PROTOCOL, "HTTP/Protobuf"));
    for (variables, protocol, traces, logs) in [
        (
            &[COLLECTOR][..],
            Protocol::Grpc,
            "http://collector:4317/",
            "http://collector:4317/",
        ),
        (
            &[(ENDPOINT, "http://collector")],
            Protocol::Grpc,
            "http://collector/",
            "http://collector/",
        ),
        (
            &[(ENDPOINT, "http://collector:4318")],
            Protocol::Http,
            "http://collector:4318/v1/traces",
            "http://collector:4318/v1/logs",
        ),
        (
            &[(ENDPOINT, "https://otlp.example/otlp/")],
            Protocol::Http,
            "https://otlp.example/otlp/v1/traces",
            "https://otlp.example/otlp/v1/logs",
        ),
        (
            &[COLLECTOR, http],
            Protocol::Http,
            "http://collector:4317/v1/traces",
            "http://collector:4317/v1/logs",
        ),
        (
            &[(ENDPOINT, "http://collector:4318"), grpc],
            Protocol::Grpc,
            "http://collector:4318/",
            "http://collector:4318/",
        ),
        // A signal's own endpoint is used as it is.
        (
            &[
                (own, "http://collector:4318/my/traces?key=1"),
                (ENDPOINT, "http://other:4318/a?key=2"),
            ],
            Protocol::Http,
            "http://collector:4318/my/traces?key=1",
            "http://other:4318/a/v1/logs?key=2",
        ),
        (
            &[(own, "http://collector:4318"), COLLECTOR, http],
            Protocol::Http,
            "http://collector:4318/",
            "http://collector:4317/v1/logs",
        ),
        // The exporter is named, but no collector.
        (
            &[
                ("OTEL_TRACES_EXPORTER", "otlp"),
                ("OTEL_LOGS_EXPORTER", "OTLP"),
            ],
            Protocol::Grpc,
            "http://localhost:4317/",
            "http://localhost:4317/",
        ),
        (
            &[
                http,
                ("OTEL_TRACES_EXPORTER", "otlp"),
                ("OTEL_LOGS_EXPORTER", "otlp"),
            ],
            Protocol::Http,
            "http://localhost:4318/v1/traces",
            "http://localhost:4318/v1/logs",
        ),
    ] {
        let settings = sound(variables);
        let collector = settings.traces.unwrap();
        assert_eq!(collector.protocol, protocol, "{variables:?}");
        assert_eq!(collector.endpoint.to_string(), traces);
        assert_eq!(settings.logs.unwrap().endpoint.to_string(), logs);
    }
    // Each signal has its own protocol.
    let settings = sound(&[
        COLLECTOR,
        (own, "http://collector:4318/v1/traces"),
        ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/protobuf"),
    ]);
    let protocol = |collector: Option<Collector>| collector.unwrap().protocol;
    assert_eq!(protocol(settings.traces), Protocol::Http);
    assert_eq!(protocol(settings.metrics), Protocol::Grpc);
    assert_eq!(protocol(settings.logs), Protocol::Http);
}

#[test]
fn samplers_are_those_of_the_specification() {
    let rule = |sampler, argument| {
        let sampler = ("OTEL_TRACES_SAMPLER", sampler);
        let argument = ("OTEL_TRACES_SAMPLER_ARG", argument);
        let rule = sound(&[COLLECTOR, sampler, argument]).rule;
        (rule.ratio, rule.by_parent)
    };
    assert_eq!(rule("", ""), (1.0, true));
    assert_eq!(rule("always_on", "0.5"), (1.0, false));
    assert_eq!(rule("ALWAYS_ON", ""), (1.0, false));
    assert_eq!(rule("always_off", ""), (0.0, false));
    assert_eq!(rule("traceidratio", "0.25"), (0.25, false));
    assert_eq!(rule("traceidratio", ""), (1.0, false));
    assert_eq!(rule("parentbased_always_on", ""), (1.0, true));
    assert_eq!(rule("parentbased_always_off", ""), (0.0, true));
    assert_eq!(rule("ParentBased_TraceIdRatio", "0.01"), (0.01, true));
    let takes = |propagators| {
        let propagators = ("OTEL_PROPAGATORS", propagators);
        sound(&[COLLECTOR, propagators]).rule.takes_parents
    };
    assert!(takes("") && takes("tracecontext,baggage") && takes("baggage, TraceContext"));
    assert!(!takes("none") && !takes("baggage"));
}

/// A platform may set variables for all its processes: an invalid one counts as unset.
#[test]
fn invalid_variables_are_reported_and_ignored() {
    let default = sound(&[COLLECTOR]);
    for wrong in [
        &[("OTEL_SDK_DISABLED", "perhaps")][..],
        &[("OTEL_SDK_DISABLED", "1")],
        &[("OTEL_METRICS_EXPORTER", "console")],
        &[("OTEL_TRACES_EXPORTER", "zipkin,jaeger")],
        &[(PROTOCOL, "http/json")],
        &[("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/json")],
        &[("OTEL_EXPORTER_OTLP_HEADERS", "secret")],
        &[("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a b=secret")],
        &[("OTEL_EXPORTER_OTLP_TIMEOUT", "10s")],
        &[("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "0")],
        &[("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd")],
        &[("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/secret")],
        &[("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/secret")],
        &[("OTEL_RESOURCE_ATTRIBUTES", "a=b,secret")],
        &[("OTEL_TRACES_SAMPLER", "parentbased_jaeger_remote")],
        &[("OTEL_PROPAGATORS", "b3,b3multi")],
        &[("OTEL_METRIC_EXPORT_INTERVAL", "often")],
        &[("OTEL_BSP_MAX_QUEUE_SIZE", "-1")],
        &[("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "99999999999999")],
        &[("OTEL_BSP_SCHEDULE_DELAY", "0")],
        &[("OTEL_SPAN_LINK_COUNT_LIMIT", "none")],
        &[("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "x")],
    ] {
        let (name, _) = wrong[0];
        let settings = read(&[&[COLLECTOR], wrong].concat());
        let [reported] = settings.problems.as_slice() else {
            panic!("{name}: {:?}", settings.problems);
        };
        assert!(
            matches!(reported, SettingProblem::Ignored { .. }),
            "{reported}"
        );
        let reported = reported.to_string();
        assert!(reported.starts_with(name), "{reported}");
        assert!(!reported.contains("secret"), "{reported}");
        assert_eq!(settings.traces, default.traces, "{name}");
        assert_eq!(settings.metrics, default.metrics, "{name}");
        assert_eq!(settings.logs, default.logs, "{name}");
        assert_eq!(settings.rule, default.rule, "{name}");
        assert_eq!(settings.resource, default.resource, "{name}");
        assert_eq!(settings.spans, default.spans, "{name}");
        assert_eq!(settings.records, default.records, "{name}");
        assert_eq!(settings.metrics_interval, default.metrics_interval);
    }
}

#[test]
fn valid_parts_of_invalid_variables_apply() {
    let settings = read(&[
        COLLECTOR,
        ("OTEL_TRACES_EXPORTER", "console,none"),
        ("OTEL_PROPAGATORS", "b3,none"),
        ("OTEL_TRACES_SAMPLER", "traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "1.5"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "secret,x-tenant=one"),
        ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "zstd"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        (
            "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
            "http://logs:4317/v1/logs",
        ),
        ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "grpc"),
    ]);
    let reported: Vec<_> = settings
        .problems
        .iter()
        .map(SettingProblem::to_string)
        .collect();
    assert_eq!(reported.len(), 6, "{reported:#?}");
    assert!(settings.traces.is_none());
    assert!(!settings.rule.takes_parents && !settings.rule.by_parent);
    assert!((settings.rule.ratio - 1.0).abs() < f64::EPSILON);
    let metrics = settings.metrics.unwrap();
    assert!(metrics.gzip);
    assert_eq!(metrics.headers.len(), 1);
    // Over gRPC, the path of the endpoint has no meaning.
    let logs = settings.logs.unwrap();
    assert_eq!(logs.endpoint.to_string(), "http://logs:4317/");
}

#[test]
fn an_invalid_endpoint_disables_its_signal_only() {
    for wrong in [
        "ftp://secret",
        "http://",
        "http://somebody:secret@collector:4317",
        "http://secret collector",
    ] {
        let settings = read(&[COLLECTOR, ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", wrong)]);
        assert!(settings.logs.is_none() && settings.traces.is_some());
        let [reported] = settings.problems.as_slice() else {
            panic!("{wrong}: {:?}", settings.problems);
        };
        let reported = reported.to_string();
        assert!(reported.starts_with("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT must"));
        assert!(reported.ends_with("no logs are exported"), "{reported}");
        assert!(!reported.contains("secret"), "{reported}");

        let settings = read(&[(ENDPOINT, wrong)]);
        assert!(!settings.exports());
        assert_eq!(settings.problems.len(), 3, "{:?}", settings.problems);
    }
}

/// docs/telemetry.md lists exactly the variables that are read.
#[test]
fn the_document_has_the_variables_that_are_read() {
    let asked = RefCell::new(BTreeSet::new());
    let given = [COLLECTOR, ("OTEL_TRACES_SAMPLER", "traceidratio")];
    let schemeless = [(ENDPOINT, "collector:4317"), given[1]];
    for given in [given, schemeless] {
        ExportSettings::read(|name| {
            asked.borrow_mut().insert(name.to_owned());
            let (_, value) = given.iter().find(|(other, _)| *other == name)?;
            Some((*value).to_owned())
        });
    }
    let document = include_str!("../../../docs/telemetry.md");
    let rows = document.lines().filter(|line| line.starts_with("| `OTEL_"));
    let first = rows.filter_map(|row| row.split('|').nth(1));
    let mut documented = BTreeSet::new();
    for names in first {
        for name in names.split(',').map(|name| name.trim().trim_matches('`')) {
            documented.insert(name.replace('…', "OTEL_EXPORTER_OTLP"));
        }
    }
    // Variables of single signals are documented together, except for the endpoint's.
    let own = ["_TRACES_", "_METRICS_", "_LOGS_"].map(|own| format!("OTEL_EXPORTER_OTLP{own}"));
    let is_of_all = |name: &&String| {
        let is_own = own.iter().any(|own| name.starts_with(own));
        !is_own || name.ends_with("_ENDPOINT") || name.contains("TEMPORALITY")
    };
    let asked = asked.into_inner();
    let asked: BTreeSet<_> = asked.iter().filter(is_of_all).cloned().collect();
    assert_eq!(documented, asked);
}
