//! The rows of API clients and grants, checked one by one.

use std::collections::{BTreeMap, BTreeSet};

use chrono::Datelike;

use super::{
    HitKeep, id,
    refused::{Reason, RefusedRow, shown},
};
use crate::{
    domain::{
        Timestamp,
        access::{Delegated, Owner, SiteGrants},
        client::{Activation, Description, Draft, Expiry, Name},
        id::{ClientId, SiteId, TeamId, UserId},
        imports::{ForeignClient, parse_hash},
        role::{InstanceRole, SiteRole},
        source::AllowedSources,
        token::LegacyHash,
    },
    import::{
        directory::DirectoryIndex,
        tables::{Column, Kind, ReadError, Tables, Value},
    },
};

/// A row of an API client, unchecked.
#[derive(Clone, Debug)]
pub struct BackupClientRow {
    id: Value,
    user: Value,
    team: Value,
    name: Value,
    description: Value,
    /// `None` if it is not a hash. It is not kept as text, so that nothing can print it.
    hash: Option<LegacyHash>,
    instance_role: Value,
    expires: Value,
    last_used: Value,
    revoked: Value,
    created: Value,
    updated: Value,
}

/// A row of a grant, unchecked.
#[derive(Clone, Copy, Debug)]
pub struct BackupGrantRow {
    client: Option<ClientId>,
    site: Option<SiteId>,
    /// `None` if HitKeep does not know the role.
    role: Option<SiteRole>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WhyDropped {
    /// There is no such client, as HitKeep leaves grants of deleted clients behind.
    NoClient,
    NoSite,
    /// The role is not one of HitKeep's, so it gives nothing there either.
    UnknownRole,
}

impl WhyDropped {
    /// A word for programs.
    pub const fn code(self) -> &'static str {
        match self {
            Self::NoClient => "no_client",
            Self::NoSite => "no_site",
            Self::UnknownRole => "unknown_role",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DroppedGrant {
    /// The client's id, if it is readable.
    pub client: Option<ClientId>,
    /// The site's id, if it is readable.
    pub site: Option<SiteId>,
    pub why: WhyDropped,
}

/// All rows of API clients, checked.
#[derive(Clone, Debug, Default)]
pub struct Clients {
    /// Those that can be taken over, by their ids.
    pub good: BTreeMap<ClientId, ForeignClient>,
    /// Those that cannot.
    pub refused: Vec<RefusedRow>,
    pub dropped: Vec<DroppedGrant>,
}

impl BackupClientRow {
    pub(super) fn read(tables: &dyn Tables) -> Result<Vec<Self>, ReadError> {
        const COLUMNS: [Column; 12] = [
            Column::required("id", Kind::Id),
            Column::required("user_id", Kind::Id),
            Column::required("tenant_id", Kind::Id),
            Column::required("name", Kind::Text),
            Column::required("description", Kind::Text),
            Column::required("secret_hash", Kind::Text),
            Column::required("instance_role", Kind::Text),
            Column::required("expires_at", Kind::Time),
            Column::required("last_used_at", Kind::Time),
            Column::required("revoked_at", Kind::Time),
            Column::required("created_at", Kind::Time),
            Column::required("updated_at", Kind::Time),
        ];
        let row = |row: Vec<Value>| {
            let row: [Value; 12] = row.try_into().expect("a row has all requested columns");
            let [
                id,
                user,
                team,
                name,
                description,
                hash,
                instance_role,
                expires,
                last_used,
                revoked,
                created,
                updated,
            ] = row;
            Self {
                id,
                user,
                team,
                name,
                description,
                hash: hash.text().and_then(parse_hash),
                instance_role,
                expires,
                last_used,
                revoked,
                created,
                updated,
            }
        };
        let rows = tables.rows("api_clients", &COLUMNS)?;
        Ok(rows.into_iter().map(row).collect())
    }

    fn client_id(&self) -> Option<ClientId> {
        id(&self.id).map(ClientId::from_uuid)
    }

    /// The owners; HitKeep takes a nil UUID for none.
    fn owners(&self) -> (Option<UserId>, Option<TeamId>) {
        let user = id(&self.user).map(UserId::from_uuid);
        (user, id(&self.team).map(TeamId::from_uuid))
    }

    fn owner(&self) -> Result<Owner, Reason> {
        match self.owners() {
            (Some(user), None) => Ok(Owner::User(user)),
            (None, Some(team)) => Ok(Owner::Team(team)),
            (None, None) => Err(Reason::NoOwner),
            (Some(_), Some(_)) => Err(Reason::TwoOwners),
        }
    }

    /// The row as refused; `is_unique` unless another row has its id or its hash.
    fn refuse(&self, reason: Reason, is_unique: bool) -> RefusedRow {
        RefusedRow {
            id: self.client_id(),
            name: shown(self.name.text().unwrap_or_default()),
            owner: self.owner().ok(),
            is_revoked: self.revoked != Value::Null,
            token: self.hash.filter(|_| is_unique),
            reason,
        }
    }

    fn check(
        &self,
        all: &HitKeep,
        directory: &DirectoryIndex,
        grants: SiteGrants,
    ) -> Result<ForeignClient, Reason> {
        let client = self.client_id().ok_or(Reason::NoId)?;
        let owner = self.owner()?;
        if let Owner::User(user) = owner
            && all.shadows.contains(&user)
        {
            return Err(Reason::ShadowOwner);
        }
        if !directory.has_owner(owner) {
            return Err(Reason::UnknownOwner);
        }
        let instance_role: InstanceRole = self
            .instance_role
            .text()
            .and_then(|word| word.parse().ok())
            .ok_or(Reason::UnknownInstanceRole)?;
        let token = self.hash.ok_or(Reason::BadHash)?;
        let name = Name::parse(self.name.text().unwrap_or_default()).map_err(Reason::Name)?;
        let description = match &self.description {
            Value::Null => "",
            Value::Text(text) => text.trim(),
            _ => {
                return Err(Reason::Description(
                    crate::domain::client::BadText::ControlCharacter,
                ));
            }
        };
        let description = Description::parse(description).map_err(Reason::Description)?;
        let delegated = match (owner, instance_role) {
            (Owner::User(user), instance_role) => Delegated::Personal {
                user,
                instance_role,
                grants,
            },
            (Owner::Team(team), InstanceRole::User) => Delegated::Team { team, grants },
            (Owner::Team(_), InstanceRole::Admin | InstanceRole::Owner) => {
                return Err(Reason::TeamInstanceRole);
            }
        };
        let create_time = time(&self.created)?.ok_or(Reason::BadTime)?;
        let creator = all.creators.get(&client.uuid()).copied();
        let created_by = match owner {
            Owner::User(user) => creator.or(Some(user)),
            Owner::Team(_) => creator,
        };
        Ok(ForeignClient {
            id: client,
            draft: Draft {
                delegated,
                name,
                description,
                expiry: Expiry::from(time(&self.expires)?),
                // HitKeep has neither.
                sources: AllowedSources::default(),
                activation: Activation::AtOnce,
            },
            token,
            revoke_time: time(&self.revoked)?,
            created_by,
            create_time,
            update_time: time(&self.updated)?.unwrap_or(create_time),
            last_used: time(&self.last_used)?,
        })
    }
}

/// A time that can be stored and sent; `None` for none.
fn time(value: &Value) -> Result<Option<Timestamp>, Reason> {
    match value {
        Value::Null => Ok(None),
        // DuckDB's infinities are beyond that.
        Value::Time(time) if (1..=9999).contains(&time.year()) => Ok(Some(*time)),
        _ => Err(Reason::BadTime),
    }
}

impl BackupGrantRow {
    pub(super) fn read(tables: &dyn Tables) -> Result<Vec<Self>, ReadError> {
        const COLUMNS: [Column; 3] = [
            Column::required("api_client_id", Kind::Id),
            Column::required("site_id", Kind::Id),
            Column::required("role", Kind::Text),
        ];
        let rows = tables.rows("api_client_site_roles", &COLUMNS)?;
        let row = |row: &Vec<Value>| Self {
            client: id(&row[0]).map(ClientId::from_uuid),
            site: id(&row[1]).map(SiteId::from_uuid),
            role: row[2].text().and_then(|word| word.parse().ok()),
        };
        Ok(rows.iter().map(row).collect())
    }
}

impl HitKeep {
    /// Checks all API clients against the directory that they will be in.
    pub fn check_clients(&self, directory: &DirectoryIndex) -> Clients {
        let ids: BTreeSet<ClientId> = { self.clients.iter() }
            .filter_map(BackupClientRow::client_id)
            .collect();
        let mut checked = Clients::default();
        let mut grants: BTreeMap<ClientId, SiteGrants> = BTreeMap::new();
        for grant in &self.grants {
            let client = grant.client.filter(|client| ids.contains(client));
            let site = grant.site.filter(|site| directory.has_site(*site));
            let why = match (client, site, grant.role) {
                (Some(client), Some(site), Some(role)) => {
                    let known = grants.entry(client).or_default().entry(site);
                    // HitKeep's constraint allows one; of two, the weaker counts.
                    known
                        .and_modify(|known| *known = role.min(*known))
                        .or_insert(role);
                    continue;
                }
                (None, _, _) => WhyDropped::NoClient,
                (_, None, _) => WhyDropped::NoSite,
                (_, _, None) => WhyDropped::UnknownRole,
            };
            checked.dropped.push(DroppedGrant {
                client: grant.client,
                site: grant.site,
                why,
            });
        }
        let (mut seen_ids, mut seen_hashes) = (BTreeMap::new(), BTreeMap::new());
        for row in &self.clients {
            *seen_ids.entry(row.client_id()).or_insert(0_u32) += 1;
            *seen_hashes.entry(row.hash).or_insert(0_u32) += 1;
        }
        for row in &self.clients {
            let own = row.client_id().and_then(|client| grants.get(&client));
            let is_only_id = seen_ids[&row.client_id()] == 1;
            let is_only_hash = seen_hashes[&row.hash] == 1;
            let client = row.check(self, directory, own.cloned().unwrap_or_default());
            let client = client.and_then(|client| match (is_only_id, is_only_hash) {
                (false, _) => Err(Reason::DuplicateId),
                (true, false) => Err(Reason::DuplicateHash),
                (true, true) => Ok(client),
            });
            match client {
                Ok(client) => drop(checked.good.insert(client.id, client)),
                Err(reason) => checked
                    .refused
                    .push(row.refuse(reason, is_only_id && is_only_hash)),
            }
        }
        checked
    }

    /// The grants of a client as HitKeep has them, including those that are left out here
    /// because the directory lacks their sites.
    pub fn grants_by_client(&self) -> BTreeMap<ClientId, SiteGrants> {
        let mut grants: BTreeMap<ClientId, SiteGrants> = BTreeMap::new();
        for grant in &self.grants {
            if let (Some(client), Some(site), Some(role)) = (grant.client, grant.site, grant.role)
                && self.sites.contains_key(&site)
            {
                let known = grants.entry(client).or_default().entry(site);
                known
                    .and_modify(|known| *known = role.min(*known))
                    .or_insert(role);
            }
        }
        grants
    }

    /// Every client that HitKeep itself would accept, as it sees it: also those that an import
    /// refuses.
    pub fn clients_there(&self) -> impl Iterator<Item = ClientThere> + '_ {
        self.clients.iter().filter_map(|row| {
            let client = row.client_id()?;
            let owner = match row.owners() {
                (Some(user), _) => Owner::User(user),
                (None, Some(team)) => Owner::Team(team),
                (None, None) => return None,
            };
            let word = row.instance_role.text();
            let expires = match &row.expires {
                Value::Null => None,
                Value::Time(time) => Some(*time),
                _ => Some(Timestamp::MAX_UTC),
            };
            Some(ClientThere {
                id: client,
                name: shown(row.name.text().unwrap_or_default()),
                owner,
                instance_role: word
                    .and_then(|word| word.parse().ok())
                    .unwrap_or(InstanceRole::User),
                token: row.hash,
                revoked: row.revoked != Value::Null,
                expires,
            })
        })
    }
}

/// A client as HitKeep's own look-up of a token sees it.
#[derive(Clone, Debug)]
pub struct ClientThere {
    pub id: ClientId,
    /// The client's name, fit to be shown.
    pub name: String,
    /// The owner; of two, the user counts.
    pub owner: Owner,
    /// The delegated role on the instance; an unknown one gives nothing.
    pub instance_role: InstanceRole,
    /// The hash of the token. HitKeep finds no token by a text that is not a hash.
    pub token: Option<LegacyHash>,
    pub revoked: bool,
    pub expires: Option<Timestamp>,
}
