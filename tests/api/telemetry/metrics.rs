//! What docs/metrics.md says is what a running service exports: names, kinds, units
//! and attributes; over OTLP and on the page.

use std::collections::{BTreeMap, BTreeSet};

use hitkeep_auth::domain::caller::CallerPermission::{Introspect, Manage};
use opentelemetry_proto::tonic::{
    common::v1::KeyValue,
    metrics::v1::{Metric, metric::Data},
};

use super::{
    collector::{Kept, attribute},
    run::{Run, traced},
};
use crate::fixtures::*;

/// The document.
const DOCUMENT: &str = include_str!("../../../docs/metrics.md");

/// A metric: its kind, its unit, and the names of its attributes.
type Described = (String, String, BTreeSet<String>);

/// The rows of the document's table, by the names of the metrics.
fn documented() -> BTreeMap<String, Described> {
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
    DOCUMENT.lines().filter_map(row).collect()
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

#[tokio::test]
async fn the_document_says_what_is_exported() {
    let run = Run::with_world(traced).await;
    let dashboard = run.caller(Manage).await;
    let sidecar = run.caller(Introspect).await;
    let made = dashboard.created(personal(VERA)).await;
    assert!(
        sidecar
            .introspect(introspect(&made.token))
            .await
            .unwrap()
            .active
    );
    let asked = run.ask("GET /livez HTTP/1.1", "").await;
    assert!(asked.starts_with("HTTP/1.1 200"), "{asked}");
    let documented = documented();
    assert!(documented.len() > 20, "{documented:?}");
    let all = |kept: &Kept| {
        let names: BTreeSet<_> = kept.metrics.iter().map(|metric| &metric.name).collect();
        let is_there = documented.keys().all(|name| names.contains(name));
        is_there.then(|| kept.metrics.clone())
    };
    let exported = run.collector.until("some metric", all).await;
    let exported: BTreeMap<_, _> = exported
        .iter()
        .map(|metric| (metric.name.clone(), described(metric)))
        .collect();
    assert_eq!(exported, documented);
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
    let (_, collector) = run.stop().await;
    let kept = collector.kept();
    let count = |name: &str, key: &str, value: &str| {
        let metric = kept.metrics.iter().find(|metric| metric.name == name);
        let Some(Data::Sum(sum)) = metric.and_then(|metric| metric.data.as_ref()) else {
            panic!("no {name}")
        };
        let points = sum.data_points.iter();
        let points = points.filter(|point| attribute(&point.attributes, key) == value);
        let values = points.map(|point| match point.value {
            Some(opentelemetry_proto::tonic::metrics::v1::number_data_point::Value::AsInt(
                number,
            )) => number,
            _ => panic!("no whole number"),
        });
        values.sum::<i64>()
    };
    let verdicts = |reason| count("hitkeep_auth.verdicts", "reason", reason);
    assert_eq!(verdicts("ACTIVE"), 8);
    assert_eq!(verdicts("NO_SITE_GRANT"), 1);
    assert_eq!(verdicts("UNKNOWN_TOKEN"), 1);
    assert_eq!(verdicts("REVOKED"), 0);
    let calls = |method| count("hitkeep_auth.grpc.requests", "rpc.method", method);
    assert_eq!(calls("Introspect"), 7);
    assert_eq!(calls("CreateApiClient"), 1);
    assert_eq!(calls("IntrospectStream"), 1);
}
