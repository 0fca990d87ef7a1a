//! `/forward-auth`: whether a request may pass that a proxy asks about, for nginx's
//! `auth_request`, Caddy's `forward_auth` and Traefik's `ForwardAuth`. What the route
//! needs is in the query, which is the proxy's; headers are the end client's, but for
//! those that the proxy sets itself.
//!
//! Envoy asks over HTTP with the request's own target behind a prefix, its query
//! included. There the query is the client's, and the settings stand in front of the
//! path: `/forward-auth;permission=site.view;site_id=…/api/sites/…`. A target begins with
//! a slash, so whatever is before the second one is the proxy's.

use std::borrow::Cow;

use axum::{
    extract::{Request, State},
    response::Response,
};
use http::{HeaderMap, HeaderValue, StatusCode, header::WWW_AUTHENTICATE, request::Parts};
use percent_encoding::percent_decode_str;
use tokio::time::Instant;

use super::{FORWARD_AUTH, HttpState, answer, is_forward_auth_and_more, layers};
use crate::{
    calls::credentials,
    domain::caller::CallerPermission,
    grpc::{
        context::{CallerSlot, Proof},
        error::ApiError,
        introspection::wait_limit,
        sidecar::AuthorizationQuery,
    },
    proxy_auth::{
        credential::Credentials,
        route::{
            Preflight, PreflightHeaders, Route, RouteError, RouteSettings, SETTINGS, origin_form,
        },
    },
};

/// The headers in which proxies tell the path of the request: Caddy and Traefik, and by
/// convention nginx.
const PATH_HEADERS: [&str; 2] = ["x-forwarded-uri", "x-original-uri"];
/// The one in which ingress-nginx tells it, with the scheme and the host before it.
const URL_HEADER: &str = "x-original-url";
/// Those in which other programs tell it, or take it from. They are not believed, but
/// where one of them names another path, it is open which of both the proxy meant.
const OTHER_PATH_HEADERS: [&str; 7] = [
    "x-auth-request-redirect",
    "x-envoy-original-path",
    "x-forwarded-path",
    "x-forwarded-url",
    "x-original-path",
    "x-replaced-path",
    "x-rewrite-url",
];
/// A scheme of our own, because the end client may get to see it, and a challenge
/// for a bearer would tell it that its token is at fault. A proxy that can tell it
/// apart makes a 500 of it, which it is.
const CALLER_CHALLENGE: HeaderValue = HeaderValue::from_static("X-HitKeep-Caller");

/// Answers a request that has the settings in its query.
pub(super) async fn forward_auth(State(state): State<HttpState>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    let query = head.uri.query().unwrap_or_default();
    let settings: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
    let pairs = settings.iter().map(|(name, value)| (&**name, &**value));
    let route = |route| RouteSettings {
        route,
        preflight: Preflight::Checked,
    };
    // The method is that of the check.
    let settings = Route::read(pairs).map(route);
    answered(&state, &head, settings, None).await
}

/// Answers a request that has the path of the one that it is about behind its own, as
/// Envoy asks over HTTP. There is nothing else that is not a path of its own.
pub(super) async fn with_path_behind(State(state): State<HttpState>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    let own = head.uri.path();
    if !is_forward_auth_and_more(own) {
        return layers::not_found();
    }
    let more = &own[FORWARD_AUTH.len()..];
    let (settings, path) = more.split_at(more.find('/').unwrap_or(more.len()));
    let target = match head.uri.query() {
        _ if path.is_empty() => None,
        None => Some(Cow::Borrowed(path)),
        Some(query) => Some(format!("{path}?{query}").into()),
    };
    let is_plain = settings.is_empty();
    let settings = decoded(settings);
    let pairs = settings.iter().map(|(name, value)| (&**name, &**value));
    let settings = match head.uri.query().and_then(setting_in).filter(|_| is_plain) {
        Some(name) => Err(RouteError::SettingOfClient(name)),
        None => RouteSettings::read(pairs),
    };
    answered(&state, &head, settings, target).await
}

