//! The path that a proxy asks about: in which header it is, and when it is not clear.

use hitkeep_auth::domain::caller::CallerPermission;
use http::{HeaderValue, Request};

use super::{Bearing, TEMPLATE, asking, viewer};
use crate::{fixtures::*, harness::TestApp, http::client::get};

#[tokio::test]
async fn the_path_is_told_in_one_of_two_headers() {
    let app = TestApp::with_world().await;
    let made = viewer(&app).await;
    let (ours, theirs) = (
        format!("/api/sites/{SITE}/hits?x"),
        format!("/api/sites/{OTHER_SITE}/hits"),
    );
    let asked = async |query: &str, headers: &[(&str, &str)]| {
        let mut request = asking(&app, query).bearing(&made.token);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = app.ask(request, "").await;
        let site = answer.header("x-hitkeep-site-id");
        site.unwrap_or_else(|| answer.told())
    };
    let (caddy, nginx) = ("x-forwarded-uri", "X-Original-URI");
    assert_eq!(asked(TEMPLATE, &[(caddy, &ours)]).await, SITE);
    assert_eq!(asked(TEMPLATE, &[(nginx, &ours)]).await, SITE);
    let both = [(caddy, &*ours), (nginx, &*ours)];
    assert_eq!(asked(TEMPLATE, &both).await, SITE);
    // One of them may be the client's own, so none is believed.
    let misconfigured = "500 server_error";
    for headers in [
        &[(caddy, &*ours), (nginx, &*theirs)][..],
        &[(caddy, &*theirs), (nginx, &*ours)],
        &[(caddy, &*ours), (caddy, &*theirs)],
        &[(nginx, &*ours), (nginx, "")],
        &[],
    ] {
        assert_eq!(asked(TEMPLATE, headers).await, misconfigured, "{headers:?}");
    }
    // Which does not matter where it is not read.
    let fixed = format!("site_id={SITE}");
    for headers in [&[][..], &[(caddy, &*ours), (nginx, &*theirs)]] {
        assert_eq!(asked(&fixed, headers).await, SITE);
    }
}

/// ingress-nginx tells the whole URL, and passes on what else its client sent.
#[tokio::test]
async fn no_path_that_is_told_is_overlooked() {
    let app = TestApp::with_world().await;
    let made = viewer(&app).await;
    let (ours, theirs) = (
        format!("/api/sites/{SITE}/hits?x"),
        format!("/api/sites/{OTHER_SITE}/hits"),
    );
    let url = |path: &str| format!("https://hitkeep.example{path}");
    let asked = async |headers: &[(&str, &str)]| {
        let mut request = asking(&app, TEMPLATE).bearing(&made.token);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = app.ask(request, "").await;
        let site = answer.header("x-hitkeep-site-id");
        site.unwrap_or_else(|| answer.told())
    };
    let (caddy, ingress) = ("x-forwarded-uri", "X-Original-URL");
    assert_eq!(asked(&[(ingress, &url(&ours))]).await, SITE);
    assert_eq!(asked(&[(ingress, &ours)]).await, SITE);
    assert_eq!(asked(&[(ingress, &url(&ours)), (caddy, &ours)]).await, SITE);
    let forbidden = "403 insufficient_scope";
    assert_eq!(asked(&[(ingress, &url(&theirs))]).await, forbidden);
    let misconfigured = "500 server_error";
    for headers in [
        &[(ingress, &*url(&theirs)), (caddy, &*ours)][..],
        &[(ingress, &*url(&ours)), (caddy, &*theirs)],
        &[(ingress, &*url(&ours)), (ingress, &*url(&theirs))],
        // Joined on the way, the client's and the proxy's.
        &[(caddy, &*format!("{ours},{theirs}"))],
        &[(caddy, &*format!("{ours}, {theirs}"))],
        &[(ingress, &*format!("{},{}", url(&ours), url(&theirs)))],
    ] {
        assert_eq!(asked(headers).await, misconfigured, "{headers:?}");
    }
    for other in [
        "x-forwarded-path",
        "x-rewrite-url",
        "X-Envoy-Original-Path",
        "x-auth-request-redirect",
        "x-replaced-path",
    ] {
        assert_eq!(asked(&[(caddy, &ours), (other, &ours)]).await, SITE);
        assert_eq!(asked(&[(caddy, &ours), (other, &url(&ours))]).await, SITE);
        for headers in [
            &[(caddy, &*ours), (other, &*theirs)][..],
            &[(other, &*ours)],
        ] {
            assert_eq!(asked(headers).await, misconfigured, "{other}");
        }
    }
    // The host is the client's to choose.
    for host in ["", "h?", "h#", "u@h", "h\\"] {
        let url = format!("https://{host}{ours}");
        assert_eq!(asked(&[(ingress, &url)]).await, "400 invalid_request");
    }
}

