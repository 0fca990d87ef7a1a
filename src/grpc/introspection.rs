//! `IntrospectionService`: is this token good, and for what?
//!
//! The answer comes from the index in memory. It waits for nothing, unless the
//! caller names a revision, or the token is one that the index does not know.

use std::time::Duration;

use chrono::TimeDelta;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use super::{Services, context::remaining, convert::introspection as convert, error::ApiError};
use crate::{
    domain::{
        Revision,
        access::{Decision, PermissionCheck},
        client::Expiry,
        introspection::{InactiveReason, ResolvedClient, cache_age},
        token::{Token, TokenHash, TokenKind},
        usage::Outcome,
    },
    pb::{self, introspection_service_server::IntrospectionService},
    replica::{View, index::Known},
    telemetry::metrics::VerdictReason,
};

/// The part of the remaining time that is spent on waiting. The rest is for the
/// reply, so that the caller sees the reason and not its own deadline.
const WAITING_SHARE: f64 = 0.9;

#[tonic::async_trait]
impl IntrospectionService for Services {
    type IntrospectStreamStream = tokio_stream::Empty<Result<pb::IntrospectResponse, Status>>;

    async fn introspect(
        &self,
        request: Request<pb::IntrospectRequest>,
    ) -> Result<Response<pb::IntrospectResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let remaining = remaining(&extensions, self.request_timeout);
        Ok(Response::new(self.answer(&request, remaining).await?))
    }

    /// Never called: the stream has a route of its own, `fastpath::introspect_stream`, which
    /// answers many requests at once.
    async fn introspect_stream(
        &self,
        _: Request<Streaming<pb::IntrospectRequest>>,
    ) -> Result<Response<Self::IntrospectStreamStream>, Status> {
        Err(ApiError::Defect("the stream is answered by its own route").into())
    }

    async fn get_index_status(
        &self,
        _: Request<pb::GetIndexStatusRequest>,
    ) -> Result<Response<pb::GetIndexStatusResponse>, Status> {
        let view = self.replica.view().map_err(ApiError::from)?;
        let progress = *self.replica.progress().borrow();
        Ok(Response::new(convert::to_index_status(
            &view,
            progress,
            self.replica.is_listening(),
            self.replica.options().max_staleness,
        )))
    }
}

/// When to give up waiting, for a call that may take so long.
pub(crate) fn give_up_after(remaining: Duration) -> Instant {
    Instant::now() + remaining.mul_f64(WAITING_SHARE)
}

/// A token as a request has it.
pub(crate) enum Presented {
    /// What could be an API client's: its hash.
    Hash(TokenHash),
    /// Anything else, such as a caller's token: known to be unknown.
    Unknown,
}

impl Presented {
    pub(crate) fn read(text: &str) -> Self {
        match Token::parse(text) {
            Ok(token) => match token.kind() {
                TokenKind::Personal | TokenKind::Team => Self::Hash(token.hash()),
                TokenKind::ServiceAccount => Self::Unknown,
            },
            Err(_) => Self::Unknown,
        }
    }
}

impl Services {
    /// Answers one request of a stream, which goes on if it fails.
    pub(crate) async fn answer_streamed(
        &self,
        request: &pb::IntrospectRequest,
    ) -> pb::IntrospectResponse {
        let answer = self.answer(request, self.request_timeout).await;
        answer.unwrap_or_else(|error| pb::IntrospectResponse {
            error: Some(error.into_answer()),
            ..pb::IntrospectResponse::default()
        })
    }

