//! The HTTP listener, for who speaks no gRPC: `/oauth2/introspect` (RFC 7662) for
//! resource servers, `/forward-auth` for proxies that ask about each request, and
//! `/livez`, `/readyz` and `/metrics` for operators.
//!
//! Verdicts are those of Introspect: they are judged in the same place, wait for the
//! same things, and count as uses alike.

use std::sync::Arc;

use axum::{
    Router,
    middleware::{from_fn, from_fn_with_state},
    routing::{any, get, post},
};
use tokio::sync::{Semaphore, SemaphorePermit, watch};

mod answer;
mod forward_auth;
mod introspect;
mod layers;
mod probes;

use crate::grpc::{Services, error::ApiError};

/// The paths that there are. They label metrics too.
const INTROSPECT: &str = "/oauth2/introspect";
const FORWARD_AUTH: &str = "/forward-auth";

/// Whether a path is the one of `/forward-auth` with settings or a request's path behind
/// it, as Envoy asks over HTTP.
fn is_forward_auth_and_more(path: &str) -> bool {
    let more = path.strip_prefix(FORWARD_AUTH);
    more.is_some_and(|more| more.starts_with(['/', ';']))
}
const LIVEZ: &str = "/livez";
const READYZ: &str = "/readyz";
const METRICS: &str = "/metrics";

/// What the handlers work with.
#[derive(Clone)]
pub(crate) struct HttpState {
    pub(crate) services: Arc<Services>,
    /// How many requests that ask about a token may be under way, together with the
    /// introspections over gRPC.
    pub(crate) limit: Arc<Semaphore>,
    /// Becomes true when the server was told to stop.
    pub(crate) leaving: watch::Receiver<bool>,
}

impl HttpState {
    /// A place among the requests under way.
    fn admit(&self) -> Result<SemaphorePermit<'_>, ApiError> {
        self.limit.try_acquire().or(Err(ApiError::Overloaded))
    }
}

/// The routes behind their layers. A layer that is added later is outside of those
/// before it.
pub(crate) fn router(state: HttpState) -> Router {
    Router::new()
        .route(INTROSPECT, post(introspect::introspect))
        .route(FORWARD_AUTH, any(forward_auth::forward_auth))
        .route(LIVEZ, get(probes::livez))
        .route(READYZ, get(probes::readyz))
        .route(METRICS, get(probes::metrics))
        .method_not_allowed_fallback(layers::method_not_allowed)
        .fallback(forward_auth::with_path_behind)
        .layer(from_fn(layers::catch_panic))
        // Outermost, so that every answer is counted, and has a request id.
        .layer(from_fn_with_state(state.clone(), layers::trace))
        .with_state(state)
}