/// The settings that stand between semicolons. A slash in a value is percent-encoded.
fn decoded(settings: &str) -> Vec<(Cow<'_, str>, Cow<'_, str>)> {
    let text = |encoded| percent_decode_str(encoded).decode_utf8_lossy();
    let settings = settings.split(';').filter(|setting| !setting.is_empty());
    let pairs = settings.map(|setting| setting.split_once('=').unwrap_or((setting, "")));
    pairs
        .map(|(name, value)| (text(name), text(value)))
        .collect()
}

/// The first setting that a query names.
fn setting_in(query: &str) -> Option<&'static str> {
    let mut names = form_urlencoded::parse(query.as_bytes()).map(|(name, _)| name);
    names.find_map(|name| SETTINGS.into_iter().find(|setting| *setting == name))
}

/// Answers a request to a route with those settings, whose target is that one where it
/// is told apart from headers.
async fn answered(
    state: &HttpState,
    head: &Parts,
    settings: Result<RouteSettings<'_>, RouteError>,
    target: Option<Cow<'_, str>>,
) -> Response {
    let _place = match state.admit() {
        Ok(place) => place,
        Err(error) => return unjudged(state, &error),
    };
    let begun = Instant::now();
    let wait_until = wait_limit(state.services.request_timeout());
    let shown = credentials::proxy_token(&head.headers);
    let may = Some(CallerPermission::Introspect);
    match state
        .services
        .authenticate_caller(shown.as_deref().and_then(Proof::of_token), may, wait_until)
        .await
    {
        Ok(caller) => {
            CallerSlot::record(&head.extensions, &caller);
        }
        Err(error) => return refused(state, &error),
    }
    let (mut credentials, mut signs) = (Credentials::default(), PreflightHeaders::default());
    for (name, value) in &head.headers {
        credentials.see(name.as_str().as_bytes(), value.as_bytes());
        signs.see(name.as_str().as_bytes());
    }
    let told = match &settings {
        Ok(settings) if settings.route.reads_path() => {
            told_path(&head.headers, target, &settings.route)
        }
        Ok(_) | Err(_) => Told::Never,
    };
    let (settings, target) = match &told {
        Told::Never => (settings, None),
        Told::Once(path) => (settings, Some(&**path)),
        Told::Differently => (Err(RouteError::PathConflict), None),
    };
    let asked = AuthorizationQuery {
        settings,
        is_preflight: signs.indicate_preflight(head.method.as_str()),
        target,
        credential: credentials.credential(),
    };
    let remaining = state
        .services
        .request_timeout()
        .saturating_sub(begun.elapsed());
    let verdict = state.services.verdict(asked, remaining).await;
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

/// The path that all headers tell, and the request's own target, where it has one behind
/// the prefix. What is not text is not in its normal form either.
fn told_path<'h>(
    headers: &'h HeaderMap,
    target: Option<Cow<'h, str>>,
    route: &Route<'_>,
) -> Told<'h> {
    let values = |name| {
        let values = headers.get_all(name).iter();
        values.map(|value| String::from_utf8_lossy(value.as_bytes()))
    };
    let believed = PATH_HEADERS.into_iter().flat_map(values);
    let mut told = target;
    for value in believed.chain(values(URL_HEADER).map(from_url)) {
        match &told {
            _ if route.may_be_joined(&value) => return Told::Differently,
            Some(other) if path_of(other) != path_of(&value) => return Told::Differently,
            Some(_) => {}
            None => told = Some(value),
        }
    }
    let Some(told) = told else {
        return Told::Never;
    };
    let mut others = OTHER_PATH_HEADERS.into_iter().flat_map(values);
    if others.any(|value| path_of(&from_url(value)) != path_of(&told)) {
        return Told::Differently;
    }
    Told::Once(told)
}

