//! `POST /oauth2/introspect`: is this token good, and for what? As RFC 7662 has it,
//! with members of our own beside those that it names.
//!
//! What cannot be told is an error, never `"active": false`, and any text that is no
//! token of ours is inactive, never an error.

use std::{borrow::Cow, error::Error};

use axum::{
    body::Body,
    extract::{Request, State},
    response::Response,
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, StatusCode, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE},
};
use http_body_util::LengthLimitError;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{HttpState, answer};
use crate::{
    calls::credentials::{self, CLIENT_SECRET, SentToken},
    domain::{
        Revision,
        caller::CallerPermission,
        id::SiteId,
        role::{InstancePermission, SiteRole},
    },
    grpc::{
        context::{CallerSlot, Proof},
        error::ApiError,
        introspection::{Judgement, PresentedToken, wait_limit},
    },
};

/// The largest body that is read: a token and a hint take a hundredth of it.
const MAX_BODY: usize = 8 * 1024;
const FORM: &str = "application/x-www-form-urlencoded";
/// The parameter that has the token.
const TOKEN: &str = "token";
/// The parameter that says of what kind it may be. There is one kind.
const TOKEN_TYPE_HINT: &str = "token_type_hint";

/// What a caller that is not known is asked for: either of both.
const BASIC: HeaderValue = HeaderValue::from_static("Basic realm=\"hitkeep-auth\"");
const BEARER: HeaderValue = HeaderValue::from_static("Bearer realm=\"hitkeep-auth\"");
const INVALID_BEARER: HeaderValue =
    HeaderValue::from_static("Bearer realm=\"hitkeep-auth\", error=\"invalid_token\"");
const INSUFFICIENT: HeaderValue = HeaderValue::from_static(
    "Bearer realm=\"hitkeep-auth\", error=\"insufficient_scope\", scope=\"introspect\"",
);

