//! Who holds what right now, what an API client may therefore do, and what an
//! actor may delegate. Every rule of the contract's sections 2 to 4 about
//! access stands here, once.
//!
//! Absence never means everything: a user, team or site that was not loaded is
//! an unknown one, and gives nothing.

use std::{collections::BTreeMap, fmt};

use super::{
    id::{SiteId, TeamId, UserId},
    refusal::Refusal,
    role::{InstancePermission, InstanceRole, SitePermission, SiteRole, TeamRole},
    site_rule::SiteRule,
};

/// How many sites one API client can be granted at most.
pub const MAX_GRANTS: usize = 100;

/// The user or the team that an API client belongs to, for its whole life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A personal client's.
    User(UserId),
    /// A team client's.
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

/// Roles on sites, no site twice, ordered by site.
pub type SiteGrants = BTreeMap<SiteId, SiteRole>;

/// What was written on an API client: delegated access, and whose it is. A team
/// client has no instance role but `user`, so there is none to write down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delegated {
    /// A personal client.
    Personal {
        /// Its owner.
        user: UserId,
        /// Its role on the instance.
        instance_role: InstanceRole,
        /// Its roles on sites.
        grants: SiteGrants,
    },
    /// A team client.
    Team {
        /// Its owner.
        team: TeamId,
        /// Its roles on sites.
        grants: SiteGrants,
    },
}

impl Delegated {
    /// Whose client it is.
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

    /// What the client may do right now: what was delegated, cut down to what
    /// its owner holds.
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

/// A user's own standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserStanding {
    /// The user's role on the instance.
    pub instance_role: InstanceRole,
    /// A disabled user holds nothing.
    pub disabled: bool,
}

impl UserStanding {
    /// The user's role on the instance; none where the user is disabled, and so
    /// may do nothing.
    pub fn current_instance_role(self) -> Option<InstanceRole> {
        (!self.disabled).then_some(self.instance_role)
    }

    /// The user's current role on a site.
    pub fn site_role(self, site: &SiteStanding) -> Option<SiteRole> {
        self.site_rule(site).role()
    }

    /// What decides on the user's current role on a site.
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
        match (site.team_role, site.site_role) {
            (None, _) => SiteRule::NotInTeam,
            (Some(_), Some(role)) => SiteRule::Member(role),
            (Some(team_role), None) => SiteRule::InTeam(team_role),
        }
    }
}

/// A site, and what one user has to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiteStanding {
    /// The team that the site is in.
    pub team: TeamId,
    /// Whether that team is archived.
    pub team_archived: bool,
    /// The user's role in that team.
    pub team_role: Option<TeamRole>,
    /// The user's explicit role on the site.
    pub site_role: Option<SiteRole>,
}

/// A user and what they hold right now, on those sites that were asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The user.
    pub id: UserId,
    /// `None`: there is no such user.
    pub user: Option<UserStanding>,
    /// The sites asked about; a site that is not in here does not exist.
    pub sites: BTreeMap<SiteId, SiteStanding>,
}

impl Holder {
    /// The user's role on the instance; none where the user is unknown or
    /// disabled, and so may do nothing.
    pub fn instance_role(&self) -> Option<InstanceRole> {
        self.user?.current_instance_role()
    }

    /// The user's current role on a site.
    pub fn site_role(&self, site: SiteId) -> Option<SiteRole> {
        self.user?.site_role(self.sites.get(&site)?)
    }
}

/// An API client's owner as it is right now, apart from the sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CurrentOwner {
    /// A personal client's owner.
    User(UserId, UserStanding),
    /// A team client's owner.
    Team {
        /// The team.
        id: TeamId,
        /// An archived team's clients do not work.
        archived: bool,
    },
}

impl CurrentOwner {
    /// Who it is.
    pub const fn owner(&self) -> Owner {
        match self {
            Self::User(id, _) => Owner::User(*id),
            Self::Team { id, .. } => Owner::Team(*id),
        }
    }

    /// Whether the owner can act at all: no disabled user, no archived team.
    pub fn can_act(&self) -> bool {
        match self {
            Self::User(_, user) => user.current_instance_role().is_some(),
            Self::Team { archived, .. } => !archived,
        }
    }

    /// The most that a client of this owner can be on the instance.
    pub fn instance_ceiling(&self) -> InstanceRole {
        match self {
            Self::User(_, user) => user.current_instance_role().unwrap_or(InstanceRole::User),
            Self::Team { .. } => InstanceRole::User,
        }
    }

    /// What decides on what a client of this owner can be on a site. The site's standing
    /// is towards the owner, where that is a user.
    pub fn site_rule(&self, site: &SiteStanding) -> SiteRule {
        match self {
            Self::User(_, user) => user.site_rule(site),
            Self::Team { archived: true, .. } => SiteRule::TeamArchived,
            Self::Team { id, .. } if site.team == *id => SiteRule::OwnSite,
            Self::Team { .. } => SiteRule::OthersSite,
        }
    }

