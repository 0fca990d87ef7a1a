//! The access rules: what users hold at present, what an API client may therefore do, and
//! what an actor may delegate. They are those of `docs/access-rules.md`, each implemented
//! once.
//!
//! Absence never means everything: a user, team or site that is not loaded counts as
//! unknown, and gives no access.

use std::{collections::BTreeMap, fmt};

use super::{
    id::{SiteId, TeamId, UserId},
    refusal::Refusal,
    role::{InstancePermission, InstanceRole, SitePermission, SiteRole, TeamRole},
    site_rule::{Memberships, SiteRule},
};

/// The most sites that one API client can have grants on.
pub const MAX_GRANTS: usize = 100;

/// The user or the team that an API client belongs to. It never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// The owner of a personal client.
    User(UserId),
    /// The owner of a team client.
    Team(TeamId),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => write!(f, "user:{id}"),
            Self::Team(id) => write!(f, "team:{id}"),
        }
    }
}

/// Roles on sites, ordered by site.
pub type SiteGrants = BTreeMap<SiteId, SiteRole>;

/// The access that was delegated to an API client, with its owner. A team client's instance
/// role is always `user`, so it is not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delegated {
    /// The client belongs to a user.
    Personal {
        /// The owner.
        user: UserId,
        /// The delegated role on the instance.
        instance_role: InstanceRole,
        /// The delegated roles on sites.
        grants: SiteGrants,
    },
    /// The client belongs to a team.
    Team {
        /// The owner.
        team: TeamId,
        /// The delegated roles on sites.
        grants: SiteGrants,
    },
}

impl Delegated {
    /// The client's owner.
    pub const fn owner(&self) -> Owner {
        match self {
            Self::Personal { user, .. } => Owner::User(*user),
            Self::Team { team, .. } => Owner::Team(*team),
        }
    }

    /// The delegated role on the instance.
    pub const fn instance_role(&self) -> InstanceRole {
        match self {
            Self::Personal { instance_role, .. } => *instance_role,
            Self::Team { .. } => InstanceRole::User,
        }
    }

    /// The delegated roles on sites, dormant ones included.
    pub const fn grants(&self) -> &SiteGrants {
        match self {
            Self::Personal { grants, .. } | Self::Team { grants, .. } => grants,
        }
    }

    /// What the client may do at present: the delegated access, limited to what its owner holds.
    pub fn effective(&self, owner: &OwnerStanding) -> EffectiveAccess {
        let site = |(site, granted): (&SiteId, &SiteRole)| {
            let standing = owner.sites.get(site)?;
            let role = owner.current.effective_site_role(standing, *granted)?;
            Some((*site, role))
        };
        EffectiveAccess {
            instance_role: owner.current.effective_instance_role(self.instance_role()),
            grants: self.grants().iter().filter_map(site).collect(),
        }
    }
}

/// A user's role on the instance, and whether the user is disabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserStanding {
    /// The role as the directory has it, even if the user is disabled.
    pub instance_role: InstanceRole,
    /// A disabled user holds nothing.
    pub disabled: bool,
}

impl UserStanding {
    /// The user's role on the instance; `None` if the user is disabled, and so may do nothing.
    pub fn current_instance_role(self) -> Option<InstanceRole> {
        (!self.disabled).then_some(self.instance_role)
    }

    /// The user's current role on a site.
    pub fn site_role(self, site: &SiteStanding) -> Option<SiteRole> {
        self.site_rule(site).role()
    }

    /// The rule that decides on the user's current role on a site.
    pub fn site_rule(self, site: &SiteStanding) -> SiteRule {
        let Some(instance_role) = self.current_instance_role() else {
            return SiteRule::Disabled;
        };
        if site.team_archived {
            return SiteRule::TeamArchived;
        }
        if instance_role == InstanceRole::Owner {
            return SiteRule::InstanceOwner;
        }
        match site.team_role {
            None => SiteRule::NotInTeam,
            Some(in_team) => SiteRule::InTeam(Memberships {
                in_team,
                on_site: site.site_role,
            }),
        }
    }
}

/// A site, and one user's roles on it and in its team.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiteStanding {
    /// The team that the site belongs to.
    pub team: TeamId,
    /// Whether that team is archived.
    pub team_archived: bool,
    /// The user's role in that team.
    pub team_role: Option<TeamRole>,
    /// The user's explicit role on the site, if any.
    pub site_role: Option<SiteRole>,
}

/// A user and what they hold at present on the requested sites.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The user's id, whether or not the user exists.
    pub id: UserId,
    /// `None` if the user does not exist.
    pub user: Option<UserStanding>,
    /// The requested sites; a missing site does not exist.
    pub sites: BTreeMap<SiteId, SiteStanding>,
}

