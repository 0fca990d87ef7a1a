//! Writes that may be sent again: a request id that was used before gets the first reply,
//! and nothing is done.
//!
//! Everything happens under the write lock, so of two that come at the same moment one
//! makes the change and the other finds its reply. Whether the caller could make the call
//! now is asked before anything is replied, in the words of the call itself.

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

/// A reply that can be given again.
pub(super) trait Reply: Message + Default {
    /// Says at which revision the write is known first.
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

/// What a write came to.
#[derive(Debug)]
pub(super) enum Written<R> {
    /// It was made, on that client.
    Now(ClientId, R),
    /// It was made before, and this was its reply.
    Before(R),
}

/// A request with an id: what it is found by, and what its reply is sealed with.
#[derive(Debug)]
pub(super) struct Attempt {
    key: ReplayKey,
    account: ServiceAccountId,
    lookup: Lookup,
    digest: RequestDigest,
}

/// The same request, as it was made before.
#[derive(Debug)]
pub(super) struct Earlier<'a> {
    attempt: &'a Attempt,
    reply: Option<RememberedReply>,
}

impl Attempt {
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

    /// The same request, where it was made before.
    ///
    /// # Errors
    /// Where another request was made with its id.
    pub(super) async fn earlier(
        &self,
        tx: &mut Transaction,
    ) -> Result<Option<Earlier<'_>>, ApiError> {
        let Some(found) = tx.find_request(&self.lookup).await? else {
            return Ok(None);
        };
        if found.digest != self.digest {
            return Err(ApiError::InvalidFields(vec![Violation {
                field: "request_id".to_owned(),
                description: "was used for another request within the last 24 hours".to_owned(),
            }]));
        }
        Ok(Some(Earlier {
            attempt: self,
            reply: found.reply,
        }))
    }

    /// Remembers what the write came to. Nothing may be changed after it.
    pub(super) async fn remember<R: Reply>(
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

impl Earlier<'_> {
    /// The client whose token would be given again.
    pub(super) fn client(&self) -> Option<ClientId> {
        self.reply.as_ref().map(|reply| reply.client)
    }

    /// The reply that the request got.
    ///
    /// # Errors
    /// Where it is gone, or was sealed with another token of the caller's.
    pub(super) fn reply<R: Reply>(self) -> Result<R, ApiError> {
        let Some(RememberedReply {
            client,
            sealed,
            revision,
        }) = self.reply
        else {
            return Err(ApiError::ReplyGone);
        };
        let Attempt { key, digest, .. } = self.attempt;
        let opened = key.open(sealed, digest).or(Err(ApiError::ReplyGone))?;
        let mut reply =
            R::decode(&*opened).or(Err(ApiError::Defect("a sealed reply is not what it was")))?;
        reply.set_revision(revision);
        tracing::info!(client.id = %client, "sent a reply about API client {client} again");
        Ok(reply)
    }
}

/// The same request, where it has an id and was made before.
pub(super) async fn earlier<'a>(
    attempt: Option<&'a Attempt>,
    tx: &mut Transaction,
) -> Result<Option<Earlier<'a>>, ApiError> {
    match attempt {
        Some(attempt) => attempt.earlier(tx).await,
        None => Ok(None),
    }
}
