//! OpenTelemetry instruments, and the metrics page for Prometheus. `docs/metrics.md` lists
//! them. Names follow OpenTelemetry's semantic conventions if one applies, and have the
//! project's prefix otherwise. Labels have few values, none of which a caller chooses.

use std::{sync::Arc, time::Duration};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Gauge, Histogram, Meter, MeterProvider},
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    metrics::{SdkMeterProvider, reader::MetricReader},
};
use prometheus::{Registry, TextEncoder};

mod counts;
mod labels;
mod observed;
mod shared;

pub use labels::{FastMethod, FeedConnection, ListenerKind, VerdictReason, WriteResult};
pub use shared::Connected;
use shared::{Calls, Shared};

/// Histogram bounds in seconds, from an answer from memory to a call at its deadline.
const DURATIONS: [f64; 15] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0,
    2.5, 10.0,
];
/// Histogram bounds in seconds, from a lookup in memory to one that waited for Postgres.
const INTROSPECTIONS: [f64; 12] = [
    0.000_001, 0.000_002, 0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_5, 0.001, 0.01,
    0.1, 1.0,
];

/// The instruments. Cheap to clone; all clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<Instruments>);

struct Instruments {
    meter: Meter,
    registry: Registry,
    provider: SdkMeterProvider,
    shared: Arc<Shared>,
    call_durations: Histogram<f64>,
    introspection_durations: Histogram<f64>,
    request_durations: Histogram<f64>,
    write_durations: Histogram<f64>,
    flush_durations: Histogram<f64>,
    unwritten: Gauge<u64>,
    feed_lags: Histogram<f64>,
    feed_connections: Counter<u64>,
    feed_loads: Counter<u64>,
    lookups: Counter<u64>,
    rejected: Counter<u64>,
}

/// A finished gRPC call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The full name of the service.
    pub service: &'static str,
    /// The name of the method, without the service.
    pub method: &'static str,
    /// The gRPC status code.
    pub code: i32,
    /// The call's duration; `None` for a stream, for which it means nothing.
    pub duration: Option<Duration>,
}

