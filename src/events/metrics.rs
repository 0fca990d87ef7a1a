//! The metrics of deliveries.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use crate::{domain::Timestamp, store::outbox::Backlog, telemetry::metrics::Metrics};

/// Counts of this process, and the last look into the outbox.
#[derive(Debug, Default)]
pub(super) struct DeliveryMetrics {
    pub(super) delivered: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) died: AtomicU64,
    /// Whether this process delivers at present.
    pub(super) is_delivering: AtomicBool,
    /// `None` before the first look.
    backlog: Mutex<Option<Backlog>>,
}

impl DeliveryMetrics {
    /// Takes what is in the outbox.
    pub(super) fn set_backlog(&self, backlog: Backlog) {
        *self.backlog.lock().unwrap_or_else(PoisonError::into_inner) = Some(backlog);
    }

    fn backlog(&self) -> Option<Backlog> {
        *self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Exports it.
    pub(super) fn observe(
        state: &Arc<Self>,
        metrics: &Metrics,
        now: impl Fn() -> Timestamp + Send + Sync + 'static,
    ) {
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
        let gauge = |name, unit, what, value: fn(Backlog) -> f64| {
            let of = Arc::clone(state);
            metrics.gauge(name, unit, what, move || of.backlog().map(value));
        };
        gauge(
            "hitkeep_auth.events.pending",
            "{event}",
            "Events that are to be delivered.",
            |backlog| float(backlog.pending),
        );
        gauge(
            "hitkeep_auth.events.dead",
            "{event}",
            "Events that were not delivered within three days, and are kept until they are 30 \
             days old.",
            |backlog| float(backlog.dead),
        );
        gauge(
            "hitkeep_auth.events.stopped",
            "",
            "1 if the receiver answered 410 Gone.",
            |backlog| f64::from(u8::from(backlog.is_stopped)),
        );
        let of = Arc::clone(state);
        metrics.gauge(
            "hitkeep_auth.events.delivering",
            "",
            "1 if this server is the one that delivers.",
            move || {
                let is_delivering = of.is_delivering.load(Relaxed);
                of.backlog().map(|_| f64::from(u8::from(is_delivering)))
            },
        );
        let of = Arc::clone(state);
        metrics.gauge(
            "hitkeep_auth.events.oldest",
            "s",
            "The age of the oldest event that is to be delivered.",
            move || of.backlog().map(|backlog| age(backlog.oldest, now())),
        );
    }
}

/// In seconds; 0 if there is none.
fn age(oldest: Option<Timestamp>, now: Timestamp) -> f64 {
    oldest.map_or(0.0, |oldest| (now - oldest).as_seconds_f64().max(0.0))
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
const fn float(count: i64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Before the first look, a server does not know what is in there.
    #[test]
    fn what_is_in_the_outbox_is_exported_once_it_is_known() {
        let metrics = Metrics::default();
        let state = Arc::<DeliveryMetrics>::default();
        DeliveryMetrics::observe(&state, &metrics, || Timestamp::UNIX_EPOCH);
        let exported = || {
            let page = metrics.page().unwrap();
            let names = ["pending", "dead", "stopped", "delivering", "oldest_seconds"];
            names.map(|name| page.contains(&format!("\nhitkeep_auth_events_{name} ")))
        };
        assert_eq!(exported(), [false; 5]);
        state.set_backlog(Backlog::default());
        assert_eq!(exported(), [true; 5]);
    }
}
