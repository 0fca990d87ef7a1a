//! The metrics of deliveries.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
};

use crate::{
    domain::{Timestamp, clock::Clock},
    store::outbox::Backlog,
    telemetry::metrics::Metrics,
};

/// Counts of this process, and the last look into the outbox.
#[derive(Debug, Default)]
pub(super) struct DeliveryMetrics {
    pub(super) delivered: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) died: AtomicU64,
    /// Whether this process delivers at present.
    pub(super) is_delivering: AtomicBool,
    is_known: AtomicBool,
    pending: AtomicI64,
    dead: AtomicI64,
    /// When the oldest pending event was created, in microseconds since 1970; 0 if there is
    /// none.
    oldest: AtomicI64,
    is_stopped: AtomicBool,
}

impl DeliveryMetrics {
    /// Takes what is in the outbox.
    pub(super) fn set_backlog(&self, backlog: Backlog) {
        self.pending.store(backlog.pending, Relaxed);
        self.dead.store(backlog.dead, Relaxed);
        let oldest = backlog.oldest.map_or(0, |time| time.timestamp_micros());
        self.oldest.store(oldest, Relaxed);
        self.is_stopped.store(backlog.is_stopped, Relaxed);
        self.is_known.store(true, Relaxed);
    }

    /// Exports it.
    pub(super) fn observe(state: &Arc<Self>, metrics: &Metrics, clock: &Arc<dyn Clock>) {
        let of = Arc::clone(state);
        metrics.counters(
            "hitkeep_auth.events.attempts",
            "{attempt}",
            "Attempts of this server to deliver an event.",
            "outcome",
            move || {
                [
                    ("delivered", of.delivered.load(Relaxed)),
                    ("failed", of.failed.load(Relaxed)),
                    ("dead", of.died.load(Relaxed)),
                ]
            },
        );
        let gauge = |name, unit, what, value: fn(&Self) -> f64| {
            let of = Arc::clone(state);
            metrics.gauge(name, unit, what, move || {
                of.is_known.load(Relaxed).then(|| value(&of))
            });
        };
        gauge(
            "hitkeep_auth.events.pending",
            "{event}",
            "Events that are to be delivered.",
            |of| float(of.pending.load(Relaxed)),
        );
        gauge(
            "hitkeep_auth.events.dead",
            "{event}",
            "Events that were not delivered within three days, and are kept until they are 30 \
             days old.",
            |of| float(of.dead.load(Relaxed)),
        );
        gauge(
            "hitkeep_auth.events.stopped",
            "",
            "1 if the receiver answered 410 Gone.",
            |of| f64::from(u8::from(of.is_stopped.load(Relaxed))),
        );
        gauge(
            "hitkeep_auth.events.delivering",
            "",
            "1 if this server is the one that delivers.",
            |of| f64::from(u8::from(of.is_delivering.load(Relaxed))),
        );
        let (of, clock) = (Arc::clone(state), Arc::clone(clock));
        metrics.gauge(
            "hitkeep_auth.events.oldest",
            "s",
            "The age of the oldest event that is to be delivered.",
            move || of.is_known.load(Relaxed).then(|| of.age(clock.now())),
        );
    }

    fn age(&self, now: Timestamp) -> f64 {
        match self.oldest.load(Relaxed) {
            0 => 0.0,
            oldest => float((now.timestamp_micros() - oldest).max(0)) / 1e6,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
const fn float(count: i64) -> f64 {
    count as f64
}
