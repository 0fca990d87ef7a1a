//! From a script's steps to calls with ids in them. Most wishes are modest: the
//! model is asked what the actor may delegate, so that enough calls are allowed
//! to get anywhere. What is asked for in the end is judged all the same.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use hitkeep_auth_domain::{
    Timestamp,
    access::{Delegated, Owner, SiteGrants},
    client::{Activation, ApiClient, Description, Draft, Expiry, Name, Update},
    directory::{Directory, DirectoryChange, Site, SiteMember, Team, TeamMember, User},
    id::{ClientId, SiteId, UserId},
    role::{InstanceRole, SiteRole},
};
use uuid::Uuid;

use crate::{
    call::{Call, Renewal},
    model::{
        Model,
        life::owner_of,
        permissions::{Permissions, on_instance, on_site},
        places::ranges,
    },
    script::{
        Beginning, Creation, Cut, Deed, Edit, Ending, Etag, GrantsEdit, Replacement, SITES, Step,
        TEAMS, Turn, USERS, Wait, Which, Who, Wish, site, team, user,
    },
};

/// One thing that happens, with ids and times in it.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// The directory changes.
    Directory(DirectoryChange),
    /// The directory is replaced, and may lose more than half only if that is allowed.
    Replace(Directory, bool),
    /// It is that time now.
    Wait(Timestamp),
    /// An actor makes a call.
    Call(UserId, Call),
}

impl Step {
    /// What the step is, as things are.
    pub(crate) fn resolve(&self, model: &Model) -> Act {
        match self {
            Self::Directory(change) => Act::Directory(*change),
            Self::Around(client, turn) => turn
                .resolve(model, *client)
                .map_or(Act::Wait(model.now), Act::Directory),
            Self::Replace(replacement) => {
                let new = replacement.resolve(model);
                Act::Replace(new, replacement.allow_mass_removal)
            }
            Self::Wait(wait) => Act::Wait(wait.resolve(model)),
            Self::Create(creation) => {
                let owner = creation.owner(model);
                let actor = creation.who.resolve(model, owner);
                Act::Call(actor, Call::Create(creation.resolve(model, actor, owner)))
            }
            Self::List(who, owner) => Act::Call(who.resolve(model, *owner), Call::List(*owner)),
            Self::OnClient(who, which, deed) => {
                let id = which.resolve(model, deed);
                let client = model.clients.get(&id);
                let actor = who.resolve(model, client.map_or(Owner::User(user(0)), owner_of));
                let call = match deed {
                    Deed::Get => Call::Get(id),
                    Deed::Update(edit) => Call::Update(id, edit.resolve(model, actor, client)),
                    Deed::Rotate(hours, etag) => {
                        let overlap = TimeDelta::hours(*hours);
                        let etag = etag.resolve(model, id);
                        Call::Rotate(id, Renewal { overlap, etag })
                    }
                    Deed::Revoke => Call::Revoke(id),
                    Deed::Reactivate => Call::Reactivate(id),
                    Deed::Delete => Call::Delete(id),
                };
                Act::Call(actor, call)
            }
        }
    }
}

impl Turn {
    /// `None` where there is nothing to change.
    fn resolve(self, model: &Model, n: u8) -> Option<DirectoryChange> {
        let is_concerned = |client: &&ApiClient| match (self, owner_of(client)) {
            (Self::InstanceRole(_) | Self::Disabled(_), _) => true,
            (Self::SiteRole(_), Owner::Team(_)) => false,
            _ => !client.delegated.grants().is_empty(),
        };
        let clients: Vec<&ApiClient> = model.clients.values().filter(is_concerned).collect();
        let client = pick(&clients, n)?;
        let granted: Vec<SiteId> = client.delegated.grants().keys().copied().collect();
        let site = pick(&granted, n / 16);
        let row = model
            .directory
            .sites
            .iter()
            .find(|row| Some(row.id) == site);
        let (user, team) = match owner_of(client) {
            Owner::User(id) => (id, row.map(|row| row.team)),
            Owner::Team(id) => (Who::Manager(n).resolve(model, Owner::Team(id)), Some(id)),
        };
        let row = model.directory.users.iter().find(|row| row.id == user)?;
        Some(match self {
            Self::InstanceRole(instance_role) => DirectoryChange::PutUser(User {
                instance_role,
                ..*row
            }),
            Self::Disabled(disabled) => DirectoryChange::PutUser(User { disabled, ..*row }),
            Self::TeamRole(Some(role)) => DirectoryChange::PutTeamMember(TeamMember {
                team: team?,
                user,
                role,
            }),
            Self::TeamRole(None) => DirectoryChange::DeleteTeamMember(team?, user),
            Self::SiteRole(Some(role)) => DirectoryChange::PutSiteMember(SiteMember {
                site: site?,
                user,
                role,
            }),
            Self::SiteRole(None) => DirectoryChange::DeleteSiteMember(site?, user),
            Self::Archived(archived) => DirectoryChange::PutTeam(Team {
                id: team?,
                archived,
            }),
            Self::Team(team) => DirectoryChange::PutSite(Site { id: site?, team }),
        })
    }
}