/// Why a request is none of introspection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Invalid {
    /// Where it would end up in logs (RFC 7662, section 4).
    #[error("{0} goes into the body, and not into the query")]
    InQuery(&'static str),
    /// A request may authenticate in one way only (RFC 6749, section 2.3).
    #[error("authorization and {CLIENT_SECRET} are both there: send one of them")]
    TwoWays,
    #[error("the content-type must be {FORM}")]
    NoForm,
    #[error("the body is larger than 8 KiB")]
    TooLarge,
    #[error("the body took too long")]
    TooSlow,
    #[error("the body broke off")]
    BrokenOff,
    #[error("{0} is there more than once")]
    MoreThanOnce(&'static str),
    #[error("{TOKEN} is missing")]
    TokenMissing,
}

/// Why a request is not answered.
enum Refused {
    Invalid(Invalid),
    /// Its caller is not known, or may not ask.
    Caller(ApiError, SentToken),
    Failed(ApiError),
}

impl From<Invalid> for Refused {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}

impl Invalid {
    const fn status(self) -> StatusCode {
        match self {
            Self::InQuery(_)
            | Self::TwoWays
            | Self::BrokenOff
            | Self::MoreThanOnce(_)
            | Self::TokenMissing => StatusCode::BAD_REQUEST,
            Self::NoForm => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
        }
    }
}

/// Answers a request.
pub(super) async fn introspect(State(state): State<HttpState>, request: Request) -> Response {
    match answered(&state, request).await {
        Ok(said) => answer::json(StatusCode::OK, &said),
        Err(Refused::Invalid(invalid)) => {
            answer::invalid_request(invalid.status(), &invalid.to_string())
        }
        Err(Refused::Caller(error, shown)) => refused(&error, &shown),
        Err(Refused::Failed(error)) => answer::failure(&error),
    }
}

/// A body, before or after it was read.
enum Form {
    Unread(Body),
    Read(Bytes),
}

async fn answered(state: &HttpState, request: Request) -> Result<Value, Refused> {
    let (head, body) = request.into_parts();
    let (shown, form) = if head.headers.contains_key(AUTHORIZATION) {
        let shown = credentials::in_authorization(&head.headers);
        (shown, Form::Unread(body))
    } else {
        // Before there is a place for it: a stranger whose body is slow must not keep one
        // from those who are known. Nor is it told what is wrong with its request.
        let form = match require_form(&head.headers) {
            Ok(()) => read(state, body).await.unwrap_or_default(),
            Err(_) => Bytes::new(),
        };
        (credentials::in_form(&form), Form::Read(form))
    };
    let _place = state.admit().map_err(Refused::Failed)?;
    let wait_until = wait_limit(state.services.request_timeout());
    let may = Some(CallerPermission::Introspect);
    let proof = shown.token.as_deref().and_then(Proof::of_token);
    match state
        .services
        .authenticate_caller(proof, may, wait_until)
        .await
    {
        Ok(caller) => {
            CallerSlot::record(&head.extensions, &caller);
        }
        Err(error) => return Err(Refused::Caller(error, shown)),
    }
    refuse_query(&head.uri)?;
    require_form(&head.headers)?;
    let form = match form {
        Form::Read(form) => form,
        Form::Unread(body) => {
            let form = read(state, body).await?;
            if credentials::has_secret(&form) {
                return Err(Invalid::TwoWays.into());
            }
            form
        }
    };
    let presented = PresentedToken::read(&token(&form)?);
    let said = |judged: Judgement<'_>, revision| said(&judged, revision);
    let judged = state
        .services
        .judge_with_wait(&presented, None, wait_until, said);
    judged.await.map_err(Refused::Failed)
}

/// What is said to a caller that is not known, or may not ask (RFC 6749, section
/// 5.2, and RFC 6750, section 3.1).
fn refused(error: &ApiError, shown: &SentToken) -> Response {
    let mut response = match error {
        ApiError::CallerUnknown => {
            let description = "authorization must have a service account's token, as Bearer or \
                               as the password of Basic; or a form may have it as its \
                               client_secret";
            let (word, bearer) = if shown.token.is_some() && !shown.as_client {
                ("invalid_token", INVALID_BEARER)
            } else {
                ("invalid_client", BEARER)
            };
            let mut response = answer::refusal(StatusCode::UNAUTHORIZED, word, description);
            response.headers_mut().append(WWW_AUTHENTICATE, bearer);
            response.headers_mut().append(WWW_AUTHENTICATE, BASIC);
            response
        }
        ApiError::CallerNotPermitted(_) => {
            let (status, word) = (StatusCode::FORBIDDEN, "insufficient_scope");
            let mut response = answer::refusal(status, word, &error.to_string());
            response
                .headers_mut()
                .insert(WWW_AUTHENTICATE, INSUFFICIENT);
            response
        }
        other => return answer::failure(other),
    };
    answer::explain(&mut response, error);
    response
}

fn refuse_query(uri: &Uri) -> Result<(), Invalid> {
    let query = uri.query().unwrap_or_default();
    for (name, _) in form_urlencoded::parse(query.as_bytes()) {
        for secret in [TOKEN, CLIENT_SECRET] {
            if name == secret {
                return Err(Invalid::InQuery(secret));
            }
        }
    }
    Ok(())
}

fn require_form(headers: &HeaderMap) -> Result<(), Invalid> {
    let kind = headers.get(CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()?.split(';').next());
    match kind {
        Some(kind) if kind.trim().eq_ignore_ascii_case(FORM) => Ok(()),
        _ => Err(Invalid::NoForm),
    }
}

/// The body, which may neither be too large nor take too long to come.
async fn read(state: &HttpState, body: Body) -> Result<Bytes, Invalid> {
    let read = axum::body::to_bytes(body, MAX_BODY);
    match timeout(state.services.request_timeout(), read).await {
        Ok(Ok(read)) => Ok(read),
        Ok(Err(error)) if is_too_large(&error) => Err(Invalid::TooLarge),
        Ok(Err(_)) => Err(Invalid::BrokenOff),
        Err(_) => Err(Invalid::TooSlow),
    }
}

fn is_too_large(error: &axum::Error) -> bool {
    let source = error.source();
    source.is_some_and(<dyn Error>::is::<LengthLimitError>)
}

/// The token of a form, which must be there once. A parameter without a value is
/// none (RFC 6749, section 3.2), and others are ignored.
fn token(form: &[u8]) -> Result<Cow<'_, str>, Invalid> {
    let (mut token, mut hint) = (None, None);
    for (name, value) in form_urlencoded::parse(form) {
        let (name, place) = match &*name {
            TOKEN => (TOKEN, &mut token),
            TOKEN_TYPE_HINT => (TOKEN_TYPE_HINT, &mut hint),
            _ => continue,
        };
        if place.replace(value).is_some() {
            return Err(Invalid::MoreThanOnce(name));
        }
    }
    let token = token.filter(|token| !token.is_empty());
    token.ok_or(Invalid::TokenMissing)
}

/// What is said of a token. Of one that does not work, nothing but that.
fn said(judged: &Judgement<'_>, revision: Revision) -> Value {
    let Judgement::Active {
        client,
        ends,
        cache_age,
        ..
    } = judged
    else {
        return json!({ "active": false });
    };
    let access = &client.access;
    let mut said = json!({
        "active": true,
        "client_id": client.client.to_string(),
        "sub": client.owner.to_string(),
        "token_type": "Bearer",
    });
    let permissions = InstancePermission::ALL.iter();
    let held: Vec<_> = permissions
        .filter(|permission| access.instance_role.allows(**permission))
        .map(|permission| permission.as_str())
        .collect();
    if !held.is_empty() {
        // A scope cannot name a site; site_grants does.
        said["scope"] = held.join(" ").into();
    }
    if let Some(end) = ends.time() {
        said["exp"] = end.timestamp().into();
    }
    let grants = access.grants.iter();
    let grant = |(site, role): (&SiteId, &SiteRole)| json!({ "site_id": site.to_string(), "role": role.as_str() });
    said["client_name"] = (*client.name).into();
    said["instance_role"] = access.instance_role.as_str().into();
    said["site_grants"] = grants.map(grant).collect();
    said["revision"] = revision.0.into();
    said["max_cache_age"] = cache_age.num_seconds().into();
    said
}
