//! `ListAuditEvents`, and what there is to list: every change once, with the person who
//! was behind it, and nothing for what did not happen.

use std::sync::Arc;

use hitkeep_auth::{
    domain::{
        audit::Provenance,
        caller::{CallerName, CallerPermission},
    },
    pb::{self, InstanceRole, SiteRole, api_client_service_client::ApiClientServiceClient},
    store::{Transaction, error::StoreError},
};

use crate::{
    fixtures::*,
    harness::{Caller, TestApp, make_account, told},
};

mod lists;
mod tokens;

async fn listed(auditor: &Caller, query: pb::ListAuditEventsRequest) -> Vec<pb::AuditEvent> {
    auditor
        .events(query)
        .await
        .expect("the query is good")
        .events
}

/// The events about API clients, newest first.
async fn about_clients(app: &TestApp) -> Vec<pb::AuditEvent> {
    let all = pb::ListAuditEventsRequest {
        page_size: 500,
        ..pb::ListAuditEventsRequest::default()
    };
    let mut events = listed(&app.auditor().await, all).await;
    events.retain(|event| event.action.starts_with("api_client."));
    events
}

/// What an event says has changed, as `field: before -> after`.
fn changes(event: &pb::AuditEvent) -> Vec<String> {
    let changes = event.changes.iter();
    changes
        .map(|change| format!("{}: {} -> {}", change.field, change.before, change.after))
        .collect()
}

/// The same caller, whose requests have that id.
fn as_request(caller: &Caller, id: &str) -> Caller {
    let mut caller = caller.clone();
    caller.metadata.push(("x-request-id", id.to_owned()));
    caller
}

#[tokio::test]
async fn every_action_is_told_of_with_whoever_was_behind_it() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let step = async || app.clock.advance(chrono::TimeDelta::seconds(1));
    let caller = |id: &str| as_request(&dashboard, id);

    let mut request = personal(VERA)
        .named("report")
        .granted(SECOND_SITE, SiteRole::Viewer)
        .granted(SITE, SiteRole::Editor)
        .expiring(in_seconds(&app, 3600));
    request.api_client.as_mut().unwrap().description = "weekly".to_owned();
    let made = caller("r-created").created(request).await;
    step().await;
    let next = pb::ApiClient {
        id: made.id.clone(),
        name: "reports".to_owned(),
        description: String::new(),
        site_grants: vec![grant(SITE, SiteRole::Viewer)],
        expire_time: Some(in_seconds(&app, 60)),
        ..pb::ApiClient::default()
    };
    let everything = update(VERA, next, &["*"]);
    caller("r-updated").update(everything).await.unwrap();
    step().await;
    let rotation = rotate_with_overlap(VERA, &made.id, 10);
    let rotated = caller("r-rotated").rotate(rotation).await.unwrap();
    step().await;
    // An instance owner, to answer an incident.
    caller("r-revoked")
        .revoke(revoke(ROOT, &made.id))
        .await
        .unwrap();
    step().await;
    caller("r-reactivated")
        .reactivate(reactivate(VERA, &made.id))
        .await
        .unwrap();
    step().await;
    caller("r-deleted")
        .delete(delete(VERA, &made.id))
        .await
        .unwrap();

    let hint = |token: &str| format!("hkp_...{}", &token[49..]);
    let rotated_hints = format!(
        "token_hint: {} -> {}",
        hint(&made.token),
        hint(&rotated.token)
    );
    let expected = [
        ("deleted", "reports", VERA, vec![]),
        (
            "reactivated",
            "reports",
            VERA,
            vec!["revoke_time: 2026-01-01T12:00:03.000000Z -> ".to_owned()],
        ),
        (
            "revoked",
            "reports",
            ROOT,
            vec!["revoke_time:  -> 2026-01-01T12:00:03.000000Z".to_owned()],
        ),
        (
            "rotated",
            "reports",
            VERA,
            vec![
                rotated_hints,
                "overlap_end_time:  -> 2026-01-01T12:00:12.000000Z".to_owned(),
            ],
        ),
        (
            "updated",
            "reports",
            VERA,
            vec![
                "name: report -> reports".to_owned(),
                "expire_time: 2026-01-01T13:00:00.000000Z -> 2026-01-01T12:01:01.000000Z"
                    .to_owned(),
                format!("site_grants[{SITE}]: editor -> viewer"),
                "description: weekly -> ".to_owned(),
                format!("site_grants[{SECOND_SITE}]: viewer -> "),
            ],
        ),
        (
            "created",
            "report",
            VERA,
            vec![
                "name:  -> report".to_owned(),
                "description:  -> weekly".to_owned(),
                "instance_role:  -> user".to_owned(),
                "expire_time:  -> 2026-01-01T13:00:00.000000Z".to_owned(),
                format!("site_grants[{SITE}]:  -> editor"),
                format!("site_grants[{SECOND_SITE}]:  -> viewer"),
            ],
        ),
    ];
    let events = about_clients(&app).await;
    assert_eq!(events.len(), expected.len());
    for (seconds, (event, (action, name, user, told))) in
        (0..6).rev().zip(events.iter().zip(expected))
    {
        assert_eq!(changes(event), told, "{action}");
        let same = pb::AuditEvent {
            id: event.id.clone(),
            event_time: Some(in_seconds(&app, seconds - 5)),
            action: format!("api_client.{action}"),
            client_id: made.id.clone(),
            client_name: name.to_owned(),
            owner: of_user(VERA),
            actor: actor(user),
            caller: "manage".to_owned(),
            request_id: format!("r-{action}"),
            changes: event.changes.clone(),
        };
        assert_eq!(*event, same);
        assert_eq!(&event.id[14..15], "7", "a UUID of version 7");
    }
}

