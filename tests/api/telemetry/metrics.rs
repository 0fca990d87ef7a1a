//! What docs/metrics.md says is what a running service exports: names, kinds, units
//! and attributes; over OTLP and on the page.

use std::collections::{BTreeMap, BTreeSet};

use hitkeep_auth::{
    domain::caller::CallerPermission::{Introspect, Manage},
    pb,
};
use opentelemetry_proto::tonic::{
    common::v1::KeyValue,
    metrics::v1::{Metric, metric::Data, number_data_point::Value},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    collector::{BufferedBytes, attribute},
    run::{Run, traced},
};
use crate::{
    fixtures::*,
    support::{
        certificates::Authority,
        folder::{Folder, text},
    },
};

/// The document.
const DOCUMENT: &str = include_str!("../../../docs/metrics.md");

/// A metric: its kind, its unit, and the names of its attributes.
type Described = (String, String, BTreeSet<String>);

/// What the names begin with of those that are there where TLS is on.
const OF_TLS: &str = "hitkeep_auth.tls.";
/// The same where events are delivered.
const OF_EVENTS: &str = "hitkeep_auth.events.";

/// The instruments of the document that are there without TLS and without a webhook.
pub fn instruments() -> BTreeSet<String> {
    documented(None).into_keys().collect()
}

/// The rows of the document's table, by the names of the metrics: those with a prefix, or
/// those that are always there.
fn documented(prefix: Option<&str>) -> BTreeMap<String, Described> {
    let cell = |cell: &str| cell.trim().trim_matches('`').to_owned();
    let row = |line: &str| {
        let cells: Vec<_> = line.trim_matches('|').split('|').collect();
        let [name, kind, unit, attributes, _] = *cells.as_slice() else {
            return None;
        };
        if !name.trim().starts_with('`') {
            return None;
        }
        let attributes = attributes.split(',').map(cell);
        let attributes = attributes
            .filter(|attribute| !attribute.is_empty())
            .collect();
        Some((cell(name), (cell(kind), cell(unit), attributes)))
    };
    let rows = DOCUMENT.lines().filter_map(row);
    let at_times = [OF_TLS, OF_EVENTS];
    let wanted = |name: &str| match prefix {
        Some(prefix) => name.starts_with(prefix),
        None => !at_times.iter().any(|prefix| name.starts_with(prefix)),
    };
    rows.filter(|(name, _)| wanted(name)).collect()
}

/// What was exported, in the words of the document.
fn described(metric: &Metric) -> Described {
    let names = |attributes: &[KeyValue]| {
        let names = attributes.iter().map(|attribute| attribute.key.clone());
        names.collect::<Vec<_>>()
    };
    let (kind, attributes): (_, Vec<_>) = match metric.data.as_ref().expect("data") {
        Data::Gauge(gauge) => {
            let points = gauge.data_points.iter();
            (
                "gauge",
                points.flat_map(|point| names(&point.attributes)).collect(),
            )
        }
        Data::Sum(sum) => {
            let points = sum.data_points.iter();
            let kind = if sum.is_monotonic {
                "counter"
            } else {
                "up-down counter"
            };
            (
                kind,
                points.flat_map(|point| names(&point.attributes)).collect(),
            )
        }
        Data::Histogram(histogram) => {
            let points = histogram.data_points.iter();
            (
                "histogram",
                points.flat_map(|point| names(&point.attributes)).collect(),
            )
        }
        other => panic!("{other:?}"),
    };
    let attributes = attributes.into_iter().collect();
    (kind.to_owned(), metric.unit.clone(), attributes)
}

fn all_described(exported: &[Metric]) -> BTreeMap<String, Described> {
    let described = |metric: &Metric| (metric.name.clone(), described(metric));
    exported.iter().map(described).collect()
}

/// What Prometheus calls a metric, by the rule that the document states.
fn on_the_page(name: &str, (kind, unit, _): &Described) -> String {
    let unit = match unit.as_str() {
        "s" => "_seconds",
        "ms" => "_milliseconds",
        _ => "",
    };
    let kind = if kind == "counter" { "_total" } else { "" };
    format!("{}{unit}{kind}", name.replace('.', "_"))
}

/// What a counter has come to, where an attribute has that value; 0 where there is none.
fn count(kept: &BufferedBytes, name: &str, key: &str, value: &str) -> i64 {
    let metric = kept.metrics.iter().find(|metric| metric.name == name);
    let Some(Data::Sum(sum)) = metric.and_then(|metric| metric.data.as_ref()) else {
        return 0;
    };
    let points = sum.data_points.iter();
    let points = points.filter(|point| attribute(&point.attributes, key) == value);
    let values = points.map(|point| match point.value {
        Some(Value::AsInt(number)) => number,
        _ => panic!("no whole number"),
    });
    values.sum()
}

#[tokio::test]
async fn the_document_says_what_is_exported() {
    let run = Run::with_world(traced).await;
    let dashboard = run.caller(Manage).await;
    let sidecar = run.caller(Introspect).await;
    let made = dashboard.created(personal(VERA)).await;
    assert_eq!(sidecar.inactive_reason(&made.token).await, None);
    let asked = run.ask("GET /livez HTTP/1.1", "").await;
    assert!(asked.starts_with("HTTP/1.1 200"), "{asked}");
    let documented = documented(None);
    run.collector.instruments(&instruments()).await;
    let all = |kept: &BufferedBytes| {
        let names: BTreeSet<_> = kept.metrics.iter().map(|metric| &metric.name).collect();
        let is_there = documented.keys().all(|name| names.contains(name));
        is_there.then(|| kept.metrics.clone())
    };
    let exported = run.collector.until("some metric", all).await;
    assert_eq!(all_described(&exported), documented);
    let page = run.ask("GET /metrics HTTP/1.1", "").await;
    for (name, described) in &documented {
        let name = on_the_page(name, described);
        let kind = match described.0.as_str() {
            "up-down counter" => "gauge",
            kind => kind,
        };
        let line = format!("# TYPE {name} {kind}\n");
        assert!(page.contains(&line), "{line} in\n{page}");
    }
    run.stop().await;
}

