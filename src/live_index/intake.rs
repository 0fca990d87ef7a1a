//! How something else than a database feeds the index: another server that has one.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use super::Shared;
use crate::{
    client::follow::{self as client, RefreshNumber, SourceTime},
    domain::{Position, Timestamp, clock::Clock, id::ClientId, index::Index},
};

/// Writes the index, and tells those who wait for it. There is one writer at a
/// time.
pub struct Intake {
    shared: Arc<Shared>,
    /// When the source was last asked on behalf of requests.
    asked_at: Option<Instant>,
}

impl Intake {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            asked_at: None,
        }
    }

    fn publish(&self, version: Index) {
        let position = version.position;
        self.shared.index.store(Some(Arc::new(version)));
        self.shared
            .progress
            .send_modify(|progress| progress.position = Some(position));
    }
}

impl client::Intake for Intake {
    fn clock(&self) -> &dyn Clock {
        &*self.shared.clock
    }

    fn poll_interval(&self) -> Duration {
        self.shared.options.poll_interval
    }

    async fn refresh_requested(&self) {
        if let Some(asked_at) = self.asked_at {
            let lookups = self.shared.options.max_lookups.max(1);
            sleep_until(asked_at + Duration::from_secs(1) / lookups).await;
        }
        self.shared.refresh_requested.notified().await;
    }

    fn begin_attempt(&self) -> RefreshNumber {
        RefreshNumber(self.shared.queries_begun.fetch_add(1, Ordering::SeqCst) + 1)
    }

    fn begin_refresh(&mut self) -> RefreshNumber {
        self.asked_at = Some(Instant::now());
        self.shared.metrics.lookup();
        self.begin_attempt()
    }

    fn publish_changes(&self, from: Position, changed: &[ClientId], version: Index) {
        let to = version.position;
        if from != to || !changed.is_empty() {
            // Where only accounts changed, the position is the same.
            self.shared.recent.record(from, Vec::new(), to, changed);
        }
        self.publish(version);
    }

    fn publish_whole(&self, version: Index, source: &SourceTime) {
        let shared = &*self.shared;
        shared.recent.restart(version.position);
        let complete_at = source.complete_at();
        // A reader takes the time before the version, and never appears too fresh. Of the first
        // version, it must not find that it was never complete.
        let is_first = shared.index.load().is_none();
        for at in [&shared.unverified_complete_at, &shared.complete_at] {
            if is_first {
                at.store(complete_at, Ordering::Release);
            } else {
                at.fetch_min(complete_at, Ordering::AcqRel);
            }
        }
        self.publish(version);
        for at in [&shared.unverified_complete_at, &shared.complete_at] {
            at.store(complete_at, Ordering::Release);
        }
        shared.metrics.feed_loaded();
    }

    fn complete(&self, source: &SourceTime, now: Timestamp) {
        let shared = &*self.shared;
        let waited = shared.clock.elapsed().saturating_sub(source.asked_at);
        shared.clock.calibrate(now, waited);
        for at in [&shared.unverified_complete_at, &shared.complete_at] {
            at.fetch_max(source.complete_at(), Ordering::AcqRel);
        }
    }

    fn refreshed(&self, number: RefreshNumber) {
        self.shared.progress.send_modify(|progress| {
            progress.answered = progress.answered.max(number.0);
        });
    }

    fn refresh_failed(&self, number: RefreshNumber) {
        self.shared.progress.send_modify(|progress| {
            progress.failed = progress.failed.max(number.0);
        });
    }

    fn source_answered(&self) {
        self.shared.listening.store(true, Ordering::Relaxed);
        self.shared
            .progress
            .send_modify(|progress| progress.is_reached = true);
    }

    fn source_lost(&self) {
        self.shared.mark_stopped();
    }
}
