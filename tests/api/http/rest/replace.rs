//! PUT: all fields at once, and the revocation, by the rules of three calls over gRPC.

use chrono::TimeDelta;
use hitkeep_auth::pb::{self, InactiveReason, SiteRole, TeamRole};
use serde_json::{Value, json};

use super::{
    Answer, OWN, created, edited, of_status, of_team, path_of, request, send, site_role, start,
    told,
};
use crate::{fixtures::*, harness::TestApp};

async fn put(app: &TestApp, collection: &str, client: &Value, user: &str, body: &Value) -> Answer {
    send(app, "PUT", &path_of(collection, client), user, body).await
}

/// What the audit trail says was done to a client, in that order.
async fn actions(app: &TestApp, client: &Value) -> Vec<String> {
    let query = pb::ListAuditEventsRequest {
        client_id: client["id"].as_str().unwrap().to_owned(),
        ..pb::ListAuditEventsRequest::default()
    };
    let events = app.auditor().await.events(query).await.unwrap().events;
    let actions = events.into_iter().rev().map(|event| event.action);
    actions
        .map(|action| action.trim_start_matches("api_client.").to_owned())
        .collect()
}

#[tokio::test]
async fn all_fields_are_replaced_and_what_is_absent_is_cleared() {
    let app = start().await;
    for (collection, user) in [(OWN, VERA), (&of_team(), ADAM)] {
        let body = json!({
            "name": "before", "description": "before", "instance_role": "user",
            "expires_at": "2026-02-01T00:00:00Z", "site_roles": [site_role(SITE, "viewer")],
        });
        let (client, token) = created(&app, collection, user, &body).await;
        app.clock.advance(TimeDelta::seconds(1));
        let full = json!({
            "name": " after ", "description": " after ", "instance_role": "user",
            "expires_at": "2026-03-01T00:00:00Z",
            "site_roles": [site_role(SECOND_SITE, "viewer")], "revoked": null,
        });
        let mut expected = client.clone();
        for (field, value) in [
            ("name", json!("after")),
            ("description", json!("after")),
            ("expires_at", json!("2026-03-01T00:00:00Z")),
            ("site_roles", json!([site_role(SECOND_SITE, "viewer")])),
        ] {
            expected[field] = value;
        }
        let replaced = of_status(&put(&app, collection, &client, user, &full).await, 200);
        expected["updated_at"] = replaced["updated_at"].clone();
        assert_ne!(replaced["updated_at"], client["updated_at"]);
        assert_eq!(replaced, expected);
        let bare = json!({ "name": "after", "instance_role": "user" });
        let replaced = of_status(&put(&app, collection, &client, user, &bare).await, 200);
        expected["description"] = json!("");
        expected["site_roles"] = json!([]);
        expected.as_object_mut().unwrap().remove("expires_at");
        assert_eq!(replaced, expected);
        assert_eq!(app.sidecar().await.inactive_reason(&token).await, None);
        // The same once more changes nothing.
        let before = app.everything().await;
        let again = of_status(&put(&app, collection, &client, user, &bare).await, 200);
        assert_eq!(again, expected);
        assert_eq!(app.everything().await, before);
        assert_eq!(
            actions(&app, &client).await,
            ["created", "updated", "updated"]
        );
    }
}

#[tokio::test]
async fn a_client_is_revoked_and_reactivated() {
    let app = start().await;
    let body = json!({ "name": "x", "site_roles": [site_role(SITE, "viewer")] });
    let (client, token) = created(&app, OWN, VERA, &body).await;
    let state = async |revoked: Value| {
        let body = edited(&client, &json!({ "revoked": revoked }));
        let answer = put(&app, OWN, &client, VERA, &body).await;
        let revoked_at = of_status(&answer, 200).get("revoked_at").cloned();
        let reason = app.sidecar().await.inactive_reason(&token).await;
        let expected = revoked_at.is_some().then_some(InactiveReason::Revoked);
        assert_eq!(reason, expected);
        revoked_at
    };
    assert_eq!(state(json!(false)).await, None);
    let first = state(json!(true)).await;
    assert_eq!(first, Some(json!("2026-01-01T12:00:00Z")));
    app.clock.advance(TimeDelta::seconds(1));
    // The time of the first revocation, also where nothing is said.
    assert_eq!(state(json!(true)).await, first);
    assert_eq!(state(Value::Null).await, first);
    assert_eq!(state(json!(false)).await, None);
    assert_eq!(state(Value::Null).await, None);
    assert_eq!(
        actions(&app, &client).await,
        ["created", "revoked", "reactivated"]
    );
}