#[tokio::test]
async fn the_document_says_what_is_exported_of_tls() {
    let (folder, authority) = (Folder::new(), Authority::new("ca"));
    let identity = authority.sign_until(&["auth.example"], 2100);
    let (certificate, key) = folder.write_identity("server", &identity);
    let run = Run::with(|collector, command| {
        traced(collector, command);
        command.args(["--tls-cert", text(&certificate), "--tls-key", text(&key)]);
    })
    .await;
    // What is no handshake.
    let mut connection = TcpStream::connect(&run.address).await.unwrap();
    connection
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    let mut said = Vec::new();
    connection.read_to_end(&mut said).await.ok();
    let documented = documented(Some(OF_TLS));
    assert_eq!(documented.len(), 3);
    let of_tls = |kept: &BufferedBytes| {
        let metrics = kept.metrics.iter();
        let of_tls = metrics.filter(|metric| metric.name.starts_with(OF_TLS));
        let of_tls: Vec<_> = of_tls.cloned().collect();
        // It is counted a moment after its caller got the answer.
        let is_counted = count(
            kept,
            "hitkeep_auth.tls.handshake.failures",
            "listener",
            "grpc",
        );
        (of_tls.len() == documented.len() && is_counted == 1).then_some(of_tls)
    };
    let exported = run.collector.until("metrics of TLS", of_tls).await;
    assert_eq!(all_described(&exported), documented);
    let page = run.ask("GET /metrics HTTP/1.1", "").await;
    for line in [
        // The year 2100 begins then.
        "hitkeep_auth_tls_certificate_expiry_seconds 4102444800",
        "hitkeep_auth_tls_handshake_failures_total{listener=\"grpc\"} 1",
        "hitkeep_auth_tls_handshake_failures_total{listener=\"http\"} 0",
        "hitkeep_auth_connections{listener=\"http\"} 1",
    ] {
        assert!(page.lines().any(|there| there == line), "{line} in {page}");
    }
    run.stop().await;
}

#[tokio::test]
async fn the_document_says_what_is_exported_of_events() {
    let run = Run::with(|collector, command| {
        traced(collector, command);
        // Nothing listens there, and nothing is to be delivered.
        command.env("HITKEEP_AUTH_EVENTS_WEBHOOK", "http://127.0.0.1:9/");
        let secret = "whsec_AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
        command.env("HITKEEP_AUTH_EVENTS_WEBHOOK_SECRET", secret);
    })
    .await;
    let documented = documented(Some(OF_EVENTS));
    assert_eq!(documented.len(), 6);
    let of_events = |kept: &BufferedBytes| {
        let metrics = kept.metrics.iter();
        let of_events = metrics.filter(|metric| metric.name.starts_with(OF_EVENTS));
        let of_events: Vec<_> = of_events.cloned().collect();
        (of_events.len() == documented.len()).then_some(of_events)
    };
    let exported = run.collector.until("metrics of events", of_events).await;
    assert_eq!(all_described(&exported), documented);
    run.stop().await;
}

#[tokio::test]
async fn what_was_asked_is_counted_however_it_was_answered() {
    let run = Run::with_world(traced).await;
    let made = run.caller(Manage).await.created(personal(VERA)).await;
    let sidecar = run.caller(Introspect).await;
    for _ in 0..5 {
        sidecar.introspect(introspect(&made.token)).await.unwrap();
    }
    let denied = check(&made.token, SITE, "site.view");
    sidecar.introspect(denied).await.unwrap();
    sidecar.introspect(introspect("hkp_x")).await.unwrap();
    let mut stream = sidecar.stream().await;
    for _ in 0..3 {
        stream.ask(introspect(&made.token)).await.unwrap();
    }
    drop(stream);
    let item = |token: &str| pb::BatchIntrospectItem {
        token: token.to_owned(),
        check: None,
        source_ip: String::new(),
    };
    let batch = pb::BatchIntrospectRequest {
        requests: [&*made.token, "hkp_x", &made.token].map(item).into(),
        at_least_revision: None,
    };
    sidecar.batch(batch).await.unwrap();
    let (_, collector) = run.stop().await;
    let kept = collector.kept();
    let verdicts = |reason| count(&kept, "hitkeep_auth.verdicts", "reason", reason);
    assert_eq!(verdicts("ACTIVE"), 10);
    assert_eq!(verdicts("NO_SITE_GRANT"), 1);
    assert_eq!(verdicts("UNKNOWN_TOKEN"), 2);
    assert_eq!(verdicts("REVOKED"), 0);
    let calls = |method| count(&kept, "hitkeep_auth.grpc.requests", "rpc.method", method);
    assert_eq!(calls("Introspect"), 7);
    assert_eq!(calls("CreateApiClient"), 1);
    assert_eq!(calls("IntrospectStream"), 1);
    assert_eq!(calls("BatchIntrospect"), 1);
}
