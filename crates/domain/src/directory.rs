//! The directory that HitKeep pushes: users, teams, sites and memberships. It has ids and
//! roles only; HitKeep stays the source of truth.

use super::{
    id::{SiteId, TeamId, UserId},
    role::{InstanceRole, SiteRole, TeamRole},
};

pub mod order;

/// The most changes in one batch.
pub const MAX_CHANGES: usize = 1000;

/// A user of the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// Assigned by HitKeep.
    pub id: UserId,
    /// The role on the instance.
    pub instance_role: InstanceRole,
    /// A disabled user holds nothing.
    pub disabled: bool,
}

/// A team.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Team {
    /// Assigned by HitKeep.
    pub id: TeamId,
    /// An archived team gives its members no access.
    pub archived: bool,
}

/// A user's membership in a team.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TeamMember {
    /// The team of the membership.
    pub team: TeamId,
    /// The member.
    pub user: UserId,
    /// The member's role.
    pub role: TeamRole,
}

/// A site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// Assigned by HitKeep.
    pub id: SiteId,
    /// The team it belongs to.
    pub team: TeamId,
}

/// A user's membership on a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiteMember {
    /// The site of the membership.
    pub site: SiteId,
    /// The member.
    pub user: UserId,
    /// The member's role.
    pub role: SiteRole,
}

/// One change. A put creates or replaces; deleting an absent item succeeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectoryChange {
    /// Creates or replaces a user.
    PutUser(User),
    /// Removes a user, its memberships and its personal clients.
    DeleteUser(UserId),
    /// Creates or replaces a team.
    PutTeam(Team),
    /// Removes a team, its clients, memberships and sites.
    DeleteTeam(TeamId),
    /// Creates or replaces a membership in a team.
    PutTeamMember(TeamMember),
    /// Removes a membership in a team.
    DeleteTeamMember(TeamId, UserId),
    /// Creates a site, or moves it to another team.
    PutSite(Site),
    /// Removes a site, its memberships and the grants on it.
    DeleteSite(SiteId),
    /// Creates or replaces a membership on a site.
    PutSiteMember(SiteMember),
    /// Removes a membership on a site.
    DeleteSiteMember(SiteId, UserId),
}

/// The whole directory, without duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// Every user of the instance.
    pub users: Vec<User>,
    /// Every team, archived ones included.
    pub teams: Vec<Team>,
    /// Every membership in a team.
    pub team_members: Vec<TeamMember>,
    /// Every site.
    pub sites: Vec<Site>,
    /// Every explicit membership on a site.
    pub site_members: Vec<SiteMember>,
}

/// How many items of one kind a replacement of the directory would remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removal {
    /// "users", "teams" or "sites".
    pub kind: &'static str,
    /// How many the directory has.
    pub known: u32,
    /// How many the replacement would remove.
    pub removed: u32,
}

impl Removal {
    /// Whether more than half would be removed, which a broken source explains better than
    /// intent.
    pub const fn is_mass_removal(self) -> bool {
        self.removed > self.known / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removing_half_is_no_mass_removal() {
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
