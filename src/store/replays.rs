//! Idempotent requests and their sealed replies. Rows reveal nothing without the request's
//! id, which is not stored.

use diesel::{prelude::*, sql_types::BigInt};
use diesel_async::RunQueryDsl;
use futures_util::future::join;
use uuid::Uuid;

use super::{
    Store, Transaction,
    connection::Connection,
    error::StoreError,
    revision,
    schema::{
        api_client_replies as replies, api_client_requests as requests, api_client_tokens,
        index_state,
    },
    types,
};
use crate::domain::{
    Revision, Timestamp,
    id::{ClientId, ServiceAccountId},
    replay::{Lookup, REMEMBERED_FOR, RequestDigest, SealedReply},
    token::TokenHash,
};

/// The most requests that one statement removes.
const MAX_REMOVED: i64 = 10_000;
/// Removes requests up to a time, and skips those that another server is removing.
const REMOVE_EXPIRED: &str = "
    DELETE FROM api_client_requests WHERE lookup = ANY (ARRAY(
        SELECT lookup FROM api_client_requests WHERE create_time <= $1
        ORDER BY create_time LIMIT $2 FOR UPDATE SKIP LOCKED))";

/// A request that was found by its id.
#[derive(Debug)]
pub struct RememberedRequest {
    /// The digest of the request's content.
    pub digest: RequestDigest,
    /// The stored reply; `None` if its token is no longer the client's newest, or the client
    /// was revoked or deleted.
    pub reply: Option<RememberedReply>,
}

/// The stored reply to a request.
#[derive(Debug)]
pub struct RememberedReply {
    /// The client whose token the reply contains.
    pub client: ClientId,
    /// The encrypted reply, without the revision.
    pub sealed: SealedReply,
    /// The revision of the original write.
    pub revision: Revision,
}

/// A request to be stored with its reply.
#[derive(Debug)]
pub struct NewRequest {
    /// The service account that made the request.
    pub account: ServiceAccountId,
    /// The key derived from the request's id.
    pub lookup: Lookup,
    /// The digest of the request's content.
    pub digest: RequestDigest,
    /// The hash of the token in the reply.
    pub token: TokenHash,
    /// The encrypted reply, without the revision.
    pub reply: SealedReply,
}

/// A reply's client, salt, bytes and revision.
type ReplyRow = (Uuid, Vec<u8>, Vec<u8>, i64);

impl Transaction {
    /// Finds a request of the last 24 hours. An older one is removed, so that its id can be
    /// used again.
    pub async fn find_request(
        &mut self,
        lookup: &Lookup,
    ) -> Result<Option<RememberedRequest>, StoreError> {
        let expired = self.now - REMEMBERED_FOR;
        let connection = &*self.connection();
        let (mut one, mut other) = (connection, connection);
        // Pipelined.
        let removed = diesel::delete(requests::table.find(&lookup.0[..]))
            .filter(requests::create_time.le(expired))
            .execute(&mut one);
        let found = requests::table
            .find(&lookup.0[..])
            .left_join(replies::table.inner_join(api_client_tokens::table))
            .select((
                requests::digest,
                (
                    api_client_tokens::client_id,
                    replies::salt,
                    replies::sealed,
                    replies::revision,
                )
                    .nullable(),
            ))
            .first::<(Vec<u8>, Option<ReplyRow>)>(&mut other);
        let (removed, found) = join(removed, found).await;
        removed?;
        let Some((digest, reply)) = found.optional()? else {
            return Ok(None);
        };
        Ok(Some(RememberedRequest {
            digest: RequestDigest(array("digest", digest)?),
            reply: reply.map(into_reply).transpose()?,
        }))
    }

    /// Stores a request with its reply. Must come after all other changes of the
    /// transaction, whose revision it reads.
    pub async fn insert_request(&mut self, request: NewRequest) -> Result<(), StoreError> {
        let now = self.now;
        let rows = diesel::insert_into(requests::table)
            .values((
                requests::lookup.eq(&request.lookup.0[..]),
                requests::service_account_id.eq(request.account.uuid()),
                requests::digest.eq(&request.digest.0[..]),
                requests::create_time.eq(now),
            ))
            .execute(self.connection())
            .await?;
        types::expect_rows("inserting a request", rows, 1)?;
        let stamped = index_state::table.select(index_state::revision);
        let rows = diesel::insert_into(replies::table)
            .values((
                replies::token_hash.eq(&request.token.0[..]),
                replies::lookup.eq(&request.lookup.0[..]),
                replies::salt.eq(&request.reply.salt[..]),
                replies::sealed.eq(&request.reply.bytes),
                replies::revision.eq(stamped.single_value().assume_not_null()),
            ))
            .execute(self.connection())
            .await?;
        types::expect_rows("inserting a reply", rows, 1)
    }
}

impl Store {
    /// Removes up to 10,000 requests made at or before a time, with their replies, and
    /// returns their number. No decision depends on it, since expired requests count as
    /// absent while they are stored.
    pub async fn remove_requests(&self, until: Timestamp) -> Result<usize, StoreError> {
        let remove = async |connection: &mut Connection| {
            diesel::sql_query(REMOVE_EXPIRED)
                .bind::<diesel::sql_types::Timestamptz, _>(until)
                .bind::<BigInt, _>(MAX_REMOVED)
                .execute(connection)
                .await
        };
        // Safe to retry on another connection: the statement is idempotent.
        let (lease, removed) = self.start("remove_requests", remove).await?;
        lease.finish();
        Ok(removed)
    }
}

fn into_reply((client, salt, bytes, stamped): ReplyRow) -> Result<RememberedReply, StoreError> {
    Ok(RememberedReply {
        client: ClientId::from_uuid(client),
        sealed: SealedReply {
            salt: array("salt", salt)?,
            bytes,
        },
        revision: revision(stamped)?,
    })
}

fn array(what: &str, bytes: Vec<u8>) -> Result<[u8; 32], StoreError> {
    let inconsistent = |_| StoreError::Inconsistent(format!("the {what} of a request"));
    bytes.try_into().map_err(inconsistent)
}
