//! The rule that decides on a role on a site. There is one variant for each rule of
//! `docs/access-rules.md`, so that the same code can decide and explain.

use super::role::{SiteRole, TeamRole};

/// The rule that applies to a user or team on a site: the first one, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteRule {
    /// The site does not exist.
    Unknown,
    /// A disabled user holds nothing.
    Disabled,
    /// The site's team is archived, and gives no access to it.
    TeamArchived,
    /// An instance owner is an owner of every site.
    InstanceOwner,
    /// A user outside the site's team holds nothing on the site.
    NotInTeam,
    /// The user has an explicit role on the site.
    Member(SiteRole),
    /// The user has a role in the site's team, and none on the site itself.
    InTeam(TeamRole),
    /// A team holds everything on its own sites.
    OwnSite,
    /// A team holds nothing on other teams' sites.
    ForeignSite,
}

impl SiteRule {
    /// The role that the rule gives.
    pub const fn role(self) -> Option<SiteRole> {
        match self {
            Self::InstanceOwner | Self::OwnSite => Some(SiteRole::Owner),
            Self::Member(role) => Some(role),
            Self::InTeam(team_role) => team_role.derived_site_role(),
            Self::Unknown
            | Self::Disabled
            | Self::TeamArchived
            | Self::NotInTeam
            | Self::ForeignSite => None,
        }
    }
}
