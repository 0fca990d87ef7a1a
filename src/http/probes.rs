//! The endpoints for probes and Prometheus, which need no credentials.

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{
    HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};

use super::HttpState;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// The text format of Prometheus.
const PROMETHEUS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Whether the process is alive. It must not depend on Postgres, since a failing liveness
/// probe restarts the process.
pub(super) async fn livez() -> Response {
    text(StatusCode::OK, TEXT, "ok\n".to_owned())
}

/// Whether to send requests here: the same as the health service reports for introspection.
pub(super) async fn readyz(State(state): State<HttpState>) -> Response {
    let problem = if *state.shutting_down.borrow() {
        "the server is shutting down".to_owned()
    } else {
        match state.services.index().require_fresh() {
            Ok(()) => return text(StatusCode::OK, TEXT, "ok\n".to_owned()),
            Err(stale) => stale.to_string(),
        }
    };
    text(
        StatusCode::SERVICE_UNAVAILABLE,
        TEXT,
        format!("{problem}\n"),
    )
}

pub(super) async fn metrics(State(state): State<HttpState>) -> Response {
    match state.services.metrics().page() {
        Ok(page) => text(StatusCode::OK, PROMETHEUS, page),
        Err(error) => {
            tracing::error!(%error, "the metrics could not be rendered");
            text(
                StatusCode::INTERNAL_SERVER_ERROR,
                TEXT,
                format!("{error}\n"),
            )
        }
    }
}

fn text(status: StatusCode, kind: HeaderValue, body: String) -> Response {
    let headers = [(CONTENT_TYPE, kind), (CACHE_CONTROL, NO_STORE)];
    (status, headers, body).into_response()
}
