//! Idempotent writes: a repeated request id gets the first reply, and nothing is written
//! again.
//!
//! Everything happens under the write lock: of two concurrent requests, one makes the
//! change and the other finds its reply. Before a stored reply is returned, the call's own
//! rules check whether the actor could make the call now.

use prost::Message;

use super::{
    context::Caller,
    error::{ApiError, Violation},
};
use crate::{
    domain::{
        Revision,
        id::{ClientId, ServiceAccountId, UserId},
        replay::{Lookup, ReplayKey, RequestDigest, Write},
        token::Token,
    },
    pb,
    store::{
        Transaction,
        replays::{NewRequest, RememberedReply},
    },
};

/// A reply that can be stored.
pub(super) trait Reply: Message + Default {
    /// Sets the revision that first includes the write.
    fn set_revision(&mut self, revision: Revision);
}

impl Reply for pb::CreateApiClientResponse {
    fn set_revision(&mut self, revision: Revision) {
        self.revision = revision.0;
    }
}

impl Reply for pb::RotateApiClientResponse {
    fn set_revision(&mut self, revision: Revision) {
        self.revision = revision.0;
    }
}

/// The outcome of a write.
#[derive(Debug)]
pub(super) enum Written<R> {
    /// It was made now.
    New(R),
    /// It was made before, with this reply.
    Replayed(R),
}

/// A request with an id: the keys to find and to unseal its reply.
#[derive(Debug)]
pub(super) struct IdempotentRequest {
    key: ReplayKey,
    account: ServiceAccountId,
    lookup: Lookup,
    digest: RequestDigest,
}

/// The same request, made before.
#[derive(Debug)]
pub(super) struct EarlierRequest<'a> {
    request_key: &'a IdempotentRequest,
    reply: Option<RememberedReply>,
}

impl IdempotentRequest {
    /// The caller's attempt at that write.
    pub(super) fn new(
        extensions: &tonic::Extensions,
        key: ReplayKey,
        write: Write<'_>,
        actor: UserId,
    ) -> Result<Self, ApiError> {
        let caller = extensions
            .get::<Caller>()
            .ok_or(ApiError::Defect("no caller was established"))?;
        let account = caller.account.id;
        Ok(Self {
            account,
            lookup: key.lookup(account),
            digest: write.digest(actor),
            key,
        })
    }

    /// The same request, if it was made before.
    ///
    /// # Errors
    /// If another request was made with its id.
    pub(super) async fn earlier(
        &self,
        tx: &mut Transaction,
    ) -> Result<Option<EarlierRequest<'_>>, ApiError> {
        let Some(found) = tx.find_request(&self.lookup).await? else {
            return Ok(None);
        };
        if found.digest != self.digest {
            return Err(ApiError::InvalidFields(vec![Violation {
                field: "request_id".to_owned(),
                description: "was used for another request within the last 24 hours".to_owned(),
            }]));
        }
        Ok(Some(EarlierRequest {
            request_key: self,
            reply: found.reply,
        }))
    }

    /// Stores the reply of the write. The client must not change afterwards in the same
    /// transaction.
    pub(super) async fn store_reply<R: Reply>(
        &self,
        tx: &mut Transaction,
        reply: &R,
        token: &Token,
    ) -> Result<(), ApiError> {
        let sealed = self
            .key
            .seal(reply.encode_to_vec(), &self.digest, &*tx.entropy());
        let request = NewRequest {
            account: self.account,
            lookup: self.lookup,
            digest: self.digest,
            token: token.hash(),
            reply: sealed,
        };
        Ok(tx.insert_request(request).await?)
    }
}

impl EarlierRequest<'_> {
    /// The client whose token the reply holds.
    pub(super) fn client(&self) -> Option<ClientId> {
        self.reply.as_ref().map(|reply| reply.client)
    }

    /// The stored reply.
    ///
    /// # Errors
    /// If it was deleted, or was sealed with another token of the caller's.
    pub(super) fn reply<R: Reply>(self) -> Result<R, ApiError> {
        let Some(RememberedReply {
            client,
            sealed,
            revision,
        }) = self.reply
        else {
            return Err(ApiError::ReplyGone);
        };
        let IdempotentRequest { key, digest, .. } = self.request_key;
        let opened = key.open(sealed, digest).or(Err(ApiError::ReplyGone))?;
        let mut reply =
            R::decode(&*opened).or(Err(ApiError::Defect("a sealed reply is not what it was")))?;
        reply.set_revision(revision);
        tracing::info!(client.id = %client, "sent a reply about API client {client} again");
        Ok(reply)
    }
}

/// The same request, if it has an id and was made before.
pub(super) async fn earlier<'a>(
    request_key: Option<&'a IdempotentRequest>,
    tx: &mut Transaction,
) -> Result<Option<EarlierRequest<'a>>, ApiError> {
    match request_key {
        Some(request_key) => request_key.earlier(tx).await,
        None => Ok(None),
    }
}
