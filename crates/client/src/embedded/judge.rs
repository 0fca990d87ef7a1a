//! Judges a token by the index.

use std::sync::Arc;

use hitkeep_auth_domain::{
    access::{Decision, PermissionCheck},
    client::Expiry,
    index::{self, Known},
    introspection::{self, ResolvedClient},
    token::{LegacyToken, PresentedToken, TokenHash},
    usage::Outcome,
};

use super::{Embedded, live::View};
use crate::{
    error::{Error, InactiveReason, Unavailable},
    principal::Principal,
    question::Question,
};

/// What was found out about a token.
type Judged = Result<Principal, Error>;

impl Embedded {
    /// Judges a token by the latest version of the index. `None` if the index does not have the
    /// token, but the service may.
    pub(super) fn judge(
        &self,
        presented: &PresentedToken,
        question: &Question<'_>,
    ) -> Result<Option<Judged>, Unavailable> {
        let view = self.live.view()?;
        // It was waited for, but a backup that is restored meanwhile sets the index back.
        if question.at_least > Some(view.index().revision()) {
            return Err(Unavailable::Late);
        }
        match presented {
            PresentedToken::Hash(hash) => self.judge_hash(&view, hash, question).transpose(),
            PresentedToken::Legacy(token) => self.judge_legacy(&view, token, question).map(Some),
            PresentedToken::Unknown => Ok(Some(unknown())),
        }
    }

    /// The judgement of a token that no client has, if the index is fresh.
    pub(super) fn unknown(&self) -> Judged {
        self.live.view()?.require_fresh()?;
        unknown()
    }

    fn judge_hash(
        &self,
        view: &View<'_>,
        hash: &TokenHash,
        question: &Question<'_>,
    ) -> Option<Result<Judged, Unavailable>> {
        let found = view.index().find(hash)?;
        let verdict = |client: &ResolvedClient| {
            let evaluate = || client.evaluate(found.standing(), question.domain_source(), view.now);
            found.works(view.now).map_or_else(evaluate, Ok)
        };
        let shared = || found.shared_client();
        let (client, check) = (found.client(), question.permission);
        Some(self.conclude(view, client, shared, verdict, Expiry::Never, check))
    }

    /// No server is asked for one that the index does not have: no checksum refuses invented ones,
    /// and none is ever made except by an import, which is replicated like any change.
    fn judge_legacy(
        &self,
        view: &View<'_>,
        token: &LegacyToken,
        question: &Question<'_>,
    ) -> Result<Judged, Unavailable> {
        let index = view.index();
        let hash = index.has_legacy_tokens().then(|| token.hash());
        let Some(found) = hash.and_then(|hash| index.find_legacy(&hash)) else {
            view.require_fresh()?;
            return Ok(unknown());
        };
        let limit = self.live.options.legacy_tokens_until();
        let verdict = |client: &ResolvedClient| {
            client.evaluate_until(found.standing(), limit, question.domain_source(), view.now)
        };
        let shared = || found.shared_client();
        let (client, check) = (found.client(), question.permission);
        let judged = self.conclude(view, client, shared, verdict, limit, check)?;
        self.record(view, client, Outcome::LegacyToken);
        Ok(judged)
    }

    fn conclude(
        &self,
        view: &View<'_>,
        client: &index::Client,
        shared: impl FnOnce() -> Arc<index::Client>,
        verdict: impl FnOnce(&ResolvedClient) -> Result<Expiry, introspection::InactiveReason>,
        limit: Expiry,
        check: Option<PermissionCheck>,
    ) -> Result<Judged, Unavailable> {
        let Known::Resolved(resolved) = &client.known else {
            return Err(Unavailable::Unreadable);
        };
        let record = |inactive, decision| {
            if let Some(outcome) = Outcome::of(inactive, decision) {
                self.record(view, client, outcome);
            }
        };
        let ends = match verdict(resolved) {
            Ok(ends) => ends,
            // Also by a stale index, which proves of no token that it works. It may not have
            // heard that the client was brought back.
            Err(reason) => {
                record(Some(reason), None);
                return Ok(Err(Error::Inactive(reason.into())));
            }
        };
        view.require_fresh()?;
        let decision = check.map(|check| resolved.access.decide(&check));
        record(None, decision);
        if resolved.is_end_of_replaced(ends, limit) {
            let id = client.known.id();
            self.ledger.record_replaced(id, &client.usage, view.now);
        }
        match (check, decision) {
            (Some(check), Some(decision)) if decision != Decision::Allowed => {
                Ok(Err(Error::Forbidden(check)))
            }
            _ => Ok(Ok(Principal::indexed(shared(), view.index().revision()))),
        }
    }

    fn record(&self, view: &View<'_>, client: &index::Client, outcome: Outcome) {
        let id = client.known.id();
        self.ledger.record(id, &client.usage, outcome, view.now);
    }
}

fn unknown() -> Judged {
    Err(Error::Inactive(InactiveReason::UnknownToken))
}

impl From<introspection::InactiveReason> for InactiveReason {
    fn from(reason: introspection::InactiveReason) -> Self {
        match reason {
            introspection::InactiveReason::UnknownToken => Self::UnknownToken,
            introspection::InactiveReason::TokenRotated => Self::TokenRotated,
            introspection::InactiveReason::Revoked => Self::Revoked,
            introspection::InactiveReason::Expired => Self::Expired,
            introspection::InactiveReason::OwnerInactive => Self::OwnerInactive,
            introspection::InactiveReason::NotYetActive => Self::NotYetActive,
            introspection::InactiveReason::SourceNotAllowed => Self::SourceNotAllowed,
        }
    }
}

#[cfg(test)]
mod tests;
