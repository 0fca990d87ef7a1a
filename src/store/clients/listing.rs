//! Lists of clients, newest first: of one owner or of all, by what an operator looks for.

use std::collections::HashSet;

use diesel::{dsl::exists, prelude::*};
use diesel_async::RunQueryDsl;
use futures_util::future::join3;
use uuid::Uuid;

use super::{ClientRow, Found, granted, with_grants, with_newest_tokens};
use crate::{
    domain::{
        Timestamp,
        access::Owner,
        client::{ApiClient, ClientState},
        id::{ClientId, SiteId, UserId},
    },
    store::{
        Snapshot,
        connection::Connection,
        error::StoreError,
        schema::{
            api_client_grants, api_client_tokens, api_client_usage, api_clients, teams, users,
        },
        types,
    },
};

/// The last client of a page; the next page starts after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientCursor {
    /// The client's creation, the primary sort key.
    pub create_time: Timestamp,
    /// The client's id, which breaks ties.
    pub id: ClientId,
}

/// Which clients a list has; `None` lets all through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientFilter {
    /// Those that expire before this time.
    pub expire_before: Option<Timestamp>,
    /// Those that were created before this time, and not used since.
    pub unused_since: Option<Timestamp>,
    /// Those that this user created.
    pub created_by: Option<UserId>,
    pub state: Option<ClientState>,
    /// Those that have a grant on this site.
    pub site: Option<SiteId>,
}

#[derive(Clone, Copy, Debug)]
pub struct Listing {
    /// The owner of the clients; `None` for those of all owners.
    pub owner: Option<Owner>,
    /// What else to select them by.
    pub filter: ClientFilter,
    /// Whether to include clients that do not work, if the filter names no state.
    pub include_inactive: bool,
    /// The end of the previous page.
    pub after: Option<ClientCursor>,
    /// The size of the page.
    pub limit: u16,
}

#[derive(Clone, Debug)]
pub struct ListedClient {
    pub client: ApiClient,
    /// Whether its owner can act, as its state depends on it.
    pub owner_can_act: bool,
}

impl Snapshot {
    /// Lists clients, newest first, ties by id.
    pub async fn page_clients(
        &mut self,
        listing: Listing,
    ) -> Result<Vec<ListedClient>, StoreError> {
        let now = self.now;
        page(self.connection(), listing, now).await
    }
}

/// Whether the owner of a client is a disabled user or an archived team.
macro_rules! owner_is_inactive {
    () => {
        exists(
            users::table
                .filter(users::id.nullable().eq(api_clients::owner_user_id))
                .filter(users::disabled),
        )
        .or(exists(
            teams::table
                .filter(teams::id.nullable().eq(api_clients::owner_team_id))
                .filter(teams::archived),
        ))
    };
}

async fn page(
    connection: &mut Connection,
    listing: Listing,
    now: Timestamp,
) -> Result<Vec<ListedClient>, StoreError> {
    let mut query = with_newest_tokens!()
        .order((api_clients::create_time.desc(), api_clients::id.asc()))
        .limit(i64::from(listing.limit))
        .into_boxed();
    query = match listing.owner {
        Some(Owner::User(id)) => query.filter(api_clients::owner_user_id.eq(id.uuid())),
        Some(Owner::Team(id)) => query.filter(api_clients::owner_team_id.eq(id.uuid())),
        None => query,
    };
    let ClientFilter {
        expire_before,
        unused_since,
        created_by,
        state,
        site,
    } = listing.filter;
    if let Some(time) = expire_before {
        query = query.filter(api_clients::expire_time.lt(time));
    }
    if let Some(time) = unused_since {
        let unused = api_client_usage::last_used_time
            .nullable()
            .is_null()
            .or(api_client_usage::last_used_time.nullable().lt(time));
        query = query
            .filter(api_clients::create_time.lt(time))
            .filter(unused.assume_not_null());
    }
    if let Some(user) = created_by {
        query = query.filter(api_clients::created_by_user_id.eq(user.uuid()));
    }
    if let Some(site) = site {
        let on_site = api_client_grants::table
            .filter(api_client_grants::client_id.eq(api_clients::id))
            .filter(api_client_grants::site_id.eq(site.uuid()));
        query = query.filter(exists(on_site));
    }
    let state = match state {
        None if !listing.include_inactive => Some(ClientState::Active),
        state => state,
    };
    if let Some(state) = state {
        let lasting = api_clients::expire_time
            .is_null()
            .or(api_clients::expire_time.gt(now))
            .assume_not_null();
        // In the order in which a state is found, as `ClientState::of` does it.
        query = match state {
            ClientState::Revoked => query.filter(api_clients::revoke_time.is_not_null()),
            ClientState::Expired => query
                .filter(api_clients::revoke_time.is_null())
                .filter(api_clients::expire_time.le(now)),
            ClientState::OwnerInactive => query
                .filter(api_clients::revoke_time.is_null())
                .filter(lasting)
                .filter(owner_is_inactive!()),
            ClientState::Active => query
                .filter(api_clients::revoke_time.is_null())
                .filter(lasting)
                .filter(diesel::dsl::not(owner_is_inactive!())),
        };
    }
    if let Some(ClientCursor { create_time, id }) = listing.after {
        let older = api_clients::create_time.lt(create_time);
        let tied = api_clients::create_time
            .eq(create_time)
            .and(api_clients::id.gt(id.uuid()));
        // The first one is redundant, but a bound that an index scan can use.
        query = query
            .filter(api_clients::create_time.le(create_time))
            .filter(older.or(tied));
    }
    let rows: Vec<Found> = query.load(connection).await?;
    let ids = rows.iter().map(|(row, ..)| row.id).collect();
    let owning_users = rows.iter().filter_map(|(row, ..)| row.owner_user_id);
    let owning_teams = rows.iter().filter_map(|(row, ..)| row.owner_team_id);
    let connection = &*connection;
    // Pipelined.
    let (granted, disabled, archived) = join3(
        granted(connection, ids),
        disabled(connection, owning_users.collect()),
        archived(connection, owning_teams.collect()),
    )
    .await;
    let inactive: HashSet<Owner> = disabled?.into_iter().chain(archived?).collect();
    let listed = |client: ApiClient| ListedClient {
        owner_can_act: !inactive.contains(&client.delegated.owner()),
        client,
    };
    let clients = with_grants(rows, granted?)?;
    Ok(clients.into_iter().map(listed).collect())
}

/// Those of the users that are disabled.
async fn disabled(
    mut connection: &Connection,
    of: HashSet<Uuid>,
) -> Result<Vec<Owner>, StoreError> {
    let ids: Vec<Uuid> = users::table
        .filter(users::id.eq_any(of.into_iter().collect::<Vec<_>>()))
        .filter(users::disabled)
        .select(users::id)
        .load(&mut connection)
        .await?;
    let owner = |id| types::owner(Some(id), None);
    ids.into_iter().map(owner).collect()
}

/// Those of the teams that are archived.
async fn archived(
    mut connection: &Connection,
    of: HashSet<Uuid>,
) -> Result<Vec<Owner>, StoreError> {
    let ids: Vec<Uuid> = teams::table
        .filter(teams::id.eq_any(of.into_iter().collect::<Vec<_>>()))
        .filter(teams::archived)
        .select(teams::id)
        .load(&mut connection)
        .await?;
    let owner = |id| types::owner(None, Some(id));
    ids.into_iter().map(owner).collect()
}
