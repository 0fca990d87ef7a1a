//! `IntrospectionService`: is this token good, and for what?
//!
//! The answer comes from the index in memory. It waits for nothing, unless the
//! caller names a revision, or the token is one that the index does not know.

use std::{pin::Pin, time::Duration};

use chrono::TimeDelta;
use futures_util::stream;
use tokio::{
    sync::watch,
    time::{Instant, Sleep, sleep_until},
};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use tracing::{Instrument, Span};

use super::{
    Services,
    context::{Caller, Deadline, Retired, remaining},
    convert::introspection as convert,
    error::ApiError,
};
use crate::{
    domain::{
        Revision,
        access::{Decision, PermissionCheck},
        client::Expiry,
        introspection::{InactiveReason, Settled, cache_age},
        token::{Token, TokenHash, TokenKind},
        usage::Outcome,
    },
    pb::{self, introspection_service_server::IntrospectionService},
    replica::{Replica, View, index::Known},
    telemetry::metrics::Verdict,
};

/// The part of the remaining time that is spent on waiting. The rest is for the
/// reply, so that the caller sees the reason and not its own deadline.
const WAITING_SHARE: f64 = 0.9;

#[tonic::async_trait]
impl IntrospectionService for Services {
    type IntrospectStreamStream =
        Pin<Box<dyn Stream<Item = Result<pb::IntrospectResponse, Status>> + Send>>;

