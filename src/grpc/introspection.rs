//! `IntrospectionService`: whether a token is active, and what it permits.
//!
//! Responses come from the index in memory. They wait for nothing, unless the caller names
//! a revision or the index does not have the token.

mod batch;

use std::time::Duration;

use chrono::TimeDelta;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

pub(crate) use crate::domain::token::PresentedToken;

use super::{
    Origin, Services, context::remaining, convert::introspection as convert, error::ApiError,
};
use crate::{
    domain::{
        Revision,
        access::{Decision, EffectiveAccess, PermissionCheck},
        client::Expiry,
        index::{Client, Judged},
        introspection::{InactiveReason, ResolvedClient, cache_age},
        source::Source,
        usage::Outcome,
    },
    live_index::View,
    pb::{self, introspection_service_server::IntrospectionService},
    telemetry::metrics::VerdictReason,
};

/// The share of the remaining time that may be spent on waiting. The rest is for the
/// response, so that the caller sees the reason and not its own deadline.
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

    async fn batch_introspect(
        &self,
        request: Request<pb::BatchIntrospectRequest>,
    ) -> Result<Response<pb::BatchIntrospectResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let remaining = remaining(&extensions, self.request_timeout);
        Ok(Response::new(self.answer_batch(&request, remaining).await?))
    }

    /// Never called: the stream has a route of its own, `fastpath::introspect_stream`,
    /// which answers requests in batches.
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
        let view = self.index.view().map_err(ApiError::from)?;
        let progress = *self.index.progress().borrow();
        Ok(Response::new(convert::to_index_status(
            &view,
            progress,
            self.index.is_listening(),
            self.index.options().max_staleness,
        )))
    }
}

/// When to stop waiting, for a call with that much time.
pub(crate) fn wait_limit(remaining: Duration) -> Instant {
    Instant::now() + remaining.mul_f64(WAITING_SHARE)
}

/// Decides whether an active token's access is enough; None if nothing is to be decided.
pub(crate) trait Decide: Fn(&EffectiveAccess) -> Option<Decision> {}

impl<D: Fn(&EffectiveAccess) -> Option<Decision>> Decide for D {}

/// Decides on a permission, if one is to be checked.
pub(crate) fn checks(check: Option<PermissionCheck>) -> impl Decide {
    move |access: &EffectiveAccess| check.map(|check| access.decide(&check))
}

/// Refuses a version before the wanted revision. It was waited for, but a backup that is
/// restored meanwhile sets the index back.
fn require_revision(wanted: Option<Revision>, reached: Revision) -> Result<(), ApiError> {
    match wanted {
        Some(wanted) if reached < wanted => Err(ApiError::RevisionNotReached { wanted, reached }),
        _ => Ok(()),
    }
}

impl Services {
    /// Answers requests of a stream that wait together, one for one and in order. An error does
    /// not end the stream. Only a single one may wait for a revision.
    pub(crate) async fn answer_streamed(
        &self,
        requests: &[pb::IntrospectRequest],
    ) -> Vec<pb::IntrospectResponse> {
        let [request] = requests else {
            return self.answer_together(requests).await;
        };
        let answer = self.answer(request, self.request_timeout).await;
        vec![answer.unwrap_or_else(|error| pb::IntrospectResponse {
            error: Some(error.into_stream_error()),
            ..pb::IntrospectResponse::default()
        })]
    }

    /// Answers one request within that time.
    async fn answer(
        &self,
        request: &pb::IntrospectRequest,
        remaining: Duration,
    ) -> Result<pb::IntrospectResponse, ApiError> {
        let command = convert::introspect(request)?;
        let presented = PresentedToken::read(&request.token);
        let wait_until = wait_limit(remaining);
        if let Some(wanted) = command.at_least {
            self.wait_for_revision(wanted, wait_until).await?;
        }
        let answer =
            |judged: Judgement<'_>, revision| to_response(&judged, revision, command.check);
        let decide = checks(command.check);
        let answer = self
            .judge_with_wait(&presented, command.source, decide, wait_until, answer)
            .await?;
        require_revision(command.at_least, Revision(answer.revision))?;
        Ok(answer)
    }

    /// Waits until the index has that revision.
    async fn wait_for_revision(
        &self,
        wanted: Revision,
        wait_until: Instant,
    ) -> Result<(), ApiError> {
        let reached = self.index.wait_for_revision(wanted, wait_until).await;
        reached.map_err(|reached| ApiError::RevisionNotReached { wanted, reached })
    }