impl Replacement {
    fn resolve(&self, model: &Model) -> Directory {
        let mut scratch = Model::new(model.now);
        if self.from_present {
            scratch.directory.clone_from(&model.directory);
        }
        for change in &self.changes {
            // One that names something unknown changes nothing.
            let _applied = scratch.apply(change);
        }
        scratch.directory
    }
}

impl Wait {
    fn resolve(self, model: &Model) -> Timestamp {
        let expiries = model
            .clients
            .values()
            .filter_map(|client| client.expiry.time());
        let starts = model
            .clients
            .values()
            .filter_map(|client| client.activation.time());
        let overlaps = model.tokens.iter().filter_map(|token| token.until);
        let next = expiries
            .chain(overlaps)
            .chain(starts)
            .filter(|end| *end > model.now)
            .min();
        match (self, next) {
            (Self::Hours(hours), _) => model.now + TimeDelta::hours(hours),
            (_, None) => model.now + TimeDelta::minutes(1),
            (Self::UntilNextEnd, Some(end)) => end,
            (Self::UntilJustBeforeNextEnd, Some(end)) => end - TimeDelta::microseconds(1),
        }
    }
}

impl Who {
    fn resolve(self, model: &Model, owner: Owner) -> UserId {
        match (self, owner) {
            (Self::Any(user), _) | (Self::Manager(_), Owner::User(user)) => user,
            (Self::Manager(n), Owner::Team(_)) => {
                let manages = |user: &UserId| model.manages(*user, owner);
                let managers: Vec<UserId> = (0..USERS).map(user).filter(manages).collect();
                pick(&managers, n).unwrap_or(user(n % USERS))
            }
            (Self::Overseer(n), _) => {
                let oversees =
                    |user: &UserId| model.sees(*user, owner) && !model.manages(*user, owner);
                let overseers: Vec<UserId> = (0..USERS).map(user).filter(oversees).collect();
                pick(&overseers, n).unwrap_or(user(n % USERS))
            }
        }
    }
}

impl Which {
    fn resolve(self, model: &Model, deed: &Deed) -> ClientId {
        let never = ClientId::from_uuid(Uuid::from_u128(0xd0));
        match self {
            Self::Present(n) => {
                // Mostly one that the deed makes sense for.
                let is_fit = |client: &&ApiClient| match deed {
                    Deed::Reactivate => n % 4 == 0 || client.revoke_time.is_some(),
                    Deed::Rotate(..) => n % 4 == 0 || client.revoke_time.is_none(),
                    Deed::Get | Deed::Update(_) | Deed::Revoke | Deed::Delete => true,
                };
                let fit: Vec<&ApiClient> = model.clients.values().filter(is_fit).collect();
                let any = model.clients.keys().next().copied();
                pick(&fit, n)
                    .map(|client| client.id)
                    .or(any)
                    .unwrap_or(never)
            }
            Self::Gone(n) => {
                let ever = model.tokens.iter().map(|token| token.client);
                let gone = ever.filter(|id| !model.clients.contains_key(id));
                let gone: Vec<ClientId> = gone.chain([never]).collect();
                pick(&gone, n).unwrap_or(never)
            }
        }
    }
}

impl Creation {
    /// The owner, or, if no user manages its clients and a manager is to act,
    /// another.
    fn owner(&self, model: &Model) -> Owner {
        let is_managed =
            |owner: &Owner| (0..USERS).map(user).any(|user| model.manages(user, *owner));
        match self.who {
            Who::Manager(n) if !is_managed(&self.owner) => {
                let users = (0..USERS).map(|n| Owner::User(user(n)));
                let teams = (0..TEAMS).map(|n| Owner::Team(team(n)));
                let managed: Vec<Owner> = users.chain(teams).filter(is_managed).collect();
                pick(&managed, n).unwrap_or(self.owner)
            }
            _ => self.owner,
        }
    }

    fn resolve(&self, model: &Model, actor: UserId, owner: Owner) -> Draft {
        let reach = Reach::of(model, actor, owner);
        let grants = reach.grants(&self.grants);
        let delegated = match owner {
            Owner::User(user) => {
                let instance_role = reach.instance_role(self.instance_role);
                Delegated::Personal {
                    user,
                    instance_role,
                    grants,
                }
            }
            Owner::Team(team) => Delegated::Team { team, grants },
        };
        Draft {
            delegated,
            name: name(self.name),
            description: Description::default(),
            expiry: self.expiry.resolve(model.now, Expiry::Never),
            sources: ranges(self.ranges),
            activation: self.activation.resolve(model.now, Activation::AtOnce),
        }
    }
}

impl Edit {
    fn resolve(&self, model: &Model, actor: UserId, client: Option<&ApiClient>) -> Update {
        let Some(client) = client else {
            return Update::default();
        };
        let reach = Reach::of(model, actor, owner_of(client));
        Update {
            name: self.name.map(name),
            description: self.description.map(|text| {
                Description::parse(text).expect("scripts have sound descriptions only")
            }),
            instance_role: self.instance_role.map(|wish| reach.instance_role(wish)),
            grants: self
                .grants
                .as_ref()
                .map(|edit| edit.resolve(&reach, client)),
            expiry: self
                .expiry
                .map(|ending| ending.resolve(model.now, client.expiry)),
            sources: self.ranges.map(ranges),
            activation: self
                .activation
                .map(|beginning| beginning.resolve(model.now, client.activation)),
            etag: self.etag.resolve(model, client.id),
        }
    }
}