#[tokio::test]
async fn a_team_clients_events_name_the_team_and_the_one_who_acted() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let made = dashboard.created(team_client(ALICE)).await;
    dashboard.rotate(rotate(ADAM, &made.id)).await.unwrap();
    app.clock.advance(chrono::TimeDelta::seconds(1));
    dashboard.delete(delete(ROOT, &made.id)).await.unwrap();
    let events = about_clients(&app).await;
    let mut told: Vec<_> = events
        .iter()
        .map(|event| {
            assert_eq!(event.owner, of_team(TEAM));
            let user = event.actor.as_ref().unwrap().user_id.as_str();
            (event.action.as_str(), user)
        })
        .collect();
    told.sort_unstable();
    let expected = [
        ("api_client.created", ALICE),
        ("api_client.deleted", ROOT),
        ("api_client.rotated", ADAM),
    ];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn the_actor_is_told_of_as_far_as_it_was_given() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let agent = "Mozilla/5.0 (é; \"quoted\")".repeat(20);
    let cases = [
        ("", "", ""),
        ("198.51.100.1", "", "198.51.100.1"),
        ("2001:DB8:0::1", &agent, "2001:db8::1"),
        ("::ffff:192.0.2.1", "curl/8", "::ffff:192.0.2.1"),
    ];
    for (ip_address, user_agent, shown) in cases {
        app.clock.advance(chrono::TimeDelta::seconds(1));
        let given = pb::Actor {
            user_id: VERA.to_owned(),
            ip_address: ip_address.to_owned(),
            user_agent: user_agent.to_owned(),
        };
        let request = pb::CreateApiClientRequest {
            actor: Some(given.clone()),
            ..personal(VERA)
        };
        dashboard.created(request).await;
        let newest = about_clients(&app).await.remove(0);
        let expected = pb::Actor {
            ip_address: shown.to_owned(),
            ..given
        };
        assert_eq!(newest.actor, Some(expected));
    }
}

#[tokio::test]
async fn a_request_keeps_the_id_it_was_given_and_gets_one_where_it_has_none() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let long = "x".repeat(128);
    let too_long = "x".repeat(129);
    let legacy = legacy_for("a text");
    let among = format!("id-{legacy}-1");
    let cases = [
        (None, false),
        (Some("abc-123/4:5"), true),
        (Some(long.as_str()), true),
        (Some(too_long.as_str()), false),
        (Some("two words"), false),
        // It could be a token, old or new; trace ids are shorter.
        (Some(legacy.as_str()), false),
        (Some(among.as_str()), false),
        (Some(&legacy[..32]), true),
        (Some("hkp_x"), false),
        (Some(""), false),
    ];
    for (given, kept) in cases {
        app.clock.advance(chrono::TimeDelta::seconds(1));
        let caller = given.map_or_else(|| dashboard.clone(), |id| as_request(&dashboard, id));
        let mut client = ApiClientServiceClient::new(caller.channel.clone());
        let request = caller.request(personal(VERA));
        let response = client.create_api_client(request).await.unwrap();
        let id = response.metadata().get("x-request-id").unwrap();
        let id = id.to_str().unwrap();
        if kept {
            assert_eq!(Some(id), given);
        } else {
            assert_ne!(Some(id), given);
            let parts: Vec<_> = id.split('-').map(str::len).collect();
            assert_eq!(parts, [8, 4, 4, 4, 12], "{id} is a UUID");
            assert_eq!(&id[14..15], "7");
        }
        assert_eq!(about_clients(&app).await[0].request_id, id);
    }
    // A refusal carries it too.
    let caller = as_request(&dashboard, "refused");
    let refused = caller.get(get(EVE, NOBODY)).await.unwrap_err();
    assert_eq!(refused.metadata().get("x-request-id").unwrap(), "refused");
}

