//! Asks the source of the index on behalf of calls that need what was committed before them.

use std::sync::atomic::Ordering;

use tokio::time::{Instant, timeout_at};

use super::{FeedProgress, LiveIndex, MISSED_POLLS, Unanswerable};
use crate::client::follow::age;

impl LiveIndex {
    /// Waits until a query that begins after this call is applied to the index, which then
    /// contains everything committed before this call. Concurrent calls share one query,
    /// so that any number of unknown tokens costs the database at most
    /// [`max_lookups`](super::IndexOptions::max_lookups) queries a second.
    ///
    /// If [`max_waiting`](super::IndexOptions::max_waiting) calls wait already, this one is shed: the
    /// index counts as it is, unless it is older than four polls.
    ///
    /// # Errors
    /// If no query succeeds in time, or the index of a shed call is too old.
    pub async fn refresh(&self, deadline: Instant) -> Result<(), Unanswerable> {
        let shared = &*self.shared;
        let Ok(_permit) = shared.waiting.try_acquire() else {
            shared.metrics.rejected();
            self.view()?.require_caught_up()?;
            let complete_at = shared.unverified_complete_at.load(Ordering::Relaxed);
            let staleness = age(complete_at, shared.clock.elapsed());
            if staleness <= shared.options.poll_interval * MISSED_POLLS {
                return Ok(());
            }
            return Err(Unanswerable::Stale(staleness));
        };
        self.refreshed(deadline).await
    }

    /// The same for a call that needs the query itself: where others would be shed, it fails.
    ///
    /// # Errors
    /// If no query succeeds in time, or too many calls wait.
    pub async fn refresh_or_fail(&self, deadline: Instant) -> Result<(), Unanswerable> {
        let Ok(_permit) = self.shared.waiting.try_acquire() else {
            self.shared.metrics.rejected();
            return Err(Unanswerable::NoAnswer);
        };
        self.refreshed(deadline).await
    }

    async fn refreshed(&self, deadline: Instant) -> Result<(), Unanswerable> {
        let shared = &*self.shared;
        let begun = shared.queries_begun.load(Ordering::SeqCst);
        shared.refresh_requested.notify_one();
        let mut progress = self.progress();
        let is_done = |progress: &FeedProgress| progress.answered.max(progress.failed) > begun;
        let deadline = deadline.min(Instant::now() + self.shared.options.refresh_timeout);
        match timeout_at(deadline, progress.wait_for(is_done)).await {
            Ok(Ok(progress)) if progress.answered > begun => Ok(()),
            _ => Err(Unanswerable::NoAnswer),
        }
    }
}
