//! Observable instruments: the values are kept elsewhere, and read only when the metrics
//! are.

use opentelemetry::KeyValue;

use super::Metrics;

impl Metrics {
    /// A gauge that is read with the metrics, and left out if it has no value.
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

    /// Several up-down counters that are read with the metrics, distinguished by a label.
    pub fn up_down<const N: usize>(
        &self,
        name: &'static str,
        unit: &'static str,
        what: &'static str,
        label: &'static str,
        values: impl Fn() -> [(&'static str, i64); N] + Send + Sync + 'static,
    ) {
        let counter = self.0.meter.i64_observable_up_down_counter(name);
        let counter = counter.with_unit(unit).with_description(what);
        counter
            .with_callback(move |observer| {
                for (named, value) in values() {
                    observer.observe(value, &[KeyValue::new(label, named)]);
                }
            })
            .build();
    }

    /// An up-down counter that is read with the metrics.
    pub fn up_down_alone(
        &self,
        name: &'static str,
        unit: &'static str,
        what: &'static str,
        value: impl Fn() -> i64 + Send + Sync + 'static,
    ) {
        let counter = self.0.meter.i64_observable_up_down_counter(name);
        let counter = counter.with_unit(unit).with_description(what);
        counter
            .with_callback(move |observer| observer.observe(value(), &[]))
            .build();
    }

    /// A counter that is kept elsewhere and read with the metrics.
    pub fn counter(
        &self,
        name: &'static str,
        unit: &'static str,
        what: &'static str,
        count: impl Fn() -> u64 + Send + Sync + 'static,
    ) {
        let counter = self.0.meter.u64_observable_counter(name).with_unit(unit);
        let counter = counter.with_description(what);
        counter
            .with_callback(move |observer| observer.observe(count(), &[]))
            .build();
    }

    /// Several counters that are kept elsewhere, distinguished by a label.
    pub fn counters<const N: usize>(
        &self,
        name: &'static str,
        unit: &'static str,
        what: &'static str,
        label: &'static str,
        counts: impl Fn() -> [(&'static str, u64); N] + Send + Sync + 'static,
    ) {
        let counter = self.0.meter.u64_observable_counter(name).with_unit(unit);
        let counter = counter.with_description(what);
        counter
            .with_callback(move |observer| {
                for (named, count) in counts() {
                    observer.observe(count, &[KeyValue::new(label, named)]);
                }
            })
            .build();
    }
}
