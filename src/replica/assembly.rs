//! From rows to clients: what a snapshot tells of each is put together, and its
//! effective access worked out, once and not for each token that arrives.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use super::index::{Known, Writer};
use crate::{
    domain::{
        access::{CurrentOwner, EffectiveAccess},
        client::Expiry,
        id::{ClientId, SiteId},
        introspection::{BaseState, ResolvedClient, TokenStanding},
        role::{InstanceRole, SiteRole},
        token::TokenHash,
    },
    store::feed::{ClientRow, GrantRow, Sink, TokenRow},
};

/// Clients whose rows are still coming.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    /// Where each is among the clients.
    places: HashMap<ClientId, u32, IdHash>,
    clients: Vec<(ClientId, Building)>,
}

/// How ids are hashed here: they are HitKeep's and our own, and nobody gains from a
/// crowded table, so speed is all that counts.
pub(super) type IdHash = BuildHasherDefault<IdHasher>;

/// Mixes sixteen bytes, or twice sixteen, in a few steps.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(size_of::<u64>()) {
            let mut word = [0; size_of::<u64>()];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        /// An odd number without a pattern, the golden ratio's fraction.
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
        self.0 = (self.0.rotate_left(29) ^ word).wrapping_mul(SPREAD);
    }

    fn write_usize(&mut self, _: usize) {
        // The length of an id, which is always the same.
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

#[derive(Debug, Default)]
struct Building {
    /// None where it, or something of it, cannot be read.
    client: Option<Parts>,
    grants: Vec<(SiteId, SiteRole)>,
    tokens: Vec<(TokenHash, TokenStanding)>,
}

#[derive(Debug)]
struct Parts {
    owner: CurrentOwner,
    name: Box<str>,
    instance_role: InstanceRole,
    expiry: Expiry,
    revoked: bool,
}

impl Sink for Assembly {
    fn client(&mut self, row: ClientRow) {
        let building = Building {
            client: Some(Parts {
                owner: row.owner,
                name: row.name,
                instance_role: row.instance_role,
                expiry: row.expiry,
                revoked: row.revoked,
            }),
            ..Building::default()
        };
        *self.building(row.client) = building;
    }

    fn grant(&mut self, row: GrantRow) {
        // All rows are of one snapshot: a grant without a client cannot be, and
        // would give nothing.
        let Some(building) = self.known(row.client) else {
            return;
        };
        let Some(client) = &building.client else {
            return;
        };
        let role = client.owner.effective_site_role(&row.standing, row.granted);
        if let Some(role) = role {
            // There are millions of these, and most are never added to again.
            building.grants.reserve_exact(1);
            building.grants.push((row.site, role));
        }
    }

    fn token(&mut self, row: TokenRow) {
        if let Some(building) = self.known(row.client) {
            building.tokens.reserve_exact(1);
            building.tokens.push((row.hash, row.standing));
        }
    }

    fn unreadable(&mut self, client: ClientId) {
        self.building(client).client = None;
    }
}

impl Assembly {
    /// How many clients it has.
    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }

    /// Who owns a client, where that can be read.
    pub(super) fn owner(&self, client: ClientId) -> Option<CurrentOwner> {
        let place = *self.places.get(&client)? as usize;
        let parts = self.clients[place].1.client.as_ref();
        parts.map(|parts| parts.owner)
    }

    fn known(&mut self, client: ClientId) -> Option<&mut Building> {
        let place = *self.places.get(&client)? as usize;
        Some(&mut self.clients[place].1)
    }

    fn building(&mut self, client: ClientId) -> &mut Building {
        let next = self.clients.len();
        let place = *self.places.entry(client).or_insert_with(|| {
            u32::try_from(next).expect("four billion clients are not in one database")
        });
        if place as usize == next {
            self.clients.push((client, Building::default()));
        }
        &mut self.clients[place as usize].1
    }

    /// Writes the clients down. Those that `changed` and of which there are no rows
    /// are gone.
    pub(super) fn write(self, changed: &[ClientId], writer: &mut Writer) {
        for client in changed {
            if !self.places.contains_key(client) {
                writer.remove(*client);
            }
        }
        for (id, building) in self.clients {
            let (known, tokens) = building.resolve(id);
            writer.put(known, &tokens);
        }
    }

    /// A writer that knows these clients and no others.
    pub(super) fn into_writer(self) -> Writer {
        drop(self.places);
        Writer::of(
            self.clients
                .into_iter()
                .map(|(id, building)| building.resolve(id)),
        )
    }
}

impl Building {
    fn resolve(self, id: ClientId) -> (Known, Vec<(TokenHash, TokenStanding)>) {
        let known = match self.client {
            Some(client) => Known::Resolved(client.resolve(id, self.grants)),
            None => Known::Unreadable(id),
        };
        (known, self.tokens)
    }
}

impl Parts {
    fn resolve(self, client: ClientId, grants: Vec<(SiteId, SiteRole)>) -> ResolvedClient {
        ResolvedClient {
            client,
            owner: self.owner.owner(),
            base_state: BaseState::of(self.revoked, self.owner.can_act()),
            access: EffectiveAccess {
                instance_role: self.owner.effective_instance_role(self.instance_role),
                grants: grants.into_iter().collect(),
            },
            expiry: self.expiry,
            name: self.name,
        }
    }
}
