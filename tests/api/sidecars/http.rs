//! The table over HTTP: `/forward-auth` in each way that a proxy may ask, and
//! `/oauth2/introspect`, which answers for a token and not for a route.

use hitkeep_auth::{domain::caller::CallerPermission, pb};
use http::{HeaderValue, Request};

use super::table::{self, Asker, Case, Said, path_prefix};
use crate::{
    fixtures::introspect,
    harness::{Caller, TestApp},
    http::client::{Answer, form},
};

/// The ways of proxies.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// nginx, as it is shipped here.
    OriginalUri,
    /// Caddy and Traefik.
    ForwardedUri,
    /// Envoy, where it asks over HTTP: the settings are before the path.
    InPath,
    /// With a method of its own, `Bearer` before the caller, and the token in the
    /// other header.
    Odd,
}

/// The query of a route.
fn query(settings: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new())
        .extend_pairs(settings)
        .finish()
}

async fn forward_auth(app: &TestApp, way: Way, case: &Case) -> Answer {
    let path = match way {
        Way::InPath => format!("{}{}", path_prefix(&case.settings), case.path),
        _ => format!("/forward-auth?{}", query(&case.settings)),
    };
    let caller = app.token(CallerPermission::Introspect).to_owned();
    let value = |text: String| HeaderValue::from_bytes(text.as_bytes()).unwrap();
    let (method, path_header, caller, scheme, name) = match way {
        Way::OriginalUri => ("GET", "x-original-uri", caller, "Bearer ", "authorization"),
        Way::ForwardedUri => ("GET", "x-forwarded-uri", caller, "bearer ", "authorization"),
        // The client's own header, which does not count.
        Way::InPath => ("GET", "x-other-uri", caller, "Bearer ", "authorization"),
        Way::Odd => {
            let caller = format!("Bearer {caller}");
            ("DELETE", "x-forwarded-uri", caller, "", "x-api-key")
        }
    };
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("x-hitkeep-caller", caller)
        .header(path_header, &case.path);
    if let Some(token) = &case.token {
        request = request.header(name, value(format!("{scheme}{token}")));
    }
    app.ask(request, "").await
}

/// The verdict of an answer, every part of which has to fit.
fn answered(answer: &Answer) -> Said {
    let header = |name: &str| answer.header(name);
    if answer.status == 200 {
        assert_eq!(answer.body, "");
        return Said::Allowed {
            client: header("x-hitkeep-client-id").unwrap(),
            owner: header("x-hitkeep-owner").unwrap(),
            instance_role: header("x-hitkeep-instance-role").unwrap(),
            site: header("x-hitkeep-site-id").zip(header("x-hitkeep-site-role")),
        };
    }
    let names = answer.headers.keys().map(http::HeaderName::as_str);
    assert!(!names.into_iter().any(|name| name.starts_with("x-hitkeep-")));
    let challenge = header("www-authenticate").unwrap();
    let error = answer.json()["error"].as_str().unwrap().to_owned();
    Said::refused(answer.status.as_u16(), &error, &challenge)
}

#[tokio::test]
async fn whichever_proxy_asks_the_verdict_is_that_of_introspect() {
    let app = TestApp::start().await;
    let sidecar = app.sidecar().await;
    let ways = [Way::OriginalUri, Way::ForwardedUri, Way::InPath, Way::Odd];
    let cases = table::cases(&app).await;
    let mut verdicts = Vec::new();
    for case in &cases {
        let expected = Asker::Introspect.ask(&sidecar, case).await;
        for way in ways {
            let said = answered(&forward_auth(&app, way, case).await);
            assert_eq!(said, expected, "{way:?}: {}", case.what);
        }
        verdicts.push(expected);
    }
    let cases = table::with_legacy_tokens(&app, cases).await;
    for (case, expected) in cases.iter().zip(verdicts) {
        for way in ways {
            let said = answered(&forward_auth(&app, way, case).await);
            assert_eq!(said, expected, "{way:?}: {}", case.what);
        }
    }
}

/// What RFC 7662's answer says of a token, where it has one.
async fn introspected(app: &TestApp, token: &str) -> serde_json::Value {
    let caller = app.token(CallerPermission::Introspect);
    let request = form("/oauth2/introspect").header("authorization", format!("Bearer {caller}"));
    let body = form_urlencoded::Serializer::new(String::new())
        .append_pair("token", token)
        .finish();
    app.ask(request, body).await.json()
}

/// What Introspect says of it, in the words of the other.
async fn expected(sidecar: &Caller, token: &str) -> serde_json::Value {
    let answer = sidecar.introspect(introspect(token)).await.unwrap();
    if !answer.active {
        return serde_json::json!({ "active": false });
    }
    let owner = match answer.owner.unwrap().owner.unwrap() {
        pb::owner::Owner::UserId(id) => format!("user:{id}"),
        pb::owner::Owner::TeamId(id) => format!("team:{id}"),
    };
    let word = |name: &str| name.rsplit('_').next().unwrap().to_lowercase();
    let role = pb::InstanceRole::try_from(answer.instance_role).unwrap();
    let grants = answer.site_grants.iter().map(|grant| {
        let role = word(grant.role().as_str_name());
        serde_json::json!({ "site_id": grant.site_id, "role": role })
    });
    serde_json::json!({
        "active": true,
        "client_id": answer.client_id,
        "client_name": answer.client_name,
        "sub": owner,
        "token_type": "Bearer",
        "instance_role": word(role.as_str_name()),
        "site_grants": grants.collect::<Vec<_>>(),
        "revision": answer.revision,
        "max_cache_age": answer.max_cache_age.unwrap().seconds,
    })
}

#[tokio::test]
async fn rfc_7662_tells_what_introspect_tells() {
    let app = TestApp::start().await;
    let sidecar = app.sidecar().await;
    let cases = table::cases(&app).await;
    let mut told = tell_the_same(&app, &sidecar, &cases).await;
    let cases = table::with_legacy_tokens(&app, cases).await;
    told += tell_the_same(&app, &sidecar, &cases).await;
    assert!(told > 300, "{told}");
}

/// Asks both of each case that has a token, and gives how many these are.
async fn tell_the_same(app: &TestApp, sidecar: &Caller, cases: &[Case]) -> usize {
    let mut told = 0;
    for case in cases {
        let Some(token) = case.token.as_deref().filter(|token| !token.is_empty()) else {
            continue;
        };
        let mut said = introspected(app, token).await;
        let members = said.as_object_mut().unwrap();
        let scope = members.remove("scope").unwrap_or_default();
        let scope = scope.as_str().unwrap_or_default();
        members.remove("exp");
        assert_eq!(said, expected(sidecar, token).await, "{}", case.what);
        // What is in the scope is what a check of it allows.
        let of_instance = |permission: &&str| permission.starts_with("instance.");
        let permission = case.permission.filter(of_instance);
        if let Some(permission) = permission.filter(|_| !case.human_only) {
            let verdict = Asker::Introspect.ask(sidecar, case).await;
            let allowed = matches!(verdict, Said::Allowed { .. });
            let has = scope.split(' ').any(|held| held == permission);
            assert_eq!(has, allowed, "{}", case.what);
        }
        told += 1;
    }
    told
}
