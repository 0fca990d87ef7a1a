//! The directory as HitKeep pushes it: users, teams, sites and memberships.
//! Ids and roles only; HitKeep stays their source of truth.

use super::{
    id::{SiteId, TeamId, UserId},
    role::{InstanceRole, SiteRole, TeamRole},
};

pub mod order;

/// How many changes one batch can carry.
pub const MAX_CHANGES: usize = 1000;

/// A user of the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// Its id.
    pub id: UserId,
    /// Its role on the instance.
    pub instance_role: InstanceRole,
    /// A disabled user holds nothing.
    pub disabled: bool,
}

/// A team.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Team {
    /// Its id.
    pub id: TeamId,
    /// An archived team gives nobody anything.
    pub archived: bool,
}

/// A user's membership in a team.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TeamMember {
    /// The team.
    pub team: TeamId,
    /// The user.
    pub user: UserId,
    /// The role.
    pub role: TeamRole,
}

/// A site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// Its id.
    pub id: SiteId,
    /// The team it belongs to.
    pub team: TeamId,
}

/// A user's membership on a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiteMember {
    /// The site.
    pub site: SiteId,
    /// The user.
    pub user: UserId,
    /// The role.
    pub role: SiteRole,
}

/// One change. Puts make or replace; deleting what is absent is no failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectoryChange {
    /// Makes or replaces a user.
    PutUser(User),
    /// Removes a user, its memberships and its personal clients.
    DeleteUser(UserId),
    /// Makes or replaces a team.
    PutTeam(Team),
    /// Removes a team, its clients, memberships and sites.
    DeleteTeam(TeamId),
    /// Makes or replaces a membership in a team.
    PutTeamMember(TeamMember),
    /// Removes a membership in a team.
    DeleteTeamMember(TeamId, UserId),
    /// Makes a site, or moves it to another team.
    PutSite(Site),
    /// Removes a site, its memberships and the grants on it.
    DeleteSite(SiteId),
    /// Makes or replaces a membership on a site.
    PutSiteMember(SiteMember),
    /// Removes a membership on a site.
    DeleteSiteMember(SiteId, UserId),
}

/// The whole directory. Each part without repetition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// The users.
    pub users: Vec<User>,
    /// The teams.
    pub teams: Vec<Team>,
    /// The memberships in teams.
    pub team_members: Vec<TeamMember>,
    /// The sites.
    pub sites: Vec<Site>,
    /// The memberships on sites.
    pub site_members: Vec<SiteMember>,
}

/// How many of one kind a replacement would remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removal {
    /// "users", "teams" or "sites".
    pub kind: &'static str,
    /// How many there are.
    pub known: u32,
    /// How many would go.
    pub removed: u32,
}

impl Removal {
    /// More than half: more likely a broken source than a wish.
    pub const fn is_mass_removal(self) -> bool {
        self.removed > self.known / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_half_may_go() {
        let goes = |known, removed| {
            Removal {
                kind: "users",
                known,
                removed,
            }
            .is_mass_removal()
        };
        assert!(!goes(0, 0));
        assert!(!goes(2, 1));
        assert!(goes(3, 2));
        assert!(!goes(3, 1));
        assert!(goes(1, 1));
    }
}