/// One request may do two things, each with its event.
#[tokio::test]
async fn a_client_is_renamed_and_revoked_at_once() {
    let app = start().await;
    let (client, _) = created(&app, OWN, VERA, &json!({ "name": "x" })).await;
    for (name, revoked) in [("y", true), ("z", false)] {
        app.clock.advance(TimeDelta::seconds(1));
        let body = edited(&client, &json!({ "name": name, "revoked": revoked }));
        let replaced = of_status(&put(&app, OWN, &client, VERA, &body).await, 200);
        assert_eq!(replaced["name"], name);
        assert_eq!(replaced.get("revoked_at").is_some(), revoked);
    }
    // The events of one request are of the same time, and in their order all the same.
    let all = ["created", "revoked", "updated", "updated", "reactivated"];
    assert_eq!(actions(&app, &client).await, all);
}

/// An import may have brought what may not be given here. A page sends it back.
#[tokio::test]
async fn only_what_is_new_is_within_the_limits() {
    let app = start().await;
    let (client, token) = created(&app, OWN, VERA, &json!({ "name": "x" })).await;
    let other = format!("{}!", &token);
    let tried = async |client: &Value, changes: Value| {
        let answer = put(&app, OWN, client, VERA, &edited(client, &changes)).await;
        (answer.status.as_u16(), answer.body)
    };
    for (field, text) in [("name", &*token), ("name", &other), ("description", &token)] {
        let refused = tried(&client, json!({ field: text })).await;
        let problem = "must not contain a token, nor what looks like one";
        assert_eq!(refused, (400, format!("{field} {problem}\n")));
    }
    let id = client["id"].as_str().unwrap();
    app.psql(&format!(
        "UPDATE api_clients SET name = '{token}', description = E' {token}\n' WHERE id = '{id}'"
    ))
    .await;
    app.psql(&format!(
        "WITH more AS (INSERT INTO sites SELECT gen_random_uuid(), '{TEAM}' \
             FROM generate_series(1, 101) RETURNING id) \
         INSERT INTO api_client_grants SELECT '{id}', id, 'viewer' FROM more"
    ))
    .await;
    let listed = of_status(&send(&app, "GET", OWN, VERA, &Value::Null).await, 200);
    let shown = listed.as_array().unwrap()[0].clone();
    assert_eq!(shown["site_roles"].as_array().unwrap().len(), 101);
    let more: Vec<_> = shown["site_roles"].as_array().unwrap()[1..].to_vec();
    let more = [more, vec![site_role(SITE, "viewer")]].concat();
    let (status, said) = tried(&shown, json!({ "site_roles": more })).await;
    assert_eq!(
        (status, &*said),
        (400, "site_roles must have at most 100 grants\n")
    );
    let revocation = edited(&shown, &json!({ "revoked": true }));
    let revoked = of_status(&put(&app, OWN, &shown, VERA, &revocation).await, 200);
    assert_eq!(revoked["name"], token);
    assert_eq!(actions(&app, &client).await, ["created", "revoked"]);
}

