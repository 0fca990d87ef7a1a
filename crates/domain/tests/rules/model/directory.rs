//! The model's directory: lists of rows. A put removes the old row and adds the
//! new one; a deletion says itself what goes along with it.

use hitkeep_auth_domain::{
    access::Owner,
    directory::{Directory, DirectoryChange, Site, Team, User},
    id::{SiteId, TeamId, UserId},
    role::{SiteRole, TeamRole},
};

use super::{
    Model,
    life::{grants_of, owner_of},
};

impl Model {
    /// Changes the directory; `false` where the change names something unknown.
    pub(crate) fn apply(&mut self, change: &DirectoryChange) -> bool {
        let rows = &mut self.directory;
        match *change {
            DirectoryChange::PutUser(user) => {
                rows.users.retain(|old| old.id != user.id);
                rows.users.push(user);
            }
            DirectoryChange::DeleteUser(id) => {
                rows.users.retain(|user| user.id != id);
                rows.team_members.retain(|member| member.user != id);
                rows.site_members.retain(|member| member.user != id);
                self.clients
                    .retain(|_, client| owner_of(client) != Owner::User(id));
            }
            DirectoryChange::PutTeam(team) => {
                rows.teams.retain(|old| old.id != team.id);
                rows.teams.push(team);
            }
            DirectoryChange::DeleteTeam(id) => {
                rows.teams.retain(|team| team.id != id);
                rows.team_members.retain(|member| member.team != id);
                let inside = rows.sites.iter().filter(|site| site.team == id);
                let sites: Vec<SiteId> = inside.map(|site| site.id).collect();
                self.clients
                    .retain(|_, client| owner_of(client) != Owner::Team(id));
                for site in sites {
                    self.apply(&DirectoryChange::DeleteSite(site));
                }
            }
            DirectoryChange::PutTeamMember(member) => {
                if self.team(member.team).is_none() || self.user(member.user).is_none() {
                    return false;
                }
                self.apply(&DirectoryChange::DeleteTeamMember(member.team, member.user));
                self.directory.team_members.push(member);
            }
            DirectoryChange::DeleteTeamMember(team, user) => {
                rows.team_members
                    .retain(|member| (member.team, member.user) != (team, user));
            }
            DirectoryChange::PutSite(site) => {
                if self.team(site.team).is_none() {
                    return false;
                }
                self.directory.sites.retain(|old| old.id != site.id);
                self.directory.sites.push(site);
            }
            DirectoryChange::DeleteSite(id) => {
                rows.sites.retain(|site| site.id != id);
                rows.site_members.retain(|member| member.site != id);
                for client in self.clients.values_mut() {
                    grants_of(client).remove(&id);
                }
            }
            DirectoryChange::PutSiteMember(member) => {
                if self.site(member.site).is_none() || self.user(member.user).is_none() {
                    return false;
                }
                self.apply(&DirectoryChange::DeleteSiteMember(member.site, member.user));
                self.directory.site_members.push(member);
            }
            DirectoryChange::DeleteSiteMember(site, user) => {
                rows.site_members
                    .retain(|member| (member.site, member.user) != (site, user));
            }
        }
        true
    }

    /// Puts another directory in the place of this one; `false`, and nothing is changed, if more
    /// than half of the users, the teams or the sites would go without that being allowed.
    pub(crate) fn replace(&mut self, new: &Directory, allow_mass_removal: bool) -> bool {
        let old = &self.directory;
        let is_in_new = |owner| match owner {
            Owner::User(id) => new.users.iter().any(|user| user.id == id),
            Owner::Team(id) => new.teams.iter().any(|team| team.id == id),
        };
        let stays = |id: SiteId| new.sites.iter().any(|site| site.id == id);
        let users = old.users.iter().map(|user| is_in_new(Owner::User(user.id)));
        let teams = old.teams.iter().map(|team| is_in_new(Owner::Team(team.id)));
        let sites = old.sites.iter().map(|site| stays(site.id));
        let kinds: [Vec<bool>; 3] = [users.collect(), teams.collect(), sites.collect()];
        let loses_most = kinds.iter().any(|kind| {
            let lost = kind.iter().filter(|stays| !**stays).count();
            2 * lost > kind.len()
        });
        if loses_most && !allow_mass_removal {
            return false;
        }
        self.clients.retain(|_, client| is_in_new(owner_of(client)));
        for client in self.clients.values_mut() {
            grants_of(client).retain(|site, _| stays(*site));
        }
        self.directory.clone_from(new);
        true
    }

    pub(super) fn user(&self, id: UserId) -> Option<User> {
        self.directory
            .users
            .iter()
            .find(|user| user.id == id)
            .copied()
    }

    pub(super) fn team(&self, id: TeamId) -> Option<Team> {
        self.directory
            .teams
            .iter()
            .find(|team| team.id == id)
            .copied()
    }

    pub(super) fn site(&self, id: SiteId) -> Option<Site> {
        self.directory
            .sites
            .iter()
            .find(|site| site.id == id)
            .copied()
    }

    pub(super) fn team_role(&self, team: TeamId, user: UserId) -> Option<TeamRole> {
        let mut members = self.directory.team_members.iter();
        members
            .find(|member| (member.team, member.user) == (team, user))
            .map(|member| member.role)
    }

    pub(super) fn explicit_role(&self, site: SiteId, user: UserId) -> Option<SiteRole> {
        let mut members = self.directory.site_members.iter();
        members
            .find(|member| (member.site, member.user) == (site, user))
            .map(|member| member.role)
    }
}
