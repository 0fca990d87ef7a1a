//! The layer for HTTP servers and the extractors, in the example: they answer like the
//! service's own endpoint for proxies.

use axum::{Router, body::Body};
use hitkeep_auth_client::Authenticator;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tower::ServiceExt;

use crate::{
    axum_guard::routes,
    calls::client_of,
    service::{OTHER_SITE, SITE, Service},
    support::by_hand::{Answer, get},
};

/// Well-formed, and of no client.
pub const NOBODYS: &str = "hkp_00000000000000000000000000000000000000000004Rx6xu";

/// What the answer to a request has that matters.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    status: u16,
    challenge: Option<String>,
    retry_after: Option<String>,
    /// Of a refusal.
    body: Option<serde_json::Value>,
}

impl Said {
    fn of(answer: &Answer) -> Self {
        let header = |name| answer.header(name).first().map(ToString::to_string);
        Self {
            status: answer.status,
            challenge: header("www-authenticate"),
            retry_after: header("retry-after"),
            body: serde_json::from_str(&answer.body).ok(),
        }
    }
}

/// Gets a path of the program, with those headers.
async fn program(routes: &Router, path: &str, headers: &[(&str, &str)]) -> (Said, String) {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).unwrap();
    let response = routes.clone().oneshot(request).await.unwrap();
    let header = |name| {
        let value = response.headers().get(name)?;
        Some(value.to_str().unwrap().to_owned())
    };
    let mut said = Said {
        status: response.status().as_u16(),
        challenge: header("www-authenticate"),
        retry_after: header("retry-after"),
        body: None,
    };
    let body = response.into_body().collect().await.unwrap().to_bytes();
    said.body = serde_json::from_slice(&body).ok();
    (said, String::from_utf8(body.to_vec()).unwrap())
}

/// The same request as a proxy asks about it.
async fn sidecar(service: &Service, settings: &str, path: &str, headers: &[(&str, &str)]) -> Said {
    let more = [
        ("x-hitkeep-caller", &*service.caller),
        ("x-forwarded-uri", path),
    ];
    let all: Vec<_> = headers.iter().chain(&more).copied().collect();
    let target = format!("/forward-auth?{settings}");
    Said::of(&get(&service.http, &target, &all).await)
}

#[tokio::test]
async fn programs_and_proxies_are_answered_alike() {
    let service = Service::start(&[]).await;
    let works = service.client().await;
    let revoked = service.client().await;
    service.revoke(&revoked.id).await;
    let bearer = |token: &str| format!("Bearer {token}");
    let (good, gone) = (bearer(&works.token), bearer(&revoked.token));
    let nobodys = bearer(NOBODYS);
    let on_site = "permission=site.view&site_path=/api/sites/%7Bsite_id%7D/**";
    let on_instance = "permission=instance.view_system";
    let stats = format!("/api/sites/{SITE}/stats");
    let other = format!("/api/sites/{OTHER_SITE}/stats");
    let odd = format!("/api/sites/{SITE};x/stats");
    let (system, people) = ("/api/system", "/api/passkeys");
    let client = client_of(&service.address, &service.caller);
    let modes = [
        Authenticator::asking(&client),
        Authenticator::cached(&client, 100),
    ];
    for authenticator in modes {
        let routes = routes(authenticator).unwrap();
        for (settings, path, headers, status) in [
            (on_site, &*stats, &[("authorization", &*good)][..], 200),
            (on_site, &stats, &[("x-api-key", &works.token)], 200),
            (
                on_site,
                &stats,
                &[("authorization", "Basic x"), ("x-api-key", &works.token)],
                200,
            ),
            (on_site, &stats, &[], 401),
            (on_site, &stats, &[("authorization", "Basic x")], 401),
            (on_site, &stats, &[("authorization", &gone)], 401),
            (on_site, &stats, &[("authorization", &nobodys)], 401),
            (on_site, &stats, &[("authorization", "Bearer x y")], 401),
            (
                on_site,
                &stats,
                &[("authorization", &good), ("authorization", &good)],
                401,
            ),
            (on_site, &other, &[("authorization", &good)], 403),
            (on_site, &odd, &[("authorization", &good)], 400),
            (on_site, &odd, &[], 401),
            (
                on_site,
                "/api/sites/x/stats",
                &[("authorization", &good)],
                400,
            ),
            (on_instance, system, &[("authorization", &good)], 403),
            (on_instance, system, &[], 401),
            ("human_only=true", people, &[("authorization", &good)], 403),
            ("human_only=true", people, &[("authorization", &gone)], 401),
            ("human_only=true", people, &[], 401),
        ] {
            let (said, body) = program(&routes, path, headers).await;
            assert_eq!(said.status, status, "{path}: {body}");
            if status != 200 {
                let expected = sidecar(&service, settings, path, headers).await;
                assert_eq!(said, expected, "{path} {status}");
            }
        }
    }
}

#[tokio::test]
async fn extractors_ask_by_themselves() {
    let service = Service::start(&[]).await;
    let works = service.client().await;
    let bearer = format!("Bearer {}", works.token);
    let good = [("authorization", &*bearer)];
    let bad = [("authorization", "Bearer nothing")];
    let client = client_of(&service.address, &service.caller);
    let routes = routes(Authenticator::asking(&client)).unwrap();
    for (path, headers, status, text) in [
        ("/api/hello", &[][..], 200, "hello nobody"),
        ("/api/hello", &good, 200, "hello a client"),
        ("/api/hello", &bad, 401, "invalid_token"),
        ("/api/me", &[], 401, "unauthorized"),
        ("/api/me", &good, 200, "user:"),
        (&format!("/api/goals/{SITE}"), &good, 200, "may change them"),
        (
            &format!("/api/goals/{OTHER_SITE}"),
            &good,
            403,
            "insufficient_scope",
        ),
    ] {
        let (said, body) = program(&routes, path, headers).await;
        assert_eq!(said.status, status, "{path}: {body}");
        assert!(body.contains(text), "{path}: {body}");
    }
}

/// Neither open, nor a word against the token.
#[tokio::test]
async fn without_the_service_nothing_passes() {
    let service = Service::start(&["--max-cache-age", "0s"]).await;
    let works = service.client().await;
    let bearer = format!("Bearer {}", works.token);
    let client = client_of(&service.address, &service.caller);
    let stranger = client_of(&service.address, "hks_nobodys");
    let cached = Authenticator::cached(&client, 100);
    let programs = [
        routes(Authenticator::asking(&client)).unwrap(),
        routes(cached).unwrap(),
    ];
    let path = format!("/api/sites/{SITE}/stats");
    let good = [("authorization", &*bearer)];
    for routes in &programs {
        let (said, _) = program(routes, &path, &good).await;
        assert_eq!(said.status, 200);
    }
    // The service answers, and does not know this program.
    let unknown = routes(Authenticator::asking(&stranger)).unwrap();
    let mut failing = vec![unknown];
    let (_stopped, _log) = service.stop().await;
    failing.extend(programs);
    for routes in &failing {
        let (said, body) = program(routes, &path, &good).await;
        assert_eq!(said.status, StatusCode::SERVICE_UNAVAILABLE.as_u16());
        assert_eq!(said.retry_after.as_deref(), Some("1"));
        assert_eq!(said.challenge, None);
        assert!(body.contains("temporarily_unavailable"), "{body}");
        // What has no token is refused without a question.
        assert_eq!(program(routes, &path, &[]).await.0.status, 401);
    }
}
