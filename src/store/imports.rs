//! Imports of API clients: the state that they are planned from, and what they write.
//!
//! All of it is set-based, since an import of 100,000 clients holds the write lock.

use std::collections::BTreeMap;

use diesel::prelude::*;
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use uuid::Uuid;

use super::{
    Snapshot, Transaction,
    clients::find_all,
    connection::Connection,
    directory,
    error::StoreError,
    schema::{
        api_client_imports, api_client_tokens, api_clients, import_state, site_members, sites,
        team_members, teams, users,
    },
    types,
};
use crate::domain::{
    Timestamp,
    access::Owner,
    directory::{Directory, Site, SiteMember, Team, TeamMember, User},
    id::{ClientId, SiteId, TeamId, UserId},
    imports::{ImportRecord, ImportState, KnownClient, RowDigest},
    token::{LegacyHash, StoredHash, TokenScheme},
};

mod write;

/// An import is one large transaction, and the default timeouts are for small requests.
const TIMEOUTS: &str = "SET LOCAL statement_timeout = '10min'; \
                        SET LOCAL idle_in_transaction_session_timeout = '5min'";

impl Snapshot {
    /// Loads what an import of clients with these ids and tokens depends on.
    pub async fn import_state(
        &mut self,
        ids: &[ClientId],
        tokens: &[LegacyHash],
    ) -> Result<ImportState, StoreError> {
        let now = self.now;
        load(self.connection(), now, ids, tokens).await
    }
}

impl Transaction {
    /// Loads what an import of clients with these ids and tokens depends on.
    pub async fn import_state(
        &mut self,
        ids: &[ClientId],
        tokens: &[LegacyHash],
    ) -> Result<ImportState, StoreError> {
        let now = self.now;
        load(self.connection(), now, ids, tokens).await
    }
}

async fn load(
    connection: &mut Connection,
    now: Timestamp,
    ids: &[ClientId],
    tokens: &[LegacyHash],
) -> Result<ImportState, StoreError> {
    connection.batch_execute(TIMEOUTS).await?;
    let (last_snapshot, imported): (Option<Timestamp>, i64) = import_state::table
        .select((import_state::snapshot_time, import_state::directory_changed))
        .first(connection)
        .await?;
    let records = records(connection).await?;
    let ids = ids.iter().chain(records.keys());
    let mut ids: Vec<Uuid> = ids.map(|id| id.uuid()).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut newest = newest_tokens(connection, &ids).await?;
    let mut known = BTreeMap::new();
    for client in find_all(connection, &ids).await? {
        let id = client.id;
        let client = KnownClient {
            newest_token: newest.remove(&id),
            record: records.get(&id).copied(),
            client,
        };
        known.insert(id, client);
    }
    Ok(ImportState {
        now,
        last_snapshot,
        directory: whole_directory(connection).await?,
        directory_changed: directory::progress(connection).await?.changed,
        directory_imported: directory::place(imported)?,
        known,
        records,
        holders: holders(connection, tokens).await?,
        owned: owned(connection).await?,
    })
}

async fn records(
    connection: &mut Connection,
) -> Result<BTreeMap<ClientId, ImportRecord>, StoreError> {
    type Row = (Uuid, Vec<u8>, Vec<u8>, Option<Timestamp>, Timestamp);
    let rows: Vec<Row> = api_client_imports::table
        .select((
            api_client_imports::client_id,
            api_client_imports::row_digest,
            api_client_imports::token_hash,
            api_client_imports::revoke_time,
            api_client_imports::snapshot_time,
        ))
        .load(connection)
        .await?;
    let record = |(id, digest, token, revoke_time, snapshot_time): Row| {
        let record = ImportRecord {
            digest: RowDigest(bytes(&digest)?),
            token: LegacyHash(bytes(&token)?),
            revoke_time,
            snapshot_time,
        };
        Ok((ClientId::from_uuid(id), record))
    };
    rows.into_iter().map(record).collect()
}

async fn newest_tokens(
    connection: &mut Connection,
    clients: &[Uuid],
) -> Result<BTreeMap<ClientId, StoredHash>, StoreError> {
    let rows: Vec<(Uuid, Vec<u8>, String)> = api_client_tokens::table
        .filter(api_client_tokens::client_id.eq_any(clients))
        .filter(api_client_tokens::end_time.is_null())
        .select((
            api_client_tokens::client_id,
            api_client_tokens::hash,
            api_client_tokens::scheme,
        ))
        .load(connection)
        .await?;
    let token = |(client, hash, scheme): (Uuid, Vec<u8>, String)| {
        let scheme: TokenScheme = types::word(&scheme)?;
        let hash = StoredHash::new(scheme, bytes(&hash)?);
        Ok((ClientId::from_uuid(client), hash))
    };
    rows.into_iter().map(token).collect()
}