/// The rules of delegation: only what is widened is checked, and a reactivation widens all.
#[tokio::test]
async fn only_what_is_widened_needs_delegation() {
    let app = start().await;
    let body = json!({
        "name": "x", "expires_at": "2026-02-01T00:00:00Z",
        "site_roles": [site_role(SITE, "editor")],
    });
    let (client, _) = created(&app, OWN, VERA, &body).await;
    // From now on, the client carries more than she holds.
    app.change([put_site_member(SITE, VERA, SiteRole::Viewer)])
        .await;
    let tried = async |changes: Value| {
        let before = app.everything().await;
        let answer = put(&app, OWN, &client, VERA, &edited(&client, &changes)).await;
        if answer.status == 200 {
            return "200".to_owned();
        }
        // A refusal leaves all as it was, whatever else was asked.
        assert_eq!(app.everything().await, before);
        told(&answer)
    };
    let exceeds = format!("403 the actor does not hold the role editor on site {SITE}");
    // The dashboard sends `false` with every edit.
    assert_eq!(tried(json!({ "name": "y", "revoked": false })).await, "200");
    assert_eq!(
        tried(json!({ "expires_at": "2026-01-15T00:00:00Z" })).await,
        "200"
    );
    assert_eq!(
        tried(json!({ "expires_at": "2026-01-16T00:00:00Z" })).await,
        exceeds
    );
    assert_eq!(
        tried(json!({ "expires_at": null, "revoked": true })).await,
        exceeds
    );
    let instance = "403 the actor does not hold the instance role admin";
    assert_eq!(tried(json!({ "expires_at": "2026-01-15T00:00:00Z", "instance_role": "admin", "revoked": true })).await, instance);
    let with = |mut changes: Value| {
        changes["expires_at"] = json!("2026-01-15T00:00:00Z");
        changes
    };
    assert_eq!(tried(with(json!({ "revoked": true }))).await, "200");
    assert_eq!(
        tried(with(json!({ "revoked": true, "name": "z" }))).await,
        "200"
    );
    assert_eq!(tried(with(json!({ "revoked": false }))).await, exceeds);
    // With the narrower grant, it may be given out again.
    let narrower = json!({ "revoked": false, "site_roles": [site_role(SITE, "viewer")] });
    assert_eq!(tried(with(narrower)).await, "200");
    let wider =
        json!({ "site_roles": [site_role(SITE, "viewer"), site_role(SECOND_SITE, "editor")] });
    let second = format!("403 the actor does not hold the role editor on site {SECOND_SITE}");
    assert_eq!(tried(with(wider)).await, second);
    let unknown = format!("403 site {NOBODY} is unknown, or not in the owner's team");
    let nowhere = json!({ "site_roles": [site_role(NOBODY, "viewer")] });
    assert_eq!(tried(with(nowhere)).await, unknown);
}

#[tokio::test]
async fn an_expired_client_can_be_renamed_revoked_and_prolonged() {
    let app = start().await;
    let body = json!({ "name": "x", "expires_at": "2026-01-01T12:00:01.123456Z" });
    let (client, token) = created(&app, OWN, VERA, &body).await;
    app.clock.advance(TimeDelta::seconds(2));
    // As it is, it may stay.
    let asked =
        async |changes: Value| put(&app, OWN, &client, VERA, &edited(&client, &changes)).await;
    assert_eq!(
        of_status(&asked(json!({ "name": "y", "revoked": false })).await, 200)["name"],
        "y"
    );
    assert_eq!(asked(json!({ "revoked": true })).await.status, 200);
    assert_eq!(
        told(&asked(json!({ "revoked": false })).await),
        "409 the API client is EXPIRED"
    );
    let past = json!({ "expires_at": "2026-01-01T12:00:01.5Z" });
    assert_eq!(
        told(&asked(past).await),
        "400 expires_at must be in the future"
    );
    let prolonged = json!({ "revoked": false, "expires_at": "2026-01-01T13:00:00Z" });
    assert!(
        of_status(&asked(prolonged).await, 200)
            .get("revoked_at")
            .is_none()
    );
    assert_eq!(app.sidecar().await.inactive_reason(&token).await, None);
}

/// An instance owner may end a team's client, and may do nothing else to it.
#[tokio::test]
async fn an_instance_owner_may_revoke() {
    let app = start().await;
    let (client, _) = created(&app, &of_team(), ADAM, &json!({ "name": "x" })).await;
    let asked = async |changes: Value| {
        put(&app, &of_team(), &client, ROOT, &edited(&client, &changes)).await
    };
    assert_eq!(
        told(&asked(json!({ "revoked": true, "name": "y" })).await),
        "403 Access denied"
    );
    let revoked = of_status(&asked(json!({ "revoked": true })).await, 200);
    assert!(revoked.get("revoked_at").is_some());
    assert_eq!(
        told(&asked(json!({ "revoked": false })).await),
        "403 Access denied"
    );
    let list = super::call(&app, "GET", &of_team(), ROOT).await;
    assert_eq!(of_status(&list, 200), json!([revoked]));
}