    /// What is left of a delegated role on the instance.
    pub fn effective_instance_role(&self, delegated: InstanceRole) -> InstanceRole {
        delegated.min(self.instance_ceiling())
    }

    /// What is left of a role granted on a site; `None`: the grant is dormant.
    pub fn effective_site_role(&self, site: &SiteStanding, granted: SiteRole) -> Option<SiteRole> {
        let ceiling = self.site_rule(site).role()?;
        Some(granted.min(ceiling))
    }
}

/// An API client's owner and what it holds right now, on those sites that were asked
/// about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerStanding {
    /// The owner.
    pub current: CurrentOwner,
    /// The sites asked about; a site that is not in here does not exist.
    pub sites: BTreeMap<SiteId, SiteStanding>,
}

impl OwnerStanding {
    /// What decides on what a client of this owner can be on a site.
    pub fn site_rule(&self, site: SiteId) -> SiteRule {
        let standing = self.sites.get(&site);
        standing.map_or(SiteRule::Unknown, |site| self.current.site_rule(site))
    }
}

/// Effective roles on sites, no site twice, ordered by site: an order to report
/// them in, and one to find a site in. As small as can be, since every replica
/// holds those of every client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EffectiveGrants(Box<[(SiteId, SiteRole)]>);

impl EffectiveGrants {
    /// The role on a site.
    pub fn get(&self, site: SiteId) -> Option<SiteRole> {
        let found = self.0.binary_search_by_key(&site, |(site, _)| *site).ok()?;
        Some(self.0[found].1)
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&SiteId, &SiteRole)> {
        self.0.iter().map(|(site, role)| (site, role))
    }
}

impl FromIterator<(SiteId, SiteRole)> for EffectiveGrants {
    /// Of two roles on one site the weaker one counts; there never are two.
    fn from_iter<I: IntoIterator<Item = (SiteId, SiteRole)>>(grants: I) -> Self {
        let mut grants: Vec<_> = grants.into_iter().collect();
        grants.sort_unstable();
        grants.dedup_by_key(|(site, _)| *site);
        Self(grants.into_boxed_slice())
    }
}

/// What an API client may do right now. Dormant grants are not in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectiveAccess {
    /// The role on the instance.
    pub instance_role: InstanceRole,
    /// The roles on sites.
    pub grants: EffectiveGrants,
}

/// A permission asked for. A `site.*` permission without a site, or an
/// `instance.*` permission with one, cannot be written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PermissionCheck {
    /// On one site.
    Site {
        /// The site.
        site: SiteId,
        /// What is to be done there.
        permission: SitePermission,
    },
    /// On the instance.
    Instance(InstancePermission),
}

impl PermissionCheck {
    /// The permission's name.
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
    /// The token carries the permission.
    Allowed,
    /// The token does not work at all.
    Inactive,
    /// The token carries nothing on that site.
    NoSiteGrant,
    /// The token's role does not carry the permission.
    RoleTooLow,
}

impl EffectiveAccess {
    /// Whether this access carries a permission. A site permission comes from
    /// the grant on that site and from nothing else.
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

/// What is known of an owner, and of the actor's part in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerFacts {
    /// There is no such user or team.
    Absent,
    /// A user.
    User {
        /// Which one.
        id: UserId,
        /// Whether the user is disabled.
        disabled: bool,
    },
    /// A team.
    Team {
        /// Which one.
        id: TeamId,
        /// Whether the team is archived.
        archived: bool,
        /// The actor's role in it.
        actor_role: Option<TeamRole>,
    },
}

/// What an actor may do with an owner's API clients, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Authority {
    /// Not even see them.
    Nothing,
    /// List, get, revoke and delete them, to answer an incident.
    Oversees,
    /// Everything that the actor could do themselves.
    Manages,
}

/// All that a decision on a management call rests on, as of one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The actor, and what they hold on every site that the call is about.
    pub actor: Holder,
    /// The owner that the call is about.
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

    /// Whether the owner can act, which its clients need to work.
    pub const fn owner_can_act(&self) -> bool {
        match self.owner {
            OwnerFacts::Absent => false,
            OwnerFacts::User { disabled, .. } => !disabled,
            OwnerFacts::Team { archived, .. } => !archived,
        }
    }

    /// Refuses what the actor could not delegate to a client of this owner at
    /// this moment: a role above their own, a site that cannot be delegated.
    pub fn check_delegable(
        &self,
        instance_role: InstanceRole,
        grants: &SiteGrants,
    ) -> Result<(), Refusal> {
        // Every client is a `user` of the instance, so that is no delegation.
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