/// The target, where a whole URL is told.
fn from_url(told: Cow<'_, str>) -> Cow<'_, str> {
    let target = origin_form(&told);
    if target.len() == told.len() {
        told
    } else {
        Cow::Owned(target.to_owned())
    }
}

/// A target without its query.
fn path_of(target: &str) -> &str {
    target.split('?').next().unwrap_or_default()
}

/// What is said to a proxy where nothing can be told of any token.
fn unjudged(state: &HttpState, error: &ApiError) -> Response {
    state.services.record_unavailable(error);
    answer::failure(error)
}

/// What is said to a proxy that is not known, or may not ask. It is the operator who
/// has to do something about it, so it is in the log.
fn refused(state: &HttpState, error: &ApiError) -> Response {
    let (status, word) = match error {
        ApiError::CallerUnknown => (StatusCode::UNAUTHORIZED, "caller_unknown"),
        ApiError::CallerNotPermitted(_) => (StatusCode::FORBIDDEN, "caller_not_permitted"),
        other => return unjudged(state, other),
    };
    let description = match error {
        ApiError::CallerUnknown => format!(
            "the proxy's own token is missing or unknown: {} must be that of a service account",
            credentials::PROXY_TOKEN,
        ),
        other => other.to_string(),
    };
    state.services.log_refusal(error, &description);
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
        let route = Route::read([("site_path", "/{site_id}")]).unwrap();
        let told_behind = |target: Option<&'static str>, headers: &[(&'static str, &[u8])]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, HeaderValue::from_bytes(value).unwrap());
            }
            match told_path(&map, target.map(Cow::Borrowed), &route) {
                Told::Never => "never".to_owned(),
                Told::Once(path) => path.into_owned(),
                Told::Differently => "differently".to_owned(),
            }
        };
        let told = |headers: &[(&'static str, &[u8])]| told_behind(None, headers);
        let ([caddy, nginx], ingress) = (PATH_HEADERS, URL_HEADER);
        assert_eq!(told(&[]), "never");
        assert_eq!(told(&[(caddy, b"/a?b")]), "/a?b");
        assert_eq!(told(&[(nginx, b"/a?b")]), "/a?b");
        assert_eq!(told(&[(ingress, b"https://h/a?b")]), "/a?b");
        assert_eq!(told(&[(ingress, b"/a?b")]), "/a?b");
        assert_eq!(told(&[(nginx, b"https://h/a")]), "https://h/a");
        assert_eq!(told(&[(nginx, b"/a"), (caddy, b"/a")]), "/a");
        assert_eq!(told(&[(nginx, b"/a"), (ingress, b"http://h/a")]), "/a");
        assert_eq!(told(&[(nginx, b"/a"), (caddy, b"/a?b")]), "/a?b");
        assert_eq!(told(&[(nginx, b"/a"), (caddy, b"/b")]), "differently");
        assert_eq!(told(&[(caddy, b"/a"), (caddy, b"/b")]), "differently");
        assert_eq!(told(&[(nginx, b"/a"), (caddy, b"")]), "differently");
        assert_eq!(told(&[(caddy, b"/a"), (ingress, b"/b")]), "differently");
        assert_eq!(told(&[(caddy, b"/a,/b")]), "differently");
        assert_eq!(told(&[(caddy, b"/a?, /b")]), "differently");
        assert_eq!(
            told(&[(ingress, b"https://h/a?,https://h/b")]),
            "differently"
        );
        assert_eq!(told(&[(nginx, b"/\xff")]), "/\u{fffd}");
        for other in OTHER_PATH_HEADERS {
            assert_eq!(told(&[(other, b"/a")]), "never", "{other}");
            for (value, expected) in [
                (&b"/a"[..], "/a"),
                (b"https://h/a?c", "/a"),
                (b"/b", "differently"),
                (b"", "differently"),
            ] {
                assert_eq!(told(&[(caddy, b"/a"), (other, value)]), expected, "{other}");
            }
        }
        assert_eq!(told_behind(Some("/a?,/b"), &[]), "/a?,/b");
        assert_eq!(told_behind(Some("/a"), &[(caddy, b"/a?b")]), "/a");
        assert_eq!(told_behind(Some("/a"), &[(caddy, b"/b")]), "differently");
        let other = OTHER_PATH_HEADERS[0];
        assert_eq!(told_behind(Some("/a"), &[(other, b"/b")]), "differently");
    }

    #[test]
    fn settings_in_front_of_a_path_are_decoded() {
        let read = |settings| -> Vec<_> {
            let settings = decoded(settings).into_iter();
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
