//! Judges a token by the index.

use std::sync::Arc;

use hitkeep_auth_domain::{
    access::Decision,
    index::{Client, Judged},
    introspection,
    token::PresentedToken,
    usage::Outcome,
};

use super::{Embedded, live::View};
use crate::{
    error::{Error, InactiveReason, Unavailable},
    principal::Principal,
    question::Question,
};

/// What was found out about a token.
type Answer = Result<Principal, Error>;

impl Embedded {
    /// Judges a token by the latest version of the index. `None` if the index does not have the
    /// token, but the service may.
    pub(super) fn judge(
        &self,
        presented: &PresentedToken,
        question: &Question<'_>,
    ) -> Result<Option<Answer>, Unavailable> {
        let view = self.live.view()?;
        let index = view.index();
        // It was waited for, but a backup that is restored meanwhile sets the index back.
        if question.at_least > Some(index.revision()) {
            return Err(Unavailable::Late);
        }
        let legacy_until = self.live.options.legacy_tokens_until();
        let source = question.domain_source();
        let record = |client: &Client, inactive, decision| {
            if let Some(outcome) = Outcome::of(inactive, decision) {
                self.record(&view, client, outcome);
            }
            if matches!(presented, PresentedToken::Legacy(_)) {
                self.record(&view, client, Outcome::LegacyToken);
            }
        };
        let judged = index.judge(presented, source, legacy_until, view.now);
        Ok(Some(match judged {
            Judged::NotFound => return Ok(None),
            Judged::Malformed => unknown(),
            Judged::LegacyNotFound => {
                view.require_fresh()?;
                unknown()
            }
            Judged::Unreadable => return Err(Unavailable::Unreadable),
            Judged::Inactive(client, reason) => {
                record(client, Some(reason), None);
                Err(Error::Inactive(reason.into()))
            }
            Judged::Active {
                client,
                resolved,
                is_replaced,
                ..
            } => {
                view.require_fresh()?;
                let check = question.permission;
                let decision = check.map(|check| resolved.access.decide(&check));
                record(client, None, decision);
                if is_replaced {
                    let id = client.known.id();
                    self.ledger.record_replaced(id, &client.usage, view.now);
                }
                match (check, decision) {
                    (Some(check), Some(decision)) if decision != Decision::Allowed => {
                        Err(Error::Forbidden(check))
                    }
                    _ => Ok(Principal::indexed(Arc::clone(client), index.revision())),
                }
            }
        }))
    }

    /// The answer about a token that no client has, if the index is fresh.
    pub(super) fn unknown(&self) -> Answer {
        self.live.view()?.require_fresh()?;
        unknown()
    }

    fn record(&self, view: &View<'_>, client: &Client, outcome: Outcome) {
        let id = client.known.id();
        self.ledger.record(id, &client.usage, outcome, view.now);
    }
}

fn unknown() -> Answer {
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
