//! The rule that decides on a role on a site. There is one variant for each rule of
//! `docs/access-rules.md`, so that the same code can decide and explain.

use std::cmp::Ordering;

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
    /// A user in the site's team holds what the memberships give.
    InTeam(Memberships),
    /// A team holds everything on its own sites.
    OwnSite,
    /// A team holds nothing on other teams' sites.
    ForeignSite,
}

/// A user's memberships in a site's team and, if there is one, on the site itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memberships {
    /// The role in the site's team.
    pub in_team: TeamRole,
    /// The explicit role on the site.
    pub on_site: Option<SiteRole>,
}

/// The membership that a user's role on a site comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecisiveMembership {
    /// The one on the site: the only one that gives a role, or the weaker one.
    OnSite,
    /// The one in the team: the only one that gives a role, or the weaker one.
    InTeam,
    /// Both: they give the same role.
    Both,
}

impl SiteRule {
    /// The role that the rule gives.
    pub fn role(self) -> Option<SiteRole> {
        match self {
            Self::InstanceOwner | Self::OwnSite => Some(SiteRole::Owner),
            Self::InTeam(memberships) => memberships.decide().map(|(role, _)| role),
            Self::Unknown
            | Self::Disabled
            | Self::TeamArchived
            | Self::NotInTeam
            | Self::ForeignSite => None,
        }
    }
}

impl Memberships {
    /// The role that they give together, and the membership that it comes from. If both give
    /// a role, the weaker one counts: so a role on the site can narrow what the team role
    /// gives, and never widen it. A team role that gives nothing takes nothing away either.
    pub fn decide(self) -> Option<(SiteRole, DecisiveMembership)> {
        use DecisiveMembership::{Both, InTeam, OnSite};
        match (self.on_site, self.in_team.derived_site_role()) {
            (None, None) => None,
            (Some(role), None) => Some((role, OnSite)),
            (None, Some(role)) => Some((role, InTeam)),
            (Some(explicit), Some(derived)) => Some(match explicit.cmp(&derived) {
                Ordering::Less => (explicit, OnSite),
                Ordering::Equal => (explicit, Both),
                Ordering::Greater => (derived, InTeam),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weaker_of_two_roles_counts() {
        use DecisiveMembership::{Both, InTeam, OnSite};

        for in_team in TeamRole::ALL.iter().copied() {
            let derived = in_team.derived_site_role();
            let decide = |on_site| Memberships { in_team, on_site }.decide();
            assert_eq!(decide(None), derived.map(|role| (role, InTeam)));
            for explicit in SiteRole::ALL.iter().copied() {
                let expected = match derived {
                    Some(role) if role < explicit => (role, InTeam),
                    Some(role) if role == explicit => (role, Both),
                    None | Some(_) => (explicit, OnSite),
                };
                assert_eq!(decide(Some(explicit)), Some(expected));
            }
        }
    }

    #[test]
    fn each_rule_gives_its_role() {
        let memberships = Memberships {
            in_team: TeamRole::Owner,
            on_site: Some(SiteRole::Editor),
        };
        for (rule, role) in [
            (SiteRule::Unknown, None),
            (SiteRule::Disabled, None),
            (SiteRule::TeamArchived, None),
            (SiteRule::InstanceOwner, Some(SiteRole::Owner)),
            (SiteRule::NotInTeam, None),
            (SiteRule::InTeam(memberships), Some(SiteRole::Editor)),
            (SiteRule::OwnSite, Some(SiteRole::Owner)),
            (SiteRule::ForeignSite, None),
        ] {
            assert_eq!(rule.role(), role, "{rule:?}");
        }
    }
}
