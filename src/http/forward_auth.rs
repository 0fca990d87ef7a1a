//! `/forward-auth`: authorizes requests for nginx's `auth_request`, Caddy's `forward_auth`
//! and Traefik's `ForwardAuth`. The proxy sets the query, which holds the route's settings.
//! Headers are the end client's, except for those that the proxy sets itself.
//!
//! Envoy over HTTP appends the original target, with its query, to a prefix. The query is
//! then the client's, and the settings come before the path:
//! `/forward-auth;permission=site.view;site_id=…/api/sites/…`. A target begins with a
//! slash, so everything before the second slash is the proxy's.

use std::borrow::Cow;

use axum::{
    extract::{Request, State},
    response::Response,
};
use http::{HeaderMap, HeaderValue, StatusCode, header::WWW_AUTHENTICATE, request::Parts};
use percent_encoding::percent_decode_str;
use tokio::time::Instant;

use super::{FORWARD_AUTH, HttpState, answer, extends_forward_auth, layers};
use crate::{
    calls::credentials,
    domain::caller::CallerPermission,
    grpc::{
        context::{CallerSlot, Proof},
        error::ApiError,
        introspection::wait_limit,
    },
    proxy_auth::{
        credential::Credentials,
        query::AuthorizationQuery,
        route::{PreflightHeaders, Route, RouteError, RouteSettings, SETTINGS, origin_form},
        source::FORWARDED_FOR,
    },
};

/// The headers with the request's path: of Caddy and Traefik, and by convention of nginx.
const PATH_HEADERS: [&str; 2] = ["x-forwarded-uri", "x-original-uri"];
/// ingress-nginx's header, with the scheme and the host before the path.
const URL_HEADER: &str = "x-original-url";
/// Headers in which other programs send or expect the path. They are not trusted, but if
/// one of them names another path, it is ambiguous which one the proxy meant.
const OTHER_PATH_HEADERS: [&str; 7] = [
    "x-auth-request-redirect",
    "x-envoy-original-path",
    "x-forwarded-path",
    "x-forwarded-url",
    "x-original-path",
    "x-replaced-path",
    "x-rewrite-url",
];

/// Handles a request with the settings in its query.
pub(super) async fn forward_auth(State(state): State<HttpState>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    let query = head.uri.query().unwrap_or_default();
    let settings: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
    let pairs = settings.iter().map(|(name, value)| (&**name, &**value));
    // The method is that of the check, so it cannot identify a preflight.
    let settings = RouteSettings::read_without_method(pairs);
    authorize(&state, &head, settings, Form::Query).await
}

/// Handles a request with the original path appended, as Envoy sends it over HTTP. Every
/// other unknown path is a 404.
pub(super) async fn forward_auth_with_target(
    State(state): State<HttpState>,
    request: Request,
) -> Response {
    let (head, _) = request.into_parts();
    let own = head.uri.path();
    if !extends_forward_auth(own) {
        return layers::not_found();
    }
    let rest = &own[FORWARD_AUTH.len()..];
    let (settings, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let target = match head.uri.query() {
        _ if path.is_empty() => None,
        None => Some(Cow::Borrowed(path)),
        Some(query) => Some(format!("{path}?{query}").into()),
    };
    let is_plain = settings.is_empty();
    let settings = decode_settings(settings);
    let pairs = settings.iter().map(|(name, value)| (&**name, &**value));
    let settings = match head.uri.query().and_then(find_setting).filter(|_| is_plain) {
        Some(name) => Err(RouteError::SettingOfClient(name)),
        None => RouteSettings::read(pairs),
    };
    authorize(&state, &head, settings, Form::Appended(target)).await
}

/// The settings between semicolons. A slash in a value is percent-encoded.
fn decode_settings(settings: &str) -> Vec<(Cow<'_, str>, Cow<'_, str>)> {
    let text = |encoded| percent_decode_str(encoded).decode_utf8_lossy();
    let settings = settings.split(';').filter(|setting| !setting.is_empty());
    let pairs = settings.map(|setting| setting.split_once('=').unwrap_or((setting, "")));
    pairs
        .map(|(name, value)| (text(name), text(value)))
        .collect()
}

/// The first setting in a query.
fn find_setting(query: &str) -> Option<&'static str> {
    let mut names = form_urlencoded::parse(query.as_bytes()).map(|(name, _)| name);
    names.find_map(|name| SETTINGS.into_iter().find(|setting| *setting == name))
}

/// How a proxy asks.
enum Form<'h> {
    /// With the settings in the query.
    Query,
    /// As Envoy does: with the original target appended, if there is one.
    Appended(Option<Cow<'h, str>>),
}