#[tokio::test]
async fn what_fails_or_changes_nothing_is_not_told_of() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let made = dashboard
        .created(personal(VERA).granted(SITE, SiteRole::Viewer))
        .await;
    let revoked = dashboard.created(personal(VERA)).await;
    dashboard.revoke(revoke(VERA, &revoked.id)).await.unwrap();
    let before = app.everything().await;

    app.clock.advance(chrono::TimeDelta::seconds(1));
    let same = made.client.clone();
    dashboard
        .update(update(VERA, same.clone(), &["*"]))
        .await
        .unwrap();
    dashboard
        .update(update(VERA, same, &["name"]))
        .await
        .unwrap();
    dashboard.revoke(revoke(VERA, &revoked.id)).await.unwrap();
    dashboard.revoke(revoke(ROOT, &revoked.id)).await.unwrap();
    dashboard
        .reactivate(reactivate(VERA, &made.id))
        .await
        .unwrap();
    dashboard.get(get(VERA, &made.id)).await.unwrap();
    dashboard.list(list(VERA, of_user(VERA))).await.unwrap();
    app.sidecar()
        .await
        .introspect(introspect(&made.token))
        .await
        .unwrap();

    let refusals = [
        told(&dashboard.create(personal(VERA).named("")).await),
        told(
            &dashboard
                .create(personal(VERA).with_role(InstanceRole::Owner))
                .await,
        ),
        told(&dashboard.rotate(rotate(ROOT, &made.id)).await),
        told(&dashboard.rotate(rotate(VERA, &revoked.id)).await),
        told(&dashboard.revoke(revoke(EVE, &made.id)).await),
        told(&dashboard.reactivate(reactivate(ROOT, &revoked.id)).await),
        told(&dashboard.delete(delete(EVE, &made.id)).await),
        told(&dashboard.delete(delete(VERA, NOBODY)).await),
        told(&app.sidecar().await.delete(delete(VERA, &made.id)).await),
    ];
    let expected = [
        "InvalidArgument INVALID_FIELD",
        "PermissionDenied DELEGATION_EXCEEDS_ACTOR",
        "PermissionDenied OWNER_NOT_MANAGED",
        "FailedPrecondition API_CLIENT_INACTIVE",
        "NotFound API_CLIENT_NOT_FOUND",
        "PermissionDenied OWNER_NOT_MANAGED",
        "NotFound API_CLIENT_NOT_FOUND",
        "NotFound API_CLIENT_NOT_FOUND",
        "PermissionDenied CALLER_NOT_PERMITTED",
    ];
    assert_eq!(refusals, expected);
    assert_eq!(app.everything().await, before);
}

#[tokio::test]
async fn events_outlive_the_client_its_owner_and_the_actor() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    dashboard.created(team_client(ALICE)).await;
    let made = dashboard.created(personal(ALICE)).await;
    dashboard.revoke(revoke(ROOT, &made.id)).await.unwrap();
    let before = about_clients(&app).await;
    app.clock.advance(chrono::TimeDelta::seconds(1));
    app.change([delete_team(TEAM), delete_user(ALICE), delete_user(ROOT)])
        .await;
    let after = about_clients(&app).await;
    assert_eq!(after.len(), before.len() + 2, "the two that died");
    assert_eq!(after[2..], before);
}

