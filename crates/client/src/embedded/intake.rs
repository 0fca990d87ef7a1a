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
        // A reader takes the time before the version, and never appears too fresh. Of the first
        // version, it must not find that it was never complete.
        if self.live.index.load().is_none() {
            self.live.complete_at.store(complete_at, Ordering::Release);
        } else {
            self.live
                .complete_at
                .fetch_min(complete_at, Ordering::AcqRel);
        }
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
        // For who waits until the version is fresh.
        self.live.progress.send_modify(|_| {});
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

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        pin::{Pin, pin},
        task::Poll,
        thread,
    };

    use hitkeep_auth_domain::{Revision, index::Writer};
    use uuid::Uuid;

    use super::*;
    use crate::{embedded::EmbeddedOptions, error::Unavailable};

    /// A question that waits for the first version finds it fresh.
    #[test]
    fn the_first_version_is_complete_once_it_is_seen() {
        for _ in 0..1000 {
            let live = Arc::new(Live::new(EmbeddedOptions::default()));
            let intake = LiveIntake::new(Arc::clone(&live));
            let version = Writer::default().version(Position {
                database: Uuid::from_u128(1),
                revision: Revision(1),
                nonce: Uuid::from_u128(2),
            });
            let source = SourceTime {
                asked_at: live.clock().elapsed(),
                staleness: Duration::ZERO,
            };
            let waiting = thread::spawn(move || {
                while live.progress.borrow().position.is_none() {
                    std::hint::spin_loop();
                }
                live.view()
                    .and_then(|view| view.require_fresh())
                    .map_err(|error| matches!(error, Unavailable::Stale(_)))
            });
            intake.publish_whole(version, &source);
            assert_eq!(waiting.join().unwrap(), Ok(()));
        }
    }

    async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
        poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
    }

    #[tokio::test]
    async fn it_is_ready_once_the_version_is_fresh() {
        let live = Arc::new(Live::new(EmbeddedOptions::default()));
        let intake = LiveIntake::new(Arc::clone(&live));
        let mut ready = pin!(live.fresh());
        assert!(poll_once(ready.as_mut()).await.is_pending());
        let position = Position {
            database: Uuid::from_u128(1),
            revision: Revision(1),
            nonce: Uuid::from_u128(2),
        };
        let source = |staleness| SourceTime {
            asked_at: live.clock().elapsed(),
            staleness,
        };
        let stale = source(live.options.max_staleness * 2);
        intake.publish_whole(Writer::default().version(position), &stale);
        assert!(poll_once(ready.as_mut()).await.is_pending());
        intake.complete(&source(Duration::ZERO), live.clock().now());
        assert!(poll_once(ready.as_mut()).await.is_ready());
    }
}
