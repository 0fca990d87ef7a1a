//! How the follower feeds the index.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hitkeep_auth_domain::{Position, Timestamp, clock::Clock, id::ClientId, index::Index};
use tokio::time::{Instant, sleep_until};

use super::live::Live;
use crate::follow::{Intake, RefreshNumber, SourceTime};

/// Writes the index.
pub(super) struct LiveIntake {
    live: Arc<Live>,
    /// When the server was last asked on behalf of questions.
    asked_at: Option<Instant>,
}

impl LiveIntake {
    pub(super) const fn new(live: Arc<Live>) -> Self {
        Self {
            live,
            asked_at: None,
        }
    }

    fn publish(&self, version: Index) {
        let position = version.position;
        self.live.index.store(Some(Arc::new(version)));
        self.live
            .progress
            .send_modify(|progress| progress.position = Some(position));
    }
}

impl Intake for LiveIntake {
    fn clock(&self) -> &dyn Clock {
        self.live.clock()
    }

    fn poll_interval(&self) -> Duration {
        self.live.options.poll_interval
    }

    async fn refresh_requested(&self) {
        if let Some(asked_at) = self.asked_at {
            let lookups = self.live.options.max_lookups.max(1);
            sleep_until(asked_at + Duration::from_secs(1) / lookups).await;
        }
        self.live.requested.notified().await;
    }

    fn begin_attempt(&self) -> RefreshNumber {
        RefreshNumber(self.live.begun.fetch_add(1, Ordering::SeqCst) + 1)
    }

    fn begin_refresh(&mut self) -> RefreshNumber {
        self.asked_at = Some(Instant::now());
        self.begin_attempt()
    }

    fn publish_changes(&self, _: Position, _: &[ClientId], version: Index) {
        self.publish(version);
    }

    fn publish_whole(&self, version: Index, source: &SourceTime) {
        let complete_at = source.complete_at();
        // A reader takes the time before the version, and never appears too fresh.
        self.live
            .complete_at
            .fetch_min(complete_at, Ordering::AcqRel);
        self.publish(version);
        self.live.complete_at.store(complete_at, Ordering::Release);
    }

    fn complete(&self, source: &SourceTime, now: Timestamp) {
        let clock = self.live.clock();
        let waited = clock.elapsed().saturating_sub(source.asked_at);
        clock.calibrate(now, waited);
        self.live
            .complete_at
            .fetch_max(source.complete_at(), Ordering::AcqRel);
    }

    fn refreshed(&self, number: RefreshNumber) {
        self.live.progress.send_modify(|progress| {
            progress.answered = progress.answered.max(number.0);
        });
    }

    fn refresh_failed(&self, number: RefreshNumber) {
        self.live.progress.send_modify(|progress| {
            progress.failed = progress.failed.max(number.0);
        });
    }

    fn source_answered(&self) {}

    fn source_lost(&self) {
        self.live.source_lost();
    }
}
