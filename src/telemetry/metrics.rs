//! What is measured, as instruments of OpenTelemetry, and the page that
//! Prometheus reads. Names begin with the project's and end with the unit; labels
//! have few values, none of which a caller chooses.

use std::{sync::Arc, time::Duration};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, Meter, MeterProvider},
};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Registry, TextEncoder};

/// What stands in front of every name.
const NAMESPACE: &str = "hitkeep_auth";
/// From an answer out of memory to a call that ran into its deadline, in seconds.
const DURATIONS: [f64; 15] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0,
    2.5, 10.0,
];

/// The instruments. Cheap to clone; all clones count together.
#[derive(Clone)]
pub struct Metrics(Arc<Instruments>);

struct Instruments {
    meter: Meter,
    registry: Registry,
    /// The readers end with it.
    _provider: SdkMeterProvider,
    calls: Counter<u64>,
    call_durations: Histogram<f64>,
    requests: Counter<u64>,
    request_durations: Histogram<f64>,
}

/// A gRPC call that was answered.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The full name of the service.
    pub service: &'static str,
    /// The name of the method.
    pub method: &'static str,
    /// The name of the code, as in `UNAVAILABLE`.
    pub code: &'static str,
    /// How long it took; none for a stream, which takes as long as its caller likes.
    pub duration: Option<Duration>,
}

/// The page cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("the metrics cannot be written down")]
pub struct PageError(#[from] prometheus::Error);

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .with_namespace(NAMESPACE)
            // There is one scope, and nobody asks which.
            .scope_info_enabled(false)
            .without_target_info()
            .build()
            .expect("the registry is new, so nothing in it is in the way");
        let provider = SdkMeterProvider::builder().with_reader(exporter).build();
        let meter = provider.meter(NAMESPACE);
        let durations = |name: &'static str, what: &'static str| {
            let histogram = meter.f64_histogram(name).with_unit("s");
            let histogram = histogram.with_boundaries(DURATIONS.to_vec());
            histogram.with_description(what).build()
        };
        Self(Arc::new(Instruments {
            calls: meter
                .u64_counter("grpc_requests")
                .with_description("gRPC calls that were answered, by the code they ended with.")
                .build(),
            call_durations: durations(
                "grpc_request_duration",
                "How long gRPC calls took, streams of answers apart.",
            ),
            requests: meter
                .u64_counter("http_requests")
                .with_description("HTTP requests that were answered, by their status.")
                .build(),
            request_durations: durations("http_request_duration", "How long HTTP requests took."),
            meter,
            registry,
            _provider: provider,
        }))
    }
}

impl Metrics {
    /// Counts a gRPC call.
    pub fn call(&self, call: Call) {
        let method = [
            KeyValue::new("service", call.service),
            KeyValue::new("method", call.method),
        ];
        if let Some(duration) = call.duration {
            let seconds = duration.as_secs_f64();
            self.0.call_durations.record(seconds, &method);
        }
        let [service, method] = method;
        let labels = [service, method, KeyValue::new("code", call.code)];
        self.0.calls.add(1, &labels);
    }

    /// Counts an HTTP request.
    pub fn request(&self, route: &'static str, status: u16, duration: Duration) {
        let route = KeyValue::new("route", route);
        let seconds = duration.as_secs_f64();
        let durations = &self.0.request_durations;
        durations.record(seconds, std::slice::from_ref(&route));
        let labels = [route, KeyValue::new("status", i64::from(status))];
        self.0.requests.add(1, &labels);
    }

    /// A value that is looked at when somebody reads the page, and is left out
    /// where there is none. The unit ends up in the name; it may be empty.
    pub fn gauge(
        &self,
        name: &'static str,
        unit: &'static str,
        what: &'static str,
        value: impl Fn() -> Option<f64> + Send + Sync + 'static,
    ) {
        let gauge = self.0.meter.f64_observable_gauge(name).with_unit(unit);
        let gauge = gauge.with_description(what);
        gauge
            .with_callback(move |observer| {
                if let Some(value) = value() {
                    observer.observe(value, &[]);
                }
            })
            .build();
    }

    /// The same for several values of a kind, told apart by a label.
    pub fn gauges<const N: usize>(
        &self,
        name: &'static str,
        what: &'static str,
        label: &'static str,
        values: impl Fn() -> [(&'static str, f64); N] + Send + Sync + 'static,
    ) {
        let gauge = self.0.meter.f64_observable_gauge(name);
        let gauge = gauge.with_description(what);
        gauge
            .with_callback(move |observer| {
                for (named, value) in values() {
                    observer.observe(value, &[KeyValue::new(label, named)]);
                }
            })
            .build();
    }

    /// A count that somebody else keeps, looked at when somebody reads the page.
    pub fn counter(
        &self,
        name: &'static str,
        what: &'static str,
        count: impl Fn() -> u64 + Send + Sync + 'static,
    ) {
        let counter = self.0.meter.u64_observable_counter(name);
        let counter = counter.with_description(what);
        counter
            .with_callback(move |observer| observer.observe(count(), &[]))
            .build();
    }

    /// Everything, in the text format of Prometheus.
    ///
    /// # Errors
    /// Where two instruments have one name.
    pub fn page(&self) -> Result<String, PageError> {
        let families = self.0.registry.gather();
        Ok(TextEncoder::new().encode_to_string(&families)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_stable_names_with_units() {
        let metrics = Metrics::default();
        metrics.call(Call {
            service: "a.Service",
            method: "Method",
            code: "OK",
            duration: Some(Duration::from_millis(3)),
        });
        metrics.call(Call {
            service: "a.Service",
            method: "Method",
            code: "UNAVAILABLE",
            duration: None,
        });
        metrics.request("/livez", 200, Duration::from_micros(60));
        metrics.gauge("age", "s", "An age.", || Some(1.5));
        metrics.gauge("absent", "", "Nothing.", || None);
        metrics.gauges("things", "Things.", "state", || {
            [("one", 1.0), ("two", 2.0)]
        });
        metrics.counter("failures", "Failures.", || 7);
        let page = metrics.clone().page().unwrap();
        for line in [
            "# TYPE hitkeep_auth_grpc_requests_total counter",
            r#"hitkeep_auth_grpc_requests_total{code="OK",method="Method",service="a.Service"} 1"#,
            r#"hitkeep_auth_grpc_requests_total{code="UNAVAILABLE",method="Method",service="a.Service"} 1"#,
            r#"hitkeep_auth_grpc_request_duration_seconds_count{method="Method",service="a.Service"} 1"#,
            r#"hitkeep_auth_grpc_request_duration_seconds_bucket{method="Method",service="a.Service",le="0.0025"} 0"#,
            r#"hitkeep_auth_grpc_request_duration_seconds_bucket{method="Method",service="a.Service",le="0.005"} 1"#,
            r#"hitkeep_auth_http_requests_total{route="/livez",status="200"} 1"#,
            r#"hitkeep_auth_http_request_duration_seconds_count{route="/livez"} 1"#,
            "# HELP hitkeep_auth_age_seconds An age.",
            "# TYPE hitkeep_auth_age_seconds gauge",
            "hitkeep_auth_age_seconds 1.5",
            r#"hitkeep_auth_things{state="two"} 2"#,
            "# TYPE hitkeep_auth_failures_total counter",
            "hitkeep_auth_failures_total 7",
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
