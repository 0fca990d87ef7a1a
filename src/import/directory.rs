//! The directory by its keys: to look things up in it, and to compare two of them.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::{
    access::{CurrentOwner, Owner, OwnerStanding, SiteStanding, UserStanding},
    directory::{Directory, Removal},
    id::{SiteId, TeamId, UserId},
    role::{SiteRole, TeamRole},
};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirectoryIndex {
    users: BTreeMap<UserId, UserStanding>,
    teams: BTreeMap<TeamId, bool>,
    team_members: BTreeMap<(TeamId, UserId), TeamRole>,
    sites: BTreeMap<SiteId, TeamId>,
    site_members: BTreeMap<(SiteId, UserId), SiteRole>,
}

/// How a replacement of the directory differs from what is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// New entries, of all kinds.
    pub added: usize,
    /// Entries with another content.
    pub changed: usize,
    /// Entries that go.
    pub removed: usize,
}

impl Change {
    /// Whether the two are the same.
    pub const fn is_none(self) -> bool {
        self.added == 0 && self.changed == 0 && self.removed == 0
    }
}

impl DirectoryIndex {
    pub fn of(directory: &Directory) -> Self {
        let users = directory.users.iter().map(|user| {
            let standing = UserStanding {
                instance_role: user.instance_role,
                disabled: user.disabled,
            };
            (user.id, standing)
        });
        let teams = directory.teams.iter();
        let team_members = directory.team_members.iter();
        let sites = directory.sites.iter();
        let site_members = directory.site_members.iter();
        Self {
            users: users.collect(),
            teams: teams.map(|team| (team.id, team.archived)).collect(),
            team_members: team_members.map(|m| ((m.team, m.user), m.role)).collect(),
            sites: sites.map(|site| (site.id, site.team)).collect(),
            site_members: site_members.map(|m| ((m.site, m.user), m.role)).collect(),
        }
    }

    /// Whether there is such a user or team.
    pub fn has_owner(&self, owner: Owner) -> bool {
        match owner {
            Owner::User(id) => self.users.contains_key(&id),
            Owner::Team(id) => self.teams.contains_key(&id),
        }
    }

    pub fn has_site(&self, site: SiteId) -> bool {
        self.sites.contains_key(&site)
    }

    pub fn team_of(&self, site: SiteId) -> Option<TeamId> {
        self.sites.get(&site).copied()
    }

    /// A user's explicit role on a site.
    pub fn site_member(&self, site: SiteId, user: UserId) -> Option<SiteRole> {
        self.site_members.get(&(site, user)).copied()
    }

    pub fn team_member(&self, team: TeamId, user: UserId) -> Option<TeamRole> {
        self.team_members.get(&(team, user)).copied()
    }

    /// An owner's standing on sites; `None` if there is no such owner.
    pub fn standing<'s>(
        &self,
        owner: Owner,
        sites: impl IntoIterator<Item = &'s SiteId>,
    ) -> Option<OwnerStanding> {
        let current = match owner {
            Owner::User(id) => CurrentOwner::User(id, *self.users.get(&id)?),
            Owner::Team(id) => {
                let archived = *self.teams.get(&id)?;
                CurrentOwner::Team { id, archived }
            }
        };
        let standing = |site: &SiteId| {
            let team = self.team_of(*site)?;
            let (team_role, site_role) = match owner {
                Owner::User(user) => (self.team_member(team, user), self.site_member(*site, user)),
                Owner::Team(_) => (None, None),
            };
            let team_archived = self.teams.get(&team).copied().unwrap_or(true);
            let standing = SiteStanding {
                team,
                team_archived,
                team_role,
                site_role,
            };
            Some((*site, standing))
        };
        Some(OwnerStanding {
            current,
            sites: sites.into_iter().filter_map(standing).collect(),
        })
    }

    /// What replacing this directory by another one changes.
    pub fn change_to(&self, new: &Self) -> Change {
        let mut change = Change::default();
        let mut add = |(added, changed, removed)| {
            change.added += added;
            change.changed += changed;
            change.removed += removed;
        };
        add(difference(&self.users, &new.users));
        add(difference(&self.teams, &new.teams));
        add(difference(&self.team_members, &new.team_members));
        add(difference(&self.sites, &new.sites));
        add(difference(&self.site_members, &new.site_members));
        change
    }

    /// What of each kind a replacement by another directory would remove.
    pub fn removals(&self, new: &Self) -> [Removal; 3] {
        fn removal<K: Ord, A, B>(
            kind: &'static str,
            old: &BTreeMap<K, A>,
            new: &BTreeMap<K, B>,
        ) -> Removal {
            let lost = old.keys().filter(|key| !new.contains_key(key)).count();
            let count = |number| u32::try_from(number).unwrap_or(u32::MAX);
            Removal {
                kind,
                known: count(old.len()),
                removed: count(lost),
            }
        }
        [
            removal("users", &self.users, &new.users),
            removal("teams", &self.teams, &new.teams),
            removal("sites", &self.sites, &new.sites),
        ]
    }

    /// The owners that another directory lacks.
    pub fn owners_lost(&self, new: &Self) -> BTreeSet<Owner> {
        let users = self.users.keys().map(|id| Owner::User(*id));
        let teams = self.teams.keys().map(|id| Owner::Team(*id));
        users
            .chain(teams)
            .filter(|owner| !new.has_owner(*owner))
            .collect()
    }
}

/// How many entries are added, changed and removed.
fn difference<K: Ord, V: PartialEq>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
) -> (usize, usize, usize) {
    let added = new.keys().filter(|key| !old.contains_key(key)).count();
    let differs = |(key, value): &(&K, &V)| old.get(key).is_some_and(|before| before != *value);
    let changed = new.iter().filter(differs).count();
    let removed = old.keys().filter(|key| !new.contains_key(key)).count();
    (added, changed, removed)
}
