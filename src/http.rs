//! The HTTP listener, for clients without gRPC: `/oauth2/introspect` (RFC 7662) for
//! resource servers, `/forward-auth` for proxies that authorize each request, HitKeep's
//! routes for the management of API clients, gRPC-Web, and `/livez`, `/readyz` and `/metrics`
//! for operators.
//!
//! Verdicts are those of Introspect: both share one judgement, wait for the same things,
//! and record the same uses.

use std::sync::Arc;

use axum::{
    Router,
    middleware::{from_fn, from_fn_with_state},
    routing::{any, get, post},
};
use tokio::sync::{Semaphore, SemaphorePermit, watch};

mod answer;
mod forward_auth;
mod grpc_web;
mod introspect;
mod layers;
mod probes;
mod rest;

pub(crate) use grpc_web::GrpcWeb;

use crate::{
    calls::admission::Admission,
    grpc::{Management, Services, error::ApiError},
};

/// The paths, which are also values of a metric label.
const INTROSPECT: &str = "/oauth2/introspect";
const FORWARD_AUTH: &str = "/forward-auth";

/// Whether a path is `/forward-auth` followed by settings or the original request's path,
/// as Envoy sends it over HTTP.
fn extends_forward_auth(path: &str) -> bool {
    let rest = path.strip_prefix(FORWARD_AUTH);
    rest.is_some_and(|rest| rest.starts_with(['/', ';']))
}
const LIVEZ: &str = "/livez";
const READYZ: &str = "/readyz";
const METRICS: &str = "/metrics";

/// What the handlers need.
#[derive(Clone)]
pub(crate) struct HttpState {
    pub(crate) services: Arc<Services>,
    /// The limit of concurrent token requests, shared with the introspections over gRPC.
    pub(crate) limit: Arc<Semaphore>,
    /// The limits of calls that use the database, shared with those over gRPC.
    pub(crate) database_calls: Arc<Admission>,
    /// Becomes true when the server begins to shut down.
    pub(crate) shutting_down: watch::Receiver<bool>,
}

impl HttpState {
    /// Takes a permit of the limit.
    fn admit(&self) -> Result<SemaphorePermit<'_>, ApiError> {
        self.limit.try_acquire().or(Err(ApiError::Overloaded))
    }
}

/// The routes behind their layers. A layer that is added later wraps those before it.
/// The routes of HitKeep's dashboard exist if there is something that manages for them, and
/// gRPC-Web if there are services for it.
pub(crate) fn router(
    state: HttpState,
    rest: Option<Arc<Management>>,
    grpc_web: Option<GrpcWeb>,
) -> Router {
    let router = match rest {
        Some(management) => rest::routes(&state, management),
        None => Router::new(),
    };
    let router = router
        .route(INTROSPECT, post(introspect::introspect))
        .route(FORWARD_AUTH, any(forward_auth::forward_auth))
        .route(LIVEZ, get(probes::livez))
        .route(READYZ, get(probes::readyz))
        .route(METRICS, get(probes::metrics))
        .method_not_allowed_fallback(layers::method_not_allowed)
        .fallback(forward_auth::forward_auth_with_target);
    let router = match grpc_web {
        Some(_) => router.layer(from_fn(grpc_web::refuse_others)),
        None => router,
    };
    let router = router
        .layer(from_fn(layers::catch_panic))
        // Outermost, so that every response is counted and has a request id.
        .layer(from_fn_with_state(state.clone(), layers::trace));
    match grpc_web {
        // Its calls are counted as those over gRPC are, and not as requests.
        Some(services) => {
            let state = grpc_web::Serving::new(services, state.clone());
            router.layer(from_fn_with_state(state, grpc_web::serve))
        }
        None => router,
    }
    .with_state(state)
}
