//! `POST /oauth2/introspect`: token introspection by RFC 7662, with additional members.
//!
//! If a token cannot be judged, that is an error, never `"active": false`. Any text that is
//! not one of our tokens is inactive, never an error.

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
        source::Source,
    },
    grpc::{
        context::{CallerSlot, Proof},
        convert::introspection::{NO_ADDRESS, read_source},
        error::ApiError,
        introspection::{Judgement, PresentedToken, checks, wait_limit},
    },
};

/// The size limit of a body: a token and a hint take a hundredth of it.
const MAX_BODY: usize = 8 * 1024;
const FORM: &str = "application/x-www-form-urlencoded";
/// The parameter with the token.
const TOKEN: &str = "token";
/// The parameter for the type of the token, which is ignored: there is only one.
const TOKEN_TYPE_HINT: &str = "token_type_hint";

/// The parameter with the address of the end client, which RFC 7662 leaves to extensions. A
/// header with one would be about the way of this request, and not of the end client's.
const SOURCE_IP: &str = "source_ip";

/// The challenges for an unknown caller, which may use either scheme.
const BASIC: HeaderValue = HeaderValue::from_static("Basic realm=\"hitkeep-auth\"");
const BEARER: HeaderValue = HeaderValue::from_static("Bearer realm=\"hitkeep-auth\"");
const INVALID_BEARER: HeaderValue =
    HeaderValue::from_static("Bearer realm=\"hitkeep-auth\", error=\"invalid_token\"");
const INSUFFICIENT: HeaderValue = HeaderValue::from_static(
    "Bearer realm=\"hitkeep-auth\", error=\"insufficient_scope\", scope=\"introspect\"",
);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Invalid {
    /// The query would end up in logs (RFC 7662, section 4).
    #[error("{0} goes into the body, and not into the query")]
    InQuery(&'static str),
    /// A request must authenticate in one way only (RFC 6749, section 2.3).
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
    #[error("{SOURCE_IP} {NO_ADDRESS}")]
    NoAddress,
}

enum Refused {
    Invalid(Invalid),
    /// Its caller is unknown or lacks the permission.
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
            | Self::TokenMissing
            | Self::NoAddress => StatusCode::BAD_REQUEST,
            Self::NoForm => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
        }
    }
}

pub(super) async fn introspect(State(state): State<HttpState>, request: Request) -> Response {
    match handle(&state, request).await {
        Ok(answer) => answer::json(StatusCode::OK, &answer),
        Err(Refused::Invalid(invalid)) => {
            answer::invalid_request(invalid.status(), &invalid.to_string())
        }
        Err(Refused::Caller(error, sent)) => refused(&error, &sent),
        Err(Refused::Failed(error)) => answer::failure(&error),
    }
}

/// A form, before or after its body was read.
enum Form {
    Unread(Body),
    Read(Bytes),
}

async fn handle(state: &HttpState, request: Request) -> Result<Value, Refused> {
    let (head, body) = request.into_parts();
    let (sent, form) = if head.headers.contains_key(AUTHORIZATION) {
        let sent = credentials::in_authorization(&head.headers);
        (sent, Form::Unread(body))
    } else {
        // The body is read before a permit is taken, so that an unauthenticated client with
        // a slow body cannot hold one. Such a client does not learn what is wrong with its
        // request either.
        let form = match require_form(&head.headers) {
            Ok(()) => read(state, body).await.unwrap_or_default(),
            Err(_) => Bytes::new(),
        };
        (credentials::in_form(&form), Form::Read(form))
    };
    let _permit = state.admit().map_err(Refused::Failed)?;
    let wait_until = wait_limit(state.services.request_timeout());
    let permission = Some(CallerPermission::Introspect);
    let proof = sent.token.as_deref().and_then(Proof::of_token);
    match state
        .services
        .authenticate_caller(proof, permission, wait_until)
        .await
    {
        Ok(caller) => {
            CallerSlot::record(&head.extensions, &caller);
        }
        Err(error) => return Err(Refused::Caller(error, sent)),
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
    let Question { token, source } = question(&form)?;
    let presented = PresentedToken::read(&*token);
    let answer = |judged: Judgement<'_>, revision| introspection_json(&judged, revision);
    let judged =
        state
            .services
            .judge_with_wait(&presented, source, checks(None), wait_until, answer);
    judged.await.map_err(Refused::Failed)
}

/// The response to a caller that is unknown or lacks the permission (RFC 6749, section 5.2,
/// and RFC 6750, section 3.1).
fn refused(error: &ApiError, sent: &SentToken) -> Response {
    let mut response = match error {
        ApiError::CallerUnknown => {
            let description = "authorization must have a service account's token, as Bearer or \
                               as the password of Basic; or a form may have it as its \
                               client_secret";
            let (code, bearer) = if sent.token.is_some() && !sent.as_client {
                ("invalid_token", INVALID_BEARER)
            } else {
                ("invalid_client", BEARER)
            };
            let mut response = answer::refusal(StatusCode::UNAUTHORIZED, code, description);
            response.headers_mut().append(WWW_AUTHENTICATE, bearer);
            response.headers_mut().append(WWW_AUTHENTICATE, BASIC);
            response
        }
        ApiError::CallerNotPermitted(_) => {
            let (status, code) = (StatusCode::FORBIDDEN, "insufficient_scope");
            let mut response = answer::refusal(status, code, &error.to_string());
            response
                .headers_mut()
                .insert(WWW_AUTHENTICATE, INSUFFICIENT);
            response
        }
        other => return answer::failure(other),
    };
    answer::attach_reason(&mut response, error);
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

/// Reads the body, within a size limit and a timeout.
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

/// What a form asks.
struct Question<'f> {
    token: Cow<'f, str>,
    source: Source<'static>,
}

/// The token of a form, which must occur once, and the address. A parameter without a value
/// counts as absent (RFC 6749, section 3.2), and unknown ones are ignored.
fn question(form: &[u8]) -> Result<Question<'_>, Invalid> {
    let (mut token, mut hint, mut source) = (None, None, None);
    for (name, value) in form_urlencoded::parse(form) {
        let (name, slot) = match &*name {
            TOKEN => (TOKEN, &mut token),
            TOKEN_TYPE_HINT => (TOKEN_TYPE_HINT, &mut hint),
            SOURCE_IP => (SOURCE_IP, &mut source),
            _ => continue,
        };
        if slot.replace(value).is_some() {
            return Err(Invalid::MoreThanOnce(name));
        }
    }
    let token = token.filter(|token| !token.is_empty());
    Ok(Question {
        token: token.ok_or(Invalid::TokenMissing)?,
        source: read_source(&source.unwrap_or_default()).ok_or(Invalid::NoAddress)?,
    })
}

/// The introspection response. For an inactive token it holds nothing else.
fn introspection_json(judged: &Judgement<'_>, revision: Revision) -> Value {
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
    let mut introspection = json!({
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
        introspection["scope"] = held.join(" ").into();
    }
    if let Some(end) = ends.time() {
        introspection["exp"] = end.timestamp().into();
    }
    let grants = access.grants.iter();
    let grant = |(site, role): (&SiteId, &SiteRole)| json!({ "site_id": site.to_string(), "role": role.as_str() });
    introspection["client_name"] = (*client.name).into();
    introspection["instance_role"] = access.instance_role.as_str().into();
    introspection["site_grants"] = grants.map(grant).collect();
    introspection["revision"] = revision.0.into();
    introspection["max_cache_age"] = cache_age.num_seconds().into();
    introspection
}
