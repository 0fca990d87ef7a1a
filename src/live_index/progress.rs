//! How far the feed is.

use crate::domain::{Position, Revision};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeedProgress {
    /// The position of the index; `None` until it is loaded.
    pub(super) position: Option<Position>,
    /// The number of the last query whose result was applied.
    pub(super) answered: u64,
    /// The number of the last query that failed.
    pub(super) failed: u64,
    /// Failed queries since the process started.
    pub failures: u64,
    /// Whether the source of the index answered when it was last asked.
    pub(super) is_reached: bool,
}

impl FeedProgress {
    /// The revision of the index; `None` until it is loaded.
    pub fn revision(&self) -> Option<Revision> {
        self.position.map(|position| position.revision)
    }

    /// Whether the source of the index answered when it was last asked: the database, or
    /// the server upstream.
    pub fn reaches_database(&self) -> bool {
        self.is_reached
    }
}
