//! How something else than a database feeds the index: another server that has one.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use super::{ReplicaOptions, Shared, nanoseconds};
use crate::domain::{Position, Timestamp, clock::Clock, id::ClientId, index::Index};

/// Writes the index of a replica, and tells those who wait for it. There is one writer at a
/// time.
pub struct Intake {
    shared: Arc<Shared>,
    /// When the source was last asked on behalf of requests.
    asked_at: Option<Instant>,
}

/// When a version was complete, by the word of the source. Its clock is not ours: what is
/// known is that it answered after it was asked.
#[derive(Clone, Copy, Debug)]
pub struct SourceTime {
    /// When the source was asked, by `elapsed` of the replica's clock.
    pub asked_at: Duration,
    /// How stale the version was when it answered.
    pub staleness: Duration,
}

impl SourceTime {
    fn complete_at(&self) -> i64 {
        nanoseconds(self.asked_at).saturating_sub(nanoseconds(self.staleness))
    }
}

/// A question to the source on behalf of requests that wait for a refresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RefreshNumber(u64);

impl Intake {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            asked_at: None,
        }
    }

    /// The clock that the source calibrates.
    pub fn clock(&self) -> &dyn Clock {
        &*self.shared.clock
    }

    /// The settings in force.
    pub fn options(&self) -> &ReplicaOptions {
        &self.shared.options
    }

    /// Waits until a request waits for a refresh, and as long as
    /// [`ReplicaOptions::max_lookups`] demands. Cancelling loses no request.
    pub async fn refresh_requested(&self) {
        if let Some(asked_at) = self.asked_at {
            let lookups = self.shared.options.max_lookups.max(1);
            sleep_until(asked_at + Duration::from_secs(1) / lookups).await;
        }
        self.shared.refresh_requested.notified().await;
    }

    /// Begins to look for a source. Everybody who waits for a refresh by now waits for the
    /// same: that it fails, or that the source that is found is asked.
    pub fn begin_attempt(&self) -> RefreshNumber {
        RefreshNumber(self.shared.queries_begun.fetch_add(1, Ordering::SeqCst) + 1)
    }

    /// Begins a refresh. Requests that begin to wait later are not satisfied by it.
    pub fn begin_refresh(&mut self) -> RefreshNumber {
        self.asked_at = Some(Instant::now());
        self.shared.metrics.lookup();
        self.begin_attempt()
    }

    /// Publishes a version that differs from the last one in these clients at most.
    pub fn publish_changes(&self, from: Position, changed: &[ClientId], version: Index) {
        let to = version.position;
        if from != to || !changed.is_empty() {
            // Where only accounts changed, the position is the same.
            self.shared.recent.record(from, Vec::new(), to, changed);
        }
        self.publish(version);
    }

    /// Publishes a version that replaces everything, and was complete at that time of the
    /// clock's `elapsed`. It may be older than the version that it replaces: the source may
    /// be another one.
    pub fn publish_whole(&self, version: Index, source: &SourceTime) {
        let shared = &*self.shared;
        shared.recent.restart(version.position);
        let complete_at = source.complete_at();
        // A reader takes the time before the version, and never appears too fresh.
        for at in [&shared.unverified_complete_at, &shared.complete_at] {
            at.fetch_min(complete_at, Ordering::AcqRel);
        }
        self.publish(version);
        for at in [&shared.unverified_complete_at, &shared.complete_at] {
            at.store(complete_at, Ordering::Release);
        }
        shared.metrics.feed_loaded();
    }

    fn publish(&self, version: Index) {
        let position = version.position;
        self.shared.index.store(Some(Arc::new(version)));
        self.shared
            .progress
            .send_modify(|progress| progress.position = Some(position));
    }

    /// The published version was complete then, and it was `now` by the database's clock when
    /// the source answered. What was proven of an earlier version holds for a later one, so
    /// that no answer makes the version appear older.
    pub fn complete(&self, source: &SourceTime, now: Timestamp) {
        let shared = &*self.shared;
        let waited = shared.clock.elapsed().saturating_sub(source.asked_at);
        shared.clock.calibrate(now, waited);
        for at in [&shared.unverified_complete_at, &shared.complete_at] {
            at.fetch_max(source.complete_at(), Ordering::AcqRel);
        }
    }

    /// Wakes the requests that wait for this refresh or an earlier one: the published version
    /// contains everything that was committed before it began.
    pub fn refreshed(&self, number: RefreshNumber) {
        self.shared.progress.send_modify(|progress| {
            progress.answered = progress.answered.max(number.0);
        });
    }

    /// Fails the requests that wait for this refresh or an earlier one.
    pub fn refresh_failed(&self, number: RefreshNumber) {
        self.shared.progress.send_modify(|progress| {
            progress.failed = progress.failed.max(number.0);
        });
    }

    /// The source answered; it is asked on a connection that is open.
    pub fn source_answered(&self) {
        self.shared.listening.store(true, Ordering::Relaxed);
        self.shared
            .progress
            .send_modify(|progress| progress.is_reached = true);
    }

    /// The source cannot be asked. Everything that waits for it fails.
    pub fn source_lost(&self) {
        self.shared.mark_stopped();
    }
}
