//! What the layers determine about a request and attach to it.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::{HeaderMap, HeaderName};
use tokio::time::Instant;

use super::{Services, error::ApiError};
use crate::domain::{
    Timestamp,
    audit::{Actor, Provenance},
    caller::ServiceAccount,
    id,
    index::Callers,
    token::{Token, TokenHash, TokenKind, may_contain_token},
};
use crate::{telemetry::traces, transport::tls::Peer};

/// The authenticated caller of a request.
#[derive(Clone, Debug)]
pub struct Caller {
    pub account: Arc<ServiceAccount>,
    /// The credentials that it sent.
    pub proof: Proof,
}

/// The credentials of a caller.
#[derive(Clone, Debug)]
pub enum Proof {
    Token(TokenHash),
    /// A client certificate of the connection, signed by a configured authority.
    Certificate(Peer),
}

impl Proof {
    /// A token, if the text is a service account's.
    pub(crate) fn of_token(text: &str) -> Option<Self> {
        let token = Token::parse(text).ok()?;
        (token.kind() == TokenKind::ServiceAccount).then(|| Self::Token(token.hash()))
    }

    /// The service account with these credentials. The time is read only if it matters.
    pub(crate) fn account<'c>(
        &self,
        callers: &'c Callers,
        now: impl FnOnce() -> Timestamp,
    ) -> Option<&'c Arc<ServiceAccount>> {
        match self {
            Self::Token(token) => callers.find(token, now),
            Self::Certificate(Peer(names)) => callers.named(names),
        }
    }

    /// Whether they still belong to that account: a certificate's name may have been
    /// assigned to another account, with fewer permissions.
    pub(crate) fn is_still(
        &self,
        account: &ServiceAccount,
        callers: &Callers,
        now: impl FnOnce() -> Timestamp,
    ) -> bool {
        let present = self.account(callers, now);
        present.is_some_and(|present| present.id == account.id)
    }

    /// Whether it depends on the time whether they are valid.
    pub(crate) fn may_end(&self, callers: &Callers) -> bool {
        match self {
            Self::Token(token) => callers.is_replaced(token),
            Self::Certificate(_) => false,
        }
    }
}

/// Passes the caller to the outer layers, once it is authenticated.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallerSlot(Arc<OnceLock<Arc<ServiceAccount>>>);

impl CallerSlot {
    /// Records the caller of a request.
    pub(crate) fn record(extensions: &http::Extensions, caller: &Caller) {
        let name = caller.account.name.as_str();
        tracing::Span::current().record("caller.name", name);
        if let Some(Self(proven)) = extensions.get() {
            // A request is authenticated once.
            proven.set(Arc::clone(&caller.account)).ok();
        }
    }

    /// The caller's name; empty before authentication.
    pub(crate) fn name(&self) -> &str {
        self.0.get().map_or("", |account| account.name.as_str())
    }
}

impl From<Arc<ServiceAccount>> for CallerSlot {
    fn from(account: Arc<ServiceAccount>) -> Self {
        Self(Arc::new(account.into()))
    }
}

/// The header with the request id, in requests and responses.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The request id: the caller's, or a new one.
#[derive(Clone, Debug)]
pub struct RequestId(pub Arc<str>);

impl RequestId {
    /// The longest id that is accepted from a caller.
    const MAX_LENGTH: usize = 128;

    /// The caller's id, if it is acceptable.
    pub(crate) fn from_caller(headers: &HeaderMap) -> Option<&str> {
        let id = headers.get(REQUEST_ID)?.to_str().ok()?;
        Self::is_usable(id).then_some(id)
    }

    pub(crate) fn generate(services: &Services) -> Self {
        let id = id::RequestId::mint(services.clock().now(), services.entropy());
        Self(id.to_string().into())
    }

    /// The caller's id, or a new one.
    pub(crate) fn of(headers: &HeaderMap, services: &Services) -> Self {
        Self::from_caller(headers).map_or_else(|| Self::generate(services), |id| Self(id.into()))
    }

    /// Whether a caller's id is acceptable.
    pub(crate) fn is_usable(id: &str) -> bool {
        (1..=Self::MAX_LENGTH).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_graphic())
            // Ids are written to logs and the audit trail.
            && !may_contain_token(id)
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Deadline(pub Instant);

/// How long before the deadline a response must be ready, so that it can be sent in time.
const RESPONSE_MARGIN: Duration = Duration::from_millis(50);

/// When to stop waiting and respond; None without a deadline.
pub(super) fn response_due(extensions: &tonic::Extensions) -> Option<Instant> {
    let Deadline(deadline) = *extensions.get::<Deadline>()?;
    Some(deadline.checked_sub(RESPONSE_MARGIN).unwrap_or(deadline))
}

/// The time until the deadline; `ours` without one.
pub(super) fn remaining(extensions: &tonic::Extensions, ours: Duration) -> Duration {
    let deadline = extensions.get::<Deadline>();
    deadline.map_or(ours, |at| at.0.saturating_duration_since(Instant::now()))
}

/// The caller, which the layers established.
pub(super) fn caller(extensions: &tonic::Extensions) -> Result<&Caller, ApiError> {
    let caller = extensions.get();
    caller.ok_or(ApiError::Defect("no caller was established"))
}

/// The caller, actor and request id, for the audit trail.
pub(super) fn provenance(
    extensions: &tonic::Extensions,
    actor: Option<Actor>,
) -> Result<Arc<Provenance>, ApiError> {
    let caller = caller(extensions)?;
    let request_id = extensions
        .get::<RequestId>()
        .map(|id| id.0.to_string())
        .unwrap_or_default();
    if let Some(actor) = &actor {
        tracing::Span::current().record("actor.user_id", tracing::field::display(actor.user));
        traces::note("actor.user_id", &actor.user);
    }
    Ok(Arc::new(Provenance {
        actor,
        caller: caller.account.name.as_str().to_owned(),
        request_id,
    }))
}