/// The clients that have tokens of these bytes, of whatever scheme: the bytes are the key.
async fn holders(
    connection: &mut Connection,
    tokens: &[LegacyHash],
) -> Result<BTreeMap<LegacyHash, ClientId>, StoreError> {
    let hashes: Vec<&[u8]> = tokens.iter().map(|hash| &hash.0[..]).collect();
    let rows: Vec<(Vec<u8>, Uuid)> = api_client_tokens::table
        .filter(api_client_tokens::hash.eq_any(hashes))
        .select((api_client_tokens::hash, api_client_tokens::client_id))
        .load(connection)
        .await?;
    let holder = |(hash, client): (Vec<u8>, Uuid)| {
        Ok((LegacyHash(bytes(&hash)?), ClientId::from_uuid(client)))
    };
    rows.into_iter().map(holder).collect()
}

async fn owned(connection: &mut Connection) -> Result<BTreeMap<Owner, u32>, StoreError> {
    type Row = (Option<Uuid>, Option<Uuid>, i64);
    let rows: Vec<Row> = api_clients::table
        .group_by((api_clients::owner_user_id, api_clients::owner_team_id))
        .select((
            api_clients::owner_user_id,
            api_clients::owner_team_id,
            diesel::dsl::count_star(),
        ))
        .load(connection)
        .await?;
    let owned = |(user, team, count): Row| Ok((types::owner(user, team)?, types::count(count)?));
    rows.into_iter().map(owned).collect()
}

async fn whole_directory(connection: &mut Connection) -> Result<Directory, StoreError> {
    let users: Vec<(Uuid, String, bool)> = users::table
        .select((users::id, users::instance_role, users::disabled))
        .load(connection)
        .await?;
    let teams: Vec<(Uuid, bool)> = teams::table
        .select((teams::id, teams::archived))
        .load(connection)
        .await?;
    let team_members: Vec<(Uuid, Uuid, String)> = team_members::table
        .select((
            team_members::team_id,
            team_members::user_id,
            team_members::role,
        ))
        .load(connection)
        .await?;
    let sites: Vec<(Uuid, Uuid)> = sites::table
        .select((sites::id, sites::team_id))
        .load(connection)
        .await?;
    let site_members: Vec<(Uuid, Uuid, String)> = site_members::table
        .select((
            site_members::site_id,
            site_members::user_id,
            site_members::role,
        ))
        .load(connection)
        .await?;
    let user = |(id, role, disabled): (Uuid, String, bool)| {
        Ok(User {
            id: UserId::from_uuid(id),
            instance_role: types::word(&role)?,
            disabled,
        })
    };
    let team = |(id, archived): (Uuid, bool)| Team {
        id: TeamId::from_uuid(id),
        archived,
    };
    let team_member = |(team, user, role): (Uuid, Uuid, String)| {
        Ok(TeamMember {
            team: TeamId::from_uuid(team),
            user: UserId::from_uuid(user),
            role: types::word(&role)?,
        })
    };
    let site = |(id, team): (Uuid, Uuid)| Site {
        id: SiteId::from_uuid(id),
        team: TeamId::from_uuid(team),
    };
    let site_member = |(site, user, role): (Uuid, Uuid, String)| {
        Ok(SiteMember {
            site: SiteId::from_uuid(site),
            user: UserId::from_uuid(user),
            role: types::word(&role)?,
        })
    };
    Ok(Directory {
        users: users
            .into_iter()
            .map(user)
            .collect::<Result<_, StoreError>>()?,
        teams: teams.into_iter().map(team).collect(),
        team_members: { team_members.into_iter().map(team_member) }
            .collect::<Result<_, StoreError>>()?,
        sites: sites.into_iter().map(site).collect(),
        site_members: { site_members.into_iter().map(site_member) }
            .collect::<Result<_, StoreError>>()?,
    })
}

fn bytes(stored: &[u8]) -> Result<[u8; 32], StoreError> {
    let wrong = |_| StoreError::Inconsistent("a hash without 32 bytes".to_owned());
    stored.try_into().map_err(wrong)
}
