//! What platforms set for whatever runs there does not keep the service from starting, and is
//! logged.

use hitkeep_auth::domain::caller::CallerPermission::Introspect;
use opentelemetry_proto::tonic::logs::v1::SeverityNumber;

use super::{
    collector::{BufferedBytes, attribute},
    run::{Run, TRACE, traced, within},
};
use crate::fixtures::*;

#[tokio::test]
async fn what_is_not_spoken_here_is_told_and_passed_over() {
    let secret = "very-secret-key";
    let run = Run::with(|collector, command| {
        traced(collector, command);
        command
            .env(
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                format!("http://{}/v1/traces", collector.address),
            )
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", "gRPC")
            .env("OTEL_PROPAGATORS", "tracecontext,baggage,b3")
            .env("OTEL_TRACES_SAMPLER", "ALWAYS_ON")
            .env("OTEL_BSP_MAX_QUEUE_SIZE", "99999999999999")
            .env("OTEL_EXPORTER_OTLP_HEADERS", secret)
            .env("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "https://127.0.0.1")
            .env("OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", "/nowhere/ca.pem");
    })
    .await;
    // The caller does not record it, and the sampler records everything.
    let sidecar = within(run.caller(Introspect).await, TRACE, "00");
    sidecar.introspect(introspect("hkp_x")).await.unwrap();
    let name = "hitkeep.auth.v1.IntrospectionService/Introspect";
    run.collector.span(TRACE, name).await;
    let told = [
        ("OTEL_PROPAGATORS", SeverityNumber::Warn),
        ("OTEL_BSP_MAX_QUEUE_SIZE", SeverityNumber::Warn),
        ("OTEL_EXPORTER_OTLP_HEADERS", SeverityNumber::Warn),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", SeverityNumber::Warn),
        (
            "OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE",
            SeverityNumber::Error,
        ),
    ];
    for (variable, severity) in told {
        let find = |kept: &BufferedBytes| {
            let mut logs = kept.logs.iter();
            let of = logs.find(|log| attribute(&log.attributes, "variable") == variable);
            of.cloned()
        };
        let log = run.collector.until(variable, find).await;
        assert_eq!(log.severity_number(), severity, "{variable}");
    }
    let (ended, collector) = run.stop().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for (variable, severity) in told {
        let lines = ended.stderr.lines();
        let lines: Vec<_> = lines.filter(|line| line.contains(variable)).collect();
        let [line] = lines.as_slice() else {
            panic!("one line about {variable}: {}", ended.stderr)
        };
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let level = match severity {
            SeverityNumber::Warn => "WARN",
            _ => "ERROR",
        };
        assert_eq!(line["level"], level);
    }
    assert!(ended.stderr.contains("/nowhere/ca.pem"), "{}", ended.stderr);
    let kept = collector.kept();
    assert!(kept.metrics.is_empty());
    let bytes = String::from_utf8_lossy(&kept.bytes);
    assert!(!bytes.contains(secret) && !ended.stderr.contains(secret));
}
