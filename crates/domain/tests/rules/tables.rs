//! The tables, in memory: rows, cascading deletes, and what the store would
//! load from them for a decision or an evaluation. The only rules here are those that the
//! store enforces: which clients, memberships and grants a deletion removes, and when a
//! replaced token ends.

use std::collections::{BTreeMap, BTreeSet};

use hitkeep_auth_domain::{
    Timestamp,
    access::{
        CurrentOwner, Facts, Holder, Owner, OwnerFacts, OwnerStanding, SiteStanding, UserStanding,
    },
    client::ApiClient,
    directory::{Directory, DirectoryChange, Removal},
    id::{ClientId, SiteId, TeamId, UserId},
    introspection::{Subject, TokenStanding},
    role::{InstanceRole, SiteRole, TeamRole},
    token::TokenHash,
};

use crate::model::life::{grants_of, owner_of};

/// A token's row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenRow {
    pub(crate) hash: TokenHash,
    pub(crate) client: ClientId,
    pub(crate) end_time: Option<Timestamp>,
}

impl TokenRow {
    /// A token that none has taken the place of.
    pub(crate) const fn newest(hash: TokenHash, client: ClientId) -> Self {
        Self {
            hash,
            client,
            end_time: None,
        }
    }
}

/// All rows.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    users: BTreeMap<UserId, UserStanding>,
    /// Whether it is archived.
    teams: BTreeMap<TeamId, bool>,
    team_members: BTreeMap<(TeamId, UserId), TeamRole>,
    /// The team that it is in.
    sites: BTreeMap<SiteId, TeamId>,
    site_members: BTreeMap<(SiteId, UserId), SiteRole>,
    pub(crate) clients: BTreeMap<ClientId, ApiClient>,
    pub(crate) tokens: Vec<TokenRow>,
}

/// Writing.
impl Tables {
    /// Changes the directory; `false` where the change names something unknown.
    pub(crate) fn apply(&mut self, change: &DirectoryChange) -> bool {
        match *change {
            DirectoryChange::PutUser(user) => {
                let standing = UserStanding {
                    instance_role: user.instance_role,
                    disabled: user.disabled,
                };
                self.users.insert(user.id, standing);
            }
            DirectoryChange::DeleteUser(id) => self.delete_user(id),
            DirectoryChange::PutTeam(team) => {
                self.teams.insert(team.id, team.archived);
            }
            DirectoryChange::DeleteTeam(id) => self.delete_team(id),
            DirectoryChange::PutTeamMember(member) => {
                let known =
                    self.teams.contains_key(&member.team) && self.users.contains_key(&member.user);
                if known {
                    self.team_members
                        .insert((member.team, member.user), member.role);
                }
                return known;
            }
            DirectoryChange::DeleteTeamMember(team, user) => {
                self.team_members.remove(&(team, user));
            }
            DirectoryChange::PutSite(site) => {
                let known = self.teams.contains_key(&site.team);
                if known {
                    self.sites.insert(site.id, site.team);
                }
                return known;
            }
            DirectoryChange::DeleteSite(id) => self.delete_site(id),
            DirectoryChange::PutSiteMember(member) => {
                let known =
                    self.sites.contains_key(&member.site) && self.users.contains_key(&member.user);
                if known {
                    self.site_members
                        .insert((member.site, member.user), member.role);
                }
                return known;
            }
            DirectoryChange::DeleteSiteMember(site, user) => {
                self.site_members.remove(&(site, user));
            }
        }
        true
    }

