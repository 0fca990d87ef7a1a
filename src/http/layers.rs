//! The layers around the routes, and what is answered where there is none.

use std::{panic::AssertUnwindSafe, time::Duration};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use futures_util::FutureExt;
use http::{HeaderValue, Method, StatusCode, Version, header::CONNECTION};
use tokio::time::Instant;
use tracing::{Instrument, Span, field::Empty, info_span};

use super::{
    FORWARD_AUTH, HttpState, INTROSPECT, LIVEZ, METRICS, READYZ,
    answer::{self, Why},
    is_forward_auth_and_more,
};
use crate::{
    grpc::context::{CallerSlot, REQUEST_ID, RequestId},
    telemetry::{panic_message, traces},
};

/// What stands for all paths that there are not.
const NO_ROUTE: &str = "none";
/// What is asked all the time, and by nobody's order.
const PROBES: [&str; 3] = [LIVEZ, READYZ, METRICS];

/// Gives the request an id and its spans, counts it, and gives a failure its line in
/// the log. What a proxy is answered has none here: its clients would fill the log
/// with one mistake, or one outage, of which is told elsewhere. Nor has what a probe
/// is answered.
pub(super) async fn trace(
    State(state): State<HttpState>,
    mut request: Request,
    next: Next,
) -> Response {
    let begun = Instant::now();
    let RequestId(request_id) = RequestId::of(request.headers(), state.services.store());
    let route = route(&request);
    let method = method(request.method());
    let version = request.version();
    let span = info_span!(
        "request",
        http.route = route,
        request.id = &*request_id,
        caller.name = Empty,
    );
    let traced = traced(&state, &request, method, route);
    let caller = CallerSlot::default();
    request.extensions_mut().insert(caller.clone());
    let answered = next.run(request).instrument(span.clone());
    let mut response = answered.instrument(traced.clone()).await;
    let ended = Ended {
        method,
        route,
        status: response.status(),
        why: response.extensions().get(),
        request_id: &request_id,
        caller: caller.name(),
        duration: begun.elapsed(),
    };
    ended.trace(&traced);
    traced.in_scope(|| span.in_scope(|| ended.tell()));
    let status = response.status().as_u16();
    state
        .services
        .metrics()
        .request(method, route, status, ended.duration);
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        headers.insert(REQUEST_ID, id);
    }
    if *state.leaving.borrow() && version < Version::HTTP_2 {
        // Its peer goes elsewhere, before this end is closed.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The span of a request, by OpenTelemetry's conventions for HTTP. Probes ask all the
/// time, and theirs would say nothing.
fn traced(state: &HttpState, request: &Request, method: &'static str, route: &'static str) -> Span {
    if PROBES.contains(&route) {
        return Span::none();
    }
    let span = info_span!(
        target: traces::TARGET,
        "request",
        otel.name = %format_args!("{method} {route}"),
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = Empty,
        error.type = Empty,
        hitkeep_auth.reason = Empty,
        request.id = Empty,
        caller.name = Empty,
    );
    if !span.is_disabled() {
        let is_traced = state.services.sampling().traces(request.headers());
        state
            .services
            .sampling()
            .begin(&span, request.headers(), is_traced);
    }
    span
}

/// A request that was answered.
struct Ended<'r> {
    method: &'static str,
    route: &'static str,
    status: StatusCode,
    why: Option<&'r Why>,
    request_id: &'r str,
    caller: &'r str,
    duration: Duration,
}

impl Ended<'_> {
    fn trace(&self, span: &Span) {
        let status = self.status.as_u16();
        span.record("http.response.status_code", i64::from(status));
        span.record("request.id", self.request_id);
        if !self.caller.is_empty() {
            span.record("caller.name", self.caller);
        }
        if let Some(why) = self.why {
            span.record("hitkeep_auth.reason", why.reason);
        }
        if self.status.is_server_error() {
            span.record("error.type", status.to_string());
            span.record("otel.status_code", traces::ERROR);
        }
    }

    fn tell(&self) {
        let is_failure = self.status.is_client_error() || self.status.is_server_error();
        if !is_failure || [FORWARD_AUTH, READYZ].contains(&self.route) {
            return;
        }
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    http.request.method = self.method,
                    http.route = self.route,
                    http.status = self.status.as_u16(),
                    http.reason = self.why.map_or("", |why| why.reason),
                    request.id = self.request_id,
                    caller.name = self.caller,
                    duration_ms = u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX),
                    causes = self.why.and_then(|why| why.causes.as_deref()),
                    "{} {} failed with {}",
                    self.method,
                    self.route,
                    self.status,
                )
            };
        }
        match self.status {
            StatusCode::INTERNAL_SERVER_ERROR => line!(error),
            status if status.is_server_error() => line!(warn),
            // Callers' mistakes wake nobody.
            _ => line!(info),
        }
    }
}

/// The name of a request's method, of those that there are: a caller may invent some.
fn method(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] = [
        "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE",
    ];
    let known = KNOWN.into_iter().find(|known| *known == method.as_str());
    known.unwrap_or("_OTHER")
}

/// The route of a request, of those that there are.
fn route(request: &Request) -> &'static str {
    let path = request.uri().path();
    if is_forward_auth_and_more(path) {
        return FORWARD_AUTH;
    }
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
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            let mut response = answer::refusal(status, "server_error", "internal error");
            response.extensions_mut().insert(Why {
                reason: "INTERNAL",
                causes: Some(format!("a handler panicked: {}", panic_message(&*panic))),
            });
            response
        }
    }
}

/// The path is one of ours, the method is not. The router names those that are.
pub(super) async fn method_not_allowed() -> Response {
    let status = StatusCode::METHOD_NOT_ALLOWED;
    answer::invalid_request(status, "this path takes another method")
}

pub(super) fn not_found() -> Response {
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
