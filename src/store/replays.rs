//! Requests that may be sent again, and the sealed replies that they get. What a row says
//! of a request is of no use without its id, which is not kept.

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

/// Requests that are removed by one statement at most.
const REMOVED_AT_ONCE: i64 = 10_000;
/// Removes some of the requests before a time, but for those that somebody removes already.
const REMOVE_EXPIRED: &str = "
    DELETE FROM api_client_requests WHERE lookup = ANY (ARRAY(
        SELECT lookup FROM api_client_requests WHERE create_time <= $1
        ORDER BY create_time LIMIT $2 FOR UPDATE SKIP LOCKED))";

/// A request that was made, and is remembered.
#[derive(Debug)]
pub struct RememberedRequest {
    /// What it asked for.
    pub digest: RequestDigest,
    /// Its reply; none where the token in it is no longer the client's newest, or the
    /// client was revoked or deleted.
    pub reply: Option<RememberedReply>,
}

/// The reply to a request.
#[derive(Debug)]
pub struct RememberedReply {
    /// The client whose token is in it.
    pub client: ClientId,
    /// The reply, but for the revision.
    pub sealed: SealedReply,
    /// The revision of the write.
    pub revision: Revision,
}

/// A request to be remembered with its reply.
#[derive(Debug)]
pub struct NewRequest {
    /// Who made it.
    pub account: ServiceAccountId,
    /// What it is found by.
    pub lookup: Lookup,
    /// What it asked for.
    pub digest: RequestDigest,
    /// The token in the reply.
    pub token: TokenHash,
    /// The reply, but for the revision.
    pub reply: SealedReply,
}

/// A reply's client, salt, bytes and revision.
type ReplyRow = (Uuid, Vec<u8>, Vec<u8>, i64);

impl Transaction {
    /// Finds a request, unless it was made 24 hours ago or earlier. Such a one is removed,
    /// so that its id can be used again.
    pub async fn find_request(
        &mut self,
        lookup: &Lookup,
    ) -> Result<Option<RememberedRequest>, StoreError> {
        let expired = self.now - REMEMBERED_FOR;
        let connection = &*self.connection();
        let (mut one, mut other) = (connection, connection);
        // Both are sent before the first answer is there.
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

    /// Remembers a request with its reply. Everything else that the transaction changes
    /// comes before: the revision is the one that this has made.
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
    /// Removes requests, with their replies, that were made at that time or before, a
    /// bounded number at once. Gives how many. No decision depends on it: a request of
    /// 24 hours ago counts as absent also while it is there.
    pub async fn remove_requests(&self, until: Timestamp) -> Result<usize, StoreError> {
        let remove = async |connection: &mut Connection| {
            diesel::sql_query(REMOVE_EXPIRED)
                .bind::<diesel::sql_types::Timestamptz, _>(until)
                .bind::<BigInt, _>(REMOVED_AT_ONCE)
                .execute(connection)
                .await
        };
        // Run again on another connection where the first one had died, it finds the same
        // rows or fewer.
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