/// Two at the same moment: one after the other, and never half of each.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_at_the_same_moment_are_made_in_turn() {
    let app = start().await;
    let (client, _) = created(&app, &of_team(), ADAM, &json!({ "name": "x" })).await;
    let path = path_of(&of_team(), &client);
    let blocker = app.hold_write_lock().await;
    let bodies = [
        json!({ "name": "one", "description": "one", "site_roles": [site_role(SITE, "viewer")], "revoked": true }),
        json!({ "name": "two", "description": "two", "site_roles": [site_role(SECOND_SITE, "viewer")] }),
    ];
    let mut calls = Vec::new();
    for (waiting, body) in (1..).zip(&bodies) {
        let request = request(&app, "PUT", &path, ADAM);
        let connection = app.http_connection();
        let body = body.to_string();
        calls.push(tokio::spawn(super::super::client::ask_on(
            connection, request, body,
        )));
        app.until_waiting(waiting).await;
    }
    blocker.release().await;
    let mut replies = Vec::new();
    for call in calls {
        replies.push(of_status(&call.await.unwrap(), 200));
    }
    let listed = of_status(&super::call(&app, "GET", &of_team(), ADAM).await, 200);
    // Whichever was last, the revocation holds: only the first says anything about it.
    let last = &listed[0];
    assert!(replies.contains(last), "{last} of {replies:?}");
    assert!(last.get("revoked_at").is_some());
    let body = bodies
        .iter()
        .find(|body| body["name"] == last["name"])
        .unwrap();
    for field in ["description", "site_roles"] {
        assert_eq!(last[field], body[field]);
    }
    let mut done = actions(&app, &client).await;
    done.sort_unstable();
    assert_eq!(done, ["created", "revoked", "updated", "updated"]);
}

/// Someone who has lost the team cannot bring its client back.
#[tokio::test]
async fn the_rules_are_those_of_the_moment() {
    let app = start().await;
    let (client, _) = created(&app, &of_team(), ADAM, &json!({ "name": "x" })).await;
    let body = edited(&client, &json!({ "revoked": true }));
    assert_eq!(
        put(&app, &of_team(), &client, ADAM, &body).await.status,
        200
    );
    app.change([put_team_member(TEAM, ADAM, TeamRole::Member)])
        .await;
    let body = edited(&client, &json!({ "revoked": false }));
    let denied = put(&app, &of_team(), &client, ADAM, &body).await;
    assert_eq!(told(&denied), "403 Access denied");
}

/// A person who renames a client in the dashboard, which does not know of restrictions, must
/// not lift them.
#[tokio::test]
async fn restrictions_stay() {
    let app = start().await;
    let body =
        json!({ "name": "before", "instance_role": "user", "expires_at": "2026-03-01T00:00:00Z" });
    let (client, _) = created(&app, OWN, VERA, &body).await;
    let id = client["id"].as_str().unwrap();
    let restricted = pb::ApiClient {
        id: id.to_owned(),
        allowed_cidrs: vec!["192.0.2.0/24".to_owned()],
        not_before_time: Some(in_seconds(&app, 3600)),
        ..pb::ApiClient::default()
    };
    let mask = ["allowed_cidrs", "not_before_time"];
    let dashboard = app.dashboard().await;
    let before = dashboard.update(update(VERA, restricted, &mask)).await;
    let before = before.unwrap().api_client.unwrap();
    let body = edited(&client, &json!({ "name": "after" }));
    of_status(&put(&app, OWN, &client, VERA, &body).await, 200);
    let after = dashboard.get(get(VERA, id)).await.unwrap();
    let after = after.api_client.unwrap();
    assert_eq!(after.name, "after");
    assert_eq!(after.allowed_cidrs, before.allowed_cidrs);
    assert_eq!(after.not_before_time, before.not_before_time);
    // It would never work.
    let sooner = edited(&client, &json!({ "expires_at": "2026-01-01T12:30:00Z" }));
    let refused = put(&app, OWN, &client, VERA, &sooner).await;
    assert_eq!(
        told(&refused),
        "400 expires_at must be after the time from which the client works"
    );
}
