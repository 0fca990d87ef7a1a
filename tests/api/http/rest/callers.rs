//! Who may speak for a person: a service account that may manage, in a header that no
//! browser's request decides about.

use hitkeep_auth::domain::caller::CallerPermission;
use http::{Request, request};

use super::{OWN, of_team, start, told};
use crate::{fixtures::*, harness::TestApp, http::client::basic};

const UNKNOWN: &str = "401 the caller's own token is missing or unknown: x-hitkeep-caller must be \
    that of a service account";

/// Every route.
fn routes() -> Vec<(&'static str, String)> {
    let mut routes = Vec::new();
    for collection in [OWN.to_owned(), of_team()] {
        let one = format!("{collection}/{NOBODY}");
        routes.extend([
            ("GET", collection.clone()),
            ("POST", collection.clone()),
            ("PUT", one.clone()),
            ("DELETE", one.clone()),
            ("POST", format!("{one}/rotate")),
        ]);
    }
    routes
}

fn bare(method: &str, path: &str) -> request::Builder {
    Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .header("x-hitkeep-actor", ALICE)
}

async fn said(app: &TestApp, request: request::Builder) -> String {
    let answer = app.ask(request, r#"{"name":"x"}"#).await;
    let said = told(&answer);
    // It is about the caller, and not about the person.
    let challenge = answer.header("www-authenticate");
    assert_eq!(challenge.as_deref(), Some("X-HitKeep-Caller"), "{said}");
    said
}

#[tokio::test]
async fn without_a_known_caller_nothing_is_done() {
    let app = start().await;
    let manage = app.token(CallerPermission::Manage).to_owned();
    let client = app.dashboard().await.created(personal(VERA)).await;
    let unknown = "hks_00000000000000000000000000000000000000000003yyySp";
    let before = app.everything().await;
    for (method, path) in routes() {
        assert_eq!(said(&app, bare(method, &path)).await, UNKNOWN);
        for caller in ["", "x", unknown, &*client.token] {
            let request = bare(method, &path).header("x-hitkeep-caller", caller);
            assert_eq!(said(&app, request).await, UNKNOWN, "{caller}");
        }
        // The end client's own credentials count for nothing, even if they are good.
        let request = bare(method, &path)
            .header("authorization", format!("Bearer {manage}"))
            .header("cookie", format!("session={manage}"));
        assert_eq!(said(&app, request).await, UNKNOWN);
        // One of them may be the end client's.
        let twice = bare(method, &path)
            .header("x-hitkeep-caller", &manage)
            .header("x-hitkeep-caller", &manage);
        assert_eq!(said(&app, twice).await, UNKNOWN);
    }
    assert_eq!(app.everything().await, before);
}

#[tokio::test]
async fn a_caller_needs_the_permission() {
    let app = start().await;
    for permission in CallerPermission::ALL {
        if *permission == CallerPermission::Manage {
            continue;
        }
        for (method, path) in routes() {
            let request = bare(method, &path).header("x-hitkeep-caller", app.token(*permission));
            let expected = "403 the service account lacks the permission \"manage\"";
            assert_eq!(said(&app, request).await, expected);
        }
    }
}

/// What a browser sends along is not looked at.
#[tokio::test]
async fn the_requests_own_credentials_are_ignored() {
    let app = start().await;
    let manage = app.token(CallerPermission::Manage).to_owned();
    for caller in [
        manage.clone(),
        format!("Bearer {manage}"),
        basic("hitkeep", &manage),
    ] {
        let request = bare("GET", OWN)
            .header("x-hitkeep-caller", caller)
            .header("authorization", "Bearer hkp_x")
            .header("authorization", "Basic x")
            .header("cookie", "session=x")
            .header("x-api-key", "x");
        let answer = app.ask(request, "").await;
        assert_eq!((answer.status.as_u16(), &*answer.body), (200, "[]"));
    }
}

#[tokio::test]
async fn the_caller_says_who_the_person_is() {
    let app = start().await;
    let caller = app.token(CallerPermission::Manage);
    let asked = async |headers: &[(&str, &str)]| {
        let mut request = Request::get(OWN).header("x-hitkeep-caller", caller);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        app.ask(request, "").await
    };
    let actor = ("x-hitkeep-actor", VERA);
    let ip = |value| ("x-hitkeep-actor-ip", value);
    let agent = ("x-hitkeep-actor-user-agent", "curl");
    for (headers, expected) in [
        (vec![], "400 x-hitkeep-actor is required"),
        (
            vec![("x-hitkeep-actor", "")],
            "400 x-hitkeep-actor is required",
        ),
        (
            vec![("x-hitkeep-actor", "vera")],
            "400 x-hitkeep-actor must be a UUID in lower-case text",
        ),
        (vec![actor, actor], "400 x-hitkeep-actor must occur once"),
        (
            vec![actor, ip("x")],
            "400 x-hitkeep-actor-ip must be an IPv4 or IPv6 address",
        ),
        (
            vec![actor, ip("192.0.2.1, 192.0.2.2")],
            "400 x-hitkeep-actor-ip must be an IPv4 or IPv6 address",
        ),
        (
            vec![actor, ip("192.0.2.1"), ip("192.0.2.1")],
            "400 x-hitkeep-actor-ip must occur once",
        ),
        (
            vec![actor, agent, agent],
            "400 x-hitkeep-actor-user-agent must occur once",
        ),
        (
            vec![ip("x"), agent, agent],
            "400 x-hitkeep-actor is required; x-hitkeep-actor-ip must be an IPv4 or IPv6 address; x-hitkeep-actor-user-agent must occur once",
        ),
    ] {
        assert_eq!(told(&asked(&headers).await), expected);
    }
    let good = asked(&[("X-HitKeep-Actor", &format!(" {VERA} ")), ip(""), agent]).await;
    assert_eq!(good.status, 200);
}
