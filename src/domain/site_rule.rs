//! What decides on a role on a site: one value for each rule of the contract's
//! section 2, so that the same code can decide and explain.

use super::role::{SiteRole, TeamRole};

/// Why somebody holds what they hold on a site: the first that applies, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteRule {
    /// There is no such site.
    Unknown,
    /// A disabled user holds nothing.
    Disabled,
    /// The site's team is archived, so nobody holds anything on it.
    TeamArchived,
    /// An owner of the instance is an owner of every site.
    InstanceOwner,
    /// Whoever is not in the site's team holds nothing on it.
    NotInTeam,
    /// A role on the site itself.
    Member(SiteRole),
    /// A role in the site's team, and none on the site itself.
    InTeam(TeamRole),
    /// A team holds everything on its own sites.
    OwnSite,
    /// A team holds nothing on other teams' sites.
    OthersSite,
}

impl SiteRule {
    /// The role that it comes to.
    pub const fn role(self) -> Option<SiteRole> {
        match self {
            Self::InstanceOwner | Self::OwnSite => Some(SiteRole::Owner),
            Self::Member(role) => Some(role),
            Self::InTeam(team_role) => team_role.derived_site_role(),
            Self::Unknown
            | Self::Disabled
            | Self::TeamArchived
            | Self::NotInTeam
            | Self::OthersSite => None,
        }
    }
}
