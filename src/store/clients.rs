//! API clients, their grants and the hashes of their tokens.

use std::collections::BTreeMap;

mod incident;
mod listing;

use diesel::{
    dsl::count_star,
    prelude::*,
    sql_types::{BigInt, Uuid as SqlUuid},
};
use diesel_async::RunQueryDsl;
use futures_util::future::join;
use uuid::Uuid;

use super::{
    Snapshot, Transaction,
    connection::Connection,
    error::StoreError,
    schema::{api_client_grants, api_client_tokens, api_client_usage, api_clients},
    types,
};
use crate::domain::{
    Timestamp,
    access::{Delegated, Owner, SiteGrants},
    client::{Activation, ApiClient, Description, Expiry, Name},
    id::{ClientId, SiteId, UserId},
    role::InstanceRole,
    token::{TokenHash, TokenHint, TokenScheme},
};
pub use listing::{ClientCursor, ClientFilter, ListedClient, Listing};

/// The number of replaced tokens that are kept per client, to be answered as rotated. It is
/// bounded because every server holds them in memory, and reads them again with each
/// change of the client.
pub const MAX_REPLACED_TOKENS: u16 = 1000;
/// The most tokens that one rotation removes.
const MAX_REMOVED: i64 = 10_000;
/// Removes tokens in the order of their ends, so that none that still works is removed.
const REMOVE_OLDEST: &str = "
    DELETE FROM api_client_tokens WHERE hash IN (
        SELECT hash FROM api_client_tokens WHERE client_id = $1 AND end_time IS NOT NULL
        ORDER BY end_time DESC, create_time DESC, hash OFFSET $2 LIMIT $3)";

/// Selects clients with what is shown of their newest tokens, and their last uses. A client
/// whose newest token was removed by hand is included: an older token may still work, and
/// operators must be able to revoke it.
macro_rules! with_newest_tokens {
    () => {
        api_clients::table
            .left_join(
                api_client_tokens::table.on(api_client_tokens::client_id
                    .eq(api_clients::id)
                    .and(api_client_tokens::end_time.is_null())),
            )
            .left_join(api_client_usage::table)
            .select((
                ClientRow::as_select(),
                (api_client_tokens::hint, api_client_tokens::scheme).nullable(),
                api_client_usage::last_used_time.nullable(),
            ))
    };
}

use with_newest_tokens;

/// A client's row, the hint and the scheme of its newest token, and its last use.
type Found = (ClientRow, Option<(String, String)>, Option<Timestamp>);

/// A client, a site, and the role that the client was granted on it.
type Granted = (Uuid, Uuid, String);

#[derive(Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = api_clients, check_for_backend(diesel::pg::Pg), treat_none_as_null = true)]
struct ClientRow {
    id: Uuid,
    owner_user_id: Option<Uuid>,
    owner_team_id: Option<Uuid>,
    name: String,
    description: String,
    instance_role: String,
    expire_time: Option<Timestamp>,
    revoke_time: Option<Timestamp>,
    created_by_user_id: Option<Uuid>,
    create_time: Timestamp,
    update_time: Timestamp,
    allowed_cidrs: Vec<String>,
    not_before_time: Option<Timestamp>,
}

impl Snapshot {
    pub async fn find_client(&mut self, id: ClientId) -> Result<Option<ApiClient>, StoreError> {
        find(self.connection(), id).await
    }
}

impl Transaction {
    pub async fn find_client(&mut self, id: ClientId) -> Result<Option<ApiClient>, StoreError> {
        find(self.connection(), id).await
    }

    /// Counts an owner's clients, including inactive ones.
    pub async fn count_clients(&mut self, owner: Owner) -> Result<u32, StoreError> {
        let rows: i64 = match owner {
            Owner::User(id) => {
                let owned = api_clients::table.filter(api_clients::owner_user_id.eq(id.uuid()));
                owned
                    .select(count_star())
                    .get_result(self.connection())
                    .await?
            }
            Owner::Team(id) => {
                let owned = api_clients::table.filter(api_clients::owner_team_id.eq(id.uuid()));
                owned
                    .select(count_star())
                    .get_result(self.connection())
                    .await?
            }
        };
        types::count(rows)
    }

    /// Inserts a client with its first token.
    pub async fn insert_client(
        &mut self,
        client: &ApiClient,
        token: &TokenHash,
    ) -> Result<(), StoreError> {
        let rows = diesel::insert_into(api_clients::table)
            .values(ClientRow::from(client))
            .execute(self.connection())
            .await?;
        types::expect_rows("inserting a client", rows, 1)?;
        self.insert_grants(client.id, client.delegated.grants())
            .await?;
        self.insert_token(client, token).await
    }

