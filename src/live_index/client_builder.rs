//! Builds clients from the rows of a snapshot, and resolves their effective access once,
//! rather than for each call.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use crate::{
    domain::{
        access::{CurrentOwner, EffectiveAccess},
        client::Expiry,
        id::{ClientId, SiteId},
        index::{Known, Writer},
        introspection::{BaseState, ResolvedClient, Restrictions, TokenStanding},
        role::{InstanceRole, SiteRole},
        token::StoredHash,
    },
    store::feed::{ClientRow, GrantRow, Sink, TokenRow},
};

/// Collects the rows of clients.
#[derive(Debug, Default)]
pub(super) struct ClientBuilder {
    /// The index of each client in `clients`.
    positions: HashMap<ClientId, u32, IdHash>,
    clients: Vec<(ClientId, PendingClient)>,
}

/// Hashes ids, for speed alone: HitKeep and this service mint them, so that no attacker
/// can choose colliding ones.
pub(super) type IdHash = BuildHasherDefault<IdHasher>;

/// Mixes 16 or 32 bytes in a few steps.
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
        /// The fraction of the golden ratio, an odd number without a pattern.
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
        self.0 = (self.0.rotate_left(29) ^ word).wrapping_mul(SPREAD);
    }

    fn write_usize(&mut self, _: usize) {
        // The length of an id is constant, so it adds nothing.
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

#[derive(Debug, Default)]
struct PendingClient {
    /// `None` if a row of the client cannot be read.
    client: Option<ClientParts>,
    grants: Vec<(SiteId, SiteRole)>,
    tokens: Vec<(StoredHash, TokenStanding)>,
}

#[derive(Debug)]
struct ClientParts {
    owner: CurrentOwner,
    name: Box<str>,
    instance_role: InstanceRole,
    expiry: Expiry,
    restrictions: Option<Box<Restrictions>>,
    revoked: bool,
}

impl Sink for ClientBuilder {
    fn client(&mut self, row: ClientRow) {
        let pending = PendingClient {
            client: Some(ClientParts {
                owner: row.owner,
                name: row.name,
                instance_role: row.instance_role,
                expiry: row.expiry,
                restrictions: row.restrictions,
                revoked: row.revoked,
            }),
            ..PendingClient::default()
        };
        *self.pending(row.client) = pending;
    }

    fn grant(&mut self, row: GrantRow) {
        // All rows are of one snapshot, so that no grant lacks its client; one that did
        // would give no access.
        let Some(pending) = self.known(row.client) else {
            return;
        };
        let Some(client) = &pending.client else {
            return;
        };
        let role = client.owner.effective_site_role(&row.standing, row.granted);
        if let Some(role) = role {
            // Most of the millions of clients have one grant, so that spare capacity is waste.
            pending.grants.reserve_exact(1);
            pending.grants.push((row.site, role));
        }
    }

    fn token(&mut self, row: TokenRow) {
        if let Some(pending) = self.known(row.client) {
            pending.tokens.reserve_exact(1);
            pending.tokens.push((row.hash, row.standing));
        }
    }

    fn unreadable(&mut self, client: ClientId) {
        self.pending(client).client = None;
    }
}

impl ClientBuilder {
    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }

    /// The owner of a client; `None` if the client is absent or cannot be read.
    pub(super) fn owner(&self, client: ClientId) -> Option<CurrentOwner> {
        let position = *self.positions.get(&client)? as usize;
        let parts = self.clients[position].1.client.as_ref();
        parts.map(|parts| parts.owner)
    }

    fn known(&mut self, client: ClientId) -> Option<&mut PendingClient> {
        let position = *self.positions.get(&client)? as usize;
        Some(&mut self.clients[position].1)
    }

    fn pending(&mut self, client: ClientId) -> &mut PendingClient {
        let next = self.clients.len();
        let position = *self.positions.entry(client).or_insert_with(|| {
            u32::try_from(next).expect("four billion clients are not in one database")
        });
        if position as usize == next {
            self.clients.push((client, PendingClient::default()));
        }
        &mut self.clients[position as usize].1
    }

    /// Writes the clients to an index. Clients in `changed` without rows were deleted.
    pub(super) fn write(self, changed: &[ClientId], writer: &mut Writer) {
        for client in changed {
            if !self.positions.contains_key(client) {
                writer.remove(*client);
            }
        }
        for (id, pending) in self.clients {
            let (known, tokens) = pending.resolve(id);
            writer.put(known, &tokens);
        }
    }

    /// A writer of an index with these clients alone.
    pub(super) fn into_writer(self) -> Writer {
        drop(self.positions);
        Writer::of(
            self.clients
                .into_iter()
                .map(|(id, pending)| pending.resolve(id)),
        )
    }
}

impl PendingClient {
    fn resolve(self, id: ClientId) -> (Known, Vec<(StoredHash, TokenStanding)>) {
        let known = match self.client {
            Some(client) => Known::Resolved(client.resolve(id, self.grants)),
            None => Known::Unreadable(id),
        };
        (known, self.tokens)
    }
}

impl ClientParts {
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
            restrictions: self.restrictions,
            name: self.name,
        }
    }
}
