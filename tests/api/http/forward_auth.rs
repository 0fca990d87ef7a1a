//! `/forward-auth`: how a proxy asks, and what it gets. That the verdicts are those
//! of Introspect is shown in `sidecars`.

use std::time::Duration;

use hitkeep_auth::{
    domain::{
        caller::CallerPermission,
        token::{Token, TokenKind},
    },
    pb::{self, SiteRole},
    server,
};
use http::{Request, request};

mod paths;

use super::client::{Answer, get};
use crate::{fixtures::*, harness::TestApp};

/// A route that finds its site in the path; encoded, as Go's programs send it.
const TEMPLATE: &str = "permission=site.view&site_path=/api/sites/%7Bsite_id%7D/**";
/// Well-formed, and of no client.
const NOBODYS: &str = "hkp_00000000000000000000000000000000000000000004Rx6xu";

/// A request of a proxy that is known.
fn asking(app: &TestApp, query: &str) -> request::Builder {
    let caller = app.token(CallerPermission::Introspect);
    get(&format!("/forward-auth?{query}")).header("x-hitkeep-caller", caller)
}

trait Bearing {
    fn bearing(self, token: &str) -> Self;
}

impl Bearing for request::Builder {
    fn bearing(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }
}

/// A token that may view the first site.
async fn viewer(app: &TestApp) -> Created {
    let request = personal(VERA).granted(SITE, SiteRole::Viewer);
    app.dashboard().await.created(request).await
}

/// All that an answer says that is not of every answer.
fn headers(answer: &Answer) -> Vec<(&str, &str)> {
    let usual = ["date", "content-length", "x-request-id"];
    let headers = answer.headers.iter();
    let headers = headers.map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
    let mut headers: Vec<_> = headers.filter(|(name, _)| !usual.contains(name)).collect();
    headers.sort_unstable();
    headers
}

#[tokio::test]
async fn who_passes_is_told_in_headers() {
    let app = TestApp::with_world().await;
    let made = viewer(&app).await;
    let owner = format!("user:{VERA}");
    let mut expected = vec![
        ("x-hitkeep-client-id", &*made.id),
        ("x-hitkeep-instance-role", "user"),
        ("x-hitkeep-owner", &*owner),
    ];
    // What the client sent of that kind comes back from us alone.
    let request = asking(&app, "").bearing(&made.token);
    let request = request.header("x-hitkeep-owner", "user:root");
    let request = request.header("x-hitkeep-site-role", "owner");
    let answer = app.ask(request, "").await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (200, ""));
    assert_eq!(headers(&answer), expected);

    expected.extend([
        ("x-hitkeep-site-id", SITE),
        ("x-hitkeep-site-role", "viewer"),
    ]);
    let path = format!("/api/sites/{SITE}/hits");
    let request = asking(&app, TEMPLATE).bearing(&made.token);
    let answer = app.ask(request.header("x-forwarded-uri", path), "").await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (200, ""));
    assert_eq!(headers(&answer), expected);
}

#[tokio::test]
async fn who_does_not_pass_is_told_why() {
    let app = TestApp::with_world().await;
    let made = viewer(&app).await;
    let scope = "Bearer realm=\"hitkeep\", error=\"insufficient_scope\", \
                 scope=\"instance.view_audit\"";
    for (token, query, told, challenge) in [
        (None, "", "401 unauthorized", "Bearer realm=\"hitkeep\""),
        (
            Some(NOBODYS),
            "",
            "401 invalid_token",
            "Bearer realm=\"hitkeep\", error=\"invalid_token\"",
        ),
        (
            Some(&*made.token),
            "permission=instance.view_audit",
            "403 insufficient_scope",
            scope,
        ),
        (
            Some(&*made.token),
            "human_only=true",
            "403 insufficient_scope",
            "Bearer realm=\"hitkeep\", error=\"insufficient_scope\"",
        ),
        (
            None,
            "human_only=true",
            "401 unauthorized",
            "Bearer realm=\"hitkeep\"",
        ),
        (
            Some(NOBODYS),
            "permission=instance.view_audit&human_only=true",
            "401 invalid_token",
            "Bearer realm=\"hitkeep\", error=\"invalid_token\"",
        ),
    ] {
        let request = asking(&app, query);
        let request = match token {
            Some(token) => request.bearing(token),
            None => request,
        };
        let answer = app.ask(request, "").await;
        assert_eq!(answer.told(), told);
        let expected = [
            ("cache-control", "no-store"),
            ("content-type", "application/json"),
            ("www-authenticate", challenge),
        ];
        assert_eq!(headers(&answer), expected);
    }
}

