//! The layers around the routes, and what is answered where there is none.

use std::panic::AssertUnwindSafe;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use futures_util::FutureExt;
use http::{HeaderName, HeaderValue, StatusCode, Version, header::CONNECTION};
use tokio::time::Instant;
use tracing::{Instrument, field::Empty, info_span};

use super::{FORWARD_AUTH, INTROSPECT, LIVEZ, METRICS, READYZ, Shared, answer};
use crate::{domain::id, grpc::context::RequestId, telemetry::panic_message};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What stands for all paths that there are not.
const NO_ROUTE: &str = "none";

/// Gives the request an id and a span, counts it, and gives a failure of ours its
/// line in the log. What a proxy is answered has none here: its clients would fill
/// the log with one mistake, or one outage, of which is told elsewhere. Nor has
/// what a probe is answered.
pub(super) async fn trace(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let given = request.headers().get(REQUEST_ID);
    let given = given.and_then(|id| id.to_str().ok());
    let given = given.filter(|id| RequestId::is_usable(id));
    let request_id = given.map_or_else(
        || {
            let store = &shared.callers.store;
            id::RequestId::mint(store.clock().now(), store.entropy()).to_string()
        },
        str::to_owned,
    );
    let route = route(&request);
    let version = request.version();
    let span = info_span!(
        "request",
        http.route = route,
        request.id = request_id,
        caller.name = Empty,
    );
    let mut response = next.run(request).instrument(span.clone()).await;
    let duration = begun.elapsed();
    let status = response.status();
    shared.metrics.request(route, status.as_u16(), duration);
    if status.is_server_error() && ![FORWARD_AUTH, READYZ].contains(&route) {
        tracing::info!(
            parent: &span,
            http.status = status.as_u16(),
            duration_ms = duration.as_millis(),
            "{route} failed with {status}",
        );
    }
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        headers.insert(REQUEST_ID, id);
    }
    if *shared.draining.borrow() && version < Version::HTTP_2 {
        // Its peer goes elsewhere, before this end is closed.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The route of a request, of those that there are.
fn route(request: &Request) -> &'static str {
    let path = request.uri().path();
    [INTROSPECT, FORWARD_AUTH, LIVEZ, READYZ, METRICS]
        .into_iter()
        .find(|route| *route == path)
        .unwrap_or(NO_ROUTE)
}

/// Turns a panic into 500.
pub(super) async fn catch_panic(request: Request, next: Next) -> Response {
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(panic) => {
            tracing::error!(panic = panic_message(&*panic), "a handler panicked");
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            answer::refusal(status, "server_error", "internal error")
        }
    }
}

/// The path is one of ours, the method is not. The router names those that are.
pub(super) async fn method_not_allowed() -> Response {
    let status = StatusCode::METHOD_NOT_ALLOWED;
    answer::invalid_request(status, "this path takes another method")
}

pub(super) async fn not_found() -> Response {
    answer::refusal(StatusCode::NOT_FOUND, "not_found", "there is no such path")
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, middleware::from_fn, routing::get};
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_a_500_and_no_more() {
        let panics = get(async || -> &'static str { panic!("a defect") });
        let router = Router::new().route("/", panics).layer(from_fn(catch_panic));
        let response = router.oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = axum::body::to_bytes(response.into_body(), 1000).await;
        let body: serde_json::Value = serde_json::from_slice(&body.unwrap()).unwrap();
        assert_eq!(body["error"], "server_error");
        assert_eq!(body["error_description"], "internal error");
    }
}
