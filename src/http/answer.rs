//! Responses: JSON with `error` and `error_description`, as in OAuth, and the HTTP form of
//! our own errors.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{
    HeaderName, HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
};
use serde_json::{Value, json};
use tonic::Code;

use crate::{grpc::error::ApiError, proxy_auth::verdict::HttpAnswer};

pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub(super) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
/// When to retry a request that failed temporarily, in seconds.
pub(super) const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("1");
/// The challenge for a caller's own token. A scheme of our own, because the end client may
/// see it, and a Bearer challenge would say that the end client's token is at fault. A
/// caller that can tell the two apart turns it into a 500, which it is.
pub(super) const CALLER_CHALLENGE: HeaderValue = HeaderValue::from_static("X-HitKeep-Caller");

/// A JSON response that caches must not store.
pub(super) fn json(status: StatusCode, body: &Value) -> Response {
    let headers = [(CONTENT_TYPE, JSON), (CACHE_CONTROL, NO_STORE)];
    (status, headers, body.to_string()).into_response()
}

pub(super) fn refusal(status: StatusCode, error: &str, description: &str) -> Response {
    let body = json!({ "error": error, "error_description": description });
    json(status, &body)
}

pub(super) fn invalid_request(status: StatusCode, description: &str) -> Response {
    refusal(status, "invalid_request", description)
}

/// Why a request failed, for its log line.
#[derive(Clone, Debug)]
pub(super) struct FailureReason {
    /// The reason's name.
    pub(super) reason: &'static str,
    /// The causes, unless the reason says everything.
    pub(super) causes: Option<String>,
}

/// A failure that is not the caller's fault.
pub(super) fn failure(error: &ApiError) -> Response {
    let (code, _) = error.code_and_reason();
    let is_temporary = matches!(code, Code::Unavailable | Code::DeadlineExceeded);
    let mut response = if is_temporary {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let mut response = refusal(status, "temporarily_unavailable", &error.to_string());
        response.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS);
        response
    } else {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        refusal(status, "server_error", "internal error")
    };
    attach_reason(&mut response, error);
    response
}

/// Attaches the error to its response, for the log.
pub(super) fn attach_reason(response: &mut Response, error: &ApiError) {
    response.extensions_mut().insert(FailureReason {
        reason: error.reason(),
        causes: error.causes(),
    });
}

/// The response to a proxy.
pub(super) fn verdict(answer: HttpAnswer) -> Response {
    let HttpAnswer {
        status,
        headers,
        body,
    } = answer;
    let mut response = Response::new(match body {
        std::borrow::Cow::Borrowed(body) => Body::from(body),
        std::borrow::Cow::Owned(body) => Body::from(body),
    });
    *response.status_mut() = StatusCode::from_u16(status).expect("it is one of HTTP's");
    for (name, value) in headers {
        let value = HeaderValue::from_str(&value).expect("it is made of ids and names of ours");
        let name = HeaderName::from_static(name);
        response.headers_mut().insert(name, value);
    }
    response
}
