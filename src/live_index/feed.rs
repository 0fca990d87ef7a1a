//! Keeps the index up to date with Postgres. The change log is the source of truth; a
//! notification only wakes the feed, and a short poll covers a lost one. A full load
//! replaces the index if the log does not continue it (a restored backup, another database,
//! a trimmed log), if too much changed, or if catching up keeps failing.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::task::{JoinHandle, JoinSet};

mod follower;
mod listener;
mod local_index;
mod shortage;

use super::{SURVEY_SHARE, SURVEYS_PER_BOUND, Shared};
pub(super) use crate::client::follow::supervise;
use crate::{
    client::follow::age,
    store::{
        Store,
        error::StoreError,
        feed::{Feed, State},
    },
};
use follower::Follower;
pub(super) use shortage::Shortage;

/// The first pause before a retry; each further failure doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// A standby has yet to replay what the index contains already.
#[derive(Debug, thiserror::Error)]
#[error("the standby has revision {standby}, and the index {index} already")]
struct BehindIndex {
    standby: u64,
    index: u64,
}

/// The task that writes the index. It ends when this is dropped.
pub(super) struct Task(pub(super) JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Follows the database as soon as `ready` completes.
pub(super) fn start(
    ready: impl Future<Output = ()> + Send + 'static,
    store: Store,
    shared: Arc<Shared>,
) -> Task {
    Task(tokio::spawn(async move {
        ready.await;
        let follow = || {
            // The set aborts its tasks together with this one.
            let mut tasks = JoinSet::new();
            tasks.spawn(listener::listen(store.clone(), Arc::clone(&shared)));
            tasks.spawn(Follower::new(store.clone(), Arc::clone(&shared)).run());
            tasks
        };
        supervise(follow, || shared.mark_stopped()).await;
    }))
}

impl Shared {
    /// Fails all waiting requests at once, since no task answers them.
    pub(super) fn mark_stopped(&self) {
        self.listening.store(false, Ordering::Relaxed);
        self.progress.send_modify(|progress| {
            progress.failed = self.queries_begun.load(Ordering::SeqCst);
            progress.failures += 1;
            progress.is_reached = false;
        });
    }

    /// The interval between surveys of an undisputed primary.
    fn survey_interval(&self) -> Duration {
        self.options.max_staleness / SURVEYS_PER_BOUND
    }

    pub(super) fn survey_limit(&self) -> Duration {
        self.options.max_staleness * SURVEY_SHARE / 100
    }

    /// Logs if a primary with another history lacks a change that this process acknowledged.
    /// Another database has changes of its own.
    async fn report_lost(&self, feed: &mut Feed) -> Result<(), StoreError> {
        let Some(acknowledged) = self.claims.acknowledged() else {
            return Ok(());
        };
        let state = feed.state(acknowledged).await?;
        let is_same = state.position.database == acknowledged.database;
        if feed.is_primary && is_same && state.lacks(acknowledged) {
            self.claims.report_lost();
        }
        Ok(())
    }

    /// Refuses to go back to a standby that has yet to replay what the index contains, such
    /// as a revocation that this process has acknowledged. Not if the index is beyond the bound,
    /// and the standby's lag within it: what the standby lacks then, it will not replay any
    /// more. A failover lost it.
    fn require_ahead(&self, state: &State) -> Result<(), StoreError> {
        let index = self.index.load();
        let Some(known) = index.as_ref().map(|index| index.position) else {
            return Ok(());
        };
        let bound = self.options.max_staleness;
        let complete_at = self.complete_at.load(Ordering::Acquire);
        let is_fresh = age(complete_at, self.clock.elapsed()) <= bound;
        let is_same = state.position.database == known.database;
        let is_older = state.position.revision < known.revision;
        if state.is_standby && is_same && is_older && (is_fresh || state.lag > bound) {
            return Err(StoreError::Unavailable(Box::new(BehindIndex {
                standby: state.position.revision.0,
                index: known.revision.0,
            })));
        }
        Ok(())
    }

    fn calibrate(&self, state: &State, queried_at: Duration) {
        let waited = self.clock.elapsed().saturating_sub(queried_at);
        self.clock.calibrate(state.now, waited);
    }
}
