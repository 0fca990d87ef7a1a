//! Presentations of tokens that newer ones had replaced, each of which is to be reported.

use std::collections::{BTreeMap, btree_map::Entry};

use crate::{Timestamp, id::ClientId};

/// When a client's replaced tokens were last presented. Times are by the database's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplacedUse {
    /// When one was last found active, during its overlap.
    pub worked: Option<Timestamp>,
    /// When one was last refused, since its overlap had ended. If the moment is not known,
    /// one before it.
    pub refused: Option<Timestamp>,
}

impl ReplacedUse {
    /// Whether none was presented.
    pub const fn is_empty(&self) -> bool {
        self.worked.is_none() && self.refused.is_none()
    }

    /// Takes what is later.
    pub fn add(&mut self, other: Self) {
        self.worked = self.worked.max(other.worked);
        self.refused = self.refused.max(other.refused);
    }
}

/// The presentations of replaced tokens that are not reported yet, by client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplacedUses(BTreeMap<ClientId, ReplacedUse>);

impl ReplacedUses {
    /// The most clients that wait. Further ones are left out: a program that still has a
    /// replaced token presents it again.
    pub const MAX_CLIENTS: usize = 100_000;

    /// Adds a client's presentations. Returns whether there was room.
    pub fn add(&mut self, client: ClientId, uses: ReplacedUse) -> bool {
        let has_room = self.0.len() < Self::MAX_CLIENTS;
        match self.0.entry(client) {
            Entry::Occupied(mut known) => known.get_mut().add(uses),
            Entry::Vacant(new) if has_room => {
                new.insert(uses);
            }
            Entry::Vacant(_) => return false,
        }
        true
    }

    /// The first clients, at most that many.
    #[must_use]
    pub fn first(&self, many: usize) -> Self {
        Self(self.iter().take(many).collect())
    }

    /// Removes what was reported. What was presented since then stays.
    pub fn remove(&mut self, reported: &Self) {
        for (client, uses) in &reported.0 {
            if self.0.get(client) == Some(uses) {
                self.0.remove(client);
            }
        }
    }

    /// The clients, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (ClientId, ReplacedUse)> {
        self.0.iter().map(|(client, uses)| (*client, *uses))
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of clients.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn client(number: usize) -> ClientId {
        ClientId::from_uuid(Uuid::from_u128(number as u128))
    }

    fn worked(second: i64) -> ReplacedUse {
        ReplacedUse {
            worked: Timestamp::from_timestamp(second, 0),
            refused: None,
        }
    }

    #[test]
    fn what_was_presented_meanwhile_stays() {
        let mut uses = ReplacedUses::default();
        for number in 1..=3 {
            assert!(uses.add(client(number), worked(1)));
        }
        let reported = uses.first(2);
        assert_eq!(reported.len(), 2);
        assert!(uses.add(client(2), worked(2)));
        uses.remove(&reported);
        let left: Vec<_> = uses.iter().collect();
        assert_eq!(left, [(client(2), worked(2)), (client(3), worked(1))]);
    }

    #[test]
    fn only_so_many_clients_wait() {
        let mut uses = ReplacedUses::default();
        for number in 0..ReplacedUses::MAX_CLIENTS {
            assert!(uses.add(client(number), worked(1)));
        }
        assert!(!uses.add(client(usize::MAX), worked(1)));
        assert!(uses.add(client(0), worked(2)), "it waits already");
        assert_eq!(uses.len(), ReplacedUses::MAX_CLIENTS);
    }
}