/// Where the method is the request's own, which is so as Envoy asks.
#[tokio::test]
async fn a_preflight_passes_where_its_route_says_so() {
    let app = TestApp::with_world().await;
    let caller = app.token(CallerPermission::Introspect);
    let asked = async |method: &str, target: &str, headers: &[&str]| {
        let request = Request::builder().method(method).uri(target);
        let mut request = request.header("x-hitkeep-caller", caller);
        for name in headers {
            request = request.header(*name, "x");
        }
        app.ask(request, "").await
    };
    let signs = ["origin", "access-control-request-method"];
    let passes = "/forward-auth;permission=site.view;preflight=pass;\
                  site_path=%2Fs%2F%7Bsite_id%7D/s/1";
    let answer = asked("OPTIONS", passes, &signs).await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (200, ""));
    let removed = "x-http-method,x-http-method-override,x-method-override";
    let expected = [("x-envoy-auth-headers-to-remove", removed)];
    assert_eq!(headers(&answer), expected);
    let unauthorized = "401 unauthorized";
    for (method, target, headers) in [
        ("GET", passes, &signs[..]),
        ("OPTIONS", passes, &signs[..1]),
        ("OPTIONS", passes, &signs[1..]),
        (
            "OPTIONS",
            "/forward-auth;permission=instance.view_audit/x",
            &signs,
        ),
        ("OPTIONS", "/forward-auth/x", &signs),
        ("OPTIONS", "/forward-auth", &signs),
    ] {
        let told = asked(method, target, headers).await.told();
        assert_eq!(told, unauthorized, "{method} {target} {headers:?}");
    }
    // In a header, a method is the client's.
    let request = asking(&app, "").header("x-forwarded-method", "OPTIONS");
    let request = request.header("origin", "x");
    let request = request.header("access-control-request-method", "GET");
    assert_eq!(app.ask(request, "").await.told(), unauthorized);
}

#[tokio::test]
async fn a_misconfigured_route_lets_nothing_pass() {
    let app = TestApp::with_world().await;
    let owner = personal(ROOT).with_role(pb::InstanceRole::Owner);
    let made = app.dashboard().await.created(owner).await;
    for query in [
        "permision=site.view".to_owned(),
        "Permission=instance.view_audit".to_owned(),
        "permission=".to_owned(),
        "permission".to_owned(),
        "permission=site.view".to_owned(),
        "permission=site.fly".to_owned(),
        "permission=instance.view_audit+".to_owned(),
        "permission=instance.view_audit%FF".to_owned(),
        "permission=instance.view_audit&permission=instance.view_audit".to_owned(),
        format!("permission=instance.view_audit&site_id={SITE}"),
        format!("site_id={SITE}&site_path=/%7Bsite_id%7D"),
        "human_only".to_owned(),
        "human_only=1".to_owned(),
        "human_only=true&human_only=true".to_owned(),
        "human_only=true&permission=site.fly".to_owned(),
        "human_only=true&preflight=pass".to_owned(),
        "site_id=x".to_owned(),
        "site_path=/sites".to_owned(),
        "site_path=/other/%7Bsite_id%7D".to_owned(),
        "=".to_owned(),
        format!("x={}", "y".repeat(30_000)),
    ] {
        for token in [&*made.token, NOBODYS] {
            let request = asking(&app, &query).bearing(token);
            let answer = app.ask(request.header("x-forwarded-uri", "/a/b"), "").await;
            assert_eq!(answer.told(), "500 server_error", "{query:.100}");
        }
        // It shows before any client has a token.
        let request = asking(&app, &query).header("x-forwarded-uri", "/a/b");
        let answer = app.ask(request, "").await;
        assert_eq!(answer.told(), "500 server_error", "{query:.100}");
    }
    // So does a path that the proxy does not send; one that is not clear is the client's.
    let answer = app.ask(asking(&app, TEMPLATE), "").await;
    assert_eq!(answer.told(), "500 server_error");
    let request = asking(&app, TEMPLATE).header("x-forwarded-uri", "/api/sites/new");
    assert_eq!(app.ask(request, "").await.told(), "401 unauthorized");
    for query in [
        "permission=instance.view_audit",
        "permission=instance%2Eview_audit",
        "&",
    ] {
        let request = asking(&app, query).bearing(&made.token);
        assert_eq!(app.ask(request, "").await.status, 200, "{query}");
    }
}

