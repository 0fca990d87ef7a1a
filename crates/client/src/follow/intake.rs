//! What is written by a follower: an index, and when it was complete.

use std::time::Duration;

use hitkeep_auth_domain::{Position, Timestamp, clock::Clock, id::ClientId, index::Index};

/// Writes an index, and tells those who wait for it. There is one writer at a time.
pub trait Intake: Send + Sync + 'static {
    /// The clock that the source calibrates.
    fn clock(&self) -> &dyn Clock;

    /// How often to ask how fresh the index is.
    fn poll_interval(&self) -> Duration;

    /// Waits until a request waits for a refresh, and as long as the limit of refreshes
    /// demands. Cancelling loses no request.
    fn refresh_requested(&self) -> impl Future<Output = ()> + Send;

    /// Begins to look for a source. Everybody who waits for a refresh by now waits for the
    /// same: that it fails, or that the source that is found is asked.
    fn begin_attempt(&self) -> RefreshNumber;

    /// Begins a refresh. Requests that begin to wait later are not satisfied by it.
    fn begin_refresh(&mut self) -> RefreshNumber;

    /// Publishes a version that differs from the last one in these clients at most.
    fn publish_changes(&self, from: Position, changed: &[ClientId], version: Index);

    /// Publishes a version that replaces everything, and was complete at that time of the
    /// clock's `elapsed`. It may be older than the version that it replaces: the source may
    /// be another one.
    fn publish_whole(&self, version: Index, source: &SourceTime);

    /// The published version was complete then, and it was `now` by the database's clock when
    /// the source answered. What was proven of an earlier version holds for a later one, so
    /// that no answer makes the version appear older.
    fn complete(&self, source: &SourceTime, now: Timestamp);

    /// Wakes the requests that wait for this refresh or an earlier one: the published version
    /// contains everything that was committed before it began.
    fn refreshed(&self, number: RefreshNumber);

    /// Fails the requests that wait for this refresh or an earlier one.
    fn refresh_failed(&self, number: RefreshNumber);

    /// The source answered; it is asked on a connection that is open.
    fn source_answered(&self);

    /// The source cannot be asked. Everything that waits for it fails.
    fn source_lost(&self);
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
    /// When the version was complete, in nanoseconds of the clock's `elapsed`. Negative if the
    /// source is older than the clock.
    pub fn complete_at(&self) -> i64 {
        nanoseconds(self.asked_at).saturating_sub(nanoseconds(self.staleness))
    }
}

/// A duration in nanoseconds, as atomics hold it.
pub fn nanoseconds(length: Duration) -> i64 {
    i64::try_from(length.as_nanos()).unwrap_or(i64::MAX)
}

/// How long ago a moment was, which is in [`nanoseconds`] of a clock's `elapsed`, like `now`.
pub fn age(moment: i64, now: Duration) -> Duration {
    let age = nanoseconds(now).saturating_sub(moment);
    Duration::from_nanos(u64::try_from(age).unwrap_or_default())
}

/// A question to the source on behalf of requests that wait for a refresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RefreshNumber(
    /// One higher with each.
    pub u64,
);
