//! Judges tokens by a version of the index: for servers, for replicas, and for programs that
//! hold the index themselves.

use std::sync::Arc;

use super::{Client, Found, Index, Known, tokens::SchemeHash};
use crate::{
    Timestamp,
    client::Expiry,
    introspection::{InactiveReason, ResolvedClient},
    source::Source,
    token::PresentedToken,
};

/// What a version of the index says of a token. Whether it can be believed depends on how fresh
/// the version is, which is for the caller to check. If the version lacks a change that its
/// process acknowledged, only [`Self::Malformed`] may be believed.
#[derive(Clone, Copy, Debug)]
pub enum Judged<'i> {
    /// It is no token of an API client. True of any version.
    Malformed,
    /// The version does not have the token, which may be newer than it.
    NotFound,
    /// The version does not have the legacy token. If it is fresh, that proves that the token
    /// does not work.
    ///
    /// The database need not be asked: no checksum refuses invented ones, so a flood of them would
    /// cost a query each; and none is ever created except by an import, which reaches the index
    /// like any change.
    LegacyNotFound,
    /// What is known of the token's client cannot be read.
    Unreadable,
    /// The token is inactive. A stale version may say so as well: it proves of no token that it
    /// works, and it may not have heard that the client was brought back.
    Inactive(&'i Arc<Client>, InactiveReason),
    /// The token is active, if the version is fresh.
    Active {
        /// The client that the token belongs to.
        client: &'i Arc<Client>,
        /// The same, and what it may do.
        resolved: &'i ResolvedClient,
        /// Until when the token works.
        ends: Expiry,
        /// Whether a newer token replaced it and works for longer, however long legacy tokens are
        /// accepted.
        is_replaced: bool,
    },
}

impl Index {
    /// Judges a token that is presented from `source`. Legacy tokens work until `legacy_until` at
    /// most, whatever their client's expiry is.
    #[inline]
    pub fn judge(
        &self,
        presented: &PresentedToken,
        source: Source<'_>,
        legacy_until: Expiry,
        now: Timestamp,
    ) -> Judged<'_> {
        match presented {
            PresentedToken::Hash(hash) => {
                let Some(found) = self.find(hash) else {
                    return Judged::NotFound;
                };
                judge(found, |client| {
                    let evaluate = || client.evaluate(found.standing(), source, now);
                    let ends = found.works(client, now).map_or_else(evaluate, Ok)?;
                    Ok((ends, ends))
                })
            }
            PresentedToken::Legacy(token) => {
                let hash = self.has_legacy_tokens().then(|| token.hash());
                let Some(found) = hash.and_then(|hash| self.find_legacy(&hash)) else {
                    return Judged::LegacyNotFound;
                };
                judge(found, |client| {
                    let standing = found.standing();
                    let ends = client.evaluate_until(standing, legacy_until, source, now)?;
                    Ok((ends, standing.end()))
                })
            }
            PresentedToken::Unknown => Judged::Malformed,
        }
    }
}

/// Judges a token that was found: `evaluate` says until when it works, and when it would end if
/// its scheme were always accepted.
#[inline]
fn judge<H: SchemeHash>(
    found: Found<'_, H>,
    evaluate: impl FnOnce(&ResolvedClient) -> Result<(Expiry, Expiry), InactiveReason>,
) -> Judged<'_> {
    let client = found.client();
    let Known::Resolved(resolved) = &client.known else {
        return Judged::Unreadable;
    };
    match evaluate(resolved) {
        Ok((ends, own_end)) => Judged::Active {
            client,
            resolved,
            ends,
            // The newest one works as long as its client.
            is_replaced: own_end < resolved.expiry,
        },
        Err(reason) => Judged::Inactive(client, reason),
    }
}
