//! Every route, if nothing is in its way.

use chrono::TimeDelta;
use hitkeep_auth::pb;
use serde_json::{Value, json};

use super::{
    OWN, call, created, edited, of_status, of_team, path_of, request, send, site_role, start,
    start_with,
};
use crate::{fixtures::*, harness::TestApp};

const CREATED: &str = "2026-01-01T12:00:00Z";

async fn works(app: &TestApp, token: &str) -> bool {
    let reason = app.sidecar().await.inactive_reason(token).await;
    reason.is_none()
}

#[tokio::test]
async fn a_personal_client_is_created_as_asked() {
    let app = start().await;
    let body = json!({
        "name": " report ",
        "description": " weekly\n",
        "instance_role": "user",
        "expires_at": "2026-02-01T01:00:00.5+01:00",
        "site_roles": [site_role(SITE, "editor"), site_role(SECOND_SITE, "viewer")],
    });
    let answer = send(&app, "POST", OWN, VERA, &body).await;
    let made = of_status(&answer, 201);
    let client = &made["client"];
    let expected = json!({
        "id": client["id"],
        "user_id": VERA,
        "owner_type": "personal",
        "name": "report",
        "description": "weekly",
        "instance_role": "user",
        "expires_at": "2026-02-01T00:00:00.500Z",
        "created_at": CREATED,
        "updated_at": CREATED,
        "site_roles": [site_role(SITE, "editor"), site_role(SECOND_SITE, "viewer")],
    });
    assert_eq!(*client, expected);
    assert_eq!(made.as_object().unwrap().len(), 2);
    let token = made["token"].as_str().unwrap();
    assert!(token.starts_with("hkp_"));
    assert!(works(&app, token).await);
    // The same client over gRPC.
    let id = client["id"].as_str().unwrap();
    let dashboard = app.dashboard().await;
    let read = dashboard.get(get(VERA, id)).await.unwrap();
    let read = read.api_client.unwrap();
    assert_eq!(read.created_by_user_id, VERA);
    assert_eq!(read.owner, of_user(VERA));
}

#[tokio::test]
async fn a_client_needs_a_name_alone() {
    let app = start().await;
    let all_null = json!({
        "name": "x", "description": null, "instance_role": null, "expires_at": null,
        "site_roles": null,
    });
    let empty_role = json!({ "name": "x", "instance_role": "" });
    for body in [json!({ "name": "x" }), all_null, empty_role] {
        let (client, _) = created(&app, OWN, VERA, &body).await;
        assert_eq!(client["description"], "");
        assert_eq!(client["instance_role"], "user");
        assert_eq!(client["site_roles"], json!([]));
        assert_eq!(client.as_object().unwrap().len(), 9, "{client}");
    }
    let (client, _) = created(
        &app,
        OWN,
        ALICE,
        &json!({ "name": "x", "instance_role": "admin" }),
    )
    .await;
    assert_eq!(client["instance_role"], "admin");
}

#[tokio::test]
async fn a_team_client_is_its_teams() {
    let app = start().await;
    let body =
        json!({ "name": "x", "instance_role": "user", "site_roles": [site_role(SITE, "admin")] });
    let (client, token) = created(&app, &of_team(), ADAM, &body).await;
    assert_eq!(client["owner_type"], "team");
    assert_eq!(client["tenant_id"], TEAM);
    assert!(client.get("user_id").is_none());
    assert!(token.starts_with("hkt_"));
    assert!(works(&app, &token).await);
    let listed = of_status(&call(&app, "GET", &of_team(), ALICE).await, 200);
    assert_eq!(listed, json!([client]));
    // It is no user's own.
    for user in [ADAM, ALICE] {
        assert_eq!(
            of_status(&call(&app, "GET", OWN, user).await, 200),
            json!([])
        );
    }
}

