//! Looks a token's client and owner up in one statement, and so in one snapshot with its
//! revision.

use std::collections::BTreeMap;

use diesel::{
    QueryResult,
    pg::Pg,
    query_builder::{AstPass, Query, QueryFragment, QueryId},
    sql_types::{
        Array, BigInt, Binary, Bool, Nullable, Text, Timestamptz, Untyped, Uuid as SqlUuid,
    },
};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::{
    Store, clients,
    connection::Connection,
    error::StoreError,
    revision,
    types::{self, StandingColumns},
};
use crate::domain::{
    Revision, Timestamp,
    access::{CurrentOwner, Owner, OwnerStanding, SiteGrants, UserStanding},
    client::{Activation, Expiry},
    id::{ClientId, SiteId},
    introspection::{Subject, TokenStanding},
    role::InstanceRole,
    token::StoredHash,
};

/// Returns a row per grant of the token's client, one row if the client has no grants, and
/// one with the state alone if the token is unknown. The token's hash is bound after the first
/// part, and its scheme after the second.
const LOOK_UP: [&str; 3] = [
    "
    SELECT state.revision, clock_timestamp() AS now,
           token.end_time AS token_end_time,
           client.id AS client_id, client.owner_user_id, client.owner_team_id, client.name,
           client.instance_role, client.expire_time, client.revoke_time,
           client.allowed_cidrs, client.not_before_time,
           owner_user.instance_role AS user_instance_role, owner_user.disabled AS user_disabled,
           owner_team.archived AS team_archived,
           api_client_grants.site_id, api_client_grants.role AS granted_role,
           site.team_id AS site_team_id, site_team.archived AS site_team_archived,
           team_members.role AS team_role, site_members.role AS site_role
    FROM index_state AS state
    LEFT JOIN api_client_tokens AS token ON token.hash = ",
    " AND token.scheme = ",
    "
    LEFT JOIN api_clients AS client ON client.id = token.client_id
    LEFT JOIN users AS owner_user ON owner_user.id = client.owner_user_id
    LEFT JOIN teams AS owner_team ON owner_team.id = client.owner_team_id
    LEFT JOIN api_client_grants ON api_client_grants.client_id = client.id
    LEFT JOIN sites AS site ON site.id = api_client_grants.site_id
    LEFT JOIN teams AS site_team ON site_team.id = site.team_id
    LEFT JOIN team_members ON team_members.team_id = site.team_id
        AND team_members.user_id = client.owner_user_id
    LEFT JOIN site_members ON site_members.site_id = site.id
        AND site_members.user_id = client.owner_user_id",
];

#[derive(diesel::QueryableByName)]
struct Row {
    #[diesel(sql_type = BigInt)]
    revision: i64,
    #[diesel(sql_type = Timestamptz)]
    now: Timestamp,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    token_end_time: Option<Timestamp>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    client_id: Option<Uuid>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    owner_user_id: Option<Uuid>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    owner_team_id: Option<Uuid>,
    #[diesel(sql_type = Nullable<Text>)]
    name: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    instance_role: Option<String>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    expire_time: Option<Timestamp>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    revoke_time: Option<Timestamp>,
    #[diesel(sql_type = Nullable<Array<Text>>)]
    allowed_cidrs: Option<Vec<String>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    not_before_time: Option<Timestamp>,
    #[diesel(sql_type = Nullable<Text>)]
    user_instance_role: Option<String>,
    #[diesel(sql_type = Nullable<Bool>)]
    user_disabled: Option<bool>,
    #[diesel(sql_type = Nullable<Bool>)]
    team_archived: Option<bool>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    site_id: Option<Uuid>,
    #[diesel(sql_type = Nullable<Text>)]
    granted_role: Option<String>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    site_team_id: Option<Uuid>,
    #[diesel(sql_type = Nullable<Bool>)]
    site_team_archived: Option<bool>,
    #[diesel(sql_type = Nullable<Text>)]
    team_role: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    site_role: Option<String>,
}

/// The result of looking a token up in the database.
#[derive(Clone, Debug)]
pub struct TokenLookup {
    pub revision: Revision,
    /// The time by the database's clock.
    pub now: Timestamp,
    /// The token's client and owner; `None` if the token is unknown.
    pub subject: Option<Subject>,
}

