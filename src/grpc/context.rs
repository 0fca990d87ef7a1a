//! What the layers in front of the services found out about a request, and pass
//! on with it.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::{HeaderMap, HeaderName};
use tokio::time::Instant;

use super::error::ApiError;
use crate::domain::{
    audit::{Actor, Provenance},
    caller::ServiceAccount,
    id,
    token::{Token, TokenHash, TokenKind, may_contain_token},
};
use crate::{replica::index::Callers, store::Store, telemetry::traces, transport::tls::Peer};

/// The proven caller of a request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who it is.
    pub account: Arc<ServiceAccount>,
    /// What it showed.
    pub proof: Proof,
}

/// What a caller shows of itself.
#[derive(Clone, Debug)]
pub enum Proof {
    /// A token, by its hash.
    Token(TokenHash),
    /// A certificate that was signed by one of the authorities, on the connection.
    Certificate(Peer),
}

impl Proof {
    /// A token, where the text is that of a caller's.
    pub(crate) fn of_token(text: &str) -> Option<Self> {
        let token = Token::parse(text).ok()?;
        (token.kind() == TokenKind::ServiceAccount).then(|| Self::Token(token.hash()))
    }

    /// Whose it is.
    pub(crate) fn account<'c>(&self, callers: &'c Callers) -> Option<&'c Arc<ServiceAccount>> {
        match self {
            Self::Token(token) => callers.find(token),
            Self::Certificate(Peer(names)) => callers.named(names),
        }
    }

    /// Whether it is still that account's: a name may be bound to another one meanwhile,
    /// which may be permitted less.
    pub(crate) fn is_still(&self, account: &ServiceAccount, callers: &Callers) -> bool {
        let now = self.account(callers);
        now.is_some_and(|now| now.id == account.id)
    }
}

/// Where those in front of the caller's proof learn who it is, once that is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proven(Arc<OnceLock<Arc<ServiceAccount>>>);

impl Proven {
    /// Notes the caller of a request.
    pub(crate) fn note(extensions: &http::Extensions, caller: &Caller) {
        let name = caller.account.name.as_str();
        tracing::Span::current().record("caller.name", name);
        if let Some(Self(proven)) = extensions.get() {
            // A request is proven once.
            proven.set(Arc::clone(&caller.account)).ok();
        }
    }

    /// The caller's name; empty while it is not known.
    pub(crate) fn name(&self) -> &str {
        self.0.get().map_or("", |account| account.name.as_str())
    }
}

impl From<Arc<ServiceAccount>> for Proven {
    fn from(account: Arc<ServiceAccount>) -> Self {
        Self(Arc::new(account.into()))
    }
}

/// The header with a request's id, in requests and in answers.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The request's id: the caller's own, or one made here.
#[derive(Clone, Debug)]
pub struct RequestId(pub Arc<str>);

impl RequestId {
    /// The longest that is taken over from a caller.
    const MAX_LENGTH: usize = 128;

    /// The id that a request came with, where that is taken over.
    pub(crate) fn given(headers: &HeaderMap) -> Option<&str> {
        let id = headers.get(REQUEST_ID)?.to_str().ok()?;
        Self::is_usable(id).then_some(id)
    }

    /// The id of a request that came with none.
    pub(crate) fn made(store: &Store) -> Self {
        let id = id::RequestId::mint(store.clock().now(), store.entropy());
        Self(id.to_string().into())
    }

    /// The one or the other.
    pub(crate) fn of(headers: &HeaderMap, store: &Store) -> Self {
        Self::given(headers).map_or_else(|| Self::made(store), |id| Self(id.into()))
    }

    /// Whether a caller's own is taken over.
    pub(crate) fn is_usable(id: &str) -> bool {
        (1..=Self::MAX_LENGTH).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_graphic())
            // It gets into logs, and into the audit trail.
            && !may_contain_token(id)
    }
}

/// When the request is given up.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(pub Instant);

/// What is left of a request's time where its answer is ready: enough to send it before
/// the request is given up.
const TO_ANSWER: Duration = Duration::from_millis(50);

/// When to begin to answer with what there is; none where nobody said.
pub(super) fn answer_by(extensions: &tonic::Extensions) -> Option<Instant> {
    let Deadline(deadline) = *extensions.get::<Deadline>()?;
    Some(deadline.checked_sub(TO_ANSWER).unwrap_or(deadline))
}

/// How long the request may still take; `ours` where the layers set nothing.
pub(super) fn remaining(extensions: &tonic::Extensions, ours: Duration) -> Duration {
    let deadline = extensions.get::<Deadline>();
    deadline.map_or(ours, |at| at.0.saturating_duration_since(Instant::now()))
}

/// Who asks, as which request: what the audit trail gets of it.
pub(super) fn provenance(
    extensions: &tonic::Extensions,
    actor: Option<Actor>,
) -> Result<Arc<Provenance>, ApiError> {
    let caller = extensions
        .get::<Caller>()
        .ok_or(ApiError::Defect("no caller was established"))?;
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
