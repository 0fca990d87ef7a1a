//! Changes that this process made, until it is shown that they count.
//!
//! A change counts when the index contains it, and when the server that takes the writes
//! was looked for after the commit and has it: a connection of the pool may lead to a
//! server that was replaced a moment ago, on which a revocation would be acknowledged and
//! lost. Both normally take a few milliseconds, and the acknowledgement waits for them.
//!
//! Where that takes too long, the change is acknowledged all the same. If the index does
//! not contain it then, the index is known to be *behind*: nothing is answered from it
//! until it has caught up.

use std::{
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::oneshot;

use crate::store::feed::Position;

/// A change that was committed and then lost: the server that took over does not have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the commit of revision {0} is not in the database that took over")]
pub struct CommitLost(pub u64);

/// All changes of this process that are not shown to count.
#[derive(Default)]
pub(super) struct Claims {
    open: Mutex<Vec<Open>>,
    next: AtomicU64,
    /// Whether one of them was acknowledged and is not applied.
    is_behind: AtomicBool,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub(super) number: u64,
    pub(super) position: Position,
    /// By the replica's clock, when it was known to be committed.
    pub(super) committed_at: Duration,
}

struct Open {
    claim: Claim,
    /// Whether the index contains the change.
    is_applied: bool,
    /// Whether the change was acknowledged.
    is_acknowledged: bool,
    /// Whoever waits to acknowledge it.
    waiting: oneshot::Sender<Result<(), CommitLost>>,
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It counts: the index and the server that takes the writes contain it.
    Contained,
    /// The database does not contain it any more.
    Lost,
}

impl Claims {
    fn lock(&self) -> MutexGuard<'_, Vec<Open>> {
        // Nothing panics while it is held.
        self.open
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Adds a change, and gives what says what became of it.
    pub(super) fn add(
        &self,
        position: Position,
        committed_at: Duration,
    ) -> (u64, oneshot::Receiver<Result<(), CommitLost>>) {
        let (waiting, settled) = oneshot::channel();
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
        (number, settled)
    }

    /// Notes that a change is acknowledged before it was shown to count, unless that was
    /// settled meanwhile. Says whether the index is behind because of it.
    pub(super) fn acknowledge(&self, number: u64) -> bool {
        let mut open = self.lock();
        let found = open.iter_mut().find(|open| open.claim.number == number);
        let is_behind = found.is_some_and(|found| {
            found.is_acknowledged = true;
            !found.is_applied
        });
        self.note(&open);
        is_behind
    }

    /// Notes that the index contains a change, of which it is not shown yet that the
    /// server that takes the writes has it.
    pub(super) fn apply(&self, number: u64) {
        let mut open = self.lock();
        let found = open.iter_mut().find(|open| open.claim.number == number);
        if let Some(found) = found {
            found.is_applied = true;
        }
        self.note(&open);
    }

    fn note(&self, open: &[Open]) {
        let is_behind = open
            .iter()
            .any(|open| open.is_acknowledged && !open.is_applied);
        self.is_behind.store(is_behind, Ordering::Release);
    }

    /// Whether the index is known to lack a change that was acknowledged.
    pub(super) fn is_behind(&self) -> bool {
        self.is_behind.load(Ordering::Acquire)
    }

    /// When the newest change was committed that is not settled yet.
    pub(super) fn newest(&self) -> Option<Duration> {
        self.lock().iter().map(|open| open.claim.committed_at).max()
    }

    /// What is not settled yet.
    pub(super) fn open(&self) -> Vec<Claim> {
        self.lock().iter().map(|open| open.claim).collect()
    }

    /// Settles a change.
    pub(super) fn settle(&self, number: u64, fate: Fate) {
        let mut open = self.lock();
        let Some(at) = open.iter().position(|open| open.claim.number == number) else {
            return;
        };
        let settled = open.remove(at);
        let revision = settled.claim.position.revision.0;
        if fate == Fate::Lost && settled.is_acknowledged {
            tracing::error!(
                revision,
                "a change that was acknowledged is lost: the database server that took over \
                 does not have it"
            );
        }
        let result = match fate {
            Fate::Contained => Ok(()),
            Fate::Lost => Err(CommitLost(revision)),
        };
        // Whoever waited may have gone away.
        settled.waiting.send(result).ok();
        self.note(&open);
    }
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
        let (first, mut settled) = claims.add(at(1), Duration::ZERO);
        let (second, mut lost) = claims.add(at(2), Duration::ZERO);
        assert!(!claims.is_behind(), "nobody was told yet");
        assert!(claims.acknowledge(first) && claims.acknowledge(second));
        assert!(claims.is_behind());
        claims.settle(first, Fate::Contained);
        assert!(claims.is_behind(), "the other one is open");
        assert_eq!(settled.try_recv(), Ok(Ok(())));
        claims.settle(second, Fate::Lost);
        assert!(!claims.is_behind());
        assert_eq!(lost.try_recv(), Ok(Err(CommitLost(2))));
        assert!(claims.open().is_empty());
        // What was settled before it was acknowledged, and whoever settles twice, change nothing.
        assert!(!claims.acknowledge(first));
        claims.settle(first, Fate::Lost);
        assert!(!claims.is_behind());
    }

    #[test]
    fn the_index_is_not_behind_because_of_a_change_that_it_contains() {
        let claims = Claims::default();
        let (first, _settled) = claims.add(at(1), Duration::ZERO);
        claims.apply(first);
        assert!(!claims.acknowledge(first));
        let (second, _settled) = claims.add(at(2), Duration::ZERO);
        assert!(claims.acknowledge(second));
        claims.apply(second);
        assert!(!claims.is_behind());
        assert_eq!(claims.open().len(), 2, "neither is shown to count");
    }

    #[test]
    fn a_change_that_nobody_waits_for_is_settled_all_the_same() {
        let claims = Claims::default();
        let (number, settled) = claims.add(at(1), Duration::ZERO);
        drop(settled);
        assert_eq!(claims.open().len(), 1);
        claims.settle(number, Fate::Contained);
        assert!(claims.open().is_empty());
    }
}