    /// Judges a token that is presented from `source`, decides with `decide` what it may do,
    /// and converts the judgement with `answer`. Waits if the index is not loaded yet or does
    /// not have the token.
    pub(crate) async fn judge_with_wait<T>(
        &self,
        presented: &PresentedToken,
        source: Source<'_>,
        decide: impl Decide,
        wait_until: Instant,
        answer: impl Fn(Judgement<'_>, Revision) -> T,
    ) -> Result<T, ApiError> {
        let judged = self
            .judge_until(presented, source, decide, wait_until, answer)
            .await;
        if judged.is_err() {
            self.metrics.verdict(VerdictReason::Unanswerable);
        }
        judged
    }

    async fn judge_until<T>(
        &self,
        presented: &PresentedToken,
        source: Source<'_>,
        decide: impl Decide,
        wait_until: Instant,
        answer: impl Fn(Judgement<'_>, Revision) -> T,
    ) -> Result<T, ApiError> {
        let view = self.index.caught_up_view(wait_until).await?;
        if let Some(judged) = self.judge(&view, presented, source, &decide)? {
            return Ok(answer(judged, view.index().revision()));
        }
        drop(view);
        // It may have been created a moment ago.
        self.index.refresh(wait_until).await?;
        let view = self.index.view()?;
        let judged = self.judge(&view, presented, source, &decide)?;
        let judged = if let Some(judged) = judged {
            judged
        } else {
            // The database answered, but it may not be the one that takes the writes:
            // there, the token may work.
            view.require_fresh()?;
            self.unknown()
        };
        Ok(answer(judged, view.index().revision()))
    }

    /// The judgement of a token that belongs to no client.
    fn unknown(&self) -> Judgement<'static> {
        let reason = InactiveReason::UnknownToken;
        self.metrics.verdict(to_verdict(Some(reason), None));
        Judgement::Inactive(reason)
    }

    /// Judges a token by this version of the index, and records its use. None if the index
    /// does not have it, but the database may.
    #[inline]
    pub(crate) fn judge<'v>(
        &self,
        view: &'v View,
        presented: &PresentedToken,
        source: Source<'_>,
        decide: impl Decide,
    ) -> Result<Option<Judgement<'v>>, ApiError> {
        // A version that lacks a change of this process says nothing of a token, not even that
        // it is inactive.
        if !matches!(presented, PresentedToken::Unknown) {
            view.require_caught_up()?;
        }
        let legacy_until = self.options.legacy_tokens_until;
        let judged = view
            .index()
            .judge(presented, source, legacy_until, view.now);
        let record = |client: &Client, inactive, decision| {
            let verdict = to_verdict(inactive, decision);
            self.metrics.verdict(verdict);
            if let Some(outcome) = Outcome::of(inactive, decision) {
                self.index.record(client, outcome, view.now);
            }
            if matches!(presented, PresentedToken::Legacy(_)) {
                self.metrics.legacy_verdict(verdict);
                self.index.record(client, Outcome::LegacyToken, view.now);
            }
        };
        Ok(Some(match judged {
            Judged::NotFound => return Ok(None),
            Judged::Malformed => self.unknown(),
            Judged::LegacyNotFound => {
                view.require_fresh()?;
                self.unknown()
            }
            Judged::Unreadable => {
                return Err(match self.origin {
                    Origin::Database(_) => {
                        ApiError::Defect("something of the client cannot be read")
                    }
                    Origin::Upstream { .. } => ApiError::NotUnderstood,
                });
            }
            Judged::Inactive(client, reason) => {
                record(client, Some(reason), None);
                Judgement::Inactive(reason)
            }
            Judged::Active {
                client,
                resolved,
                ends,
                is_replaced,
            } => {
                view.require_fresh()?;
                let decision = decide(&resolved.access);
                record(client, None, decision);
                if is_replaced {
                    self.index.record_replaced(client, view.now);
                }
                // A cached response must not outlive the bound on staleness either.
                let max_age = self.options.max_cache_age.min(view.stays_fresh_for());
                let max_age = TimeDelta::from_std(max_age).unwrap_or(TimeDelta::MAX);
                Judgement::Active {
                    client: resolved,
                    ends,
                    cache_age: cache_age(ends, max_age, view.now),
                    decision,
                }
            }
        }))
    }
}

/// The metric label of a judgement.
const fn to_verdict(inactive: Option<InactiveReason>, decision: Option<Decision>) -> VerdictReason {
    match (inactive, decision) {
        (Some(InactiveReason::TokenRotated), _) => VerdictReason::TokenRotated,
        (Some(InactiveReason::Revoked), _) => VerdictReason::Revoked,
        (Some(InactiveReason::Expired), _) => VerdictReason::Expired,
        (Some(InactiveReason::OwnerInactive), _) => VerdictReason::OwnerInactive,
        (Some(InactiveReason::NotYetActive), _) => VerdictReason::NotYetActive,
        (Some(InactiveReason::SourceNotAllowed), _) => VerdictReason::SourceNotAllowed,
        // An active token never has the decision `Inactive`.
        (Some(InactiveReason::UnknownToken), _) | (None, Some(Decision::Inactive)) => {
            VerdictReason::UnknownToken
        }
        (None, None) => VerdictReason::Active,
        (None, Some(Decision::Allowed)) => VerdictReason::Allowed,
        (None, Some(Decision::NoSiteGrant)) => VerdictReason::NoSiteGrant,
        (None, Some(Decision::RoleTooLow)) => VerdictReason::RoleTooLow,
    }
}

pub(crate) enum Judgement<'v> {
    Inactive(InactiveReason),
    Active {
        client: &'v ResolvedClient,
        ends: Expiry,
        /// How long the response may be cached.
        cache_age: TimeDelta,
        /// The decision on the permission, if one was to be checked.
        decision: Option<Decision>,
    },
}

/// The response to a request with that check.
fn to_response(
    judged: &Judgement<'_>,
    revision: Revision,
    check: Option<PermissionCheck>,
) -> pb::IntrospectResponse {
    match judged {
        Judgement::Inactive(reason) => inactive(*reason, revision, check),
        Judgement::Active {
            client,
            cache_age,
            decision,
            ..
        } => {
            let mut answer = convert::to_active(client, *cache_age);
            answer.revision = revision.0;
            answer.decision = decision.map(convert::to_decision);
            answer
        }
    }
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
