//! Replies: JSON as HitKeep's dashboard reads it, and errors as plain text, which it does
//! not read.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use chrono::SecondsFormat;
use http::{
    HeaderName, HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde::Serialize;
use tonic::Code;

use crate::{
    calls::credentials::PROXY_TOKEN,
    domain::{Timestamp, access::Owner, client::ApiClient, refusal::Refusal, token::Token},
    grpc::error::ApiError,
    http::answer::{CALLER_CHALLENGE, JSON, NO_STORE, RETRY_SECONDS, attach_reason},
};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// A browser must not take an error text for anything else.
const CONTENT_TYPE_OPTIONS: HeaderName = HeaderName::from_static("x-content-type-options");
const NO_SNIFF: HeaderValue = HeaderValue::from_static("nosniff");

#[derive(Debug)]
pub(super) enum Refused {
    /// The body is of another type.
    NotJson,
    Failed(ApiError),
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self::Failed(error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::NotJson => {
                let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
                text(status, "the content-type must be application/json")
            }
            Self::Failed(error) => failure(&error),
        }
    }
}

/// A client, with the fields of HitKeep's API.
#[derive(Debug, Serialize)]
struct ClientJson<'c> {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant_id: Option<String>,
    owner_type: &'static str,
    name: &'c str,
    description: &'c str,
    instance_role: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_at: Option<String>,
    created_at: String,
    updated_at: String,
    site_roles: Vec<SiteRoleJson>,
}

#[derive(Debug, Serialize)]
struct SiteRoleJson {
    site_id: String,
    role: &'static str,
}

/// A client with its new token.
#[derive(Serialize)]
struct IssuedJson<'c> {
    client: ClientJson<'c>,
    token: String,
}

impl<'c> From<&'c ApiClient> for ClientJson<'c> {
    fn from(client: &'c ApiClient) -> Self {
        let (user_id, tenant_id, owner_type) = match client.delegated.owner() {
            Owner::User(user) => (Some(user.to_string()), None, "personal"),
            Owner::Team(team) => (None, Some(team.to_string()), "team"),
        };
        let grants = client.delegated.grants().iter();
        Self {
            id: client.id.to_string(),
            user_id,
            tenant_id,
            owner_type,
            name: client.name.as_str(),
            description: client.description.as_str(),
            instance_role: client.delegated.instance_role().as_str(),
            expires_at: client.expiry.time().map(rfc3339),
            last_used_at: client.last_used.map(rfc3339),
            revoked_at: client.revoke_time.map(rfc3339),
            created_at: rfc3339(client.create_time),
            updated_at: rfc3339(client.update_time),
            site_roles: grants
                .map(|(site, role)| SiteRoleJson {
                    site_id: site.to_string(),
                    role: role.as_str(),
                })
                .collect(),
        }
    }
}

fn rfc3339(time: Timestamp) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

pub(super) fn clients(clients: &[ApiClient]) -> Response {
    let clients: Vec<_> = clients.iter().map(ClientJson::from).collect();
    json(StatusCode::OK, &clients)
}

pub(super) fn client(client: &ApiClient) -> Response {
    json(StatusCode::OK, &ClientJson::from(client))
}

/// A client with its new token.
pub(super) fn issued(status: StatusCode, client: &ApiClient, token: &Token) -> Response {
    let issued = IssuedJson {
        client: client.into(),
        token: token.reveal(),
    };
    json(status, &issued)
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let body = serde_json::to_vec(body).expect("it has no maps, and cannot fail");
    let mut response = with_status(status, body);
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// A response that caches must not store.
pub(super) fn with_status(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CACHE_CONTROL, NO_STORE);
    response
}

fn text(status: StatusCode, message: &str) -> Response {
    let mut response = with_status(status, format!("{message}\n"));
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response
        .headers_mut()
        .insert(CONTENT_TYPE_OPTIONS, NO_SNIFF);
    response
}

/// The response to a request that failed.
pub(super) fn failure(error: &ApiError) -> Response {
    let (code, _) = error.code_and_reason();
    let status = match code {
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::FailedPrecondition | Code::Aborted | Code::ResourceExhausted => StatusCode::CONFLICT,
        Code::Unavailable | Code::DeadlineExceeded => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let mut response = match error {
        // HitKeep's own text.
        ApiError::Refused(Refusal::OwnerNotManaged) => text(status, "Access denied"),
        ApiError::Refused(Refusal::ExpiryPast) => text(status, "expires_at must be in the future"),
        ApiError::Refused(Refusal::ExpiryTooEarly) => text(
            status,
            "expires_at must be after the time from which the client works",
        ),
        ApiError::Refused(refusal @ Refusal::TokenInName) => {
            text(status, &format!("name {refusal}"))
        }
        ApiError::Refused(refusal @ Refusal::TokenInDescription) => {
            text(status, &format!("description {refusal}"))
        }
        ApiError::Refused(refusal @ Refusal::TooManyGrants { .. }) => {
            text(status, &format!("site_roles {refusal}"))
        }
        ApiError::CallerUnknown => {
            let message = format!(
                "the caller's own token is missing or unknown: {PROXY_TOKEN} must be that of a \
                 service account"
            );
            text(status, &message)
        }
        other => text(status, &other.to_string()),
    };
    let headers = response.headers_mut();
    if matches!(
        error,
        ApiError::CallerUnknown | ApiError::CallerNotPermitted(_)
    ) {
        headers.insert(WWW_AUTHENTICATE, CALLER_CHALLENGE);
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, RETRY_SECONDS);
    }
    attach_reason(&mut response, error);
    response
}

/// The response after a panic.
pub(in crate::http) fn internal_error() -> Response {
    text(StatusCode::INTERNAL_SERVER_ERROR, "internal error")
}

/// The path exists, but not with this method. The router lists the allowed ones.
pub(super) async fn method_not_allowed() -> Response {
    let status = StatusCode::METHOD_NOT_ALLOWED;
    text(status, "this path takes another method")
}
