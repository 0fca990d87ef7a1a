//! Builds all clients from the plain tables of a full load, joining grants with sites and
//! memberships in memory.

use std::collections::HashMap;

use super::client_builder::{ClientBuilder, IdHash};
use crate::{
    domain::{
        access::{CurrentOwner, SiteStanding},
        id::{ClientId, SiteId, TeamId, UserId},
        role::{SiteRole, TeamRole},
    },
    store::feed::{ClientRow, FullLoadSink, GrantRow, Sink, TokenRow},
};

/// Collects the rows of clients, and the directory that their access depends on.
#[derive(Debug, Default)]
pub(super) struct FullLoad {
    pub(super) builder: ClientBuilder,
    sites: HashMap<SiteId, (TeamId, bool), IdHash>,
    /// Roles of users; `None` if a role cannot be read.
    in_teams: HashMap<(TeamId, UserId), Option<TeamRole>, IdHash>,
    on_sites: HashMap<(SiteId, UserId), Option<SiteRole>, IdHash>,
}

/// A role that cannot be read.
struct Unreadable;

impl FullLoad {
    fn standing(
        &self,
        owner: &CurrentOwner,
        site: SiteId,
    ) -> Result<Option<SiteStanding>, Unreadable> {
        let Some((team, team_archived)) = self.sites.get(&site).copied() else {
            return Ok(None);
        };
        let (team_role, site_role) = match owner {
            CurrentOwner::User(user, _) => {
                let in_team = self.in_teams.get(&(team, *user));
                let on_site = self.on_sites.get(&(site, *user));
                (
                    in_team.map(|role| role.ok_or(Unreadable)).transpose()?,
                    on_site.map(|role| role.ok_or(Unreadable)).transpose()?,
                )
            }
            CurrentOwner::Team { .. } => (None, None),
        };
        Ok(Some(SiteStanding {
            team,
            team_archived,
            team_role,
            site_role,
        }))
    }
}

impl Sink for FullLoad {
    fn client(&mut self, row: ClientRow) {
        self.builder.client(row);
    }

    fn grant(&mut self, row: GrantRow) {
        self.builder.grant(row);
    }

    fn token(&mut self, row: TokenRow) {
        self.builder.token(row);
    }

    fn unreadable(&mut self, client: ClientId) {
        self.builder.unreadable(client);
    }
}

impl FullLoadSink for FullLoad {
    fn site(&mut self, site: SiteId, team: TeamId, archived: bool) {
        self.sites.insert(site, (team, archived));
    }

    fn team_member(&mut self, team: TeamId, user: UserId, role: Option<TeamRole>) {
        self.in_teams.insert((team, user), role);
    }

    fn site_member(&mut self, site: SiteId, user: UserId, role: Option<SiteRole>) {
        self.on_sites.insert((site, user), role);
    }

    fn bare_grant(&mut self, client: ClientId, site: SiteId, role: Option<SiteRole>) {
        let Some(owner) = self.builder.owner(client) else {
            return;
        };
        match (self.standing(&owner, site), role) {
            (Ok(Some(standing)), Some(granted)) => self.builder.grant(GrantRow {
                client,
                site,
                granted,
                standing,
            }),
            // Foreign keys rule out a grant on a site that does not exist.
            (Ok(None), Some(_)) => {}
            (Err(Unreadable), _) | (_, None) => self.builder.unreadable(client),
        }
    }
}
