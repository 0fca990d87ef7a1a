//! From rows to clients: what a snapshot tells of each is put together, and its
//! effective access worked out, once and not for each token that arrives.

use std::collections::HashMap;

use super::index::{Known, Writer};
use crate::{
    domain::{
        access::{CurrentOwner, EffectiveAccess},
        client::Expiry,
        id::{ClientId, SiteId},
        introspection::{Life, Settled, TokenStanding},
        role::{InstanceRole, SiteRole},
        token::TokenHash,
    },
    store::feed::{ClientRow, GrantRow, Sink, TokenRow},
};

/// Clients whose rows are still coming.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    clients: HashMap<ClientId, Building>,
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
        self.clients.insert(row.client, building);
    }

    fn grant(&mut self, row: GrantRow) {
        // All rows are of one snapshot: a grant without a client cannot be, and
        // would give nothing.
        let Some(building) = self.clients.get_mut(&row.client) else {
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
        if let Some(building) = self.clients.get_mut(&row.client) {
            building.tokens.reserve_exact(1);
            building.tokens.push((row.hash, row.standing));
        }
    }

    fn unreadable(&mut self, client: ClientId) {
        self.clients.entry(client).or_default().client = None;
    }
}

impl Assembly {
    /// How many clients it has.
    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }

    /// Writes the clients down. Those that `changed` and of which there are no rows
    /// are gone.
    pub(super) fn write(self, changed: &[ClientId], writer: &mut Writer) {
        for client in changed {
            if !self.clients.contains_key(client) {
                writer.remove(*client);
            }
        }
        for (id, building) in self.clients {
            let known = match building.client {
                Some(client) => Known::Settled(client.settle(id, building.grants)),
                None => Known::Unreadable(id),
            };
            writer.put(known, &building.tokens);
        }
    }
}

impl Parts {
    fn settle(self, client: ClientId, grants: Vec<(SiteId, SiteRole)>) -> Settled {
        Settled {
            client,
            owner: self.owner.owner(),
            life: Life::of(self.revoked, self.owner.can_act()),
            access: EffectiveAccess {
                instance_role: self.owner.effective_instance_role(self.instance_role),
                grants: grants.into_iter().collect(),
            },
            expiry: self.expiry,
            name: self.name,
        }
    }
}