#[tokio::test]
async fn a_change_that_cannot_be_told_of_does_not_happen() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let made = dashboard
        .created(personal(VERA).granted(SITE, SiteRole::Viewer))
        .await;
    let revoked = dashboard.created(personal(VERA)).await;
    dashboard.revoke(revoke(VERA, &revoked.id)).await.unwrap();
    let renamed = pb::ApiClient {
        name: "renamed".to_owned(),
        ..made.client.clone()
    };
    // Nothing more can be listed.
    app.psql("ALTER TABLE audit_events ADD CHECK (false) NOT VALID")
        .await;
    let before = app.everything().await;
    let pusher = app.pusher().await;
    let refusals = [
        told(&dashboard.create(personal(VERA)).await),
        told(&dashboard.update(update(VERA, renamed, &["name"])).await),
        told(&dashboard.rotate(rotate(VERA, &made.id)).await),
        told(&dashboard.revoke(revoke(VERA, &made.id)).await),
        told(&dashboard.reactivate(reactivate(VERA, &revoked.id)).await),
        told(&dashboard.delete(delete(VERA, &made.id)).await),
        told(&pusher.apply(batch([delete_user(VERA)])).await),
    ];
    for refused in refusals {
        assert_eq!(refused, "Internal INTERNAL");
    }
    assert_eq!(app.everything().await, before);
    let still = app.sidecar().await.inactive_reason(&made.token).await;
    assert_eq!(still, None);
    // What no event tells of goes on.
    app.change([put_user(EVE, InstanceRole::Admin, false)])
        .await;
}

/// Revokes a service account, as the command line does.
async fn revoke_account(app: &TestApp, name: &str) -> Result<(), StoreError> {
    let name = CallerName::parse(name).expect("the name is good");
    let body = async |tx: &mut Transaction| -> Result<(), StoreError> {
        let account = tx.find_account(&name).await?.expect("there is one");
        let (account, event) = account.revoke(tx.now);
        tx.revoke_account(&account).await?;
        tx.record(event).await
    };
    let by_hand = Arc::new(Provenance::default());
    let done = app.store.transaction(&by_hand, body).await;
    done.map(drop)
}

#[tokio::test]
async fn work_on_service_accounts_is_told_of_too() {
    let app = TestApp::start().await;
    app.clock.advance(chrono::TimeDelta::seconds(1));
    let allow = [CallerPermission::Manage, CallerPermission::Introspect];
    let token = make_account(&app.store, "gateway", &allow).await;
    app.clock.advance(chrono::TimeDelta::seconds(1));
    revoke_account(&app, "gateway").await.unwrap();
    app.settle().await;
    let unknown = app.caller(&token).await.introspect(introspect("x")).await;
    assert_eq!(told(&unknown), "Unauthenticated CALLER_UNKNOWN");

    let all = pb::ListAuditEventsRequest::default();
    let events = listed(&app.auditor().await, all).await;
    assert_eq!(events.len(), 7, "five that every test has, and these");
    let id = format!(
        "SELECT count(*) FROM service_accounts WHERE name = 'gateway' AND id = '{}'",
        events[0].client_id
    );
    assert_eq!(app.number(&id).await, 1);
    for (event, action, seconds) in [(&events[0], "revoked", 0), (&events[1], "created", -1)] {
        let expected = pb::AuditEvent {
            id: event.id.clone(),
            event_time: Some(in_seconds(&app, seconds)),
            action: format!("service_account.{action}"),
            client_id: events[0].client_id.clone(),
            client_name: "gateway".to_owned(),
            changes: event.changes.clone(),
            ..pb::AuditEvent::default()
        };
        assert_eq!(*event, expected, "without owner, actor, caller and request");
    }
    let revoked = ["revoke_time:  -> 2026-01-01T12:00:02.000000Z"];
    assert_eq!(changes(&events[0]), revoked);
    assert_eq!(changes(&events[1]), ["permissions:  -> introspect,manage"]);
    let query = pb::ListAuditEventsRequest {
        client_id: events[0].client_id.clone(),
        action: "service_account.revoked".to_owned(),
        ..pb::ListAuditEventsRequest::default()
    };
    assert_eq!(listed(&app.auditor().await, query).await, events[..1]);
}

#[tokio::test]
async fn a_service_account_is_not_revoked_where_that_cannot_be_told_of() {
    let app = TestApp::start().await;
    let token = make_account(&app.store, "gateway", &[CallerPermission::Introspect]).await;
    app.psql("ALTER TABLE audit_events ADD CHECK (action <> 'service_account.revoked')")
        .await;
    revoke_account(&app, "gateway").await.unwrap_err();
    let caller = app.caller(&token).await;
    caller.introspect(introspect("x")).await.unwrap();
}
