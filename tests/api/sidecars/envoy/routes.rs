//! What a route asks for: people only, preflights, and settings that are wrong.

use hitkeep_auth::pb::{self, SiteRole, envoy::service::auth::v3::check_response::HttpResponse};

use super::{
    HUMAN_ONLY, INACTIVE, MISCONFIGURED, NO_TOKEN, NOBODYS, Sending, UNCLEAR, asking, passed,
    refusal,
};
use crate::{fixtures::*, harness::TestApp};

#[tokio::test]
async fn a_misconfigured_route_lets_nothing_pass() {
    let app = TestApp::with_world().await;
    let owner = personal(ROOT).with_role(pb::InstanceRole::Owner);
    let made = app.dashboard().await.created(owner).await;
    let sidecar = app.sidecar().await;
    for settings in [
        &[("permision", "site.view")][..],
        &[("permission", "")],
        &[("permission", "site.fly"), ("site_id", SITE)],
        &[("permission", "site.view")],
        &[("permission", "instance.view_audit"), ("site_id", SITE)],
        &[("site_id", SITE), ("site_path", "/{site_id}")],
        &[("site_id", "x")],
        &[("site_path", "/sites")],
        &[("site_path", "/other/{site_id}")],
        &[("human_only", "yes")],
        &[("human_only", "True")],
        &[("human_only", "")],
        &[("human-only", "true")],
        &[("human_only", "true"), ("permission", "site.fly")],
        &[("human_only", "true"), ("permission", "site.view")],
        &[("human_only", "true"), ("site_path", "/other/{site_id}")],
    ] {
        for token in [&*made.token, NOBODYS] {
            let request = asking(settings, "/sites/1").bearing(token);
            let answer = sidecar.check(request).await.unwrap();
            assert_eq!(refusal(&answer), MISCONFIGURED, "{settings:?}");
        }
        // It shows before any client has a token, also if only the path shows it.
        let answer = sidecar.check(asking(settings, "/sites/1")).await.unwrap();
        assert_eq!(refusal(&answer), MISCONFIGURED, "{settings:?}");
    }
}

/// Not even an instance owner's token, on a site that it owns. The order of refusals is that
/// of any other route.
#[tokio::test]
async fn no_token_passes_where_only_people_do() {
    let app = TestApp::with_world().await;
    let owner = personal(ROOT)
        .with_role(pb::InstanceRole::Owner)
        .granted(SITE, SiteRole::Owner);
    let made = app.dashboard().await.created(owner).await;
    let sidecar = app.sidecar().await;
    let closed = ("human_only", "true");
    let says = async |settings: &[(&str, &str)], path: &str, token: Option<&str>| {
        let request = asking(settings, path);
        let request = match token {
            Some(token) => request.bearing(token),
            None => request,
        };
        let answer = sidecar.check(request).await.unwrap();
        match answer.http_response {
            Some(HttpResponse::OkResponse(_)) => "passes".to_owned(),
            _ => refusal(&answer),
        }
    };
    let template = ("site_path", "/s/{site_id}/**");
    let path = format!("/s/{SITE}/members");
    for rest in [
        &[][..],
        &[("site_id", SITE)],
        &[template],
        &[("permission", "site.view"), template],
        &[("permission", "instance.manage_users")],
        // A preflight has no token, and what it asks for has none either.
        &[("preflight", "pass")],
    ] {
        let open = [rest, &[("human_only", "false")]].concat();
        let settings = [rest, &[closed]].concat();
        let token = Some(&*made.token);
        assert_eq!(says(&open, &path, token).await, "passes", "{open:?}");
        assert_eq!(says(&settings, &path, token).await, HUMAN_ONLY);
        assert_eq!(says(&settings, &path, None).await, NO_TOKEN);
        assert_eq!(says(&settings, &path, Some(NOBODYS)).await, INACTIVE);
    }
    let settings = [closed, template];
    for unclear in ["//", "/s/x"] {
        assert_eq!(says(&settings, unclear, Some(&made.token)).await, UNCLEAR);
        assert_eq!(says(&settings, unclear, None).await, NO_TOKEN);
    }
    let mut preflight = asking(&[closed, ("preflight", "pass")], "/").with([
        ("origin", "https://x"),
        ("access-control-request-method", "GET"),
    ]);
    "OPTIONS".clone_into(&mut preflight.http().method);
    passed(&sidecar.check(preflight).await.unwrap());

    let revoked = app.dashboard().await.revoke(revoke(ROOT, &made.id)).await;
    revoked.unwrap();
    assert_eq!(says(&settings, &path, Some(&made.token)).await, INACTIVE);
}

