//! How HitKeep itself decides what a token may do, from its own tables.
//!
//! It decides in two places. The REST API asks for the owner's role as well, in the owner's
//! active team alone, and lets an instance role stand in for a role on a site. MCP and server
//! ingest go by the grant alone. Both are modelled as the strongest site role whose permissions
//! a token has on a site.

use std::collections::BTreeMap;

use super::hitkeep::{ClientThere, HitKeep};
use crate::domain::{
    Timestamp,
    access::{Owner, SiteGrants},
    id::{ClientId, SiteId, TeamId, UserId},
    role::{InstanceRole, SiteRole},
};

/// Where a token is presented to HitKeep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Surface {
    /// The REST API.
    Rest,
    /// MCP and server ingest.
    Tools,
}

impl Surface {
    /// A word for programs and people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rest => "rest",
            Self::Tools => "mcp, ingest",
        }
    }
}

/// HitKeep's tables, ready to answer from.
#[derive(Debug)]
pub struct Answers<'h> {
    tables: &'h HitKeep,
    grants: BTreeMap<ClientId, SiteGrants>,
    /// The team that a user without a valid choice acts in.
    primary: BTreeMap<UserId, TeamId>,
}

impl<'h> Answers<'h> {
    /// Prepares HitKeep's tables.
    pub fn of(tables: &'h HitKeep) -> Self {
        let mut best = BTreeMap::new();
        for ((team, user), membership) in &tables.team_members {
            if tables.teams.get(team) != Some(&false) {
                continue;
            }
            // The strongest role first, then the oldest membership. A membership without a
            // time comes last, as in DuckDB.
            let missing = membership.added.is_none();
            let rank = (
                std::cmp::Reverse(membership.role),
                missing,
                membership.added,
            );
            let known = best.entry(*user).or_insert((rank, *team));
            if rank < known.0 {
                *known = (rank, *team);
            }
        }
        Self {
            tables,
            grants: tables.grants_by_client(),
            primary: best
                .into_iter()
                .map(|(user, (_, team))| (user, team))
                .collect(),
        }
    }

    pub const fn tables(&self) -> &'h HitKeep {
        self.tables
    }

    /// Whether HitKeep finds the client by its token.
    pub fn works(&self, client: &ClientThere, now: Timestamp) -> bool {
        let owner_can_act = match client.owner {
            Owner::User(_) => true,
            Owner::Team(team) => self.tables.teams.get(&team) != Some(&true),
        };
        let expired = client.expires.is_some_and(|end| now > end);
        client.token.is_some() && !client.revoked && !expired && owner_can_act
    }

    /// The sites that the client has a grant on that counts.
    pub fn grants<'s>(
        &'s self,
        client: &'s ClientThere,
    ) -> impl Iterator<Item = (SiteId, SiteRole)> + 's {
        let grants = self.grants.get(&client.id).into_iter().flatten();
        grants.filter_map(move |(site, role)| {
            let counts = match client.owner {
                Owner::User(_) => true,
                Owner::Team(team) => self.team_of(*site) == Some(team),
            };
            counts.then_some((*site, *role))
        })
    }

    /// The grant on a site, if it counts.
    pub fn grant(&self, client: &ClientThere, site: SiteId) -> Option<SiteRole> {
        let role = *self.grants.get(&client.id)?.get(&site)?;
        match client.owner {
            Owner::User(_) => Some(role),
            Owner::Team(team) => (self.team_of(site) == Some(team)).then_some(role),
        }
    }

    pub fn team_of(&self, site: SiteId) -> Option<TeamId> {
        Some(self.tables.sites.get(&site)?.team)
    }

    /// The team that a user acts in: the chosen one if the user is a member and it is not
    /// archived, else the one with the user's strongest role, else the default one.
    pub fn active_team(&self, user: UserId) -> Option<TeamId> {
        let chosen = self.tables.chosen.get(&user).copied().filter(|team| {
            self.tables.team_members.contains_key(&(*team, user))
                && self.tables.teams.get(team) == Some(&false)
        });
        chosen
            .or_else(|| self.primary.get(&user).copied())
            .or(self.tables.default_team)
    }

    /// A user's role on a site, if the user acts in the site's team.
    pub fn site_role_in_team(&self, user: UserId, site: SiteId) -> Option<SiteRole> {
        let row = self.tables.sites.get(&site)?;
        let explicit = self.tables.site_members.get(&(site, user));
        // A role that HitKeep does not know is the weakest of all, and has no permission.
        let explicit = match explicit {
            Some(None) => return None,
            Some(Some(role)) => Some(*role),
            None => None,
        };
        let owner = (row.owner == Some(user)).then_some(SiteRole::Owner);
        let of_team = (self.tables.teams.get(&row.team) == Some(&false))
            .then(|| self.tables.team_members.get(&(row.team, user)))
            .flatten()
            .and_then(|membership| membership.role.derived_site_role());
        [explicit, owner, of_team].into_iter().flatten().min()
    }

    /// The instance role that a client acts with.
    pub fn instance_role(&self, client: &ClientThere) -> InstanceRole {
        match client.owner {
            Owner::User(user) => {
                let held = self.tables.users.get(&user).copied();
                client.instance_role.min(held.unwrap_or(InstanceRole::User))
            }
            Owner::Team(_) => InstanceRole::User,
        }
    }

    /// What the instance role gives on every site, over REST.
    pub fn everywhere(&self, client: &ClientThere) -> Option<SiteRole> {
        match self.instance_role(client) {
            InstanceRole::Owner => Some(SiteRole::Owner),
            InstanceRole::Admin => Some(SiteRole::Viewer),
            InstanceRole::User => None,
        }
    }

    /// What a grant gives over REST.
    pub fn granted(&self, client: &ClientThere, site: SiteId) -> Option<SiteRole> {
        let granted = self.grant(client, site)?;
        match client.owner {
            Owner::Team(_) => Some(granted),
            Owner::User(user) => {
                if self.active_team(user) != self.team_of(site) {
                    return None;
                }
                let held = self.site_role_in_team(user, site)?;
                Some(granted.min(held))
            }
        }
    }

    /// The role that a working client has on a site.
    pub fn role(&self, client: &ClientThere, site: SiteId, surface: Surface) -> Option<SiteRole> {
        match surface {
            Surface::Rest => self.everywhere(client).max(self.granted(client, site)),
            Surface::Tools => self.grant(client, site),
        }
    }
}