/// As Envoy asks over HTTP: the request's own method and target, behind a prefix.
#[tokio::test]
async fn the_path_may_follow_that_of_the_check() {
    let app = TestApp::with_world().await;
    let made = viewer(&app).await;
    let caller = app.token(CallerPermission::Introspect);
    let asked = async |method: &str, target: &str, headers: &[(&str, &str)]| {
        let target = target.replace("SITE", SITE).replace("OTHER", OTHER_SITE);
        let request = Request::builder().method(method).uri(target);
        let request = request.header("x-hitkeep-caller", caller);
        let mut request = request.bearing(&made.token);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = app.ask(request, "a body, which does not matter").await;
        let site = answer.header("x-hitkeep-site-id");
        site.unwrap_or_else(|| answer.told())
    };
    // Braces may be percent-encoded; slashes must be.
    let prefix = "/forward-auth;permission=site.view;site_path=%2Fapi%2Fsites%2F%7Bsite_id%7D%2F**";
    let site = format!("{prefix}/api/sites/SITE/hits");
    for method in ["GET", "POST", "DELETE", "OPTIONS", "PROPFIND"] {
        assert_eq!(asked(method, &site, &[]).await, SITE, "{method}");
    }
    // All of the query is the client's.
    let injected = format!("{site}?permission=instance.view_audit&site_id=OTHER&site_path=/x");
    assert_eq!(asked("GET", &injected, &[]).await, SITE);
    assert_eq!(asked("GET", &format!("{site}?a=/b,/c"), &[]).await, SITE);
    let plain = format!("/forward-auth/api/sites/{SITE}/x?from=1");
    assert_eq!(asked("GET", &plain, &[]).await, "200");
    let wherever = "/forward-auth;permission=site.view;site_id=SITE/x/y?z";
    assert_eq!(asked("GET", wherever, &[]).await, SITE);
    assert_eq!(asked("GET", "/forward-auth;/x", &[]).await, "200");
    for (behind, told) in [
        ("/api/sites/OTHER/hits", "403 insufficient_scope"),
        (
            "/api/sites/OTHER/hits?x=/api/sites/SITE",
            "403 insufficient_scope",
        ),
        ("/api/sites/new", "400 invalid_request"),
        ("//api/sites/SITE", "400 invalid_request"),
        ("/api/sites/SITE/../OTHER", "400 invalid_request"),
        ("/api/sites/SITE;x=y", "400 invalid_request"),
        (
            "/;permission=instance.view_audit/api/sites/SITE",
            "400 invalid_request",
        ),
        ("/x", "500 server_error"),
        ("", "500 server_error"),
    ] {
        let target = format!("{prefix}{behind}");
        assert_eq!(asked("GET", &target, &[]).await, told, "{behind}");
    }
    for mistaken in [
        // It may be the client's query, or that of an operator who meant the other way.
        "/forward-auth/?permission=site.view&site_path=/api/sites/%7Bsite_id%7D/**",
        "/forward-auth/x?site_id=SITE",
        "/forward-auth/x?preflight=pass",
        "/forward-auth;permision=site.view/x",
        "/forward-auth;permission/x",
        "/forward-auth;permission=site.view;site_path=/api/sites/%7Bsite_id%7D/**/x",
        "/forward-auth;permission=site.view;permission=site.view/x",
        "/forward-auth?permission=instance.view_audit/api/x",
        "/forward-auth?preflight=pass",
    ] {
        let told = asked("GET", mistaken, &[]).await;
        assert_eq!(told, "500 server_error", "{mistaken}");
    }
    let closed = "/forward-auth;human_only=true/api/user/api-clients";
    assert_eq!(asked("POST", closed, &[]).await, "403 insufficient_scope");
    let clients = "/forward-auth/api/user/api-clients?human_only=false";
    assert_eq!(asked("POST", clients, &[]).await, "500 server_error");
    for nowhere in ["/forward-authx", "/forward-auth%3B/x", "/x/forward-auth/x"] {
        assert_eq!(asked("GET", nowhere, &[]).await, "404 not_found");
    }
    let other = format!("/api/sites/{OTHER_SITE}/hits");
    let told = asked("GET", &site, &[("x-forwarded-uri", &other)]).await;
    assert_eq!(told, "500 server_error");
    // Envoy passes a 401 or 403 on, although the client is not at fault.
    for (caller, told) in [
        ("", "503 caller_unknown"),
        ("hks_x", "503 caller_unknown"),
        (
            app.token(CallerPermission::Manage),
            "503 caller_not_permitted",
        ),
    ] {
        for target in [&*site, "/forward-auth;/x", "/forward-auth/x"] {
            let request = get(&target.replace("SITE", SITE)).bearing(&made.token);
            let request = request.header("x-hitkeep-caller", caller);
            assert_eq!(app.ask(request, "").await.told(), told, "{target}");
        }
    }
}