/// The metrics page cannot be rendered.
#[derive(Debug, thiserror::Error)]
#[error("the metrics cannot be written down")]
pub struct PageError(#[from] prometheus::Error);

impl Default for Metrics {
    fn default() -> Self {
        Self::on(|provider| provider)
    }
}

impl Metrics {
    /// Metrics that `reader` also exports, if there is one.
    pub(super) fn exported(resource: Resource, reader: Option<impl MetricReader>) -> Self {
        Self::on(|provider| {
            let provider = provider.with_resource(resource);
            match reader {
                Some(reader) => provider.with_reader(reader),
                None => provider,
            }
        })
    }

    fn on(
        build: impl FnOnce(
            opentelemetry_sdk::metrics::MeterProviderBuilder,
        ) -> opentelemetry_sdk::metrics::MeterProviderBuilder,
    ) -> Self {
        let registry = Registry::new();
        let page = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            // There is one scope only, so its label would be noise.
            .scope_info_enabled(false)
            .without_target_info()
            .build()
            .expect("the registry is new, so nothing in it is in the way");
        let provider = build(SdkMeterProvider::builder()).with_reader(page).build();
        let meter = provider.meter(env!("CARGO_PKG_NAME"));
        let durations = |name: &'static str, what: &'static str| {
            let histogram = meter.f64_histogram(name).with_unit("s");
            let histogram = histogram.with_boundaries(DURATIONS.to_vec());
            histogram.with_description(what).build()
        };
        let counter = |name: &'static str, unit: &'static str, what: &'static str| {
            let counter = meter.u64_counter(name).with_unit(unit);
            counter.with_description(what).build()
        };
        // A counter that exists from the start, so that its first increment is visible.
        let from_zero = |name, unit, what| {
            let counter: Counter<u64> = counter(name, unit, what);
            counter.add(0, &[]);
            counter
        };
        let shared = Arc::<Shared>::default();
        Shared::observe(&shared, &meter);
        Self(Arc::new(Instruments {
            call_durations: meter
                .f64_histogram("rpc.server.duration")
                .with_unit("ms")
                .with_boundaries(DURATIONS.map(|seconds| seconds * 1000.0).to_vec())
                .with_description("Duration of all gRPC calls except introspections and streams.")
                .build(),
            introspection_durations: meter
                .f64_histogram("hitkeep_auth.introspection.duration")
                .with_unit("s")
                .with_boundaries(INTROSPECTIONS.to_vec())
                .with_description(
                    "Duration of Introspect and Envoy's Check, sampled: one call in 64.",
                )
                .build(),
            request_durations: durations(
                "http.server.request.duration",
                "Duration of HTTP requests.",
            ),
            write_durations: durations(
                "hitkeep_auth.write.duration",
                "Duration of writing transactions, until this server answers by them.",
            ),
            flush_durations: durations(
                "hitkeep_auth.usage.flush.duration",
                "Duration of writing the usage of API clients.",
            ),
            unwritten: meter
                .u64_gauge("hitkeep_auth.usage.pending")
                .with_unit("{client}")
                .with_description("API clients whose usage the last flush could not write.")
                .build(),
            feed_lags: durations(
                "hitkeep_auth.feed.lag",
                "Time from the query for changes until they are in the index.",
            ),
            feed_connections: counter(
                "hitkeep_auth.feed.connections",
                "{connection}",
                "Connections that the feed opened; all but the first of each kind are reconnects.",
            ),
            feed_loads: from_zero(
                "hitkeep_auth.feed.loads",
                "{load}",
                "Full loads: one at startup, and one whenever the change log could not be used.",
            ),
            lookups: from_zero(
                "hitkeep_auth.lookups",
                "{lookup}",
                "Queries to Postgres because of unknown tokens.",
            ),
            rejected: from_zero(
                "hitkeep_auth.lookups.rejected",
                "{request}",
                "Requests with unknown tokens that caused no query, because too many were waiting.",
            ),
            meter,
            registry,
            provider,
            shared,
        }))
    }

    /// Counts a gRPC call.
    pub fn call(&self, call: Call) {
        let Call {
            service,
            method,
            code,
            duration,
        } = call;
        let code = i64::from(code);
        if let Some(duration) = duration {
            let labels = [
                KeyValue::new("rpc.system", "grpc"),
                KeyValue::new("rpc.service", service),
                KeyValue::new("rpc.method", method),
                KeyValue::new("rpc.grpc.status_code", code),
            ];
            let milliseconds = duration.as_secs_f64() * 1000.0;
            self.0.call_durations.record(milliseconds, &labels);
        }
        let calls = Calls {
            service,
            method,
            code,
        };
        self.0.shared.call(calls);
    }

    /// Sets the label values of the fast-path counters: service and method of each, in the order
    /// of [`FastMethod::ALL`].
    pub fn name_fast_methods(&self, names: [(&'static str, &'static str); FastMethod::ALL.len()]) {
        self.0.shared.name_fast_methods(names);
    }

    /// Counts a successful call of the fast path, in a few nanoseconds.
    pub fn fast_call(&self, call: FastMethod) {
        self.0.shared.counts.call(call);
    }

    /// Counts the result of an introspection, in a few nanoseconds.
    pub fn verdict(&self, verdict: VerdictReason) {
        self.0.shared.counts.verdict(verdict);
    }

    /// Counts, in addition, the result of an introspection of a known legacy token.
    pub fn legacy_verdict(&self, verdict: VerdictReason) {
        self.0.shared.counts.legacy_verdict(verdict);
    }

    /// Whether to time the introspection that begins now. One in 64 is timed, so the others
    /// have no cost.
    pub fn is_timed() -> bool {
        counts::is_timed()
    }

    /// Observes the duration of a timed introspection.
    pub fn introspection(&self, method: &'static str, duration: Duration) {
        let method = [KeyValue::new("rpc.method", method)];
        let durations = &self.0.introspection_durations;
        durations.record(duration.as_secs_f64(), &method);
    }

    /// Counts a connection of that listener until the result is dropped.
    pub fn connected(&self, listener: ListenerKind) -> Connected {
        self.0.shared.connected(listener)
    }

    /// Counts an HTTP request, and observes its duration.
    pub fn request(
        &self,
        method: &'static str,
        route: &'static str,
        status: u16,
        duration: Duration,
    ) {
        let labels = [
            KeyValue::new("http.request.method", method),
            KeyValue::new("http.route", route),
            KeyValue::new("http.response.status_code", i64::from(status)),
        ];
        let durations = &self.0.request_durations;
        durations.record(duration.as_secs_f64(), &labels);
    }

    /// Counts a write transaction.
    pub fn write(&self, outcome: WriteResult, duration: Duration) {
        let outcome = [KeyValue::new("outcome", outcome.as_str())];
        let durations = &self.0.write_durations;
        durations.record(duration.as_secs_f64(), &outcome);
    }

    /// Counts an attempt to write the pending usage.
    pub fn flush(&self, outcome: WriteResult, duration: Duration) {
        let outcome = [KeyValue::new("outcome", outcome.as_str())];
        let durations = &self.0.flush_durations;
        durations.record(duration.as_secs_f64(), &outcome);
    }

    /// Observes the feed lag: from the query for changes until they are in the index.
    pub fn feed_lag(&self, lag: Duration) {
        self.0.feed_lags.record(lag.as_secs_f64(), &[]);
    }

    /// Sets the number of API clients with pending usage.
    pub fn pending_usage(&self, clients: usize) {
        let clients = u64::try_from(clients).unwrap_or(u64::MAX);
        self.0.unwritten.record(clients, &[]);
    }

    /// Counts a new connection of the feed.
    pub fn feed_connected(&self, connection: FeedConnection) {
        let labels = [KeyValue::new("for", connection.as_str())];
        self.0.feed_connections.add(1, &labels);
    }

    /// Counts a full load.
    pub fn feed_loaded(&self) {
        self.0.feed_loads.add(1, &[]);
    }

    /// Counts a query to Postgres for unknown tokens.
    pub fn lookup(&self) {
        self.0.lookups.add(1, &[]);
    }

    /// Counts a lookup that was rejected, because too many were waiting.
    pub fn rejected(&self) {
        self.0.rejected.add(1, &[]);
    }

    /// Renders the metrics in the text format of Prometheus.
    ///
    /// # Errors
    /// If two instruments have the same name.
    pub fn page(&self) -> Result<String, PageError> {
        let families = self.0.registry.gather();
        Ok(TextEncoder::new().encode_to_string(&families)?)
    }

    /// Exports the last values, within `limit`, and nothing after that.
    pub(super) fn stop(&self, limit: Duration) -> OTelSdkResult {
        self.0.provider.shutdown_with_timeout(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_stable_names_with_units() {
        let metrics = Metrics::default();
        metrics.name_fast_methods([("a.Service", "Introspect"), ("a.Service", "Check")]);
        let call = |method, code, duration| Call {
            service: "a.Service",
            method,
            code,
            duration,
        };
        metrics.call(call("Method", 0, Some(Duration::from_millis(3))));
        metrics.call(call("Method", 14, None));
        // Through the fast path and the slow path.
        metrics.call(call("Introspect", 0, None));
        metrics.fast_call(FastMethod::Introspect);
        metrics.fast_call(FastMethod::Introspect);
        metrics.verdict(VerdictReason::Revoked);
        metrics.introspection("Introspect", Duration::from_micros(3));
        metrics.request("GET", "/livez", 200, Duration::from_micros(60));
        metrics.write(WriteResult::NotDone, Duration::from_millis(2));
        metrics.gauge("hitkeep_auth.age", "s", "An age.", || Some(1.5));
        metrics.gauge("hitkeep_auth.absent", "", "Nothing.", || None);
        metrics.up_down("hitkeep_auth.things", "{thing}", "Things.", "state", || {
            [("one", 1), ("two", 2)]
        });
        metrics.counter("hitkeep_auth.failures", "{failure}", "Failures.", || 7);
        let open = [(); 2].map(|()| metrics.connected(ListenerKind::Http));
        let [_open, closed] = open;
        drop(closed);
        let page = metrics.clone().page().unwrap();
        for line in [
            "# TYPE hitkeep_auth_grpc_requests_total counter",
            r#"hitkeep_auth_grpc_requests_total{rpc_grpc_status_code="0",rpc_method="Method",rpc_service="a.Service"} 1"#,
            r#"hitkeep_auth_grpc_requests_total{rpc_grpc_status_code="14",rpc_method="Method",rpc_service="a.Service"} 1"#,
            r#"hitkeep_auth_grpc_requests_total{rpc_grpc_status_code="0",rpc_method="Introspect",rpc_service="a.Service"} 3"#,
            r#"hitkeep_auth_grpc_requests_total{rpc_grpc_status_code="0",rpc_method="Check",rpc_service="a.Service"} 0"#,
            r#"hitkeep_auth_verdicts_total{reason="REVOKED"} 1"#,
            r#"hitkeep_auth_verdicts_total{reason="ALLOWED"} 0"#,
            r#"hitkeep_auth_introspection_duration_seconds_bucket{rpc_method="Introspect",le="0.000002"} 0"#,
            r#"hitkeep_auth_introspection_duration_seconds_bucket{rpc_method="Introspect",le="0.000005"} 1"#,
            r#"rpc_server_duration_milliseconds_bucket{rpc_grpc_status_code="0",rpc_method="Method",rpc_service="a.Service",rpc_system="grpc",le="2.5"} 0"#,
            r#"rpc_server_duration_milliseconds_bucket{rpc_grpc_status_code="0",rpc_method="Method",rpc_service="a.Service",rpc_system="grpc",le="5"} 1"#,
            r#"http_server_request_duration_seconds_count{http_request_method="GET",http_response_status_code="200",http_route="/livez"} 1"#,
            r#"hitkeep_auth_write_duration_seconds_count{outcome="not_done"} 1"#,
            "# HELP hitkeep_auth_age_seconds An age.",
            "# TYPE hitkeep_auth_age_seconds gauge",
            "hitkeep_auth_age_seconds 1.5",
            r#"hitkeep_auth_things{state="two"} 2"#,
            "# TYPE hitkeep_auth_failures_total counter",
            "hitkeep_auth_failures_total 7",
            r#"hitkeep_auth_connections{listener="grpc"} 0"#,
            r#"hitkeep_auth_connections{listener="http"} 1"#,
        ] {
            assert!(page.lines().any(|there| there == line), "{line} in\n{page}");
        }
        assert!(
            !page.contains("absent")
                && !page.contains("otel_scope")
                && !page.contains("target_info")
        );
    }
}