/// A browser sends no token with its preflight. What Envoy states of the method counts,
/// and nothing that a client can write.
#[tokio::test]
async fn a_preflight_passes_where_its_route_says_so() {
    let app = TestApp::with_world().await;
    let sidecar = app.sidecar().await;
    let opted_in = [("permission", "instance.view_audit"), ("preflight", "pass")];
    let signs = [
        ("origin", "https://x"),
        ("access-control-request-method", "GET"),
    ];
    let asked = async |settings: &[(&str, &str)], method: &str, headers: &[(&str, &str)]| {
        let mut request = asking(settings, "/x").with(headers.iter().copied());
        request.http().method = method.to_owned();
        sidecar.check(request).await.unwrap()
    };
    let reserved = ("X-HitKeep-Owner", "user:root");
    for headers in [&signs[..], &[signs[0], signs[1], reserved]] {
        let (set, removed) = passed(&asked(&opted_in, "OPTIONS", headers).await);
        assert_eq!(set, []);
        let overrides = [
            "x-http-method",
            "x-http-method-override",
            "x-method-override",
        ];
        let owner = (headers.len() > 2).then_some("x-hitkeep-owner");
        let expected: Vec<_> = owner.into_iter().chain(overrides).collect();
        assert_eq!(removed, expected);
    }
    let no_token = "Unauthenticated 401 unauthorized www-authenticate: Bearer realm=\"hitkeep\"";
    let said_method = [signs[0], signs[1], (":method", "OPTIONS")];
    let forwarded = [signs[0], signs[1], ("x-forwarded-method", "OPTIONS")];
    for (settings, method, headers) in [
        (&opted_in[..], "GET", &signs[..]),
        (&opted_in, "options", &signs),
        (&opted_in, "GET", &said_method),
        (&opted_in, "", &forwarded),
        (&opted_in, "OPTIONS", &signs[..1]),
        (&opted_in, "OPTIONS", &signs[1..]),
        (&opted_in, "OPTIONS", &[]),
        (&opted_in[..1], "OPTIONS", &signs),
        (&[], "OPTIONS", &signs),
    ] {
        let response = asked(settings, method, headers).await;
        assert_eq!(refusal(&response), no_token, "{method} {headers:?}");
    }
    let mistaken = [("preflight", "yes")];
    let response = asked(&mistaken, "OPTIONS", &signs).await;
    assert_eq!(refusal(&response), "Internal 500 server_error");
}

/// Envoy's own statement is the path, whatever headers its client sent.
#[tokio::test]
async fn no_header_tells_the_path_of_a_check() {
    let app = TestApp::with_world().await;
    let request = personal(VERA).granted(SITE, SiteRole::Viewer);
    let made = app.dashboard().await.created(request).await;
    let sidecar = app.sidecar().await;
    let settings = [("permission", "site.view"), ("site_path", "/{site_id}")];
    let theirs = format!("/{OTHER_SITE}");
    for name in [
        ":path",
        "x-forwarded-uri",
        "x-original-url",
        "x-envoy-original-path",
    ] {
        let asked = |path: &str, header: &str| {
            let request = asking(&settings, path).bearing(&made.token);
            sidecar.check(request.with([(name, header)]))
        };
        let ours = format!("/{SITE}");
        passed(&asked(&ours, &theirs).await.unwrap());
        let refused = refusal(&asked(&theirs, &ours).await.unwrap());
        assert!(refused.starts_with("PermissionDenied 403"), "{refused}");
    }
}