    async fn introspect(
        &self,
        request: Request<pb::IntrospectRequest>,
    ) -> Result<Response<pb::IntrospectResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let remaining = remaining(&extensions, self.request_timeout);
        Ok(Response::new(self.answer(&request, remaining).await?))
    }

    async fn introspect_stream(
        &self,
        request: Request<Streaming<pb::IntrospectRequest>>,
    ) -> Result<Response<Self::IntrospectStreamStream>, Status> {
        let (_, extensions, requests) = request.into_parts();
        let caller = extensions.get::<Caller>();
        let caller = caller.ok_or(ApiError::Defect("no caller was established"))?;
        let deadline = extensions.get::<Deadline>();
        let conversation = Conversation {
            services: self.clone(),
            caller: caller.clone(),
            deadline: deadline.map(|at| Box::pin(sleep_until(at.0))),
            requests,
            draining: self.draining.clone(),
            retired: extensions.get::<Retired>().cloned(),
        };
        // An answer is made when there is room for it, and a request is read when
        // the answer to the one before was taken: a slow reader slows itself down.
        let span = Span::current();
        let answers = stream::unfold(Some(conversation), move |conversation| {
            let next = async {
                let mut conversation = conversation?;
                match conversation.next().await? {
                    Ok(answer) => Some((Ok(answer), Some(conversation))),
                    Err(end) => Some((Err(end), None)),
                }
            };
            next.instrument(span.clone())
        });
        Ok(Response::new(Box::pin(answers)))
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

/// A stream of requests, and what its answers depend on.
struct Conversation {
    services: Services,
    caller: Caller,
    /// The caller's own; none of ours ends a stream.
    deadline: Option<Pin<Box<Sleep>>>,
    requests: Streaming<pb::IntrospectRequest>,
    draining: watch::Receiver<bool>,
    /// None where it is asked for over something that has no age.
    retired: Option<Retired>,
}

impl Conversation {
    /// The next answer; an error is the stream's last word.
    async fn next(&mut self) -> Option<Result<pb::IntrospectResponse, Status>> {
        let request = tokio::select! {
            biased;
            // Also where whoever could tell is gone.
            _ = self.draining.wait_for(|draining| *draining) => {
                return Some(Err(ApiError::ShuttingDown.into()));
            }
            () = retired(&mut self.retired) => {
                return Some(Err(ApiError::ShuttingDown.into()));
            }
            () = passed(&mut self.deadline) => {
                return Some(Err(ApiError::DeadlineExceeded.into()));
            }
            request = self.requests.next() => request?,
        };
        let Ok(request) = request else {
            // There is no telling where the next message begins.
            return Some(Err(ApiError::unreadable_message().into()));
        };
        if !self.caller_is_known() {
            return Some(Err(ApiError::CallerUnknown.into()));
        }
        Some(Ok(self.services.answer_streamed(&request).await))
    }

    /// Whether the caller still is one: a stream may outlive it.
    fn caller_is_known(&self) -> bool {
        let Caller { account, proof } = &self.caller;
        let view = self.services.replica.view();
        view.is_ok_and(|view| proof.is_still(account, view.index().callers()))
    }
}

/// When to give up waiting, for a call that may take so long.
pub(crate) fn give_up_after(remaining: Duration) -> Instant {
    Instant::now() + remaining.mul_f64(WAITING_SHARE)
}

/// Comes back once the connection is to end, if it is.
async fn retired(retired: &mut Option<Retired>) {
    match retired {
        Some(retired) => retired.told().await,
        None => std::future::pending().await,
    }
}

/// Comes back when a deadline has passed, and never where there is none.
async fn passed(deadline: &mut Option<Pin<Box<Sleep>>>) {
    match deadline {
        Some(deadline) => deadline.await,
        None => std::future::pending().await,
    }
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
    /// What answers come from.
    pub(crate) const fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Becomes true when streams have to end.
    pub(crate) fn draining(&self) -> watch::Receiver<bool> {
        self.draining.clone()
    }

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
            self.metrics.verdict(Verdict::CannotTell);
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
        let judged = judged.unwrap_or_else(|| self.unknown());
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
        let Known::Settled(settled) = &found.client().known else {
            return Err(ApiError::Defect("something of the client cannot be read"));
        };
        let note = |inactive, decision| {
            self.metrics.verdict(to_verdict(inactive, decision));
            if let Some(outcome) = Outcome::of(inactive, decision) {
                self.replica.note(found.client(), outcome, view.now);
            }
        };
        let works = found.works(view.now);
        let verdict = || settled.judge(found.standing(), view.now);
        let ends = match works.map_or_else(verdict, Ok) {
            Ok(ends) => ends,
            // What is known to be dead stays dead, however old the index is.
            Err(reason) => {
                note(Some(reason), None);
                return Ok(Some(Judged::Inactive(reason)));
            }
        };
        view.require_fresh()?;
        let decision = check.map(|check| settled.access.decide(&check));
        note(None, decision);
        // An answer that is kept must not outlive the bound either.
        let at_most = self.options.max_cache_age.min(view.stays_fresh_for());
        let at_most = TimeDelta::from_std(at_most).unwrap_or(TimeDelta::MAX);
        Ok(Some(Judged::Active {
            client: settled,
            ends,
            cache_age: cache_age(ends, at_most, view.now),
            decision,
        }))
    }
}

/// What a verdict counts as.
const fn to_verdict(inactive: Option<InactiveReason>, decision: Option<Decision>) -> Verdict {
    match (inactive, decision) {
        (Some(InactiveReason::TokenRotated), _) => Verdict::TokenRotated,
        (Some(InactiveReason::Revoked), _) => Verdict::Revoked,
        (Some(InactiveReason::Expired), _) => Verdict::Expired,
        (Some(InactiveReason::OwnerInactive), _) => Verdict::OwnerInactive,
        // No token that works is decided on as if it did not.
        (Some(InactiveReason::UnknownToken), _) | (None, Some(Decision::Inactive)) => {
            Verdict::UnknownToken
        }
        (None, None) => Verdict::Active,
        (None, Some(Decision::Allowed)) => Verdict::Allowed,
        (None, Some(Decision::NoSiteGrant)) => Verdict::NoSiteGrant,
        (None, Some(Decision::RoleTooLow)) => Verdict::RoleTooLow,
    }
}

/// What is said of a token.
pub(crate) enum Judged<'v> {
    /// It does not work.
    Inactive(InactiveReason),
    /// It works.
    Active {
        /// Its client.
        client: &'v Settled,
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
