//! Gauges of the index, the feed and the connection pool, evaluated at each export.

use std::sync::Arc;

use crate::{
    calls::{
        admission::Admission,
        method::{Method, path_of},
    },
    domain::client::Expiry,
    live_index::{LiveIndex, View},
    store::Store,
    telemetry::metrics::{FastMethod, Metrics},
};

/// Sets the label values of the fast path's counters.
pub(super) fn name_fast_methods(metrics: &Metrics) {
    metrics.name_fast_methods(FastMethod::ALL.map(|call| {
        let Method { service, name, .. } = Method::of(path_of(call));
        (service, name)
    }));
}

/// Exports the state of the index and of what feeds it.
pub(super) fn observe(metrics: &Metrics, index: &LiveIndex, legacy_tokens_until: Expiry) {
    observe_index(metrics, index);
    observe_legacy_tokens(metrics, index, legacy_tokens_until);
    observe_feed(metrics, index);
}

// Counts are exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
fn float(count: usize) -> f64 {
    count as f64
}

fn flag(is_set: bool) -> f64 {
    f64::from(u8::from(is_set))
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

// The closures hold a weak reference: the index holds the metrics, so a strong one would
// be a cycle. Instruments that do not need the index still have values at the last
// export.
fn observe_index(metrics: &Metrics, index: &LiveIndex) {
    let weak = index.downgrade();
    let of_view = |name, unit, what, value: fn(&View) -> f64| {
        let weak = weak.clone();
        // None until the index is loaded.
        metrics.gauge(name, unit, what, move || {
            Some(value(&weak.upgrade()?.view().ok()?))
        });
    };
    of_view(
        "hitkeep_auth.index.revision",
        "",
        "The revision that answers are based on.",
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        |view| view.index().revision().0 as f64,
    );
    of_view(
        "hitkeep_auth.index.clients",
        "{client}",
        "API clients in the index.",
        |view| float(view.index().clients()),
    );
    of_view(
        "hitkeep_auth.index.staleness",
        "s",
        "Time since the index was last proven complete.",
        |view| view.staleness.as_secs_f64(),
    );
    let of = weak.clone();
    metrics.gauge(
        "hitkeep_auth.index.ready",
        "",
        "1 if introspection can answer, 0 if the index is not loaded or too stale.",
        move || Some(flag(of.upgrade()?.require_fresh().is_ok())),
    );
    let max_staleness = index.options().max_staleness.as_secs_f64();
    metrics.gauge(
        "hitkeep_auth.index.max_staleness",
        "s",
        "The staleness from which on no token is reported as active.",
        move || Some(max_staleness),
    );
}

fn observe_legacy_tokens(metrics: &Metrics, index: &LiveIndex, until: Expiry) {
    let weak = index.downgrade();
    metrics.gauge(
        "hitkeep_auth.index.legacy_tokens",
        "{token}",
        "Legacy tokens that work.",
        move || {
            let view = weak.upgrade()?.view().ok()?;
            if until.has_come(view.now) {
                return Some(0.0);
            }
            Some(float(view.index().working_legacy_tokens(view.now)))
        },
    );
}

fn observe_feed(metrics: &Metrics, index: &LiveIndex) {
    let weak = index.downgrade();
    metrics.gauge(
        "hitkeep_auth.feed.listening",
        "",
        "1 if notifications of changes arrive, 0 if changes are found by polling alone.",
        move || Some(flag(weak.upgrade()?.is_listening())),
    );
    let progress = index.progress();
    metrics.gauge(
        "hitkeep_auth.database.reachable",
        "",
        "1 if Postgres answered the last query for changes.",
        move || Some(flag(progress.borrow().reaches_database())),
    );
    let progress = index.progress();
    metrics.counter(
        "hitkeep_auth.feed.failures",
        "{failure}",
        "Queries for changes that failed.",
        move || progress.borrow().failures,
    );
    let max_lookups = f64::from(index.options().max_lookups);
    metrics.gauge(
        "hitkeep_auth.lookups.limit",
        "",
        "How many queries because of unknown tokens are allowed per second.",
        move || Some(max_lookups),
    );
}

/// Exports how close the service is to shedding calls. Calls of the fast path are not in
/// it: they end before they could be counted.
pub(super) fn observe_admission(metrics: &Metrics, admission: &Arc<Admission>) {
    let of = Arc::clone(admission);
    metrics.up_down(
        "hitkeep_auth.calls.in_flight",
        "{call}",
        "Calls in flight that are limited together by --max-calls.",
        "kind",
        move || {
            let in_flight = of.in_flight();
            [
                ("read", signed(in_flight.reads)),
                ("write", signed(in_flight.writes)),
            ]
        },
    );
    let max_calls = signed(admission.max_calls());
    metrics.up_down_alone(
        "hitkeep_auth.calls.max",
        "{call}",
        "The limit of calls in flight, over both kinds.",
        move || max_calls,
    );
}

/// Exports the state of the pool, named by OpenTelemetry's conventions for connection pools.
pub(super) fn observe_pool(metrics: &Metrics, store: &Store) {
    let of = store.clone();
    metrics.up_down(
        "db.client.connection.count",
        "{connection}",
        "Connections to Postgres in the pool.",
        "db.client.connection.state",
        move || {
            let pool = of.pool_status();
            let used = pool.connections.saturating_sub(pool.idle);
            [("idle", signed(pool.idle)), ("used", signed(used))]
        },
    );
    let of = store.clone();
    metrics.up_down_alone(
        "db.client.connection.max",
        "{connection}",
        "Maximum size of the pool.",
        move || signed(of.pool_status().capacity),
    );
    let of = store.clone();
    metrics.up_down_alone(
        "db.client.connection.pending_requests",
        "{request}",
        "Requests that wait for a connection.",
        move || signed(of.pool_status().waiting),
    );
}
