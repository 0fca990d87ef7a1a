//! The latest version of the index, how fresh it is, and ways to wait for a newer one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwapOption, Guard};
use hitkeep_auth_domain::{Position, Revision, Timestamp, clock::Clock, index::Index};
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::{Instant, timeout_at},
};

use super::EmbeddedOptions;
use crate::{error::Unavailable, follow::age};

/// Polls that may be missed before the index no longer counts as current.
const MISSED_POLLS: u32 = 4;

/// The shortest interval: without one, a task would never pause.
const LEAST_INTERVAL: Duration = Duration::from_millis(10);

/// No version was complete yet.
const NEVER: i64 = i64::MIN;

/// What the follower writes and questions read.
pub(super) struct Live {
    pub(super) options: EmbeddedOptions,
    /// `None` until the first snapshot is whole.
    pub(super) index: ArcSwapOption<Index>,
    /// When the latest version was last proven complete, in nanoseconds of the clock's
    /// `elapsed`; [`NEVER`] until the first one is. It is written after the version and read
    /// before it, so that a version never appears fresher than it is.
    pub(super) complete_at: AtomicI64,
    pub(super) progress: watch::Sender<Progress>,
    /// How many times the server was asked on behalf of questions that wait.
    pub(super) begun: AtomicU64,
    /// Wakes the follower, because a question waits for a refresh.
    pub(super) requested: Notify,
    waiting: Semaphore,
}

/// How far the follower is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    pub(super) position: Option<Position>,
    /// The number of the last refresh that was answered.
    pub(super) answered: u64,
    /// The number of the last refresh that failed.
    pub(super) failed: u64,
}

/// One version of the index, for one answer.
pub(super) struct View<'l> {
    index: Guard<Option<Arc<Index>>>,
    /// The time, by the database's clock.
    pub(super) now: Timestamp,
    age: Duration,
    options: &'l EmbeddedOptions,
}

impl View<'_> {
    pub(super) fn index(&self) -> &Index {
        self.index.as_ref().expect("a view is made of a version")
    }

    /// Refuses a version that does not prove that a token works.
    pub(super) fn require_fresh(&self) -> Result<(), Unavailable> {
        if self.age <= self.options.max_staleness {
            Ok(())
        } else {
            Err(Unavailable::Stale(self.age))
        }
    }
}

impl Live {
    pub(super) fn new(options: EmbeddedOptions) -> Self {
        Self {
            index: ArcSwapOption::empty(),
            complete_at: AtomicI64::new(NEVER),
            progress: watch::Sender::default(),
            begun: AtomicU64::new(0),
            requested: Notify::new(),
            waiting: Semaphore::new(options.max_waiting as usize),
            options: EmbeddedOptions {
                // One or two lost polls do no harm.
                poll_interval: options
                    .poll_interval
                    .min(options.max_staleness / 4)
                    .max(LEAST_INTERVAL),
                usage_interval: options.usage_interval.max(LEAST_INTERVAL),
                ..options
            },
        }
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.options.clock
    }

    /// The latest version.
    pub(super) fn view(&self) -> Result<View<'_>, Unavailable> {
        // Read before the version, which may be replaced by one that is fresher; and after it,
        // since it may also be replaced by a staler one. The earlier time holds.
        let before = self.complete_at.load(Ordering::Acquire);
        let index = self.index.load();
        // The first version may have come in between.
        if index.is_none() || before == NEVER {
            return Err(Unavailable::Loading);
        }
        let complete_at = before.min(self.complete_at.load(Ordering::Acquire));
        let (now, elapsed) = self.clock().read();
        Ok(View {
            index,
            now,
            age: age(complete_at, elapsed),
            options: &self.options,
        })
    }

    /// Waits until there is an index.
    pub(super) async fn loaded(&self) {
        let mut progress = self.progress.subscribe();
        let loaded = progress.wait_for(|progress| progress.position.is_some());
        // The sender lives as long as self.
        drop(loaded.await);
    }

    /// Waits until there is an index that proves that a token works.
    pub(super) async fn fresh(&self) {
        let mut progress = self.progress.subscribe();
        let fresh = |_: &Progress| self.view().is_ok_and(|view| view.require_fresh().is_ok());
        // The sender lives as long as self.
        drop(progress.wait_for(fresh).await);
    }

    pub(super) async fn loaded_until(&self, deadline: Instant) {
        // Whether or not that took too long, the view says.
        drop(timeout_at(deadline, self.loaded()).await);
    }

    /// Waits until the index contains a revision.
    pub(super) async fn wait_for_revision(
        &self,
        wanted: Revision,
        deadline: Instant,
    ) -> Result<(), Unavailable> {
        let reached = |progress: &Progress| {
            let position = progress.position;
            position.is_some_and(|position| position.revision >= wanted)
        };
        if reached(&self.progress.borrow()) {
            return Ok(());
        }
        self.requested.notify_one();
        let mut progress = self.progress.subscribe();
        match timeout_at(deadline, progress.wait_for(reached)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Unavailable::Late),
        }
    }

    /// Waits until a refresh that begins after this call is applied to the index, which then
    /// contains everything that was committed before. Concurrent calls share one.
    ///
    /// If too many wait already, the index stands if it missed fewer than a few polls.
    pub(super) async fn refresh(&self, deadline: Instant) -> Result<(), Unavailable> {
        let Ok(_permit) = self.waiting.try_acquire() else {
            let complete_at = self.complete_at.load(Ordering::Acquire);
            let age = age(complete_at, self.clock().elapsed());
            if age <= self.options.poll_interval * MISSED_POLLS {
                return Ok(());
            }
            return Err(Unavailable::Stale(age));
        };
        let begun = self.begun.load(Ordering::SeqCst);
        self.requested.notify_one();
        let mut progress = self.progress.subscribe();
        let is_done = |progress: &Progress| progress.answered.max(progress.failed) > begun;
        match timeout_at(deadline, progress.wait_for(is_done)).await {
            Ok(Ok(progress)) if progress.answered > begun => Ok(()),
            _ => Err(Unavailable::Late),
        }
    }

    /// No server can be asked. Everything that waits for it fails.
    pub(super) fn source_lost(&self) {
        let begun = self.begun.load(Ordering::SeqCst);
        self.progress.send_modify(|progress| {
            progress.failed = progress.failed.max(begun);
        });
    }
}
