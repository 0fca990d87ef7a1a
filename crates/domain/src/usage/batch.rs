//! Uses that are to be written to the database, collected per client.

use std::{
    collections::{BTreeMap, btree_map},
    ops::Bound,
};

use super::{Count, ReplacedUse, ReplacedUses};
use crate::{Timestamp, id::ClientId};

/// One client's usage that is not yet written to the database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PendingUsage {
    last_used: Option<Timestamp>,
    replaced: ReplacedUse,
    counts: Vec<Count>,
}

impl PendingUsage {
    /// When a token of the client was last found active, if it was.
    pub const fn last_used(&self) -> Option<Timestamp> {
        self.last_used
    }

    /// When a token that a newer one had replaced was last found active, if it was.
    pub const fn replaced_token_used(&self) -> Option<Timestamp> {
        self.replaced.worked
    }

    /// When a token that a newer one had replaced was last refused, if it was and that is
    /// known.
    pub const fn replaced_token_refused(&self) -> Option<Timestamp> {
        self.replaced.refused
    }

    /// The counts, with at most one for each day and outcome.
    pub fn counts(&self) -> &[Count] {
        &self.counts
    }
}

/// The pending usage of all clients, ordered by client. A client is removed when its usage
/// is written; if a write fails, it stays and later counts are added. So it has at most
/// ten counts for each client and each day without a successful write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch(BTreeMap<ClientId, PendingUsage>);

impl Batch {
    /// Adds a count of a client.
    pub fn add(&mut self, client: ClientId, count: Count) {
        let counts = &mut self.0.entry(client).or_default().counts;
        let same = |known: &&mut Count| (known.day, known.outcome) == (count.day, count.outcome);
        match counts.iter_mut().find(same) {
            Some(known) => known.count = known.count.saturating_add(count.count.get()),
            None => counts.push(count),
        }
    }

    /// Records that a token of a client was found active at `time`. An earlier time than the
    /// recorded one changes nothing.
    pub fn used_at(&mut self, client: ClientId, time: Timestamp) {
        let known = &mut self.0.entry(client).or_default().last_used;
        *known = (*known).max(Some(time));
    }

    /// Records that a token of a client that a newer one had replaced was found active at
    /// `time`. An earlier time than the recorded one changes nothing.
    pub fn replaced_token_used_at(&mut self, client: ClientId, time: Timestamp) {
        let worked = Some(time);
        let uses = ReplacedUse {
            worked,
            ..ReplacedUse::default()
        };
        self.add_replaced(client, uses);
    }

    /// Records that a token of a client that a newer one had replaced was refused at `time`.
    /// An earlier time than the recorded one changes nothing.
    pub fn replaced_token_refused_at(&mut self, client: ClientId, time: Timestamp) {
        let refused = Some(time);
        let uses = ReplacedUse {
            refused,
            ..ReplacedUse::default()
        };
        self.add_replaced(client, uses);
    }

    fn add_replaced(&mut self, client: ClientId, uses: ReplacedUse) {
        self.0.entry(client).or_default().replaced.add(uses);
    }

    /// Moves the presentations of replaced tokens to others that are to be reported. Returns
    /// for how many clients there was no room.
    pub fn move_replaced(&mut self, to: &mut ReplacedUses) -> usize {
        let mut left_out = 0;
        self.0.retain(|client, pending| {
            let uses = std::mem::take(&mut pending.replaced);
            left_out += usize::from(!(uses.is_empty() || to.add(*client, uses)));
            *pending != PendingUsage::default()
        });
        left_out
    }

    /// Adds presentations of replaced tokens that are to be reported.
    pub fn extend_replaced(&mut self, replaced: &ReplacedUses) {
        for (client, uses) in replaced.iter() {
            self.add_replaced(client, uses);
        }
    }

    /// The clients that sort after `client`, or all of them.
    pub fn after(&self, client: Option<ClientId>) -> btree_map::Range<'_, ClientId, PendingUsage> {
        let start = client.map_or(Bound::Unbounded, Bound::Excluded);
        self.0.range((start, Bound::Unbounded))
    }

    /// Removes a client whose usage was written.
    pub fn remove(&mut self, client: ClientId) {
        self.0.remove(&client);
    }

    /// Removes all clients but the first of that number, and returns them.
    #[must_use]
    pub fn split_off(&mut self, at: usize) -> Self {
        let Some(first) = self.0.keys().nth(at).copied() else {
            return Self::default();
        };
        Self(self.0.split_off(&first))
    }

    /// Whether no usage is pending.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of clients with pending usage.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}
