//! The gauges of the API clients that an operator should look after. They are counted at an
//! interval, however often the metrics are read.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::sleep;

use crate::{
    live_index::{FeedProgress, LiveIndex},
    store::{Snapshot, Store, census::Census, error::StoreError},
    telemetry::metrics::Metrics,
};

/// The pause between two counts, which read all clients.
const INTERVAL: Duration = Duration::from_mins(5);
/// The pause after a count that failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);

/// The last count; none before the first one, and after one that failed.
type Latest = Arc<Mutex<Option<Census>>>;

/// Exports the counts.
pub(super) fn observe(metrics: &Metrics) -> Latest {
    let latest = Latest::default();
    let gauge = |name, what, value: fn(Census) -> u32| {
        let latest = Arc::clone(&latest);
        metrics.gauge(name, "{client}", what, move || {
            let census = *latest.lock().unwrap_or_else(PoisonError::into_inner);
            Some(f64::from(value(census?)))
        });
    };
    gauge(
        "hitkeep_auth.clients.expiring",
        "API clients that work and expire within 7 days.",
        |census| census.expiring,
    );
    gauge(
        "hitkeep_auth.clients.unused",
        "API clients that are neither revoked nor expired, are older than 90 days, and were not \
         used for as long.",
        |census| census.unused,
    );
    latest
}

/// Counts until it is dropped or the feed has ended, from when the database was reached for the
/// first time.
pub(super) async fn run(store: Store, index: LiveIndex, latest: Latest) {
    let mut progress = index.progress();
    drop(index);
    let reached = progress.wait_for(FeedProgress::reaches_database);
    if reached.await.is_err() {
        return;
    }
    while progress.has_changed().is_ok() {
        let body = async |snapshot: &mut Snapshot| snapshot.take_census().await;
        let counted: Result<Census, StoreError> = store.until_failover(store.read(body)).await;
        if let Err(error) = &counted {
            tracing::debug!(%error, "unused and expiring API clients were not counted");
        }
        let pause = if counted.is_ok() {
            INTERVAL
        } else {
            RETRY_INTERVAL
        };
        *latest.lock().unwrap_or_else(PoisonError::into_inner) = counted.ok();
        sleep(pause).await;
    }
}
