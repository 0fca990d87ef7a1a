//! What is refused, and with which answer.

use hitkeep_auth::pb::{InstanceRole, TeamRole};
use serde_json::{Value, json};

use super::{
    OWN, call, created, edited, of_team, options, path_of, request, send, site_role, start,
    start_with, told,
};
use crate::{fixtures::*, harness::TestApp};

/// Sends a body as it is.
async fn raw(app: &TestApp, method: &str, path: &str, body: impl Into<bytes::Bytes>) -> String {
    let request =
        request(app, method, path, VERA).header("content-type", "application/json; charset=utf-8");
    told(&app.ask(request, body).await)
}

#[tokio::test]
async fn a_body_has_to_be_as_expected() {
    let app = start().await;
    let (client, _) = created(&app, OWN, VERA, &json!({ "name": "x" })).await;
    let put = path_of(OWN, &client);
    let before = app.everything().await;
    for (method, path) in [("POST", OWN), ("PUT", &*put)] {
        for body in [
            "",
            "null",
            "[]",
            "\"x\"",
            "{",
            "{}x",
            r#"["x",null,null,null,null]"#,
            r#"["x",null,null,null,null,null]"#,
            r#"{"name":"x","instance_role":"user","unknown":1}"#,
            r#"{"Name":"x","instance_role":"user"}"#,
            r#"{"name":"x","name":"y","instance_role":"user"}"#,
            r#"{"name":1,"instance_role":"user"}"#,
            r#"{"name":"x","instance_role":"user","site_roles":{}}"#,
            r#"{"name":"x","instance_role":"user","site_roles":[null]}"#,
            r#"{"name":"x","instance_role":"user","site_roles":[["s","viewer"]]}"#,
            r#"{"name":"x","instance_role":"user","site_roles":[{"site_id":"x","role":"y","z":1}]}"#,
            r#"{"name":"x","instance_role":"user","expires_at":5}"#,
            r#"{"name":"x","instance_role":"user","revoked":"true"}"#,
        ] {
            let said = raw(&app, method, path, body).await;
            assert!(
                said.starts_with("400 the body is not as expected: "),
                "{body}: {said}"
            );
        }
        let invalid = raw(&app, method, path, b"{\"name\":\"\xff\"}".as_slice()).await;
        assert!(
            invalid.starts_with("400 the body is not as expected: "),
            "{invalid}"
        );
        let long = format!(r#"{{"{}\n":1}}"#, "x".repeat(1000));
        let said = raw(&app, method, path, long).await;
        assert!(said.len() < 300 && !said.contains('\n'), "{said}");
    }
    // A revocation is nothing that a client is created with.
    let said = raw(&app, "POST", OWN, r#"{"name":"x","revoked":false}"#).await;
    assert!(said.contains("unknown field `revoked`"), "{said}");
    assert_eq!(app.everything().await, before);
}

/// A person may paste a token where it does not belong, and no error may carry it on.
#[tokio::test]
async fn what_is_wrong_with_a_body_is_told_without_what_is_in_it() {
    let app = start().await;
    let secret = "hkp_00000000000000000000000000000000000000000004Rx6xu";
    let tricky = format!("{secret}`, expected `{secret}, expected {secret}");
    for (body, expected) in [
        (
            json!({ secret: 1 }),
            "unknown field, expected one of `name`",
        ),
        (
            json!({ &tricky: 1 }),
            "unknown field, expected one of `name`",
        ),
        (
            json!({ "name": [secret] }),
            "invalid type: sequence, expected a string",
        ),
        (
            json!({ "revoked": secret }),
            "invalid type: string, expected a boolean",
        ),
        (
            json!({ "revoked": tricky }),
            "invalid type: string, expected a boolean",
        ),
        (
            json!({ "name": 1_234_567 }),
            "invalid type: integer, expected a string",
        ),
        (
            json!({ "site_roles": secret }),
            "invalid type: string, expected a sequence",
        ),
        (
            json!({ "site_roles": [secret] }),
            "invalid type: string, expected an object",
        ),
        (
            json!({ "site_roles": [{ secret: 1 }] }),
            "unknown field, expected `site_id` or `role`",
        ),
        (
            json!({ "a_field": 1 }),
            "unknown field `a_field`, expected one of `name`",
        ),
        (
            json!(secret),
            "invalid type: string, expected an object at line 1 column 55",
        ),
    ] {
        let path = format!("{OWN}/{NOBODY}");
        let said = raw(&app, "PUT", &path, body.to_string()).await;
        let expected = format!("400 the body is not as expected: {expected}");
        assert!(said.starts_with(&expected), "{body}: {said}");
        assert!(!said.contains("hkp_") && !said.contains("1234"), "{said}");
    }
    let twice = r#"{"name":"x","name":"y"}"#;
    let said = raw(&app, "POST", OWN, twice).await;
    assert_eq!(
        said,
        "400 the body is not as expected: duplicate field `name` at line 1 column 18"
    );
    // The parser does not repeat what it cannot read.
    for body in [
        secret.to_owned(),
        format!("{{\"name\":{secret}}}"),
        format!("{{{secret}:1}}"),
    ] {
        let said = raw(&app, "POST", OWN, body.clone()).await;
        assert!(
            said.starts_with("400 the body is not as expected: "),
            "{said}"
        );
        assert!(!said.contains("hkp_"), "{body}: {said}");
    }
}

#[tokio::test]
async fn a_body_has_its_limit() {
    let app = start().await;
    let body = |length: usize| {
        let start = r#"{"name":"x"}"#;
        format!("{start}{}", " ".repeat(length - start.len()))
    };
    let fits = request(&app, "POST", OWN, VERA);
    assert_eq!(app.ask(fits, body(1024 * 1024)).await.status, 201);
    let said = raw(&app, "POST", OWN, body(1024 * 1024 + 1)).await;
    assert_eq!(said, "400 the body is larger than 1 MiB");
}

#[tokio::test]
async fn a_body_is_json() {
    let app = start().await;
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "",
        "é",
        "application/jsonx",
    ] {
        let request = request(&app, "POST", OWN, VERA).header("content-type", kind);
        let answer = app.ask(request, r#"{"name":"x"}"#).await;
        assert_eq!(
            told(&answer),
            "415 the content-type must be application/json"
        );
    }
    for kind in ["application/json", "Application/JSON ; charset=utf-8"] {
        let request = request(&app, "POST", OWN, VERA).header("content-type", kind);
        assert_eq!(app.ask(request, r#"{"name":"x"}"#).await.status, 201);
    }
    let none = request(&app, "POST", OWN, VERA);
    assert_eq!(app.ask(none, r#"{"name":"x"}"#).await.status, 201);
}

/// All that is wrong with a body, and not only the first.
#[tokio::test]
async fn every_field_that_is_wrong_is_named() {
    let app = start().await;
    let said = async |body: Value| told(&send(&app, "POST", OWN, VERA, &body).await);
    let all = json!({
        "name": " ", "description": "x".repeat(501), "instance_role": "root", "expires_at": "tomorrow",
        "site_roles": [{}, site_role("X", "boss"), site_role(SITE, "viewer"), site_role(SITE, "owner")],
    });
    let expected = "400 name must not be empty; description must have at most 500 characters; \
        instance_role must be user, admin or owner; \
        expires_at must be a time by RFC 3339, from the year 1 to 9999; \
        site_roles[0].site_id is required; site_roles[0].role must be viewer, editor, admin or owner";
    let got = said(all).await;
    assert!(got.starts_with(expected), "{got}");
    for (body, expected) in [
        (json!({}), "400 name must not be empty"),
        (
            json!({ "name": "é".repeat(121) }),
            "400 name must have at most 120 characters",
        ),
        (
            json!({ "name": "a\u{0}" }),
            "400 name must not contain control characters",
        ),
        (
            json!({ "name": "my hkp_12345678", "description": "0a".repeat(32) }),
            "400 name must not contain a token, nor what looks like one; \
             description must not contain a token, nor what looks like one",
        ),
        (
            json!({ "name": "x", "expires_at": "" }),
            "400 expires_at must be a time by RFC 3339, from the year 1 to 9999",
        ),
        (
            json!({ "name": "x", "expires_at": "0000-01-01T00:00:00Z" }),
            "400 expires_at must be a time by RFC 3339, from the year 1 to 9999",
        ),
        (
            json!({ "name": "x", "expires_at": "2026-01-01T12:00:00Z" }),
            "400 expires_at must be in the future",
        ),
        (
            json!({ "name": "x", "site_roles": [site_role(SITE, "viewer"), site_role(SITE, "viewer")] }),
            "400 site_roles[1].site_id is granted twice",
        ),
        (
            json!({ "name": "x", "site_roles": vec![site_role(SITE, "viewer"); 101] }),
            "400 site_roles must have at most 100 grants",
        ),
    ] {
        assert_eq!(said(body).await, expected);
    }
    // Ours are characters, HitKeep's were bytes.
    assert_eq!(
        send(&app, "POST", OWN, VERA, &json!({ "name": "é".repeat(120) }))
            .await
            .status,
        201
    );
    let in_team = json!({ "name": "x", "instance_role": "admin" });
    let said = told(&send(&app, "POST", &of_team(), ALICE, &in_team).await);
    assert_eq!(
        said,
        "400 instance_role must be user for a team's API client"
    );
    let (client, _) = created(&app, OWN, VERA, &json!({ "name": "x" })).await;
    for role in [json!({}), json!({ "instance_role": "" })] {
        let body = edited(&role, &json!({ "name": "x" }));
        let said = told(&send(&app, "PUT", &path_of(OWN, &client), VERA, &body).await);
        assert_eq!(said, "400 instance_role is required");
    }
}

#[tokio::test]
async fn ids_are_in_lower_case() {
    let app = start().await;
    let upper = TEAM.to_uppercase();
    for (path, field) in [
        (format!("{OWN}/x"), "the API client's id"),
        (format!("{OWN}/%ff"), "the API client's id"),
        (format!("{OWN}/{VERA}%20"), "the API client's id"),
        (
            format!("/api/user/teams/{upper}/api-clients/{VERA}"),
            "the team's id",
        ),
        (
            format!("/api/user/teams/%ff/api-clients/{VERA}"),
            "the team's id",
        ),
        (format!("{}/x", of_team()), "the API client's id"),
    ] {
        let said = told(&call(&app, "DELETE", &path, VERA).await);
        assert!(said.starts_with(&format!("400 {field} ")), "{path}: {said}");
    }
    let said = told(&call(&app, "GET", "/api/user/teams/x/api-clients", VERA).await);
    assert_eq!(said, "400 the team's id must be a UUID in lower-case text");
}

/// A client of another owner is as unknown as one that does not exist.
#[tokio::test]
async fn another_owners_client_is_unknown() {
    let app = start().await;
    let (own, _) = created(&app, OWN, VERA, &json!({ "name": "x" })).await;
    let (team, _) = created(&app, &of_team(), ADAM, &json!({ "name": "x" })).await;
    app.change([put_team_member(OTHER_TEAM, ALICE, TeamRole::Owner)])
        .await;
    let before = app.everything().await;
    let others = format!("/api/user/teams/{OTHER_TEAM}/api-clients");
    let nobodys = json!({ "id": NOBODY });
    for (collection, client, user) in [
        // Not even for an instance owner, who may end every client over gRPC.
        (OWN, &own, ROOT),
        (OWN, &own, EVE),
        (OWN, &team, ADAM),
        (OWN, &nobodys, VERA),
        (&*of_team(), &own, ALICE),
        (&*of_team(), &nobodys, ALICE),
        (&*others, &team, ALICE),
    ] {
        let path = path_of(collection, client);
        let body = json!({ "name": "y", "instance_role": "user", "revoked": true });
        for answer in [
            send(&app, "PUT", &path, user, &body).await,
            call(&app, "DELETE", &path, user).await,
            call(&app, "POST", &format!("{path}/rotate"), user).await,
        ] {
            assert_eq!(told(&answer), "404 no such API client", "{path} {user}");
        }
    }
    assert_eq!(app.everything().await, before);
}

#[tokio::test]
async fn a_team_is_for_those_who_manage_it() {
    let app = start().await;
    let (client, _) = created(&app, &of_team(), ADAM, &json!({ "name": "x" })).await;
    let denied = async |collection: &str, user: &str| {
        let before = app.everything().await;
        let path = path_of(collection, &client);
        let body = json!({ "name": "y", "revoked": true });
        for answer in [
            call(&app, "GET", collection, user).await,
            send(&app, "POST", collection, user, &body_without(&body)).await,
            send(&app, "PUT", &path, user, &body).await,
            call(&app, "DELETE", &path, user).await,
            call(&app, "POST", &format!("{path}/rotate"), user).await,
        ] {
            assert_eq!(told(&answer), "403 Access denied", "{collection} {user}");
        }
        assert_eq!(app.everything().await, before);
    };
    for user in [VERA, EVE, NOBODY] {
        denied(&of_team(), user).await;
    }
    denied(&format!("/api/user/teams/{NOBODY}/api-clients"), ADAM).await;
    app.change([put_user(ADAM, InstanceRole::User, true)]).await;
    denied(&of_team(), ADAM).await;
    app.change([put_team(TEAM, true)]).await;
    denied(&of_team(), ALICE).await;
}

fn body_without(body: &Value) -> Value {
    json!({ "name": body["name"] })
}

/// Who is disabled or unknown has nothing, and is given nothing.
#[tokio::test]
async fn a_disabled_person_may_do_nothing() {
    let app = start().await;
    let (client, _) = created(&app, OWN, VERA, &json!({ "name": "x" })).await;
    app.change([put_user(VERA, InstanceRole::User, true)]).await;
    for user in [VERA, NOBODY] {
        assert_eq!(
            told(&call(&app, "GET", OWN, user).await),
            "403 Access denied"
        );
        let create = send(&app, "POST", OWN, user, &json!({ "name": "x" })).await;
        assert_eq!(told(&create), "403 Access denied");
        let delete = call(&app, "DELETE", &path_of(OWN, &client), user).await;
        assert_eq!(told(&delete), "404 no such API client");
    }
}

#[tokio::test]
async fn nobody_gives_away_more_than_they_hold() {
    let app = start().await;
    for (collection, user, body, expected) in [
        (
            OWN,
            VERA,
            json!({ "instance_role": "admin" }),
            "the actor does not hold the instance role admin".to_owned(),
        ),
        (
            OWN,
            VERA,
            json!({ "site_roles": [site_role(SITE, "admin")] }),
            format!("the actor does not hold the role admin on site {SITE}"),
        ),
        (
            OWN,
            VERA,
            json!({ "site_roles": [site_role(NOBODY, "viewer")] }),
            format!("site {NOBODY} is unknown, or not in the owner's team"),
        ),
        (
            &of_team(),
            ALICE,
            json!({ "site_roles": [site_role(OTHER_SITE, "viewer")] }),
            format!("site {OTHER_SITE} is unknown, or not in the owner's team"),
        ),
    ] {
        let body = edited(&json!({}), &body);
        let mut body = body;
        body["name"] = json!("x");
        let said = told(&send(&app, "POST", collection, user, &body).await);
        assert_eq!(said, format!("403 {expected}"));
    }
}

#[tokio::test]
async fn an_inactive_client_gets_no_token() {
    let app = start().await;
    let (revoked, _) = created(&app, OWN, VERA, &json!({ "name": "x" })).await;
    let body = edited(&revoked, &json!({ "revoked": true }));
    send(&app, "PUT", &path_of(OWN, &revoked), VERA, &body).await;
    let (expired, _) = created(
        &app,
        OWN,
        VERA,
        &json!({ "name": "x", "expires_at": "2026-01-01T12:00:01Z" }),
    )
    .await;
    app.clock.advance(chrono::TimeDelta::seconds(1));
    for (client, state) in [(revoked, "REVOKED"), (expired, "EXPIRED")] {
        let path = format!("{}/rotate", path_of(OWN, &client));
        let said = told(&call(&app, "POST", &path, VERA).await);
        assert_eq!(said, format!("409 the API client is {state}"));
    }
}

#[tokio::test]
async fn an_owner_has_so_many_clients() {
    let mut options = options();
    options.grpc.max_clients_per_owner = 1;
    let app = start_with(options).await;
    created(&app, OWN, VERA, &json!({ "name": "x" })).await;
    let more = send(&app, "POST", OWN, VERA, &json!({ "name": "x" })).await;
    assert_eq!(
        told(&more),
        "409 the owner already has 1 API clients, the most allowed"
    );
}

#[tokio::test]
async fn other_methods_are_not_allowed() {
    let app = start().await;
    let one = format!("{OWN}/{VERA}");
    for (path, allowed) in [
        (OWN.to_owned(), ["GET", "HEAD", "POST"].as_slice()),
        (of_team(), &["GET", "HEAD", "POST"]),
        (one.clone(), &["PUT", "DELETE"]),
        (format!("{}/{VERA}", of_team()), &["PUT", "DELETE"]),
        (format!("{one}/rotate"), &["POST"]),
        (format!("{}/{VERA}/rotate", of_team()), &["POST"]),
    ] {
        for method in [
            "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "QUERY",
        ] {
            if allowed.contains(&method) {
                continue;
            }
            let answer = call(&app, method, &path, VERA).await;
            assert_eq!(answer.status, 405, "{method} {path}");
            if method != "HEAD" {
                assert_eq!(told(&answer), "405 this path takes another method");
            }
            let mut said = answer.header("allow").unwrap();
            said.retain(|c| c != ' ');
            let mut said: Vec<_> = said.split(',').collect();
            said.sort_unstable();
            let mut allowed = allowed.to_vec();
            allowed.sort_unstable();
            assert_eq!(said, allowed, "{method} {path}");
        }
    }
    for path in [
        format!("{OWN}/"),
        format!("{one}/x"),
        format!("{one}/rotate/"),
    ] {
        assert_eq!(call(&app, "GET", &path, VERA).await.told(), "404 not_found");
    }
}
