//! What other rooms keep: values that they are asked for when somebody reads the
//! metrics, and at no other time.

use opentelemetry::KeyValue;

use super::Metrics;

impl Metrics {
    /// A value that is looked at when somebody reads the metrics, and is left out
    /// where there is none.
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

    /// The same for several counts of what there is now, told apart by a label.
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

    /// A count of what there is now, looked at when somebody reads the metrics.
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

    /// A count that somebody else keeps, looked at when somebody reads the metrics.
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

    /// The same for several counts, told apart by a label.
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
