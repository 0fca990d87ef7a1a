//! Everything, from the tables as they are: which sites there are, who is a member
//! of what, and what that makes of each grant.

use std::collections::HashMap;

use super::assembly::{Assembly, IdHash};
use crate::{
    domain::{
        access::{CurrentOwner, SiteStanding},
        id::{ClientId, SiteId, TeamId, UserId},
        role::{SiteRole, TeamRole},
    },
    store::feed::{ClientRow, GrantRow, Sink, TokenRow, WholeSink},
};

/// Clients whose rows are still coming, and the directory that they depend on.
#[derive(Debug, Default)]
pub(super) struct Whole {
    pub(super) assembly: Assembly,
    sites: HashMap<SiteId, (TeamId, bool), IdHash>,
    /// Roles of users; `None` where one cannot be read.
    in_teams: HashMap<(TeamId, UserId), Option<TeamRole>, IdHash>,
    on_sites: HashMap<(SiteId, UserId), Option<SiteRole>, IdHash>,
}

/// A role that cannot be read.
struct Unreadable;

impl Whole {
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

impl Sink for Whole {
    fn client(&mut self, row: ClientRow) {
        self.assembly.client(row);
    }

    fn grant(&mut self, row: GrantRow) {
        self.assembly.grant(row);
    }

    fn token(&mut self, row: TokenRow) {
        self.assembly.token(row);
    }

    fn unreadable(&mut self, client: ClientId) {
        self.assembly.unreadable(client);
    }
}

impl WholeSink for Whole {
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
        let Some(owner) = self.assembly.owner(client) else {
            return;
        };
        match (self.standing(&owner, site), role) {
            (Ok(Some(standing)), Some(granted)) => self.assembly.grant(GrantRow {
                client,
                site,
                granted,
                standing,
            }),
            // No such site, so no such grant: foreign keys see to that.
            (Ok(None), Some(_)) => {}
            (Err(Unreadable), _) | (_, None) => self.assembly.unreadable(client),
        }
    }
}
