//! Claims: commits of this process that are not yet shown to be in the index and on the
//! primary.
//!
//! A claim is resolved once the index contains the commit, and a survey that began after
//! the commit has found it on the primary. A connection of the pool may lead to a server
//! that was just replaced, on which a revocation would be acknowledged and lost. Both take
//! a few milliseconds, and the acknowledgement waits for them.
//!
//! A feed that runs a full load resolves no claim for as long. So a write that has waited for
//! some time looks for the primary itself. Changes that the primary has are acknowledged then,
//! although the index lacks them. The index is *behind*, and nothing is answered from it until
//! it has caught up. A change that nothing proves is not acknowledged.

use std::{
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::oneshot;

use crate::store::{Commit, NotAcknowledged, feed::Position};

/// All unresolved claims of this process.
#[derive(Default)]
pub(super) struct Claims {
    open: Mutex<Vec<Open>>,
    /// The newest commit that was acknowledged.
    acknowledged: Mutex<Option<Position>>,
    next: AtomicU64,
    /// Whether a claim was acknowledged and is not applied.
    is_behind: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub(super) number: u64,
    pub(super) commit: Commit,
    /// When the commit was confirmed, by `elapsed` of the index's clock.
    pub(super) committed_at: Duration,
}

struct Open {
    claim: Claim,
    /// Whether the index contains the change.
    is_applied: bool,
    /// Wakes the write that waits to acknowledge the change; `None` once it is acknowledged.
    waiting: Option<oneshot::Sender<Result<(), NotAcknowledged>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClaimOutcome {
    /// The index and the primary contain the commit.
    Contained,
    /// The primary does not contain the commit.
    Lost,
    /// The primary is another server than the one that committed, and nothing shows whether
    /// it contains the commit.
    Unknown,
}

impl Claims {
    fn lock(&self) -> MutexGuard<'_, Vec<Open>> {
        locked(&self.open)
    }

    /// Adds a claim, and returns its number and a receiver of its outcome.
    pub(super) fn add(
        &self,
        commit: Commit,
        committed_at: Duration,
    ) -> (u64, oneshot::Receiver<Result<(), NotAcknowledged>>) {
        let (waiting, resolved) = oneshot::channel();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().push(Open {
            claim: Claim {
                number,
                commit,
                committed_at,
            },
            is_applied: false,
            waiting: Some(waiting),
        });
        (number, resolved)
    }

    /// Acknowledges a claim that the primary has, whether or not the index contains it.
    pub(super) fn prove(&self, number: u64) {
        let mut open = self.lock();
        let found = open.iter_mut().find(|open| open.claim.number == number);
        // A write that has given up acknowledges nothing.
        let Some(found) = found else { return };
        let Some(waiting) = found.waiting.take_if(|waiting| !waiting.is_closed()) else {
            return;
        };
        let (position, is_applied) = (found.claim.commit.position, found.is_applied);
        // Before the write can acknowledge the change: from then on, the index must not answer
        // without it.
        self.update_behind(&open);
        if waiting.send(Ok(())).is_ok() {
            self.note_acknowledged(position);
        }
        // The log may block.
        drop(open);
        if !is_applied {
            tracing::warn!(
                revision = position.revision.0,
                "the index did not apply a change of this server in time: nothing is answered \
                 from the index until it has"
            );
        }
    }

    /// Marks a claim as contained in the index; whether the primary has it is still open.
    pub(super) fn apply(&self, number: u64) {
        let mut open = self.lock();
        let found = open.iter_mut().find(|open| open.claim.number == number);
        if let Some(found) = found {
            found.is_applied = true;
        }
        self.update_behind(&open);
    }

    fn update_behind(&self, open: &[Open]) {
        let is_behind = open
            .iter()
            .any(|open| open.waiting.is_none() && !open.is_applied);
        self.is_behind.store(is_behind, Ordering::Release);
    }

    /// Whether the index lacks a change that was acknowledged.
    pub(super) fn is_behind(&self) -> bool {
        self.is_behind.load(Ordering::Acquire)
    }

    /// When the newest unresolved claim was committed.
    pub(super) fn newest(&self) -> Option<Duration> {
        self.lock().iter().map(|open| open.claim.committed_at).max()
    }

    /// The claims that were committed until then and that no write has acknowledged.
    pub(super) fn unacknowledged(&self, until: Duration) -> Vec<Claim> {
        let open = self.lock();
        let waiting = open.iter().filter(|open| {
            let is_waiting = open.waiting.as_ref().is_some_and(|it| !it.is_closed());
            is_waiting && open.claim.committed_at <= until
        });
        waiting.map(|open| open.claim).collect()
    }

    /// The unresolved claims.
    pub(super) fn open(&self) -> Vec<Claim> {
        self.lock().iter().map(|open| open.claim).collect()
    }

    /// Resolves a claim, and wakes the write that waits for it.
    pub(super) fn resolve(&self, number: u64, outcome: ClaimOutcome) {
        let mut open = self.lock();
        let Some(at) = open.iter().position(|open| open.claim.number == number) else {
            return;
        };
        let Open { claim, waiting, .. } = open.remove(at);
        match (outcome, waiting) {
            (ClaimOutcome::Contained, Some(waiting)) => {
                // Otherwise the write has given up waiting.
                if waiting.send(Ok(())).is_ok() {
                    self.note_acknowledged(claim.commit.position);
                }
            }
            (ClaimOutcome::Contained | ClaimOutcome::Unknown, None) => {}
            (ClaimOutcome::Lost, Some(waiting)) => {
                let lost = NotAcknowledged::Lost(claim.commit.position.revision.0);
                waiting.send(Err(lost)).ok();
            }
            (ClaimOutcome::Unknown, Some(waiting)) => {
                let unproven = NotAcknowledged::Unproven(claim.commit.position.revision.0);
                waiting.send(Err(unproven)).ok();
            }
            (ClaimOutcome::Lost, None) => self.report_lost(),
        }
        self.update_behind(&open);
    }

    fn note_acknowledged(&self, position: Position) {
        let mut newest = locked(&self.acknowledged);
        // Writes may be acknowledged in another order than they were committed in.
        if newest.is_none_or(|newest| newest.revision < position.revision) {
            *newest = Some(position);
        }
    }

    /// The newest commit that was acknowledged and is not reported as lost.
    pub(super) fn acknowledged(&self) -> Option<Position> {
        *locked(&self.acknowledged)
    }

    /// Logs that acknowledged changes are lost, up to the newest one.
    pub(super) fn report_lost(&self) {
        // What is acknowledged from now on has another history.
        let Some(newest) = locked(&self.acknowledged).take() else {
            return;
        };
        tracing::error!(
            revision = newest.revision.0,
            "an acknowledged change is lost: the database that takes over does not have it. \
             Revoke again what was revoked in the last seconds before"
        );
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No holder panics.
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::Revision;

    fn at(revision: u64) -> Commit {
        Commit::stamped(position(revision))
    }

    fn position(revision: u64) -> Position {
        Position {
            database: Uuid::nil(),
            revision: Revision(revision),
            nonce: Uuid::nil(),
        }
    }

    #[test]
    fn the_index_is_behind_while_an_acknowledged_change_is_open() {
        let claims = Claims::default();
        let (first, mut proven) = claims.add(at(1), Duration::ZERO);
        let (second, mut lost) = claims.add(at(2), Duration::ZERO);
        assert!(!claims.is_behind(), "no claim is acknowledged");
        claims.prove(first);
        assert_eq!(proven.try_recv(), Ok(Ok(())));
        assert!(claims.is_behind());
        claims.resolve(second, ClaimOutcome::Lost);
        assert_eq!(lost.try_recv(), Ok(Err(NotAcknowledged::Lost(2))));
        assert!(claims.is_behind(), "the other one is open");
        claims.resolve(first, ClaimOutcome::Contained);
        assert!(!claims.is_behind());
        assert!(claims.open().is_empty());
        // Proving a resolved claim changes nothing, nor does resolving it twice.
        claims.prove(first);
        claims.resolve(first, ClaimOutcome::Lost);
        assert!(!claims.is_behind());
    }

    #[test]
    fn the_index_is_not_behind_because_of_a_change_that_it_contains() {
        let claims = Claims::default();
        let (first, _resolved) = claims.add(at(1), Duration::ZERO);
        claims.apply(first);
        claims.prove(first);
        assert!(!claims.is_behind());
        let (second, _resolved) = claims.add(at(2), Duration::ZERO);
        claims.prove(second);
        assert!(claims.is_behind());
        claims.apply(second);
        assert!(!claims.is_behind());
        assert_eq!(claims.open().len(), 2, "neither is resolved");
    }

    #[test]
    fn what_no_write_waits_for_is_not_acknowledged() {
        let claims = Claims::default();
        let second = Duration::from_secs(1);
        let (first, given_up) = claims.add(at(1), Duration::ZERO);
        let (_, _late) = claims.add(at(2), second);
        let waiting = |until| {
            let waiting = claims.unacknowledged(until).into_iter();
            waiting
                .map(|claim| claim.commit.position)
                .collect::<Vec<_>>()
        };
        assert_eq!(waiting(Duration::ZERO), [position(1)]);
        assert_eq!(waiting(second), [position(1), position(2)]);
        drop(given_up);
        assert_eq!(waiting(second), [position(2)]);
        claims.prove(first);
        assert!(!claims.is_behind());
        assert_eq!(claims.acknowledged(), None);
    }

    #[test]
    fn the_newest_acknowledged_commit_is_known_until_it_is_lost() {
        let claims = Claims::default();
        let (first, _first) = claims.add(at(1), Duration::ZERO);
        let (second, _second) = claims.add(at(2), Duration::ZERO);
        let (third, given_up) = claims.add(at(3), Duration::ZERO);
        assert_eq!(claims.acknowledged(), None);
        claims.resolve(second, ClaimOutcome::Contained);
        claims.prove(first);
        drop(given_up);
        claims.resolve(third, ClaimOutcome::Contained);
        assert_eq!(claims.acknowledged(), Some(position(2)));
        claims.resolve(first, ClaimOutcome::Lost);
        assert_eq!(claims.acknowledged(), None);
        // A restored backup gives revisions out again.
        let (again, _again) = claims.add(at(1), Duration::ZERO);
        claims.prove(again);
        assert_eq!(claims.acknowledged(), Some(position(1)));
    }

    #[test]
    fn a_claim_that_no_write_waits_for_is_resolved() {
        let claims = Claims::default();
        let (number, resolved) = claims.add(at(1), Duration::ZERO);
        drop(resolved);
        assert_eq!(claims.open().len(), 1);
        claims.resolve(number, ClaimOutcome::Contained);
        assert!(claims.open().is_empty());
    }
}