    /// Updates a client, its grants, and the ends of its tokens.
    pub async fn update_client(
        &mut self,
        old: &ApiClient,
        new: &ApiClient,
    ) -> Result<(), StoreError> {
        let id = new.id.uuid();
        let rows = diesel::update(api_clients::table.find(id))
            .set(ClientRow::from(new))
            .execute(self.connection())
            .await?;
        types::expect_rows("updating a client", rows, 1)?;
        if new.expiry < old.expiry
            && let Some(end) = new.expiry.time()
        {
            // An overlap never outlives the expiry, even if the expiry is later moved back
            // again.
            diesel::update(api_client_tokens::table)
                .filter(api_client_tokens::client_id.eq(id))
                .filter(api_client_tokens::end_time.gt(end))
                .set(api_client_tokens::end_time.eq(end))
                .execute(self.connection())
                .await?;
        }
        if new.delegated.grants() != old.delegated.grants() {
            diesel::delete(api_client_grants::table)
                .filter(api_client_grants::client_id.eq(id))
                .execute(self.connection())
                .await?;
            self.insert_grants(new.id, new.delegated.grants()).await?;
        }
        Ok(())
    }

    /// Inserts a client's new token. The previous token works until `old_token_ends`, and
    /// all earlier ones end now. The last [`MAX_REPLACED_TOKENS`] replaced tokens are kept.
    pub async fn rotate_client(
        &mut self,
        client: &ApiClient,
        token: &TokenHash,
        old_token_ends: Timestamp,
    ) -> Result<(), StoreError> {
        let (id, now) = (client.id.uuid(), self.now);
        diesel::update(api_client_tokens::table)
            .filter(api_client_tokens::client_id.eq(id))
            .filter(api_client_tokens::end_time.gt(now))
            .set(api_client_tokens::end_time.eq(now))
            .execute(self.connection())
            .await?;
        let rows = diesel::update(api_client_tokens::table)
            .filter(api_client_tokens::client_id.eq(id))
            .filter(api_client_tokens::end_time.is_null())
            .set(api_client_tokens::end_time.eq(old_token_ends))
            .execute(self.connection())
            .await?;
        // Zero if the token was removed by hand; a unique index rules out two.
        types::expect_rows("replacing a token", rows, rows.min(1))?;
        let rows = diesel::update(api_clients::table.find(id))
            .set(api_clients::update_time.eq(client.update_time))
            .execute(self.connection())
            .await?;
        types::expect_rows("rotating a client", rows, 1)?;
        self.insert_token(client, token).await?;
        diesel::sql_query(REMOVE_OLDEST)
            .bind::<SqlUuid, _>(id)
            .bind::<BigInt, _>(i64::from(MAX_REPLACED_TOKENS))
            .bind::<BigInt, _>(MAX_REMOVED)
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Deletes a client with its grants and tokens.
    pub async fn delete_client(&mut self, id: ClientId) -> Result<(), StoreError> {
        let rows = diesel::delete(api_clients::table.find(id.uuid()))
            .execute(self.connection())
            .await?;
        types::expect_rows("deleting a client", rows, 1)
    }

    async fn insert_grants(
        &mut self,
        client: ClientId,
        grants: &SiteGrants,
    ) -> Result<(), StoreError> {
        if grants.is_empty() {
            return Ok(());
        }
        let row = |(site, role): (&SiteId, &crate::domain::role::SiteRole)| {
            (
                api_client_grants::client_id.eq(client.uuid()),
                api_client_grants::site_id.eq(site.uuid()),
                api_client_grants::role.eq(role.as_str()),
            )
        };
        let rows: Vec<_> = grants.iter().map(row).collect();
        let inserted = diesel::insert_into(api_client_grants::table)
            .values(rows)
            .execute(self.connection())
            .await?;
        types::expect_rows("inserting grants", inserted, grants.len())
    }

    async fn insert_token(
        &mut self,
        client: &ApiClient,
        token: &TokenHash,
    ) -> Result<(), StoreError> {
        let now = self.now;
        let rows = diesel::insert_into(api_client_tokens::table)
            .values((
                api_client_tokens::hash.eq(&token.0[..]),
                api_client_tokens::client_id.eq(client.id.uuid()),
                api_client_tokens::hint.eq(&client.token_hint.0),
                api_client_tokens::create_time.eq(now),
                api_client_tokens::scheme.eq(TokenScheme::Blake3.as_str()),
            ))
            .execute(self.connection())
            .await?;
        types::expect_rows("inserting a token", rows, 1)
    }
}

async fn find(connection: &mut Connection, id: ClientId) -> Result<Option<ApiClient>, StoreError> {
    // Pipelined.
    let mut one = &*connection;
    let row = with_newest_tokens!()
        .filter(api_clients::id.eq(id.uuid()))
        .first::<Found>(&mut one);
    let granted = granted(connection, vec![id.uuid()]);
    let (row, granted) = join(row, granted).await;
    let clients = with_grants(row.optional()?.into_iter().collect(), granted?)?;
    Ok(clients.into_iter().next())
}

/// Finds many clients, in no order.
pub(super) async fn find_all(
    connection: &Connection,
    ids: &[Uuid],
) -> Result<Vec<ApiClient>, StoreError> {
    let mut one = connection;
    let rows: Vec<Found> = with_newest_tokens!()
        .filter(api_clients::id.eq_any(ids))
        .load(&mut one)
        .await?;
    let granted = granted(connection, ids.to_vec()).await?;
    with_grants(rows, granted)
}

async fn granted(mut connection: &Connection, clients: Vec<Uuid>) -> QueryResult<Vec<Granted>> {
    api_client_grants::table
        .filter(api_client_grants::client_id.eq_any(clients))
        .select((
            api_client_grants::client_id,
            api_client_grants::site_id,
            api_client_grants::role,
        ))
        .load(&mut connection)
        .await
}

fn with_grants(rows: Vec<Found>, granted: Vec<Granted>) -> Result<Vec<ApiClient>, StoreError> {
    let mut grants: BTreeMap<Uuid, SiteGrants> = BTreeMap::new();
    for (client, site, role) in granted {
        let role = types::word(&role)?;
        grants
            .entry(client)
            .or_default()
            .insert(SiteId::from_uuid(site), role);
    }
    let client = |(row, token, last_used): Found| {
        let grants = grants.remove(&row.id).unwrap_or_default();
        row.into_client(grants, token, last_used)
    };
    rows.into_iter().map(client).collect()
}

impl From<&ApiClient> for ClientRow {
    fn from(client: &ApiClient) -> Self {
        let (owner_user_id, owner_team_id) = types::owner_columns(client.delegated.owner());
        Self {
            id: client.id.uuid(),
            owner_user_id,
            owner_team_id,
            name: client.name.as_str().to_owned(),
            description: client.description.as_str().to_owned(),
            instance_role: client.delegated.instance_role().as_str().to_owned(),
            expire_time: client.expiry.time(),
            revoke_time: client.revoke_time,
            created_by_user_id: client.created_by.map(UserId::uuid),
            create_time: client.create_time,
            update_time: client.update_time,
            allowed_cidrs: client
                .sources
                .iter()
                .map(|range| range.to_string())
                .collect(),
            not_before_time: client.activation.time(),
        }
    }
}

impl ClientRow {
    fn into_client(
        self,
        grants: SiteGrants,
        token: Option<(String, String)>,
        last_used: Option<Timestamp>,
    ) -> Result<ApiClient, StoreError> {
        let id = self.id;
        let bad = |what| move |_| StoreError::Inconsistent(format!("the {what} of client {id}"));
        let owner = types::owner(self.owner_user_id, self.owner_team_id)?;
        let delegated = delegated(owner, types::word(&self.instance_role)?, grants)?;
        let (hint, scheme) = token.unzip();
        let scheme = scheme.map(|scheme| types::word(&scheme)).transpose()?;
        Ok(ApiClient {
            id: ClientId::from_uuid(id),
            delegated,
            name: Name::parse(&self.name).map_err(bad("name"))?,
            description: Description::parse(&self.description).map_err(bad("description"))?,
            expiry: Expiry::from(self.expire_time),
            sources: types::allowed_sources(self.allowed_cidrs.iter().map(String::as_str))?,
            activation: Activation::from(self.not_before_time),
            revoke_time: self.revoke_time,
            created_by: self.created_by_user_id.map(UserId::from_uuid),
            create_time: self.create_time,
            update_time: self.update_time,
            last_used,
            token_hint: TokenHint(hint.unwrap_or_default()),
            token_scheme: scheme,
        })
    }
}

/// Builds the delegation of a client from its columns.
pub(super) fn delegated(
    owner: Owner,
    instance_role: InstanceRole,
    grants: SiteGrants,
) -> Result<Delegated, StoreError> {
    match (owner, instance_role) {
        (Owner::User(user), instance_role) => Ok(Delegated::Personal {
            user,
            instance_role,
            grants,
        }),
        (Owner::Team(team), InstanceRole::User) => Ok(Delegated::Team { team, grants }),
        (Owner::Team(team), role) => Err(StoreError::Inconsistent(format!(
            "a client of team {team} with role {role}"
        ))),
    }
}