    /// Replaces the directory, in the order of the store: a site leaves a team before that is
    /// removed, and memberships go before what they are of. `false` where it would remove too
    /// much.
    pub(crate) fn replace(&mut self, new: &Directory, allow_mass_removal: bool) -> bool {
        let users: BTreeSet<_> = new.users.iter().map(|user| user.id).collect();
        let teams: BTreeSet<_> = new.teams.iter().map(|team| team.id).collect();
        let sites: BTreeSet<_> = new.sites.iter().map(|site| site.id).collect();
        let lost_users = lost(self.users.keys(), &users);
        let lost_teams = lost(self.teams.keys(), &teams);
        let lost_sites = lost(self.sites.keys(), &sites);
        let removals = [
            ("users", self.users.len(), lost_users.len()),
            ("teams", self.teams.len(), lost_teams.len()),
            ("sites", self.sites.len(), lost_sites.len()),
        ];
        let count = |number| u32::try_from(number).expect("there are few");
        let is_mass_removal = removals.into_iter().any(|(kind, known, removed)| {
            let (known, removed) = (count(known), count(removed));
            let removal = Removal {
                kind,
                known,
                removed,
            };
            removal.is_mass_removal()
        });
        if is_mass_removal && !allow_mass_removal {
            return false;
        }
        let members = new.team_members.iter().map(|row| (row.team, row.user));
        let members: BTreeSet<_> = members.collect();
        self.team_members.retain(|key, _| members.contains(key));
        let members = new.site_members.iter().map(|row| (row.site, row.user));
        let members: BTreeSet<_> = members.collect();
        self.site_members.retain(|key, _| members.contains(key));
        let put = [
            new.users
                .iter()
                .copied()
                .map(DirectoryChange::PutUser)
                .collect::<Vec<_>>(),
            new.teams
                .iter()
                .copied()
                .map(DirectoryChange::PutTeam)
                .collect(),
            new.sites
                .iter()
                .copied()
                .map(DirectoryChange::PutSite)
                .collect(),
        ];
        for change in put.into_iter().flatten() {
            assert!(self.apply(&change), "it is of the same directory");
        }
        for site in lost_sites {
            self.delete_site(site);
        }
        for team in lost_teams {
            self.delete_team(team);
        }
        for user in lost_users {
            self.delete_user(user);
        }
        let members = new.team_members.iter().copied();
        let of_sites = new.site_members.iter().copied();
        let members = members.map(DirectoryChange::PutTeamMember);
        for change in members.chain(of_sites.map(DirectoryChange::PutSiteMember)) {
            assert!(self.apply(&change), "it is of the same directory");
        }
        true
    }

    fn delete_user(&mut self, id: UserId) {
        self.users.remove(&id);
        self.team_members.retain(|(_, user), _| *user != id);
        self.site_members.retain(|(_, user), _| *user != id);
        self.delete_clients_of(Owner::User(id));
    }

    fn delete_team(&mut self, id: TeamId) {
        self.teams.remove(&id);
        self.team_members.retain(|(team, _), _| *team != id);
        let inside = self.sites.iter().filter(|(_, team)| **team == id);
        let sites: Vec<SiteId> = inside.map(|(site, _)| *site).collect();
        for site in sites {
            self.delete_site(site);
        }
        self.delete_clients_of(Owner::Team(id));
    }

    fn delete_site(&mut self, id: SiteId) {
        self.sites.remove(&id);
        self.site_members.retain(|(site, _), _| *site != id);
        for client in self.clients.values_mut() {
            grants_of(client).remove(&id);
        }
    }

    fn delete_clients_of(&mut self, owner: Owner) {
        self.clients.retain(|_, client| owner_of(client) != owner);
    }

    /// Writes a client's new content over the old.
    pub(crate) fn update_client(&mut self, new: &ApiClient) {
        let old = self
            .clients
            .insert(new.id, new.clone())
            .expect("it was there a moment ago");
        if new.expiry >= old.expiry {
            return;
        }
        for token in self
            .tokens
            .iter_mut()
            .filter(|token| token.client == new.id)
        {
            let expires = new.expiry.time();
            token.end_time = token
                .end_time
                .map(|ends| expires.map_or(ends, |expires| expires.min(ends)));
        }
    }