impl Etag {
    fn resolve(self, model: &Model, client: ClientId) -> Option<String> {
        let etags = model.etags.get(&client);
        let etags = etags.map(Vec::as_slice).unwrap_or_default();
        let current = etags.last();
        match self {
            Self::Omitted => None,
            Self::Current => current.cloned(),
            Self::Stale => {
                let stale = etags.iter().find(|etag| Some(*etag) != current);
                Some(stale.cloned().unwrap_or_else(|| "never shown".to_owned()))
            }
        }
    }
}

impl GrantsEdit {
    fn resolve(&self, reach: &Reach, client: &ApiClient) -> SiteGrants {
        let old = client.delegated.grants();
        match self {
            Self::Replace(wishes) => reach.grants(wishes),
            Self::Put(wish) => {
                let mut grants = old.clone();
                grants.extend(reach.grants(&[*wish]));
                grants
            }
            Self::Set(n, role) => {
                let mut grants = old.clone();
                let sites: Vec<SiteId> = old.keys().copied().collect();
                grants.extend(pick(&sites, *n).map(|site| (site, *role)));
                grants
            }
            Self::Narrow(cuts) => {
                let cut = |((site, role), cut): ((&SiteId, &SiteRole), &Cut)| match cut {
                    Cut::Keep => Some((*site, *role)),
                    Cut::ToViewer => Some((*site, SiteRole::Viewer)),
                    Cut::Drop => None,
                };
                old.iter()
                    .zip(cuts.iter().cycle())
                    .filter_map(cut)
                    .collect()
            }
        }
    }
}

impl Ending {
    fn resolve(self, now: Timestamp, current: Expiry) -> Expiry {
        match self {
            Self::Never => Expiry::Never,
            Self::In(hours) => Expiry::At(now + TimeDelta::hours(hours)),
            Self::Unchanged => current,
            Self::Sooner => {
                let left = current
                    .time()
                    .and_then(|end| (end - now).num_microseconds());
                let half = left.map_or(TimeDelta::hours(2), |left| {
                    TimeDelta::microseconds(left / 2)
                });
                Expiry::At(now + half)
            }
        }
    }
}

impl Beginning {
    fn resolve(self, now: Timestamp, current: Activation) -> Activation {
        match self {
            Self::AtOnce => Activation::AtOnce,
            Self::In(hours) => Activation::At(now + TimeDelta::hours(hours)),
            Self::Unchanged => current,
            Self::Sooner => match current.time().and_then(|at| (at - now).num_microseconds()) {
                Some(left) => Activation::At(now + TimeDelta::microseconds(left / 2)),
                None => current,
            },
        }
    }
}

/// What an actor may delegate to an owner's clients.
struct Reach(Permissions);

impl Reach {
    fn of(model: &Model, actor: UserId, owner: Owner) -> Self {
        let outside = |site: SiteId| match owner {
            Owner::User(_) => false,
            Owner::Team(team) => !model
                .directory
                .sites
                .iter()
                .any(|row| row.id == site && row.team == team),
        };
        let held = model.holds(actor).into_iter();
        Self(
            held.filter(|(site, _)| !site.is_some_and(outside))
                .collect(),
        )
    }

    fn instance_role(&self, wish: Wish<InstanceRole>) -> InstanceRole {
        if wish.modest && !on_instance(wish.wanted).is_subset(&self.0) {
            return InstanceRole::User;
        }
        wish.wanted
    }

    fn grants(&self, wishes: &[Wish<(u8, SiteRole)>]) -> SiteGrants {
        wishes.iter().filter_map(|wish| self.grant(*wish)).collect()
    }

    fn grant(
        &self,
        Wish {
            wanted: (n, wanted),
            modest,
        }: Wish<(u8, SiteRole)>,
    ) -> Option<(SiteId, SiteRole)> {
        if !modest {
            // Hardly ever one that does not exist.
            return Some((site(if n == 0 { SITES } else { n % SITES }), wanted));
        }
        let within: BTreeSet<SiteId> = self.0.iter().filter_map(|(site, _)| *site).collect();
        let within: Vec<SiteId> = within.into_iter().collect();
        let site = pick(&within, n)?;
        let strongest_first = [
            SiteRole::Owner,
            SiteRole::Admin,
            SiteRole::Editor,
            SiteRole::Viewer,
        ];
        let mut up_to_wanted = strongest_first
            .into_iter()
            .skip_while(|role| *role != wanted);
        let role = up_to_wanted.find(|role| on_site(site, *role).is_subset(&self.0))?;
        Some((site, role))
    }
}

fn name(text: &str) -> Name {
    Name::parse(text).expect("scripts have sound names only")
}

fn pick<T: Copy>(from: &[T], n: u8) -> Option<T> {
    from.get(usize::from(n).checked_rem(from.len())?).copied()
}