#[tokio::test]
async fn a_proxy_shows_who_it_is() {
    let app = TestApp::with_world().await;
    let made = viewer(&app).await;
    let asked = async |callers: &[&str]| {
        let mut request = get("/forward-auth").bearing(&made.token);
        for caller in callers {
            request = request.header("x-hitkeep-caller", *caller);
        }
        app.ask(request, "").await
    };
    let token = app.token(CallerPermission::Introspect);
    let bearer = format!("Bearer {token}");
    for caller in [token, &bearer] {
        assert_eq!(asked(&[caller]).await.status, 200);
    }
    let basic = format!("Basic {token}");
    for callers in [
        &[][..],
        &[""],
        &["x"],
        &[&made.token],
        &[&basic],
        &[token, token],
    ] {
        let answer = asked(callers).await;
        assert_eq!(answer.told(), "401 caller_unknown", "{callers:?}");
        // No bearer is asked for, since the client's token is not at fault.
        let challenge = answer.header("www-authenticate");
        assert_eq!(challenge.as_deref(), Some("X-HitKeep-Caller"));
        assert!(!answer.body.contains(token));
    }
    for permission in CallerPermission::ALL {
        if *permission != CallerPermission::Introspect {
            let answer = asked(&[app.token(*permission)]).await;
            assert_eq!(answer.told(), "403 caller_not_permitted");
            let challenge = answer.header("www-authenticate");
            assert_eq!(challenge.as_deref(), Some("X-HitKeep-Caller"));
        }
    }
    // A caller is no API client.
    let answer = app.ask(asking(&app, "").bearing(token), "").await;
    assert_eq!(answer.told(), "401 invalid_token");
}

#[tokio::test]
async fn it_does_not_matter_how_the_request_comes() {
    let app = TestApp::with_world().await;
    let made = viewer(&app).await;
    let caller = app.token(CallerPermission::Introspect);
    for method in [
        "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "X",
    ] {
        let request = Request::builder().method(method).uri("/forward-auth");
        let request = request.header("x-hitkeep-caller", caller);
        let answer = app.ask(request.bearing(&made.token), "a body").await;
        assert_eq!(answer.status, 200, "{method}");
        assert!(answer.header("x-hitkeep-client-id").is_some(), "{method}");
    }
    // As a WebSocket's handshake comes along.
    let request = asking(&app, "").bearing(&made.token);
    let request = request
        .header("connection", "upgrade")
        .header("upgrade", "websocket");
    assert_eq!(app.ask(request, "").await.status, 200);
    let request = get("http://test/forward-auth").header("x-hitkeep-caller", caller);
    let request = request.bearing(&made.token);
    assert_eq!(app.ask_http2(request, "").await.status, 200);
    // With all that a browser brings.
    let request = asking(&app, "").bearing(&made.token);
    let request = request.header("cookie", "x".repeat(60_000));
    assert_eq!(app.ask(request, "").await.status, 200);
}

#[tokio::test]
async fn an_outage_is_no_revocation() {
    let (app, proxy) = TestApp::behind_proxy(server::Options::default()).await;
    let made = viewer(&app).await;
    let dead = viewer(&app).await;
    app.dashboard()
        .await
        .revoke(revoke(VERA, &dead.id))
        .await
        .unwrap();
    let asked = async |token: &str| {
        let answer = app.ask(asking(&app, "").bearing(token), "").await;
        if answer.status == 503 {
            assert_eq!(answer.header("retry-after").as_deref(), Some("1"));
            assert_eq!(answer.header("www-authenticate"), None);
        }
        answer.told()
    };
    app.settle().await;
    proxy.cut();
    assert_eq!(asked(&made.token).await, "200");
    assert_eq!(asked(NOBODYS).await, "503 temporarily_unavailable");
    app.clock.grow_old(Duration::from_secs(11));
    assert_eq!(asked(&made.token).await, "503 temporarily_unavailable");
    assert_eq!(asked(&dead.token).await, "401 invalid_token");
    // A proxy that the index does not know may be new.
    let unheard_of = Token::mint(TokenKind::ServiceAccount, &*app.entropy).reveal();
    let request = get("/forward-auth").header("x-hitkeep-caller", &unheard_of);
    let answer = app.ask(request, "").await;
    assert_eq!(answer.told(), "503 temporarily_unavailable");
    proxy.mend();
    app.settle().await;
    assert_eq!(asked(&made.token).await, "200");
    assert_eq!(asked(NOBODYS).await, "401 invalid_token");
    let request = get("/forward-auth").header("x-hitkeep-caller", &unheard_of);
    assert_eq!(app.ask(request, "").await.told(), "401 caller_unknown");
}