    /// Writes a client with its new token. The token before it works until
    /// `old_token_ends`, earlier ones no longer.
    pub(crate) fn rotate_client(
        &mut self,
        new: ApiClient,
        hash: TokenHash,
        old_token_ends: Timestamp,
        now: Timestamp,
    ) {
        for token in self
            .tokens
            .iter_mut()
            .filter(|token| token.client == new.id)
        {
            token.end_time = Some(match token.end_time {
                None => old_token_ends,
                Some(already) => already.min(now),
            });
        }
        self.tokens.push(TokenRow::newest(hash, new.id));
        self.clients.insert(new.id, new);
    }
}

/// Loading.
impl Tables {
    /// How many clients an owner has, inactive ones included.
    pub(crate) fn count_clients(&self, owner: Owner) -> usize {
        self.clients
            .values()
            .filter(|client| owner_of(client) == owner)
            .count()
    }

    /// What a decision about an owner's client rests on.
    pub(crate) fn facts(&self, actor: UserId, owner: Owner, asked: &[SiteId]) -> Facts {
        let owner = match owner {
            Owner::User(id) => match self.users.get(&id) {
                Some(user) => OwnerFacts::User {
                    id,
                    disabled: user.disabled,
                },
                None => OwnerFacts::Absent,
            },
            Owner::Team(id) => match self.teams.get(&id) {
                Some(archived) => OwnerFacts::Team {
                    id,
                    archived: *archived,
                    actor_role: self.team_members.get(&(id, actor)).copied(),
                },
                None => OwnerFacts::Absent,
            },
        };
        Facts {
            actor: self.holder(actor, asked),
            owner,
        }
    }

    /// What a verdict on a token rests on.
    pub(crate) fn subject(&self, token: TokenHash) -> Option<Subject> {
        let token = self.tokens.iter().find(|row| row.hash == token)?;
        let client = self.clients.get(&token.client)?;
        // No client is left behind without its owner, which would do nothing.
        let (current, user) = match owner_of(client) {
            Owner::User(id) => {
                let unknown = UserStanding {
                    instance_role: InstanceRole::User,
                    disabled: true,
                };
                let user = self.users.get(&id).copied().unwrap_or(unknown);
                (CurrentOwner::User(id, user), Some(id))
            }
            Owner::Team(id) => {
                let archived = self.teams.get(&id).copied().unwrap_or(true);
                (CurrentOwner::Team { id, archived }, None)
            }
        };
        let granted = client.delegated.grants().keys();
        let owner = OwnerStanding {
            current,
            sites: self.standings(user, granted.copied()),
        };
        Some(Subject {
            token: token
                .end_time
                .map_or(TokenStanding::Current, TokenStanding::ReplacedUntil),
            client: client.id,
            name: client.name.as_str().to_owned(),
            delegated: client.delegated.clone(),
            expiry: client.expiry,
            sources: client.sources.clone(),
            activation: client.activation,
            revoked: client.revoke_time.is_some(),
            owner,
        })
    }

    /// A user and what they have to do with some sites.
    pub(crate) fn holder(&self, id: UserId, asked: &[SiteId]) -> Holder {
        Holder {
            id,
            user: self.users.get(&id).copied(),
            sites: self.standings(Some(id), asked.iter().copied()),
        }
    }

    /// Those of some sites that there are, and what a user has to do with each.
    fn standings(
        &self,
        user: Option<UserId>,
        asked: impl Iterator<Item = SiteId>,
    ) -> BTreeMap<SiteId, SiteStanding> {
        let standing = |site: SiteId| {
            let team = *self.sites.get(&site)?;
            let standing = SiteStanding {
                team,
                team_archived: self.teams.get(&team).copied().unwrap_or(false),
                team_role: user.and_then(|user| self.team_members.get(&(team, user)).copied()),
                site_role: user.and_then(|user| self.site_members.get(&(site, user)).copied()),
            };
            Some((site, standing))
        };
        asked.filter_map(standing).collect()
    }
}

/// Those ids that are not among the kept ones.
fn lost<'i, T: Copy + Ord + 'i>(ids: impl Iterator<Item = &'i T>, kept: &BTreeSet<T>) -> Vec<T> {
    ids.filter(|id| !kept.contains(id)).copied().collect()
}
