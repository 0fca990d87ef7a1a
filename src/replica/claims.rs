//! Claims: commits of this process that are not yet shown to be in the index and on the
//! primary.
//!
//! A claim is resolved once the index contains the commit, and a survey that began after
//! the commit has found it on the primary. A connection of the pool may lead to a server
//! that was just replaced, on which a revocation would be acknowledged and lost. Both take
//! a few milliseconds, and the acknowledgement waits for them.
//!
//! A feed that runs a full load resolves no claim for as long. So a write that has waited for
//! some time looks for the primary itself, and acknowledges a change that the index lacks if
//! the primary has it. The index is *behind* then, and nothing is answered from it until it
//! has caught up. A change that nothing proves is not acknowledged.

use std::{
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::oneshot;

use crate::store::feed::Position;

/// Why a commit is not acknowledged, by its revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAcknowledged {
    /// A failover lost it: the new primary does not have it.
    #[error("the commit of revision {0} is not in the database that took over")]
    Lost(u64),
    /// No connection to the primary showed in time that it has it. It may be in force.
    #[error("nothing showed in time that the primary has the commit of revision {0}")]
    Unproven(u64),
}

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
    pub(super) position: Position,
    /// When the commit was confirmed, by `elapsed` of the replica's clock.
    pub(super) committed_at: Duration,
}

struct Open {
    claim: Claim,
    /// Whether the index contains the change.
    is_applied: bool,
    is_acknowledged: bool,
    /// Wakes the write that waits to acknowledge the change.
    waiting: oneshot::Sender<Result<(), NotAcknowledged>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClaimOutcome {
    /// The index and the primary contain the commit.
    Contained,
    /// The primary does not contain the commit.
    Lost,
}

impl Claims {
    fn lock(&self) -> MutexGuard<'_, Vec<Open>> {
        locked(&self.open)
    }

    /// Adds a claim, and returns its number and a receiver of its outcome.
    pub(super) fn add(
        &self,
        position: Position,
        committed_at: Duration,
    ) -> (u64, oneshot::Receiver<Result<(), NotAcknowledged>>) {
        let (waiting, resolved) = oneshot::channel();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().push(Open {
            claim: Claim {
                number,
                position,
                committed_at,
            },
            is_applied: false,
            is_acknowledged: false,
            waiting,
        });
        (number, resolved)
    }

    /// Marks a claim as acknowledged before it was resolved. Returns whether the index is
    /// behind because of it; not if the claim was resolved meanwhile.
    pub(super) fn acknowledge(&self, number: u64) -> bool {
        let mut open = self.lock();
        let found = open.iter_mut().find(|open| open.claim.number == number);
        let is_behind = found.is_some_and(|found| {
            found.is_acknowledged = true;
            self.note_acknowledged(found.claim.position);
            !found.is_applied
        });
        self.update_behind(&open);
        is_behind
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
            .any(|open| open.is_acknowledged && !open.is_applied);
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
        let resolved = open.remove(at);
        let position = resolved.claim.position;
        match outcome {
            ClaimOutcome::Contained => {
                // Otherwise the write has given up waiting.
                if resolved.waiting.send(Ok(())).is_ok() {
                    self.note_acknowledged(position);
                }
            }
            ClaimOutcome::Lost => {
                if resolved.is_acknowledged {
                    self.report_lost();
                }
                let lost = NotAcknowledged::Lost(position.revision.0);
                resolved.waiting.send(Err(lost)).ok();
            }
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
        let newest = locked(&self.acknowledged).take();
        tracing::error!(
            revision = newest.map(|newest| newest.revision.0),
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

    fn at(revision: u64) -> Position {
        Position {
            database: Uuid::nil(),
            revision: Revision(revision),
            nonce: Uuid::nil(),
        }
    }

    #[test]
    fn the_index_is_behind_while_an_acknowledged_change_is_open() {
        let claims = Claims::default();
        let (first, mut resolved) = claims.add(at(1), Duration::ZERO);
        let (second, mut lost) = claims.add(at(2), Duration::ZERO);
        assert!(!claims.is_behind(), "no claim is acknowledged");
        assert!(claims.acknowledge(first) && claims.acknowledge(second));
        assert!(claims.is_behind());
        claims.resolve(first, ClaimOutcome::Contained);
        assert!(claims.is_behind(), "the other one is open");
        assert_eq!(resolved.try_recv(), Ok(Ok(())));
        claims.resolve(second, ClaimOutcome::Lost);
        assert!(!claims.is_behind());
        assert_eq!(lost.try_recv(), Ok(Err(NotAcknowledged::Lost(2))));
        assert!(claims.open().is_empty());
        // Acknowledging a resolved claim changes nothing, nor does resolving it twice.
        assert!(!claims.acknowledge(first));
        claims.resolve(first, ClaimOutcome::Lost);
        assert!(!claims.is_behind());
    }

    #[test]
    fn the_index_is_not_behind_because_of_a_change_that_it_contains() {
        let claims = Claims::default();
        let (first, _resolved) = claims.add(at(1), Duration::ZERO);
        claims.apply(first);
        assert!(!claims.acknowledge(first));
        let (second, _resolved) = claims.add(at(2), Duration::ZERO);
        assert!(claims.acknowledge(second));
        claims.apply(second);
        assert!(!claims.is_behind());
        assert_eq!(claims.open().len(), 2, "neither is resolved");
    }

    #[test]
    fn the_newest_acknowledged_commit_is_known_until_it_is_lost() {
        let claims = Claims::default();
        let (first, _resolved) = claims.add(at(1), Duration::ZERO);
        let (second, _resolved) = claims.add(at(2), Duration::ZERO);
        let (third, given_up) = claims.add(at(3), Duration::ZERO);
        assert_eq!(claims.acknowledged(), None);
        claims.resolve(second, ClaimOutcome::Contained);
        claims.acknowledge(first);
        drop(given_up);
        claims.resolve(third, ClaimOutcome::Contained);
        assert_eq!(claims.acknowledged(), Some(at(2)));
        claims.report_lost();
        assert_eq!(claims.acknowledged(), None);
        // A restored backup gives revisions out again.
        claims.acknowledge(first);
        assert_eq!(claims.acknowledged(), Some(at(1)));
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
