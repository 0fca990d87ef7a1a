//! One version of the index, and whether it may be answered from.

use std::{sync::Arc, time::Duration};

use arc_swap::Guard;

use crate::domain::{Timestamp, index::Index};

/// One version of the index, with its staleness, for one answer.
pub struct View {
    pub(super) index: Guard<Option<Arc<Index>>>,
    /// The time, by the database's clock.
    pub now: Timestamp,
    /// How long ago the version was last proven complete.
    pub staleness: Duration,
    pub(super) max_staleness: Duration,
    pub(super) is_behind: bool,
}

/// Why the index cannot answer whether a token is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswerable {
    /// The first full load is not finished.
    #[error("the index is not loaded yet")]
    Loading,
    /// The index was last proven complete longer ago than the limit.
    #[error("the index is {} s old", .0.as_secs())]
    Stale(Duration),
    /// The index lacks a change that this process acknowledged.
    #[error("the index lacks a change that was made here")]
    Behind,
    /// No query succeeded in time.
    #[error("the database does not answer")]
    NoAnswer,
}

impl View {
    /// The version of the index that this view is of.
    pub fn index(&self) -> &Index {
        self.index.as_ref().expect("a view is made of a version")
    }

    /// The version itself, to be held for longer than an answer takes.
    pub fn shared_index(&self) -> Arc<Index> {
        let index = self.index.as_ref();
        Arc::clone(index.expect("a view is made of a version"))
    }

    /// Refuses a version that lacks a change that this process acknowledged.
    pub const fn require_caught_up(&self) -> Result<(), Unanswerable> {
        if self.is_behind {
            Err(Unanswerable::Behind)
        } else {
            Ok(())
        }
    }

    /// Refuses a version that does not prove that a token is active.
    pub fn require_fresh(&self) -> Result<(), Unanswerable> {
        self.require_caught_up()?;
        if self.staleness <= self.max_staleness {
            Ok(())
        } else {
            Err(Unanswerable::Stale(self.staleness))
        }
    }

    /// How long until the version reaches `max_staleness`.
    pub fn stays_fresh_for(&self) -> Duration {
        self.max_staleness.saturating_sub(self.staleness)
    }
}
