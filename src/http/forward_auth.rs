//! `/forward-auth`: whether a request may pass that a proxy asks about, for nginx's
//! `auth_request`, Caddy's `forward_auth` and Traefik's `ForwardAuth`. What the route
//! needs is in the query, which is the proxy's; headers are the end client's, but for
//! those that the proxy sets itself.

use std::borrow::Cow;

use axum::{
    extract::{Request, State},
    response::Response,
};
use http::{HeaderMap, HeaderValue, StatusCode, header::WWW_AUTHENTICATE};
use tokio::time::Instant;

use super::{Shared, answer, callers};
use crate::{
    domain::{
        caller::CallerPermission,
        credential::Credentials,
        route::{Mistake, Route},
    },
    grpc::{
        context::{Proof, Proven},
        error::ApiError,
        introspection::give_up_after,
        sidecar::Asked,
    },
};

/// The headers in which proxies tell the path of the request: Caddy and Traefik, and
/// by convention nginx.
const PATH_HEADERS: [&str; 2] = ["x-forwarded-uri", "x-original-uri"];
/// A scheme of our own, because the end client may get to see it, and a challenge
/// for a bearer would tell it that its token is at fault. A proxy that can tell it
/// apart makes a 500 of it, which it is.
const CALLER_CHALLENGE: HeaderValue = HeaderValue::from_static("X-HitKeep-Caller");

/// Answers a request.
pub(super) async fn forward_auth(State(shared): State<Shared>, request: Request) -> Response {
    let _place = match shared.admit() {
        Ok(place) => place,
        Err(error) => return unjudged(&shared, &error),
    };
    let begun = Instant::now();
    let (head, _) = request.into_parts();
    let give_up = give_up_after(shared.request_timeout);
    let shown = callers::of_proxy(&head.headers);
    let may = Some(CallerPermission::Introspect);
    match shared
        .callers
        .prove(shown.as_deref().and_then(Proof::of_token), may, give_up)
        .await
    {
        Ok(caller) => {
            Proven::note(&head.extensions, &caller);
        }
        Err(error) => return refused(&shared, &error),
    }
    let query = head.uri.query().unwrap_or_default();
    let settings: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
    let told = told_path(&head.headers);
    let mut credentials = Credentials::default();
    for (name, value) in &head.headers {
        credentials.see(name.as_str().as_bytes(), value.as_bytes());
    }
    let asked = Asked {
        route: route(&settings, &told),
        target: match &told {
            Told::Once(path) => Some(path),
            Told::Never | Told::Differently => None,
        },
        credential: credentials.credential(),
    };
    let remaining = shared.request_timeout.saturating_sub(begun.elapsed());
    let verdict = shared.services.verdict(asked, remaining).await;
    answer::verdict(verdict.answer())
}

/// How the proxy tells the request's path.
#[derive(Debug, PartialEq, Eq)]
enum Told<'h> {
    Never,
    Once(Cow<'h, str>),
    /// In two ways, of which the end client may have added one.
    Differently,
}

fn told_path(headers: &HeaderMap) -> Told<'_> {
    let all = PATH_HEADERS.into_iter().map(|name| headers.get_all(name));
    let mut all = all.flatten();
    let Some(first) = all.next() else {
        return Told::Never;
    };
    if all.all(|other| other == first) {
        // What is not text is not in its normal form either.
        Told::Once(String::from_utf8_lossy(first.as_bytes()))
    } else {
        Told::Differently
    }
}

/// What the route needs: a path only if it reads one.
fn route<'s>(
    settings: &'s [(Cow<'_, str>, Cow<'_, str>)],
    told: &Told<'_>,
) -> Result<Route<'s>, Mistake> {
    let settings = settings.iter().map(|(name, value)| (&**name, &**value));
    let route = Route::read(settings)?;
    if route.reads_path() && *told == Told::Differently {
        return Err(Mistake::PathToldTwice);
    }
    Ok(route)
}

/// What is said to a proxy where nothing can be told of any token.
fn unjudged(shared: &Shared, error: &ApiError) -> Response {
    shared.services.note_unjudged(error);
    answer::failure(error)
}

/// What is said to a proxy that is not known, or may not ask. It is the operator who
/// has to do something about it, so it is in the log.
fn refused(shared: &Shared, error: &ApiError) -> Response {
    let (status, word) = match error {
        ApiError::CallerUnknown => (StatusCode::UNAUTHORIZED, "caller_unknown"),
        ApiError::CallerNotPermitted(_) => (StatusCode::FORBIDDEN, "caller_not_permitted"),
        other => return unjudged(shared, other),
    };
    let description = match error {
        ApiError::CallerUnknown => format!(
            "the proxy's own token is missing or unknown: {} must be that of a service account",
            callers::OF_PROXY,
        ),
        other => other.to_string(),
    };
    shared.services.note_refused(error, &description);
    let mut response = answer::refusal(status, word, &description);
    response
        .headers_mut()
        .insert(WWW_AUTHENTICATE, CALLER_CHALLENGE);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_the_one_that_all_headers_tell() {
        let told = |headers: &[(&'static str, &[u8])]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, HeaderValue::from_bytes(value).unwrap());
            }
            match told_path(&map) {
                Told::Never => "never".to_owned(),
                Told::Once(path) => path.into_owned(),
                Told::Differently => "differently".to_owned(),
            }
        };
        let [caddy, nginx] = PATH_HEADERS;
        assert_eq!(told(&[]), "never");
        assert_eq!(told(&[(caddy, b"/a?b")]), "/a?b");
        assert_eq!(told(&[(nginx, b"/a?b")]), "/a?b");
        assert_eq!(told(&[(nginx, b"/a"), (caddy, b"/a")]), "/a");
        assert_eq!(told(&[(nginx, b"/a"), (caddy, b"/b")]), "differently");
        assert_eq!(told(&[(caddy, b"/a"), (caddy, b"/b")]), "differently");
        assert_eq!(told(&[(nginx, b"/a"), (caddy, b"")]), "differently");
        assert_eq!(told(&[(nginx, b"/\xff")]), "/\u{fffd}");
    }
}
