//! Answers: JSON with `error` and `error_description`, as OAuth writes them, and
//! what our own errors are over HTTP.

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

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
/// After how many seconds to try again what could not be answered.
const TRY_AGAIN: HeaderValue = HeaderValue::from_static("1");

/// An answer in JSON, that nobody in between keeps.
pub(super) fn json(status: StatusCode, body: &Value) -> Response {
    let headers = [(CONTENT_TYPE, JSON), (CACHE_CONTROL, NO_STORE)];
    (status, headers, body.to_string()).into_response()
}

/// A refusal: a word for programs, and why for people.
pub(super) fn refusal(status: StatusCode, error: &str, description: &str) -> Response {
    let body = json!({ "error": error, "error_description": description });
    json(status, &body)
}

/// A request that is not as it should be.
pub(super) fn invalid_request(status: StatusCode, description: &str) -> Response {
    refusal(status, "invalid_request", description)
}

/// Why a request failed, for its line in the log.
#[derive(Clone, Debug)]
pub(super) struct Why {
    /// In a word.
    pub(super) reason: &'static str,
    /// What is behind it, if there is more to say.
    pub(super) causes: Option<String>,
}

/// Why a request could not be answered, where that is not the asker's doing.
pub(super) fn failure(error: &ApiError) -> Response {
    let (code, _) = error.code_and_reason();
    let cannot_tell = matches!(code, Code::Unavailable | Code::DeadlineExceeded);
    let mut response = if cannot_tell {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let mut response = refusal(status, "temporarily_unavailable", &error.to_string());
        response.headers_mut().insert(RETRY_AFTER, TRY_AGAIN);
        response
    } else {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        refusal(status, "server_error", "internal error")
    };
    explain(&mut response, error);
    response
}

/// Notes the error that a response is about.
pub(super) fn explain(response: &mut Response, error: &ApiError) {
    response.extensions_mut().insert(Why {
        reason: error.reason(),
        causes: error.causes(),
    });
}

/// What a proxy is told.
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