#[tokio::test]
async fn a_path_that_is_not_clear_never_passes() {
    let app = TestApp::with_world().await;
    let made = viewer(&app).await;
    let asked = async |pattern: &str| {
        let path = pattern.replace("SITE", SITE).replace("OTHER", OTHER_SITE);
        let path = HeaderValue::from_bytes(path.as_bytes()).unwrap();
        let request = asking(&app, TEMPLATE).bearing(&made.token);
        let answer = app.ask(request.header("x-original-uri", path), "").await;
        let site = answer.header("x-hitkeep-site-id");
        site.unwrap_or_else(|| answer.told())
    };
    for clear in [
        "/api/sites/SITE",
        "/api/sites/SITE/",
        "/api/sites/SITE/hits?next=//x/../OTHER",
    ] {
        assert_eq!(asked(clear).await, SITE, "{clear}");
    }
    for unclear in [
        "",
        "api/sites/SITE",
        "https://hitkeep.example/api/sites/SITE",
        "//api/sites/SITE",
        "/api/sites//SITE",
        "/api/sites/SITE//",
        "/api/sites/SITE/../OTHER",
        "/api/sites/OTHER/../SITE",
        "/api/sites/SITE/%2e%2e/OTHER",
        "/api/sites/SITE%2fhits",
        "/api/sites/SITE/..;/OTHER",
        "/api/sites/SITE%00",
        "/api/sites/SITE\\hits",
        "/%61pi/sites/SITE",
        "/api/sites/SITE/é",
        "/api/sites/new",
    ] {
        assert_eq!(asked(unclear).await, "400 invalid_request", "{unclear}");
    }
    assert_eq!(asked("/api/sites").await, "500 server_error");
    assert_eq!(asked("/API/sites/SITE").await, "500 server_error");
}

/// What is not text cannot be in a path, and is no mistake of the route's either.
#[tokio::test]
async fn what_is_not_text_is_not_clear() {
    let app = TestApp::with_world().await;
    let made = viewer(&app).await;
    let path = [b"/api/sites/", SITE.as_bytes(), b"/\xff"].concat();
    let path = HeaderValue::from_bytes(&path).unwrap();
    let request = asking(&app, TEMPLATE).bearing(&made.token);
    let answer = app.ask(request.header("x-forwarded-uri", path), "").await;
    assert_eq!(answer.told(), "400 invalid_request");
    let token = HeaderValue::from_bytes(b"Bearer \xff\xfe").unwrap();
    let request = asking(&app, "").header("authorization", token);
    assert_eq!(app.ask(request, "").await.told(), "401 invalid_token");
}