/// Authorizes a request to a route with those settings.
async fn authorize(
    state: &HttpState,
    head: &Parts,
    settings: Result<RouteSettings<'_>, RouteError>,
    form: Form<'_>,
) -> Response {
    let _permit = match state.admit() {
        Ok(permit) => permit,
        Err(error) => return unavailable(state, &error),
    };
    let begun = Instant::now();
    let wait_until = wait_limit(state.services.request_timeout());
    let token = credentials::proxy_token(&head.headers);
    let permission = Some(CallerPermission::Introspect);
    match state
        .services
        .authenticate_caller(
            token.as_deref().and_then(Proof::of_token),
            permission,
            wait_until,
        )
        .await
    {
        Ok(caller) => {
            CallerSlot::record(&head.extensions, &caller);
        }
        Err(error) => return refused(state, &error, &form),
    }
    let target = match form {
        Form::Query => None,
        Form::Appended(target) => target,
    };
    let (mut credentials, mut signs) = (Credentials::default(), PreflightHeaders::default());
    for (name, value) in &head.headers {
        credentials.see(name.as_str().as_bytes(), value.as_bytes());
        signs.see(name.as_str().as_bytes());
    }
    let stated = match &settings {
        Ok(settings) if settings.route.reads_path() => {
            stated_path(&head.headers, target, &settings.route)
        }
        Ok(_) | Err(_) => StatedPath::Missing,
    };
    let (settings, target) = match &stated {
        StatedPath::Missing => (settings, None),
        StatedPath::Agreed(path) => (settings, Some(&**path)),
        StatedPath::Conflicting => (Err(RouteError::PathConflict), None),
    };
    let query = AuthorizationQuery {
        settings,
        is_preflight: signs.indicate_preflight(head.method.as_str()),
        target,
        credential: credentials.credential(),
        source: state.services.trusted_hops().forwarded(
            head.headers
                .get_all(FORWARDED_FOR)
                .iter()
                .map(HeaderValue::as_bytes),
        ),
    };
    let remaining = state
        .services
        .request_timeout()
        .saturating_sub(begun.elapsed());
    let verdict = state.services.verdict(query, remaining).await;
    answer::verdict(verdict.answer())
}

/// The request's path, according to the proxy.
#[derive(Debug, PartialEq, Eq)]
enum StatedPath<'h> {
    Missing,
    Agreed(Cow<'h, str>),
    /// Two sources disagree, and the end client may have added one of them.
    Conflicting,
}

/// The path on which all headers and the appended target agree. Bytes that are not UTF-8
/// are replaced, and such a path is not in normal form.
fn stated_path<'h>(
    headers: &'h HeaderMap,
    target: Option<Cow<'h, str>>,
    route: &Route<'_>,
) -> StatedPath<'h> {
    let values = |name| {
        let values = headers.get_all(name).iter();
        values.map(|value| String::from_utf8_lossy(value.as_bytes()))
    };
    let believed = PATH_HEADERS.into_iter().flat_map(values);
    let mut stated = target;
    for value in believed.chain(values(URL_HEADER).map(from_url)) {
        match &stated {
            _ if route.may_be_joined(&value) => return StatedPath::Conflicting,
            Some(other) if path_of(other) != path_of(&value) => return StatedPath::Conflicting,
            Some(_) => {}
            None => stated = Some(value),
        }
    }
    let Some(stated) = stated else {
        return StatedPath::Missing;
    };
    let mut others = OTHER_PATH_HEADERS.into_iter().flat_map(values);
    if others.any(|value| path_of(&from_url(value)) != path_of(&stated)) {
        return StatedPath::Conflicting;
    }
    StatedPath::Agreed(stated)
}

