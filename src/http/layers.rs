//! The layers around the routes, and the responses for unknown routes.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use futures_util::FutureExt;
use http::{HeaderValue, Method, StatusCode, Version, header::CONNECTION};
use tokio::time::Instant;
use tracing::{Instrument, Span, field::Empty, info_span};

use super::{
    FORWARD_AUTH, HttpState, INTROSPECT, LIVEZ, METRICS, READYZ,
    answer::{self, FailureReason},
    extends_forward_auth, rest,
};
use crate::{
    grpc::context::{CallerSlot, REQUEST_ID, RequestId},
    telemetry::{panic_message, traces},
};

/// The label value of all unknown paths.
const NO_ROUTE: &str = "none";
/// Paths that are polled by machines.
const PROBES: [&str; 3] = [LIVEZ, READYZ, METRICS];

/// Gives the request an id and its spans, counts it, and logs a failure. Forward-auth and
/// probe responses are not logged here: a single mistake or outage would fill the log, so
/// `grpc::sidecar` logs them with a rate limit.
pub(super) async fn trace(
    State(state): State<HttpState>,
    mut request: Request,
    next: Next,
) -> Response {
    let begun = Instant::now();
    let RequestId(request_id) = RequestId::of(request.headers(), &state.services);
    let route = route(&request);
    let method = method(request.method());
    let version = request.version();
    let span = info_span!(
        "request",
        http.route = route,
        request.id = &*request_id,
        caller.name = Empty,
        actor.user_id = Empty,
    );
    let traced = request_span(&state, &request, method, route);
    let caller = CallerSlot::default();
    request.extensions_mut().insert(caller.clone());
    request
        .extensions_mut()
        .insert(RequestId(Arc::clone(&request_id)));
    let answered = next.run(request).instrument(span.clone());
    let mut response = answered.instrument(traced.clone()).await;
    let completed = CompletedRequest {
        method,
        route,
        status: response.status(),
        failure: response.extensions().get(),
        request_id: &request_id,
        caller: caller.name(),
        duration: begun.elapsed(),
    };
    completed.trace(&traced);
    traced.in_scope(|| span.in_scope(|| completed.log()));
    let status = response.status().as_u16();
    state
        .services
        .metrics()
        .request(method, route, status, completed.duration);
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    close_on_shutdown(&state, version, &mut response);
    response
}

/// Asks the peer to open another connection before this one is closed.
pub(super) fn close_on_shutdown(state: &HttpState, version: Version, response: &mut Response) {
    if *state.shutting_down.borrow() && version < Version::HTTP_2 {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
}

/// The span of a request, by OpenTelemetry's conventions for HTTP. Probes have none: they
/// are frequent, and their spans would not be useful.
fn request_span(
    state: &HttpState,
    request: &Request,
    method: &'static str,
    route: &'static str,
) -> Span {
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

/// A request with its response.
struct CompletedRequest<'r> {
    method: &'static str,
    route: &'static str,
    status: StatusCode,
    failure: Option<&'r FailureReason>,
    request_id: &'r str,
    caller: &'r str,
    duration: Duration,
}

impl CompletedRequest<'_> {
    fn trace(&self, span: &Span) {
        let status = self.status.as_u16();
        span.record("http.response.status_code", i64::from(status));
        span.record("request.id", self.request_id);
        if !self.caller.is_empty() {
            span.record("caller.name", self.caller);
        }
        if let Some(failure) = self.failure {
            span.record("hitkeep_auth.reason", failure.reason);
        }
        if self.status.is_server_error() {
            span.record("error.type", status.to_string());
            span.record("otel.status_code", traces::ERROR);
        }
    }

    fn log(&self) {
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
                    http.reason = self.failure.map_or("", |failure| failure.reason),
                    request.id = self.request_id,
                    caller.name = self.caller,
                    duration_ms = u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX),
                    causes = self.failure.and_then(|failure| failure.causes.as_deref()),
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
            // The errors of callers are below the level of warnings.
            _ => line!(info),
        }
    }
}

/// The name of a standard method. Others have one common name, since a caller may invent
/// any.
fn method(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] = [
        "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE",
    ];
    let known = KNOWN.into_iter().find(|known| *known == method.as_str());
    known.unwrap_or("_OTHER")
}

/// The route of a request, or the label for unknown paths.
fn route(request: &Request) -> &'static str {
    let Some(matched) = request.extensions().get::<MatchedPath>() else {
        let extends_forward_auth = extends_forward_auth(request.uri().path());
        return if extends_forward_auth {
            FORWARD_AUTH
        } else {
            NO_ROUTE
        };
    };
    [INTROSPECT, FORWARD_AUTH, LIVEZ, READYZ, METRICS]
        .into_iter()
        .chain(rest::ROUTES)
        .find(|route| *route == matched.as_str())
        .unwrap_or(NO_ROUTE)
}

/// Turns a panic into a 500.
pub(super) async fn catch_panic(request: Request, next: Next) -> Response {
    let is_rest = rest::ROUTES.contains(&route(&request));
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(panic) => {
            let mut response = if is_rest {
                rest::internal_error()
            } else {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                answer::refusal(status, "server_error", "internal error")
            };
            response.extensions_mut().insert(FailureReason {
                reason: "INTERNAL",
                causes: Some(format!("a handler panicked: {}", panic_message(&*panic))),
            });
            response
        }
    }
}

/// The path exists, but not with this method. The router lists the allowed ones.
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
