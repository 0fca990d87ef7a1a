//! OTLP over HTTP, as a real collector gets it: under the paths that the standard has,
//! encrypted or not.

use std::sync::Arc;

use hitkeep_auth::domain::caller::CallerPermission::{Introspect, Manage};
use rustls::{ServerConfig, crypto::ring};
use tokio_rustls::TlsAcceptor;

use super::{
    collector::{BufferedBytes, Collector, attribute, hex},
    run::{Run, TRACE, traced, within},
};
use crate::{
    fixtures::*,
    support::{
        certificates::Authority,
        folder::{Folder, text},
    },
};

const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";

/// TLS with a certificate that the authority signed.
fn shown_by(authority: &Authority) -> TlsAcceptor {
    let identity = authority.sign(&["127.0.0.1"]);
    let key = identity.key.serialize_der().try_into().unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![identity.certificate.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

#[tokio::test]
async fn spans_metrics_and_logs_arrive_under_their_paths() {
    let run = Run::beside(Collector::over_http(None).await, |collector, command| {
        traced(collector, command);
        command.env(PROTOCOL, "http/protobuf");
        command.env("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20secret");
    })
    .await;
    let dashboard = within(run.caller(Manage).await, TRACE, "01");
    dashboard.get(get(VERA, NOBODY)).await.unwrap_err();
    let name = "hitkeep.auth.v1.ApiClientService/GetApiClient";
    let span = run.collector.span(TRACE, name).await;
    assert_eq!(attribute(&span.attributes, "error.type"), "NOT_FOUND");
    let log = |kept: &BufferedBytes| {
        let mut logs = kept.logs.iter();
        logs.find(|log| hex(&log.trace_id) == TRACE).cloned()
    };
    let log = run.collector.until("log", log).await;
    assert_eq!(log.span_id, span.span_id);
    let counted = |kept: &BufferedBytes| {
        let mut metrics = kept.metrics.iter();
        metrics
            .find(|metric| metric.name == "hitkeep_auth.verdicts")
            .cloned()
    };
    run.collector.until("verdicts", counted).await;
    let kept = run.collector.kept();
    for metadata in &kept.metadata {
        assert_eq!(metadata.get("x-key").unwrap(), "a secret");
    }
    for resource in &kept.resources {
        assert_eq!(attribute(resource, "service.name"), "hitkeep-auth");
    }
    let (ended, _) = run.stop().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.stderr.contains("exported"), "{}", ended.stderr);
}

/// With an authority of its own, for an endpoint of one signal's own, compressed.
#[tokio::test]
async fn a_collector_is_spoken_to_over_tls() {
    let (folder, authority) = (Folder::new(), Authority::new("collectors"));
    let trusted = folder.write("ca.pem", &authority.pem());
    let collector = Collector::over_http(Some(shown_by(&authority))).await;
    let run = Run::beside(collector, |collector, command| {
        let endpoint = format!("https://{}/v1/traces", collector.address);
        command
            .env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint)
            .env("OTEL_EXPORTER_OTLP_CERTIFICATE", text(&trusted))
            .env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
            .env("OTEL_BSP_SCHEDULE_DELAY", "20");
    })
    .await;
    let sidecar = run.caller(Introspect).await;
    sidecar.introspect(introspect("hkp_x")).await.unwrap();
    let arrived = |kept: &BufferedBytes| kept.metadata.first().cloned();
    run.collector.until("export", arrived).await;
    let (ended, collector) = run.stop().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for metadata in collector.kept().metadata {
        assert_eq!(metadata.get("content-encoding").unwrap(), "gzip");
    }
}

/// And why it cannot be reached is logged, which the SDK keeps to itself.
#[tokio::test]
async fn a_collector_that_is_not_trusted_is_told_with_the_cause() {
    let (folder, authority) = (Folder::new(), Authority::new("collectors"));
    let other = folder.write("other.pem", &Authority::new("other").pem());
    let collector = Collector::over_http(Some(shown_by(&authority))).await;
    let mut run = Run::beside(collector, |collector, command| {
        let endpoint = format!("https://{}/v1/metrics", collector.address);
        command
            .env("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", endpoint)
            .env("OTEL_EXPORTER_OTLP_CERTIFICATE", text(&other))
            .env("OTEL_METRIC_EXPORT_INTERVAL", "20");
    })
    .await;
    let told = "metrics cannot be exported";
    let told = run.server.stderr.line_so_far(told).await;
    assert!(told.contains("certificate"), "{told}");
    run.stop().await;
}