impl Holder {
    /// The user's role on the instance; `None` if the user is unknown or disabled, and so may
    /// do nothing.
    pub fn instance_role(&self) -> Option<InstanceRole> {
        self.user?.current_instance_role()
    }

    /// The user's current role on a site.
    pub fn site_role(&self, site: SiteId) -> Option<SiteRole> {
        self.user?.site_role(self.sites.get(&site)?)
    }
}

/// The present state of an API client's owner, apart from the sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CurrentOwner {
    /// A personal client's owner.
    User(UserId, UserStanding),
    /// A team client's owner.
    Team {
        /// The team's id.
        id: TeamId,
        /// An archived team's clients do not work.
        archived: bool,
    },
}

impl CurrentOwner {
    /// The owner's identity.
    pub const fn owner(&self) -> Owner {
        match self {
            Self::User(id, _) => Owner::User(*id),
            Self::Team { id, .. } => Owner::Team(*id),
        }
    }

    /// Whether the owner can act: the user is not disabled, or the team not archived.
    pub fn can_act(&self) -> bool {
        match self {
            Self::User(_, user) => user.current_instance_role().is_some(),
            Self::Team { archived, .. } => !archived,
        }
    }

    /// The highest instance role that a client of this owner can have.
    pub fn instance_ceiling(&self) -> InstanceRole {
        match self {
            Self::User(_, user) => user.current_instance_role().unwrap_or(InstanceRole::User),
            Self::Team { .. } => InstanceRole::User,
        }
    }

    /// The rule that limits the site role of this owner's clients. If the owner is a user, the
    /// standing must be that user's.
    pub fn site_rule(&self, site: &SiteStanding) -> SiteRule {
        match self {
            Self::User(_, user) => user.site_rule(site),
            Self::Team { archived: true, .. } => SiteRule::TeamArchived,
            Self::Team { id, .. } if site.team == *id => SiteRule::OwnSite,
            Self::Team { .. } => SiteRule::ForeignSite,
        }
    }

    /// A delegated instance role, limited to the owner's own.
    pub fn effective_instance_role(&self, delegated: InstanceRole) -> InstanceRole {
        delegated.min(self.instance_ceiling())
    }

    /// A granted site role, limited to the owner's own; `None` if the grant is dormant.
    pub fn effective_site_role(&self, site: &SiteStanding, granted: SiteRole) -> Option<SiteRole> {
        let ceiling = self.site_rule(site).role()?;
        Some(granted.min(ceiling))
    }
}

/// An API client's owner and what it holds at present on the requested sites.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerStanding {
    /// The owner's state.
    pub current: CurrentOwner,
    /// The requested sites; a missing site does not exist.
    pub sites: BTreeMap<SiteId, SiteStanding>,
}

impl OwnerStanding {
    /// The rule that limits the site role of this owner's clients.
    pub fn site_rule(&self, site: SiteId) -> SiteRule {
        let standing = self.sites.get(&site);
        standing.map_or(SiteRule::Unknown, |site| self.current.site_rule(site))
    }
}

/// Effective roles on sites, sorted by site for output and for binary search. Compact,
/// since every server keeps those of every client in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EffectiveGrants(Box<[(SiteId, SiteRole)]>);

impl EffectiveGrants {
    /// The role on a site, found by binary search.
    pub fn get(&self, site: SiteId) -> Option<SiteRole> {
        let found = self.0.binary_search_by_key(&site, |(site, _)| *site).ok()?;
        Some(self.0[found].1)
    }

    /// All roles, ordered by site.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&SiteId, &SiteRole)> {
        self.0.iter().map(|(site, role)| (site, role))
    }
}

impl FromIterator<(SiteId, SiteRole)> for EffectiveGrants {
    /// If a site occurs twice, the weaker role counts; in practice none does.
    fn from_iter<I: IntoIterator<Item = (SiteId, SiteRole)>>(grants: I) -> Self {
        let mut grants: Vec<_> = grants.into_iter().collect();
        grants.sort_unstable();
        grants.dedup_by_key(|(site, _)| *site);
        Self(grants.into_boxed_slice())
    }
}

/// What an API client may do at present, without dormant grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectiveAccess {
    /// The role on the instance.
    pub instance_role: InstanceRole,
    /// The roles on sites.
    pub grants: EffectiveGrants,
}

/// A requested permission. The type rules out a `site.*` permission without a site and an
/// `instance.*` permission with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PermissionCheck {
    /// A permission on one site.
    Site {
        /// The site that the permission is for.
        site: SiteId,
        /// The requested permission.
        permission: SitePermission,
    },
    /// A permission on the instance.
    Instance(InstancePermission),
}

impl PermissionCheck {
    /// The permission's name, such as `site.view`.
    pub const fn permission(&self) -> &'static str {
        match self {
            Self::Site { permission, .. } => permission.as_str(),
            Self::Instance(permission) => permission.as_str(),
        }
    }
}

