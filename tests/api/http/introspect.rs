//! `POST /oauth2/introspect`, against the letter of RFC 7662.

use hitkeep_auth::{
    domain::caller::CallerPermission,
    pb::{InstanceRole, SiteRole},
    server,
};
use serde_json::json;

use super::client::{Answer, basic, form};
use crate::{fixtures::*, harness::TestApp};

const PATH: &str = "/oauth2/introspect";
/// What could be a token, and never was one.
const UNHEARD_OF: &str = "hkp_00000000000000000000000000000000000000000004Rx6xu";

impl TestApp {
    /// Asks with a body, as the account that may introspect.
    async fn ask_about(&self, body: impl Into<bytes::Bytes>) -> Answer {
        let bearer = format!("Bearer {}", self.token(CallerPermission::Introspect));
        self.ask(form(PATH).header("authorization", bearer), body)
            .await
    }

    /// What is said of a token.
    async fn said(&self, token: &str) -> serde_json::Value {
        let answer = self.ask_about(format!("token={token}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }
}

#[tokio::test]
async fn a_token_that_works_is_told_in_full() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let request = personal(ALICE)
        .with_role(InstanceRole::Admin)
        .granted(SECOND_SITE, SiteRole::Editor)
        .granted(SITE, SiteRole::Viewer)
        .named("Ann \"x\" Ümlaut")
        .expiring(in_seconds(&app, 3600));
    let made = dashboard.created(request).await;
    assert_eq!(
        app.said(&made.token).await,
        json!({
            "active": true,
            "client_id": made.id,
            "sub": format!("user:{ALICE}"),
            "token_type": "Bearer",
            "scope": "instance.view_all_sites instance.view_system instance.run_maintenance \
                      instance.view_audit instance.manage_site_exclusions \
                      instance.manage_imports instance.view_activation \
                      instance.manage_webhooks",
            "exp": 1_767_272_400,
            "client_name": "Ann \"x\" Ümlaut",
            "instance_role": "admin",
            "site_grants": [
                { "site_id": SITE, "role": "viewer" },
                { "site_id": SECOND_SITE, "role": "editor" },
            ],
            "revision": made.revision,
            "max_cache_age": 5,
        })
    );
}

#[tokio::test]
async fn members_without_a_value_are_left_out() {
    let app = TestApp::with_world().await;
    let made = app.dashboard().await.created(team_client(ALICE)).await;
    assert_eq!(
        app.said(&made.token).await,
        json!({
            "active": true,
            "client_id": made.id,
            "sub": format!("team:{TEAM}"),
            "token_type": "Bearer",
            "client_name": "a client",
            "instance_role": "user",
            "site_grants": [],
            "revision": made.revision,
            "max_cache_age": 5,
        })
    );
}

/// The end is the earlier one: of the client, or of an overlap.
#[tokio::test]
async fn the_end_is_that_of_the_token() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    app.clock.advance(chrono::TimeDelta::milliseconds(900));
    let made = dashboard.created(personal(VERA)).await;
    let rotated = dashboard
        .rotate(rotate_with_overlap(VERA, &made.id, 2))
        .await;
    let rotated = rotated.unwrap();
    // 12:00:02.9, rounded down; the new one ends not at all by itself.
    let said = app.said(&made.token).await;
    assert_eq!(said["exp"], 1_767_268_802);
    assert_eq!(said["max_cache_age"], 2);
    assert_eq!(app.said(&rotated.token).await.get("exp"), None);
    app.clock.advance(chrono::TimeDelta::seconds(2));
    assert_eq!(app.said(&made.token).await, json!({ "active": false }));
}

#[tokio::test]
async fn what_does_not_work_is_inactive_and_nothing_else() {
    let (app, dashboard, made) = TestApp::with_client().await;
    dashboard.revoke(revoke(VERA, &made.id)).await.unwrap();
    let caller = app.token(CallerPermission::Introspect);
    for token in [
        &*made.token,
        UNHEARD_OF,
        caller,
        "x",
        "%",
        "%zz",
        "%ff%fe",
        "%00",
        "a+b",
        &"x".repeat(4000),
    ] {
        let answer = app.ask_about(format!("token={token}")).await;
        let told = (answer.status.as_u16(), &*answer.body);
        assert_eq!(told, (200, r#"{"active":false}"#), "{token:?}");
        answer.json();
    }
    let raw = app.ask_about(b"token=\xff\xfe".to_vec()).await;
    assert_eq!(raw.json(), json!({ "active": false }));
}

#[tokio::test]
async fn the_form_is_read_as_oauth_reads_it() {
    let app = TestApp::with_world().await;
    let made = app.dashboard().await.created(personal(VERA)).await;
    let token = &made.token;
    let encoded = token.replace('_', "%5F");
    for body in [
        format!("token={token}"),
        format!("token={encoded}"),
        format!("%74oken={token}"),
        format!("token={token}&token_type_hint=access_token"),
        format!("token_type_hint=refresh_token&token={token}"),
        format!("token_type_hint=nonsense&token={token}"),
        format!("&&token={token}&"),
        format!("client_id=x&client_secret=&token={token}&other=1&other=2"),
        format!("TOKEN=x&token={token}"),
    ] {
        assert_eq!(app.ask_about(body.clone()).await.json()["active"], true);
    }
    for body in [
        String::new(),
        "token".to_owned(),
        "token=".to_owned(),
        format!("TOKEN={token}"),
        format!("tokens={token}"),
        format!("{{\"token\":\"{token}\"}}"),
        token.clone(),
        format!("token={token}&token={token}"),
        format!("token={token}&token="),
        format!("token={token}&%74oken=x"),
        format!("token={token}&token_type_hint=a&token_type_hint=a"),
    ] {
        let refused = app.ask_about(body.clone()).await.told();
        assert_eq!(refused, "400 invalid_request", "{body:?}");
    }
}

#[tokio::test]
async fn the_content_type_must_be_a_form() {
    let app = TestApp::start().await;
    let bearer = format!("Bearer {}", app.token(CallerPermission::Introspect));
    let asked = async |kind: Option<&str>| {
        let request = http::Request::post(PATH).header("authorization", &bearer);
        let request = match kind {
            Some(kind) => request.header("content-type", kind),
            None => request,
        };
        app.ask(request, "token=x").await
    };
    for kind in [
        "application/x-www-form-urlencoded",
        "Application/X-WWW-Form-Urlencoded",
        "application/x-www-form-urlencoded; charset=UTF-8",
    ] {
        assert_eq!(asked(Some(kind)).await.json()["active"], false, "{kind}");
    }
    for kind in [
        None,
        Some(""),
        Some("application/json"),
        Some("text/plain"),
        Some("multipart/form-data; boundary=x"),
        Some("application/x-www-form-urlencoded-x"),
    ] {
        assert_eq!(asked(kind).await.told(), "415 invalid_request", "{kind:?}");
    }
}

/// It would end up in the logs of whatever is in between.
#[tokio::test]
async fn a_token_in_the_query_is_refused() {
    let app = TestApp::with_world().await;
    let made = app.dashboard().await.created(personal(VERA)).await;
    let bearer = format!("Bearer {}", app.token(CallerPermission::Introspect));
    let body = format!("token={}", made.token);
    let asked = async |query: &str, body: &str| {
        let request = form(&format!("{PATH}?{query}")).header("authorization", &bearer);
        app.ask(request, body.to_owned()).await
    };
    for query in [&*body, "x=y&token=", "%74oken=x", "client_secret=x"] {
        for body in [&*body, ""] {
            let refused = asked(query, body).await.told();
            assert_eq!(refused, "400 invalid_request", "{query}");
        }
    }
    assert_eq!(asked("x=y", &body).await.json()["active"], true);
}

#[tokio::test]
async fn only_post_is_taken() {
    let app = TestApp::start().await;
    let bearer = format!("Bearer {}", app.token(CallerPermission::Introspect));
    for method in ["GET", "PUT", "DELETE", "OPTIONS", "PATCH", "NONSENSE"] {
        let request = http::Request::builder().method(method).uri(PATH);
        let answer = app
            .ask(request.header("authorization", &bearer), "token=x")
            .await;
        assert_eq!(answer.told(), "405 invalid_request", "{method}");
        assert_eq!(answer.header("allow").as_deref(), Some("POST"), "{method}");
    }
}

#[tokio::test]
async fn callers_show_themselves_as_bearer_or_basic() {
    let app = TestApp::start().await;
    let token = app.token(CallerPermission::Introspect);
    let asked = async |values: &[&str]| {
        let mut request = form(PATH);
        for value in values {
            request = request.header("authorization", *value);
        }
        app.ask(request, "token=x").await
    };
    let bearer = format!("Bearer {token}");
    for value in [
        bearer.clone(),
        format!("bearer {token}"),
        basic("", token),
        basic("anybody", token),
        basic("any%3Abody", &token.replace('_', "%5F")),
        basic("anybody", token).replace("Basic", "bASIC"),
    ] {
        assert_eq!(asked(&[&value]).await.json(), json!({ "active": false }));
    }

    let challenge = "Bearer realm=\"hitkeep-auth\", Basic realm=\"hitkeep-auth\"";
    let api_client = UNHEARD_OF;
    let invented = format!("{}0", &token[..token.len() - 1]);
    for value in [
        basic("anybody", ""),
        basic("anybody", api_client),
        basic("anybody", &invented),
        basic(token, "x"),
        token.to_owned(),
        "Basic !".to_owned(),
        "Digest x".to_owned(),
        String::new(),
    ] {
        let answer = asked(&[&value]).await;
        assert_eq!(answer.told(), "401 invalid_client", "{value}");
        assert_eq!(answer.header("www-authenticate").unwrap(), challenge);
    }
    for values in [&[][..], &[&*bearer, &*bearer]] {
        let answer = asked(values).await;
        assert_eq!(answer.told(), "401 invalid_client");
        assert_eq!(answer.header("www-authenticate").unwrap(), challenge);
    }
    let challenge = "Bearer realm=\"hitkeep-auth\", error=\"invalid_token\", \
                     Basic realm=\"hitkeep-auth\"";
    for token in [&*invented, api_client, "x"] {
        let answer = asked(&[&format!("Bearer {token}")]).await;
        assert_eq!(answer.told(), "401 invalid_token", "{token}");
        assert_eq!(answer.header("www-authenticate").unwrap(), challenge);
    }
}

#[tokio::test]
async fn callers_show_themselves_in_the_form_as_well() {
    let app = TestApp::with_world().await;
    let made = app.dashboard().await.created(personal(VERA)).await;
    let secret = app.token(CallerPermission::Introspect);
    let asked = async |form_of: &str, authorization: &[&str]| {
        let mut request = form(PATH);
        for value in authorization {
            request = request.header("authorization", *value);
        }
        let body = form_of.replace("SECRET", secret);
        app.ask(request, body.replace("TOKEN", &made.token)).await
    };
    for form_of in [
        "client_id=x&client_secret=SECRET&token=TOKEN",
        "token=TOKEN&token_type_hint=access_token&client_secret=SECRET",
        "client_secret=&client_secret=SECRET&token=TOKEN",
    ] {
        let answer = asked(form_of, &[]).await;
        assert_eq!(answer.json()["active"], true, "{form_of}");
    }
    let challenge = "Bearer realm=\"hitkeep-auth\", Basic realm=\"hitkeep-auth\"";
    for form_of in [
        "client_id=SECRET&token=TOKEN",
        "client_id=x&client_secret=x&token=TOKEN",
        "client_id=x&client_secret=TOKEN&token=TOKEN",
        "client_secret=SECRET&client_secret=SECRET&token=TOKEN",
        "client_secret=&token=TOKEN",
        "client_secret=x",
    ] {
        let answer = asked(form_of, &[]).await;
        assert_eq!(answer.told(), "401 invalid_client", "{form_of}");
        assert_eq!(answer.header("www-authenticate").unwrap(), challenge);
    }
    // In one way at a time, whatever each of them is worth.
    let (bearer, basic) = (format!("Bearer {secret}"), basic("x", secret));
    for authorization in [&*bearer, &basic] {
        for form_of in [
            "client_secret=SECRET&token=TOKEN",
            "client_secret=x&token=TOKEN",
        ] {
            let answer = asked(form_of, &[authorization]).await;
            assert_eq!(answer.told(), "400 invalid_request", "{form_of}");
        }
    }
    let answer = asked("client_secret=SECRET&token=TOKEN", &["Bearer x"]).await;
    assert_eq!(answer.told(), "401 invalid_token");
    // The rest is as for everybody.
    for form_of in [
        "client_secret=SECRET",
        "client_secret=SECRET&token=TOKEN&token=x",
    ] {
        assert_eq!(asked(form_of, &[]).await.told(), "400 invalid_request");
    }
    let other = app.token(CallerPermission::Manage);
    let body = format!("client_secret={other}&token=x");
    let answer = app.ask(form(PATH), body).await;
    assert_eq!(answer.told(), "403 insufficient_scope");
}

/// Connections that show nothing at first may not keep those out that do.
#[tokio::test]
async fn a_slow_stranger_takes_no_place() {
    use tokio::io::AsyncWriteExt;

    let app = TestApp::with(server::Options {
        max_introspections: 1,
        ..server::Options::default()
    })
    .await;
    let mut slow = Vec::new();
    for _ in 0..3 {
        let mut connection = app.http_connection();
        let head = format!(
            "POST {PATH} HTTP/1.1\r\nhost: test\r\ncontent-length: 60\r\n\
             content-type: application/x-www-form-urlencoded\r\n\r\nclient_secret="
        );
        connection.write_all(head.as_bytes()).await.unwrap();
        slow.push(connection);
    }
    for _ in 0..3 {
        assert_eq!(app.said("x").await, json!({ "active": false }));
    }
}

#[tokio::test]
async fn a_caller_without_the_permission_is_forbidden() {
    let app = TestApp::start().await;
    for permission in CallerPermission::ALL {
        let token = app.token(*permission);
        for authorization in [format!("Bearer {token}"), basic("x", token)] {
            let request = form(PATH).header("authorization", authorization);
            let answer = app.ask(request, "token=x").await;
            if *permission == CallerPermission::Introspect {
                assert_eq!(answer.json()["active"], false);
                continue;
            }
            assert_eq!(answer.told(), "403 insufficient_scope", "{permission}");
            let challenge = answer.header("www-authenticate").unwrap();
            assert!(challenge.contains("error=\"insufficient_scope\""));
            assert!(challenge.contains("scope=\"introspect\""));
        }
    }
}

/// Strangers learn nothing, not even what a request should look like.
#[tokio::test]
async fn the_caller_comes_first() {
    let app = TestApp::start().await;
    for request in [http::Request::post(PATH), form(&format!("{PATH}?token=x"))] {
        let answer = app.ask(request, "x".repeat(9000)).await;
        assert_eq!(answer.told(), "401 invalid_client");
    }
}

#[tokio::test]
async fn an_outage_is_no_revocation() {
    let (app, proxy) = TestApp::behind_proxy(server::Options::default()).await;
    let dashboard = app.dashboard().await;
    let works = dashboard.created(personal(VERA)).await;
    let dead = dashboard.created(personal(VERA)).await;
    dashboard.revoke(revoke(VERA, &dead.id)).await.unwrap();
    app.settle().await;
    proxy.cut();
    let cannot_tell = async |token: &str| {
        let answer = app.ask_about(format!("token={token}")).await;
        assert_eq!(answer.told(), "503 temporarily_unavailable");
        assert_eq!(answer.header("retry-after").as_deref(), Some("1"));
    };
    // From memory; and what is not in there may have been made meanwhile.
    assert_eq!(app.said(&works.token).await["active"], true);
    cannot_tell(UNHEARD_OF).await;
    app.clock.grow_old(std::time::Duration::from_secs(11));
    cannot_tell(&works.token).await;
    assert_eq!(app.said(&dead.token).await, json!({ "active": false }));
    proxy.mend();
    app.settle().await;
    assert_eq!(app.said(&works.token).await["active"], true);
    assert_eq!(app.said(UNHEARD_OF).await["active"], false);
}

#[tokio::test]
async fn it_counts_as_a_use() {
    let mut app = TestApp::with_world().await;
    let made = app.dashboard().await.created(personal(VERA)).await;
    app.said(&made.token).await;
    app.said(&made.token).await;
    app.stop.send(()).await.unwrap();
    (&mut app.server).await.unwrap();
    let uses = "SELECT sum(count) FROM api_client_usage_days WHERE outcome = 'USED'";
    assert_eq!(app.number(uses).await, 2);
}
