//! Queries of `explain` beyond an answer's data: a client's newest token and last change.

use diesel::{
    ExpressionMethods, OptionalExtension, QueryDsl, QueryableByName,
    dsl::exists,
    sql_types::{BigInt, Nullable, Uuid as SqlUuid},
};
use diesel_async::RunQueryDsl;

use super::{
    Store,
    connection::Connection,
    error::StoreError,
    revision,
    schema::{api_client_tokens, api_clients},
    types,
};
use crate::domain::{Revision, id::ClientId, token::StoredHash};

#[derive(QueryableByName)]
struct LastChange {
    #[diesel(sql_type = Nullable<BigInt>)]
    revision: Option<i64>,
}

impl Store {
    /// The hash of a client's newest token.
    pub async fn newest_token(&self, client: ClientId) -> Result<Option<StoredHash>, StoreError> {
        let find = async |connection: &mut Connection| {
            api_client_tokens::table
                .filter(api_client_tokens::client_id.eq(client.uuid()))
                .filter(api_client_tokens::end_time.is_null())
                .select((api_client_tokens::hash, api_client_tokens::scheme))
                .first::<(Vec<u8>, String)>(connection)
                .await
                .optional()
        };
        let (lease, found) = self.start("newest_token", find).await?;
        lease.finish();
        let read = |(hash, scheme): (Vec<u8>, String)| {
            let length = hash.len();
            let odd = |_| StoreError::Inconsistent(format!("a hash of {length} bytes"));
            let bytes = hash.try_into().map_err(odd)?;
            Ok(StoredHash::new(types::word(&scheme)?, bytes))
        };
        found.map(read).transpose()
    }

    pub async fn has_client(&self, client: ClientId) -> Result<bool, StoreError> {
        let find = async |connection: &mut Connection| {
            diesel::select(exists(api_clients::table.find(client.uuid())))
                .get_result(connection)
                .await
        };
        let (lease, found) = self.start("has_client", find).await?;
        lease.finish();
        Ok(found)
    }

    /// The last revision that changed a client; `None` if it is older than the change log.
    pub async fn last_change(&self, client: ClientId) -> Result<Option<Revision>, StoreError> {
        let find = async |connection: &mut Connection| {
            diesel::sql_query(
                "SELECT max(revision) AS revision FROM index_changes WHERE client_id = $1",
            )
            .bind::<SqlUuid, _>(client.uuid())
            .get_result::<LastChange>(connection)
            .await
        };
        let (lease, found) = self.start("last_change", find).await?;
        lease.finish();
        found.revision.map(revision).transpose()
    }
}