    /// Answers one request, which may wait that long.
    async fn answer(
        &self,
        request: &pb::IntrospectRequest,
        remaining: Duration,
    ) -> Result<pb::IntrospectResponse, ApiError> {
        let command = convert::introspect(request)?;
        let presented = Presented::read(&request.token);
        let give_up = give_up_after(remaining);
        if let Some(wanted) = command.at_least {
            self.reach(wanted, give_up).await?;
        }
        let answer = |judged: Judged<'_>, revision| match judged {
            Judged::Inactive(reason) => inactive(reason, revision, command.check),
            Judged::Active {
                client,
                cache_age,
                decision,
                ..
            } => {
                let mut answer = convert::to_active(client, cache_age);
                answer.revision = revision.0;
                answer.decision = decision.map(convert::to_decision);
                answer
            }
        };
        self.judge_patiently(&presented, command.check, give_up, answer)
            .await
    }

    /// Waits until the index has that revision.
    async fn reach(&self, wanted: Revision, give_up: Instant) -> Result<(), ApiError> {
        let reached = self.replica.reach(wanted, give_up).await;
        reached.map_err(|reached| ApiError::RevisionNotReached { wanted, reached })
    }

    /// What is said of a token, as `answer` puts it. Waits a little where the index
    /// is not there yet, or does not know the token.
    pub(crate) async fn judge_patiently<T>(
        &self,
        presented: &Presented,
        check: Option<PermissionCheck>,
        give_up: Instant,
        answer: impl Fn(Judged<'_>, Revision) -> T,
    ) -> Result<T, ApiError> {
        let judged = self.judge_in_time(presented, check, give_up, answer).await;
        if judged.is_err() {
            self.metrics.verdict(VerdictReason::Unanswerable);
        }
        judged
    }

    async fn judge_in_time<T>(
        &self,
        presented: &Presented,
        check: Option<PermissionCheck>,
        give_up: Instant,
        answer: impl Fn(Judged<'_>, Revision) -> T,
    ) -> Result<T, ApiError> {
        let view = self.replica.caught_up_view(give_up).await?;
        if let Some(judged) = self.judge(&view, presented, check)? {
            return Ok(answer(judged, view.index().revision));
        }
        drop(view);
        // Perhaps it was made a moment ago.
        self.replica.ask(give_up).await?;
        let view = self.replica.view()?;
        let judged = self.judge(&view, presented, check)?;
        let judged = if let Some(judged) = judged {
            judged
        } else {
            // The database answered, but it may not be the one that takes the writes:
            // there, the token may work.
            view.require_fresh()?;
            self.unknown()
        };
        Ok(answer(judged, view.index().revision))
    }

    /// What is said of a token that is of no client.
    fn unknown(&self) -> Judged<'static> {
        let reason = InactiveReason::UnknownToken;
        self.metrics.verdict(to_verdict(Some(reason), None));
        Judged::Inactive(reason)
    }

    /// What this version of the index says of a token, and notes its use; `None`
    /// where it does not know it.
    pub(crate) fn judge<'v>(
        &self,
        view: &'v View,
        presented: &Presented,
        check: Option<PermissionCheck>,
    ) -> Result<Option<Judged<'v>>, ApiError> {
        let hash = match presented {
            Presented::Hash(hash) => hash,
            Presented::Unknown => return Ok(Some(self.unknown())),
        };
        view.require_caught_up()?;
        let Some(found) = view.index().find(hash) else {
            return Ok(None);
        };
        let Known::Resolved(client) = &found.client().known else {
            return Err(ApiError::Defect("something of the client cannot be read"));
        };
        let note = |inactive, decision| {
            self.metrics.verdict(to_verdict(inactive, decision));
            if let Some(outcome) = Outcome::of(inactive, decision) {
                self.replica.note(found.client(), outcome, view.now);
            }
        };
        let works = found.works(view.now);
        let verdict = || client.evaluate(found.standing(), view.now);
        let ends = match works.map_or_else(verdict, Ok) {
            Ok(ends) => ends,
            // What is known to be dead stays dead, however old the index is.
            Err(reason) => {
                note(Some(reason), None);
                return Ok(Some(Judged::Inactive(reason)));
            }
        };
        view.require_fresh()?;
        let decision = check.map(|check| client.access.decide(&check));
        note(None, decision);
        // An answer that is kept must not outlive the bound either.
        let at_most = self.options.max_cache_age.min(view.stays_fresh_for());
        let at_most = TimeDelta::from_std(at_most).unwrap_or(TimeDelta::MAX);
        Ok(Some(Judged::Active {
            client,
            ends,
            cache_age: cache_age(ends, at_most, view.now),
            decision,
        }))
    }
}

/// What a verdict counts as.
const fn to_verdict(inactive: Option<InactiveReason>, decision: Option<Decision>) -> VerdictReason {
    match (inactive, decision) {
        (Some(InactiveReason::TokenRotated), _) => VerdictReason::TokenRotated,
        (Some(InactiveReason::Revoked), _) => VerdictReason::Revoked,
        (Some(InactiveReason::Expired), _) => VerdictReason::Expired,
        (Some(InactiveReason::OwnerInactive), _) => VerdictReason::OwnerInactive,
        // No token that works is decided on as if it did not.
        (Some(InactiveReason::UnknownToken), _) | (None, Some(Decision::Inactive)) => {
            VerdictReason::UnknownToken
        }
        (None, None) => VerdictReason::Active,
        (None, Some(Decision::Allowed)) => VerdictReason::Allowed,
        (None, Some(Decision::NoSiteGrant)) => VerdictReason::NoSiteGrant,
        (None, Some(Decision::RoleTooLow)) => VerdictReason::RoleTooLow,
    }
}

/// What is said of a token.
pub(crate) enum Judged<'v> {
    /// It does not work.
    Inactive(InactiveReason),
    /// It works.
    Active {
        /// Its client.
        client: &'v ResolvedClient,
        /// When it ends by itself.
        ends: Expiry,
        /// How long the answer may be kept.
        cache_age: TimeDelta,
        /// The answer to the check, where there was one.
        decision: Option<Decision>,
    },
}

fn inactive(
    reason: InactiveReason,
    revision: Revision,
    check: Option<PermissionCheck>,
) -> pb::IntrospectResponse {
    let mut answer = convert::to_inactive(reason);
    answer.revision = revision.0;
    answer.decision = check.map(|_| convert::to_decision(Decision::Inactive));
    answer
}