/// The path and query of a URL.
fn from_url(stated: Cow<'_, str>) -> Cow<'_, str> {
    let target = origin_form(&stated);
    if target.len() == stated.len() {
        stated
    } else {
        Cow::Owned(target.to_owned())
    }
}

/// A target without its query.
fn path_of(target: &str) -> &str {
    target.split('?').next().unwrap_or_default()
}

/// The response to a proxy if no token can be judged.
fn unavailable(state: &HttpState, error: &ApiError) -> Response {
    state.services.record_unavailable(error);
    answer::failure(error)
}

/// The response to a proxy that is unknown or lacks the permission. It is logged, since an
/// operator has to act. Envoy passes a 401 or 403 on, and the end client would take its own
/// token for the refused one; it takes a 503 for a failed check, as over gRPC.
fn refused(state: &HttpState, error: &ApiError, form: &Form<'_>) -> Response {
    let (status, code) = match error {
        ApiError::CallerUnknown => (StatusCode::UNAUTHORIZED, "caller_unknown"),
        ApiError::CallerNotPermitted(_) => (StatusCode::FORBIDDEN, "caller_not_permitted"),
        other => return unavailable(state, other),
    };
    let status = match form {
        Form::Query => status,
        Form::Appended(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let description = match error {
        ApiError::CallerUnknown => format!(
            "the proxy's own token is missing or unknown: {} must be that of a service account",
            credentials::PROXY_TOKEN,
        ),
        other => other.to_string(),
    };
    state.services.log_refusal(error, &description);
    let mut response = answer::refusal(status, code, &description);
    response
        .headers_mut()
        .insert(WWW_AUTHENTICATE, answer::CALLER_CHALLENGE);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_the_one_that_all_headers_state() {
        let settings = RouteSettings::read([("site_path", "/{site_id}")]).unwrap();
        let route = settings.route;
        let stated_with_target =
            |target: Option<&'static str>, headers: &[(&'static str, &[u8])]| {
                let mut map = HeaderMap::new();
                for (name, value) in headers {
                    map.append(*name, HeaderValue::from_bytes(value).unwrap());
                }
                match stated_path(&map, target.map(Cow::Borrowed), &route) {
                    StatedPath::Missing => "missing".to_owned(),
                    StatedPath::Agreed(path) => path.into_owned(),
                    StatedPath::Conflicting => "conflicting".to_owned(),
                }
            };
        let stated = |headers: &[(&'static str, &[u8])]| stated_with_target(None, headers);
        let ([caddy, nginx], ingress) = (PATH_HEADERS, URL_HEADER);
        assert_eq!(stated(&[]), "missing");
        assert_eq!(stated(&[(caddy, b"/a?b")]), "/a?b");
        assert_eq!(stated(&[(nginx, b"/a?b")]), "/a?b");
        assert_eq!(stated(&[(ingress, b"https://h/a?b")]), "/a?b");
        assert_eq!(stated(&[(ingress, b"/a?b")]), "/a?b");
        assert_eq!(stated(&[(nginx, b"https://h/a")]), "https://h/a");
        assert_eq!(stated(&[(nginx, b"/a"), (caddy, b"/a")]), "/a");
        assert_eq!(stated(&[(nginx, b"/a"), (ingress, b"http://h/a")]), "/a");
        assert_eq!(stated(&[(nginx, b"/a"), (caddy, b"/a?b")]), "/a?b");
        assert_eq!(stated(&[(nginx, b"/a"), (caddy, b"/b")]), "conflicting");
        assert_eq!(stated(&[(caddy, b"/a"), (caddy, b"/b")]), "conflicting");
        assert_eq!(stated(&[(nginx, b"/a"), (caddy, b"")]), "conflicting");
        assert_eq!(stated(&[(caddy, b"/a"), (ingress, b"/b")]), "conflicting");
        assert_eq!(stated(&[(caddy, b"/a,/b")]), "conflicting");
        assert_eq!(stated(&[(caddy, b"/a?, /b")]), "conflicting");
        assert_eq!(
            stated(&[(ingress, b"https://h/a?,https://h/b")]),
            "conflicting"
        );
        assert_eq!(stated(&[(nginx, b"/\xff")]), "/\u{fffd}");
        for other in OTHER_PATH_HEADERS {
            assert_eq!(stated(&[(other, b"/a")]), "missing", "{other}");
            for (value, expected) in [
                (&b"/a"[..], "/a"),
                (b"https://h/a?c", "/a"),
                (b"/b", "conflicting"),
                (b"", "conflicting"),
            ] {
                assert_eq!(
                    stated(&[(caddy, b"/a"), (other, value)]),
                    expected,
                    "{other}"
                );
            }
        }
        assert_eq!(stated_with_target(Some("/a?,/b"), &[]), "/a?,/b");
        assert_eq!(stated_with_target(Some("/a"), &[(caddy, b"/a?b")]), "/a");
        assert_eq!(
            stated_with_target(Some("/a"), &[(caddy, b"/b")]),
            "conflicting"
        );
        let other = OTHER_PATH_HEADERS[0];
        assert_eq!(
            stated_with_target(Some("/a"), &[(other, b"/b")]),
            "conflicting"
        );
    }

    #[test]
    fn settings_before_a_path_are_decoded() {
        let read = |settings| -> Vec<_> {
            let settings = decode_settings(settings).into_iter();
            settings
                .map(|(name, value)| format!("{name}: {value}"))
                .collect()
        };
        assert_eq!(read(""), [""; 0]);
        assert_eq!(read(";"), [""; 0]);
        assert_eq!(
            read(";permission=site.view;site_path=%2Fs%2F%7Bsite_id%7D%2F**;x"),
            ["permission: site.view", "site_path: /s/{site_id}/**", "x: "]
        );
    }
}