/// The answer to a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The token has the permission.
    Allowed,
    /// The token is inactive.
    Inactive,
    /// The token has no effective role on the site.
    NoSiteGrant,
    /// The token's role does not include the permission.
    RoleTooLow,
}

impl EffectiveAccess {
    /// Whether this access includes a permission. Only the grant on the site itself gives a
    /// site permission.
    pub fn decide(&self, check: &PermissionCheck) -> Decision {
        let allowed = match check {
            PermissionCheck::Site { site, permission } => match self.grants.get(*site) {
                Some(role) => role.allows(*permission),
                None => return Decision::NoSiteGrant,
            },
            PermissionCheck::Instance(permission) => self.instance_role.allows(*permission),
        };
        if allowed {
            Decision::Allowed
        } else {
            Decision::RoleTooLow
        }
    }
}

/// The state of an owner, and the actor's role in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerFacts {
    /// The user or team does not exist.
    Absent,
    /// The owner is a user.
    User {
        /// The user's id.
        id: UserId,
        /// Whether the user is disabled.
        disabled: bool,
    },
    /// The owner is a team.
    Team {
        /// The team's id.
        id: TeamId,
        /// Whether the team is archived.
        archived: bool,
        /// The actor's role in the team.
        actor_role: Option<TeamRole>,
    },
}

/// What an actor may do with an owner's API clients, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Authority {
    /// The actor may not even see them.
    Nothing,
    /// The actor may list, get, revoke and delete them, to respond to an incident.
    Oversees,
    /// The actor may do everything, within their own access.
    Manages,
}

/// The facts that a decision on a management call depends on, as of one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The actor, and what they hold on every site of the call.
    pub actor: Holder,
    /// The owner of the call's client.
    pub owner: OwnerFacts,
}

impl Facts {
    /// What the actor may do with this owner's clients.
    pub fn authority(&self) -> Authority {
        let Some(instance_role) = self.actor.instance_role() else {
            return Authority::Nothing;
        };
        let manages = match self.owner {
            OwnerFacts::Absent => return Authority::Nothing,
            OwnerFacts::User { id, .. } => id == self.actor.id,
            OwnerFacts::Team {
                archived,
                actor_role,
                ..
            } => !archived && actor_role.is_some_and(TeamRole::manages_clients),
        };
        match (manages, instance_role) {
            (true, _) => Authority::Manages,
            (false, InstanceRole::Owner) => Authority::Oversees,
            (false, InstanceRole::Admin | InstanceRole::User) => Authority::Nothing,
        }
    }

    /// Whether the owner can act; if not, its clients are inactive.
    pub const fn owner_can_act(&self) -> bool {
        match self.owner {
            OwnerFacts::Absent => false,
            OwnerFacts::User { disabled, .. } => !disabled,
            OwnerFacts::Team { archived, .. } => !archived,
        }
    }

    /// Refuses a delegation that the actor may not make to a client of this owner at present:
    /// a role above their own, or a site that cannot be delegated.
    pub fn check_delegable(
        &self,
        instance_role: InstanceRole,
        grants: &SiteGrants,
    ) -> Result<(), Refusal> {
        // Every client is a `user` of the instance, so that role needs no delegation.
        let held = self.actor.instance_role().unwrap_or(InstanceRole::User);
        if instance_role > held {
            return Err(Refusal::ExceedsInstanceRole {
                wanted: instance_role,
            });
        }
        for (site, wanted) in grants {
            let known = self.actor.sites.get(site);
            let delegable = match self.owner {
                OwnerFacts::Team { id, .. } => known.is_some_and(|site| site.team == id),
                OwnerFacts::User { .. } | OwnerFacts::Absent => known.is_some(),
            };
            if !delegable {
                return Err(Refusal::SiteNotDelegable { site: *site });
            }
            if self
                .actor
                .site_role(*site)
                .is_none_or(|held| held < *wanted)
            {
                return Err(Refusal::ExceedsSiteRole {
                    site: *site,
                    wanted: *wanted,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn owners_and_checks_have_their_names() {
        let id = Uuid::from_u128(1);
        for (owner, expected) in [
            (Owner::User(UserId::from_uuid(id)), format!("user:{id}")),
            (Owner::Team(TeamId::from_uuid(id)), format!("team:{id}")),
        ] {
            assert_eq!(owner.to_string(), expected);
        }
        let site = PermissionCheck::Site {
            site: SiteId::from_uuid(id),
            permission: SitePermission::View,
        };
        let instance = PermissionCheck::Instance(InstancePermission::ViewSystem);
        assert_eq!(site.permission(), "site.view");
        assert_eq!(instance.permission(), "instance.view_system");
    }
}