/// The statement with its parameter. It has its own type because `diesel::sql_query` is
/// never kept prepared, and planning takes longer than running it.
struct LookUpStatement {
    hash: Vec<u8>,
    scheme: &'static str,
}

impl QueryId for LookUpStatement {
    type QueryId = Self;

    const HAS_STATIC_QUERY_ID: bool = true;
}

impl QueryFragment<Pg> for LookUpStatement {
    fn walk_ast<'b>(&'b self, mut pass: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let [before_hash, before_scheme, after] = LOOK_UP;
        pass.push_sql(before_hash);
        pass.push_bind_param::<Binary, _>(&self.hash)?;
        pass.push_sql(before_scheme);
        pass.push_bind_param::<Text, _>(&self.scheme)?;
        pass.push_sql(after);
        Ok(())
    }
}

impl Query for LookUpStatement {
    type SqlType = Untyped;
}

impl Store {
    /// Looks a token up. With `None`, returns the revision and the time alone.
    pub async fn look_up(&self, token: Option<StoredHash>) -> Result<TokenLookup, StoreError> {
        let statement = LookUpStatement {
            // Empty ones match no token.
            hash: token.map_or(Vec::new(), |token| token.bytes().to_vec()),
            scheme: token.map_or("", |token| token.scheme().as_str()),
        };
        let look_up =
            async |connection: &mut Connection| (&statement).load::<Row>(connection).await;
        let (lease, rows) = self.start("look_up", look_up).await?;
        lease.finish();
        let [first, ..] = rows.as_slice() else {
            return Err(StoreError::Inconsistent("no index_state".to_owned()));
        };
        Ok(TokenLookup {
            revision: revision(first.revision)?,
            now: self.clock.adopt(first.now),
            subject: subject(&rows)?,
        })
    }
}

fn subject(rows: &[Row]) -> Result<Option<Subject>, StoreError> {
    let [row, ..] = rows else { return Ok(None) };
    let Some(client) = row.client_id else {
        return Ok(None);
    };
    let missing = |what: &str| StoreError::Inconsistent(format!("no {what} for client {client}"));
    let owner = types::owner(row.owner_user_id, row.owner_team_id)?;
    let instance_role: InstanceRole = types::word(
        row.instance_role
            .as_deref()
            .ok_or_else(|| missing("role"))?,
    )?;
    let mut grants = SiteGrants::new();
    let mut standings = BTreeMap::new();
    for row in rows {
        let (Some(site), Some(role)) = (row.site_id, row.granted_role.as_deref()) else {
            continue;
        };
        let site = SiteId::from_uuid(site);
        grants.insert(site, types::word(role)?);
        let columns = StandingColumns {
            team: row.site_team_id.ok_or_else(|| missing("site's team"))?,
            team_archived: row
                .site_team_archived
                .ok_or_else(|| missing("site's team"))?,
            team_role: row.team_role.as_deref(),
            site_role: row.site_role.as_deref(),
        };
        standings.insert(site, columns.read()?);
    }
    let current = match owner {
        Owner::User(id) => CurrentOwner::User(id, user(row).ok_or_else(|| missing("owner"))??),
        Owner::Team(id) => CurrentOwner::Team {
            id,
            archived: row.team_archived.ok_or_else(|| missing("owner"))?,
        },
    };
    let ranges = row.allowed_cidrs.as_ref();
    let ranges = ranges.ok_or_else(|| missing("ranges"))?;
    Ok(Some(Subject {
        token: row
            .token_end_time
            .map_or(TokenStanding::Current, TokenStanding::ReplacedUntil),
        client: ClientId::from_uuid(client),
        name: row.name.clone().ok_or_else(|| missing("name"))?,
        delegated: clients::delegated(owner, instance_role, grants)?,
        expiry: Expiry::from(row.expire_time),
        sources: types::allowed_sources(ranges.iter().map(String::as_str))?,
        activation: Activation::from(row.not_before_time),
        revoked: row.revoke_time.is_some(),
        owner: OwnerStanding {
            current,
            sites: standings,
        },
    }))
}

fn user(row: &Row) -> Option<Result<UserStanding, StoreError>> {
    let (role, disabled) = (row.user_instance_role.as_deref()?, row.user_disabled?);
    Some(types::word(role).map(|instance_role| UserStanding {
        instance_role,
        disabled,
    }))
}
