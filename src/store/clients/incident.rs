//! Leaked tokens, and the revocation of many clients at once.

use diesel::{dsl::exists, prelude::*};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::{
    domain::{
        Timestamp,
        access::Owner,
        audit::Event,
        caller::CallerName,
        client::{LeakedToken, RevokedClient, Selection},
        id::{ClientId, UserId},
        token::{TokenHint, TokenScheme},
    },
    store::{
        Transaction, audit, callers,
        error::StoreError,
        schema::{
            api_client_grants, api_client_tokens, api_clients, audit_events, service_accounts,
        },
        types,
    },
};

/// A client with its name and the columns of its owner.
type Head = (Uuid, String, Option<Uuid>, Option<Uuid>);

impl Transaction {
    /// Finds an API client's token by the bytes of its hash, whatever their scheme if none is
    /// given.
    pub async fn find_leaked_token(
        &mut self,
        hash: &[u8; 32],
        scheme: Option<TokenScheme>,
    ) -> Result<Option<(ClientId, LeakedToken)>, StoreError> {
        let row: Option<(Uuid, String, Option<Timestamp>, String)> = api_client_tokens::table
            .find(&hash[..])
            .select((
                api_client_tokens::client_id,
                api_client_tokens::hint,
                api_client_tokens::end_time,
                api_client_tokens::scheme,
            ))
            .first(self.connection())
            .await
            .optional()?;
        let Some((client, hint, end_time, stored)) = row else {
            return Ok(None);
        };
        let stored = types::word(&stored)?;
        if scheme.is_some_and(|scheme| scheme != stored) {
            return Ok(None);
        }
        let token = LeakedToken {
            end: end_time.into(),
            scheme: stored,
            hint: TokenHint(hint),
        };
        Ok(Some((ClientId::from_uuid(client), token)))
    }

    /// Finds the service account that a token works for, by the bytes of its hash.
    pub async fn find_leaked_account(
        &mut self,
        hash: &[u8; 32],
    ) -> Result<Option<CallerName>, StoreError> {
        let now = self.now;
        let name: Option<String> = service_accounts::table
            .filter(callers::of_token(hash, now))
            .filter(service_accounts::revoke_time.is_null())
            .select(service_accounts::name)
            .first(self.connection())
            .await
            .optional()?;
        let bad = |_| StoreError::Inconsistent("the name of an account".to_owned());
        name.map(|name: String| CallerName::parse(&name).map_err(bad))
            .transpose()
    }

    /// Whether an event with the same subject, action and changes was recorded before.
    pub async fn has_recorded(&mut self, event: &Event) -> Result<bool, StoreError> {
        let same = audit_events::table
            .filter(audit_events::client_id.eq(event.subject))
            .filter(audit_events::action.eq(event.action.as_str()))
            .filter(audit_events::changes.eq(audit::changes(event)));
        let found = diesel::select(exists(same))
            .get_result(self.connection())
            .await?;
        Ok(found)
    }

    /// Finds the clients that a selection lets through and that are not revoked, ordered by
    /// id; at most `limit`.
    pub async fn find_revocable(
        &mut self,
        selection: Selection,
        limit: u32,
    ) -> Result<Vec<RevokedClient>, StoreError> {
        let mut query = api_clients::table
            .filter(api_clients::revoke_time.is_null())
            .select((
                api_clients::id,
                api_clients::name,
                api_clients::owner_user_id,
                api_clients::owner_team_id,
            ))
            .order(api_clients::id)
            .limit(i64::from(limit))
            .into_boxed();
        query = match selection.owner {
            Some(Owner::User(id)) => query.filter(api_clients::owner_user_id.eq(id.uuid())),
            Some(Owner::Team(id)) => query.filter(api_clients::owner_team_id.eq(id.uuid())),
            None => query,
        };
        if let Some(user) = selection.created_by.map(UserId::uuid) {
            query = query.filter(api_clients::created_by_user_id.eq(user));
        }
        if let Some(site) = selection.site {
            let on_site = api_client_grants::table
                .filter(api_client_grants::client_id.eq(api_clients::id))
                .filter(api_client_grants::site_id.eq(site.uuid()));
            query = query.filter(exists(on_site));
        }
        let rows: Vec<Head> = query.load(self.connection()).await?;
        let client = |(id, name, user, team): Head| {
            Ok(RevokedClient {
                id: ClientId::from_uuid(id),
                name,
                owner: types::owner(user, team)?,
            })
        };
        rows.into_iter().map(client).collect()
    }

    /// Revokes clients that are not revoked, in one statement, with an event for each of them.
    pub async fn revoke_clients(&mut self, clients: Vec<RevokedClient>) -> Result<(), StoreError> {
        let now = self.now;
        let ids: Vec<Uuid> = clients.iter().map(|client| client.id.uuid()).collect();
        let rows = diesel::update(api_clients::table)
            .filter(api_clients::id.eq_any(&ids))
            .filter(api_clients::revoke_time.is_null())
            .set((
                api_clients::revoke_time.eq(now),
                api_clients::update_time.eq(now),
            ))
            .execute(self.connection())
            .await?;
        types::expect_rows("revoking clients", rows, ids.len())?;
        let events = clients.into_iter().map(|client| client.event(now));
        self.record_all(events.collect()).await
    }
}