#[tokio::test]
async fn a_list_is_whole_and_newest_first() {
    let app = start().await;
    let answer = call(&app, "GET", OWN, VERA).await;
    assert_eq!(answer.body, "[]");
    let mut all = Vec::new();
    for name in ["expired", "revoked", "active"] {
        let expires = (name == "expired").then_some("2026-01-01T12:00:01Z");
        let body = json!({ "name": name, "expires_at": expires, "site_roles": [site_role(SITE, "viewer")] });
        let (client, _) = created(&app, OWN, VERA, &body).await;
        all.insert(0, client);
        app.clock.advance(TimeDelta::seconds(2));
    }
    let revoke = edited(&all[1], &json!({ "revoked": true }));
    all[1] = of_status(
        &send(&app, "PUT", &path_of(OWN, &all[1]), VERA, &revoke).await,
        200,
    );
    created(&app, OWN, EVE, &json!({ "name": "another's" })).await;
    created(&app, &of_team(), ADAM, &json!({ "name": "a team's" })).await;
    let listed = of_status(&call(&app, "GET", OWN, VERA).await, 200);
    assert_eq!(listed, Value::Array(all));
    let head = call(&app, "HEAD", OWN, VERA).await;
    assert_eq!((head.status.as_u16(), &*head.body), (200, ""));
}

/// More than are read at a time, many of them of the same moment.
#[tokio::test]
async fn a_list_has_no_pages() {
    let app = start().await;
    app.psql(&format!(
        "INSERT INTO api_clients (id, owner_user_id, name, description, instance_role, \
             created_by_user_id, create_time, update_time) \
         SELECT gen_random_uuid(), '{VERA}', 'c' || i, '', 'user', '{VERA}', t, t \
         FROM generate_series(1, 1001) AS i, \
              LATERAL (SELECT timestamptz '2026-01-01' + (i / 100) * interval '1 s') AS _(t)"
    ))
    .await;
    let listed = of_status(&call(&app, "GET", OWN, VERA).await, 200);
    let listed = listed.as_array().unwrap();
    let mut ids: Vec<_> = listed.iter().map(|client| client["id"].as_str()).collect();
    let times = listed.iter().map(|client| client["created_at"].as_str());
    assert!(times.rev().is_sorted());
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 1001);
}

#[tokio::test]
async fn the_last_use_is_shown() {
    let app = start().await;
    let (client, _) = created(&app, OWN, VERA, &json!({ "name": "x" })).await;
    let id = client["id"].as_str().unwrap();
    app.psql(&format!(
        "INSERT INTO api_client_usage (client_id, last_used_time) VALUES ('{id}', '2026-01-01T13:00:00Z')"
    ))
    .await;
    let listed = of_status(&call(&app, "GET", OWN, VERA).await, 200);
    assert_eq!(listed[0]["last_used_at"], "2026-01-01T13:00:00Z");
}

#[tokio::test]
async fn a_rotation_ends_the_old_token_at_once() {
    let app = start().await;
    for (collection, user) in [(OWN, VERA), (&of_team(), ADAM)] {
        let body = json!({ "name": "x", "site_roles": [site_role(SITE, "viewer")] });
        let (client, mut old) = created(&app, collection, user, &body).await;
        let path = format!("{}/rotate", path_of(collection, &client));
        for _ in 0..2 {
            app.clock.advance(TimeDelta::seconds(1));
            // With any body, as HitKeep reads none.
            let rotated = of_status(&send(&app, "POST", &path, user, &json!("any")).await, 200);
            let mut expected = client.clone();
            expected["updated_at"] = rotated["client"]["updated_at"].clone();
            assert_eq!(rotated["client"], expected);
            let new = rotated["token"].as_str().unwrap();
            let reason = app.sidecar().await.inactive_reason(&old).await;
            assert_eq!(reason, Some(pb::InactiveReason::TokenRotated));
            assert!(works(&app, new).await);
            new.clone_into(&mut old);
        }
    }
}

#[tokio::test]
async fn a_deleted_client_is_gone() {
    let app = start().await;
    for (collection, user) in [(OWN, VERA), (&of_team(), ADAM)] {
        let (client, token) = created(&app, collection, user, &json!({ "name": "x" })).await;
        let path = path_of(collection, &client);
        let answer = call(&app, "DELETE", &path, user).await;
        assert_eq!((answer.status.as_u16(), &*answer.body), (204, ""));
        assert_eq!(answer.header("cache-control").unwrap(), "no-store");
        assert_eq!(answer.header("content-type"), None);
        assert!(!works(&app, &token).await);
        let again = call(&app, "DELETE", &path, user).await;
        assert_eq!(super::told(&again), "404 no such API client");
    }
}

/// Who was behind a change is in the audit trail: the person, the caller, the request.
#[tokio::test]
async fn the_audit_trail_names_the_person() {
    let app = start().await;
    let long = "é".repeat(5000);
    let odd = b"odd\xff\tagent".as_slice();
    let token = "hkp_00000000000000000000000000000000000000000004Rx6xu";
    let told = format!("curl/8 ({token}) é");
    let cut_through = format!("{}{token}", "é".repeat(4090));
    for (ip, agent, ip_kept, agent_kept) in [
        (
            "203.0.113.7",
            b"curl/8".as_slice(),
            "203.0.113.7",
            "curl/8".to_owned(),
        ),
        (
            "2001:DB8::1",
            odd,
            "2001:db8::1",
            "odd\u{fffd} agent".to_owned(),
        ),
        ("", long.as_bytes(), "", "é".repeat(4096)),
        ("", told.as_bytes(), "", "curl/8 ([token]) é".to_owned()),
        (
            "",
            cut_through.as_bytes(),
            "",
            format!("{}[token", "é".repeat(4090)),
        ),
    ] {
        let request = request(&app, "POST", OWN, VERA)
            .header("x-request-id", "mine")
            .header("x-hitkeep-actor-ip", ip)
            .header("x-hitkeep-actor-user-agent", http::HeaderValue::from_bytes(agent).unwrap())
            // The end client's own words.
            .header("user-agent", "browser")
            .header("x-forwarded-for", "192.0.2.1");
        let made = of_status(&app.ask(request, r#"{"name":"x"}"#).await, 201);
        let query = pb::ListAuditEventsRequest {
            client_id: made["client"]["id"].as_str().unwrap().to_owned(),
            ..pb::ListAuditEventsRequest::default()
        };
        let events = app.auditor().await.events(query).await.unwrap().events;
        let [event] = &events[..] else {
            panic!("one event: {events:?}");
        };
        let actor = event.actor.as_ref().unwrap();
        assert_eq!(actor.user_id, VERA);
        assert_eq!(actor.ip_address, ip_kept);
        assert_eq!(actor.user_agent, agent_kept);
        assert_eq!((&*event.caller, &*event.request_id), ("manage", "mine"));
    }
}

#[tokio::test]
async fn requests_are_counted_by_route() {
    let app = start().await;
    let (client, _) = created(&app, OWN, VERA, &json!({ "name": "x" })).await;
    call(&app, "DELETE", &path_of(OWN, &client), VERA).await;
    call(&app, "GET", "/api/user/teams/x/api-clients/y", VERA).await;
    let page = app
        .ask(super::super::client::get("/metrics"), "")
        .await
        .body;
    for (method, route, status) in [
        ("POST", "/api/user/api-clients", 201),
        ("DELETE", "/api/user/api-clients/{client}", 204),
        ("GET", "/api/user/teams/{team}/api-clients/{client}", 405),
    ] {
        let labels = [
            format!("http_request_method=\"{method}\""),
            format!("http_route=\"{route}\""),
            format!("http_response_status_code=\"{status}\""),
        ];
        let is_there = page.lines().any(|line| {
            line.contains("_count{") && labels.iter().all(|label| line.contains(label))
        });
        assert!(is_there, "{labels:?} in {page}");
    }
}

#[tokio::test]
async fn the_routes_are_off_unless_asked_for() {
    let app = start_with(hitkeep_auth::server::Options::default()).await;
    for path in [OWN.to_owned(), of_team(), format!("{OWN}/{VERA}/rotate")] {
        for method in ["GET", "POST", "PUT", "DELETE"] {
            let answer = send(&app, method, &path, VERA, &json!({ "name": "x" })).await;
            assert_eq!(answer.told(), "404 not_found", "{method} {path}");
        }
    }
}

/// Such a name is refused where a client is created, but an import can have brought it, and a
/// page sends it back with every change.
#[tokio::test]
async fn a_token_in_a_name_keeps_no_client_from_being_revoked() {
    let app = start().await;
    let made = app.dashboard().await.created(personal(VERA)).await;
    let name = format!("was {}", made.token);
    app.psql(&format!(
        "UPDATE api_clients SET name = '{name}' WHERE id = '{}'",
        made.id
    ))
    .await;
    let body = json!({ "name": name, "instance_role": "user", "revoked": true });
    let path = format!("{OWN}/{}", made.id);
    let answer = send(&app, "PUT", &path, VERA, &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let sidecar = app.sidecar().await;
    let answer = sidecar.introspect(introspect(&made.token)).await.unwrap();
    assert!(!answer.active);
}
