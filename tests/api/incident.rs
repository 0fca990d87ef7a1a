//! What answers an incident: `ReportLeak` here, and `RevokeApiClients`.

use std::time::Duration;

use chrono::TimeDelta;
use futures_util::future::join_all;
use hitkeep_auth::{
    domain::{caller::CallerPermission::Introspect, client::Expiry, clock::Clock},
    grpc,
    pb::{
        self, ApiClientState, InactiveReason, InstanceRole, SiteRole, report_leak_request::Leaked,
    },
    server,
};

use tonic::Status;
use tonic_types::StatusExt;

mod mass;

use crate::{
    fixtures::*,
    harness::{TestApp, told, violations},
};

/// What `docs/secret-scanning.md` and the proto say that a token is hashed with.
const CONTEXT: &str = "auth.hitkeep.com 2026-11-23 token at rest v1";
/// A token with the right checksum that nobody has.
const UNKNOWN: &str = "hkp_0000000000000000000000000000000000000000000";

fn leaked(token: &str) -> pb::ReportLeakRequest {
    pb::ReportLeakRequest {
        leaked: Some(Leaked::Token(token.to_owned())),
        ..pb::ReportLeakRequest::default()
    }
}

fn leaked_hash(hash: &str) -> pb::ReportLeakRequest {
    pb::ReportLeakRequest {
        leaked: Some(Leaked::TokenHash(hash.to_owned())),
        ..pb::ReportLeakRequest::default()
    }
}

/// Every violation with its description.
fn explained<T: std::fmt::Debug>(result: &Result<T, Status>) -> Vec<String> {
    let details = result.as_ref().expect_err("a refusal").get_error_details();
    let violations = { details.bad_request() }
        .into_iter()
        .flat_map(|bad| &bad.field_violations);
    violations
        .map(|violation| format!("{} {}", violation.field, violation.description))
        .collect()
}

fn all_of(user: &str, owner: Option<pb::Owner>) -> pb::RevokeApiClientsRequest {
    pb::RevokeApiClientsRequest {
        actor: actor(user),
        owner,
        ..pb::RevokeApiClientsRequest::default()
    }
}

/// As anybody can compute it with b3sum.
fn hash_of(token: &str) -> String {
    let hash = blake3::derive_key(CONTEXT, token.as_bytes());
    hash.map(|byte| format!("{byte:02x}")).concat()
}

/// A well-formed token that nobody has.
fn unknown() -> String {
    let crc = crc32fast::hash(UNKNOWN.as_bytes());
    let digits = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut rest = crc;
    let mut checksum = [0; 6];
    for place in checksum.iter_mut().rev() {
        *place = digits[usize::try_from(rest % 62).unwrap()];
        rest /= 62;
    }
    format!("{UNKNOWN}{}", std::str::from_utf8(&checksum).unwrap())
}

/// The actions that were recorded about a client, newest first, with what they changed.
async fn recorded(app: &TestApp, id: &str) -> Vec<(String, Vec<(String, String)>)> {
    let request = pb::ListAuditEventsRequest {
        client_id: id.to_owned(),
        ..pb::ListAuditEventsRequest::default()
    };
    let events = app.auditor().await.events(request).await.unwrap().events;
    let event = |event: pb::AuditEvent| {
        let changes = event.changes.into_iter();
        let changes = changes.map(|change| (change.field, change.after));
        (event.action, changes.collect())
    };
    events.into_iter().map(event).collect()
}

fn actions(events: &[(String, Vec<(String, String)>)]) -> Vec<&str> {
    events.iter().map(|(action, _)| action.as_str()).collect()
}

#[tokio::test]
async fn a_leaked_token_ends_at_once_and_says_whose_it_was() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard
        .created(team_client(ALICE).granted(SITE, SiteRole::Editor))
        .await;
    let report = pb::ReportLeakRequest {
        source: "gitleaks".to_owned(),
        url: "https://git.example/a/b/commit/1234#L7".to_owned(),
        ..leaked(&made.token)
    };
    let first = dashboard.report_leak(report.clone()).await.unwrap();
    assert!(first.known && first.was_live && first.revoked);
    assert_eq!(first.revision, made.revision + 1);
    let client = first.api_client.unwrap();
    assert_eq!((&client.id, &client.owner), (&made.id, &of_team(TEAM)));
    assert_eq!(client.state(), ApiClientState::Revoked);
    assert_eq!(client.site_grants, [grant(SITE, SiteRole::Editor)]);
    assert_eq!(
        sidecar.inactive_reason(&made.token).await,
        Some(InactiveReason::Revoked)
    );
    let events = recorded(&app, &made.id).await;
    let mut done = actions(&events);
    done.sort_unstable();
    assert_eq!(
        done,
        [
            "api_client.created",
            "api_client.leaked",
            "api_client.revoked"
        ]
    );
    let (_, told) = { events.iter() }
        .find(|(action, _)| action == "api_client.leaked")
        .unwrap();
    let expected = [
        ("token_hint", client.token_hint.as_str()),
        ("source", "gitleaks"),
        ("url", "https://git.example/a/b/commit/1234#L7"),
    ];
    assert_eq!(
        *told,
        expected.map(|(field, after)| (field.to_owned(), after.to_owned()))
    );

    // The same again changes nothing at all.
    let before = app.everything().await;
    let second = dashboard.report_leak(report).await.unwrap();
    assert!(second.known && !second.was_live && !second.revoked);
    assert_eq!(second.revision, first.revision);
    assert_eq!(second.api_client.unwrap().revoke_time, client.revoke_time);
    assert_eq!(app.everything().await, before);

    // That it was found somewhere else, too, is recorded.
    let elsewhere = pb::ReportLeakRequest {
        actor: actor(EVE),
        url: "https://paste.example/1".to_owned(),
        ..leaked(&made.token)
    };
    dashboard.report_leak(elsewhere).await.unwrap();
    let events = recorded(&app, &made.id).await;
    assert_eq!(events.len(), 4);
    assert_eq!(events[0].0, "api_client.leaked");
}

#[tokio::test]
async fn an_old_token_ends_with_its_client_only_while_it_works() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard.created(personal(VERA)).await;
    let rotated = dashboard
        .rotate(rotate_with_overlap(VERA, &made.id, 60))
        .await
        .unwrap();
    app.clock.advance(TimeDelta::seconds(60));
    // The overlap is over: the newer token is nobody's but its holder's.
    let late = dashboard.report_leak(leaked(&made.token)).await.unwrap();
    assert!(late.known && !late.was_live && !late.revoked);
    assert_eq!(late.api_client.unwrap().state(), ApiClientState::Active);
    assert_eq!(sidecar.inactive_reason(&rotated.token).await, None);
    let before = app.everything().await;
    dashboard.report_leak(leaked(&made.token)).await.unwrap();
    assert_eq!(app.everything().await, before, "recorded once");
    assert_eq!(
        actions(&recorded(&app, &made.id).await)[0],
        "api_client.leaked"
    );

    let newest = dashboard
        .rotate(rotate_with_overlap(VERA, &made.id, 60))
        .await
        .unwrap();
    let within = dashboard.report_leak(leaked(&rotated.token)).await.unwrap();
    assert!(within.known && within.was_live && within.revoked);
    for token in [&rotated.token, &newest.token] {
        assert_eq!(
            sidecar.inactive_reason(token).await,
            Some(InactiveReason::Revoked)
        );
    }
}

#[tokio::test]
async fn a_leaked_token_does_not_come_back() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let expired = dashboard
        .created(personal(VERA).expiring(in_seconds(&app, 1)))
        .await;
    let disabled = dashboard.created(personal(EVE)).await;
    app.clock.advance(TimeDelta::seconds(1));
    app.change([put_user(EVE, InstanceRole::User, true)]).await;
    for made in [&expired, &disabled] {
        let reported = dashboard.report_leak(leaked(&made.token)).await.unwrap();
        assert!(reported.known && !reported.was_live && reported.revoked);
    }
    let later = pb::ApiClient {
        expire_time: Some(in_seconds(&app, 3600)),
        ..expired.client.clone()
    };
    let later = pb::ApiClient {
        etag: String::new(),
        ..later
    };
    dashboard
        .update(update(VERA, later, &["expire_time"]))
        .await
        .unwrap();
    app.change([put_user(EVE, InstanceRole::User, false)]).await;
    for made in [&expired, &disabled] {
        assert_eq!(
            sidecar.inactive_reason(&made.token).await,
            Some(InactiveReason::Revoked)
        );
    }
}

#[tokio::test]
async fn what_is_not_known_is_an_answer_and_changes_nothing() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let deleted = dashboard.created(personal(VERA)).await;
    dashboard.delete(delete(VERA, &deleted.id)).await.unwrap();
    let before = app.everything().await;
    let unknown = unknown();
    let strange = "é".repeat(2000);
    for report in [
        leaked(&deleted.token),
        leaked(&unknown),
        leaked(&unknown.replace("hkp_", "hks_")),
        leaked("hks_x"),
        leaked(" "),
        leaked(&strange),
        leaked(&legacy_for("nobody")),
        leaked_hash(&hash_of(&deleted.token)),
        // The hash of no token's text, although a token has it.
        leaked(&hash_of(app.token(Introspect))),
    ] {
        let answer = dashboard.report_leak(report).await.unwrap();
        let revision = answer.revision;
        assert!(revision > 0);
        let nothing = pb::ReportLeakResponse {
            revision,
            ..pb::ReportLeakResponse::default()
        };
        assert_eq!(answer, nothing);
    }
    assert_eq!(app.everything().await, before);
}

#[tokio::test]
async fn a_token_is_named_by_its_hash_as_well() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    for upper in [false, true] {
        let made = dashboard.created(personal(VERA)).await;
        let mut hash = hash_of(&made.token);
        if upper {
            hash.make_ascii_uppercase();
        }
        let ended = dashboard.report_leak(leaked_hash(&hash)).await.unwrap();
        assert!(ended.was_live);
        assert_eq!(ended.api_client.unwrap().id, made.id);
        assert!(sidecar.inactive_reason(&made.token).await.is_some());
    }
    for by_hash in [false, true] {
        let made = dashboard.created(personal(VERA)).await;
        let legacy = app.legacy(&made.token).await;
        let report = if by_hash {
            let digest = ring::digest::digest(&ring::digest::SHA256, legacy.as_bytes());
            let bytes: [u8; 32] = digest.as_ref().try_into().unwrap();
            leaked_hash(&bytes.map(|byte| format!("{byte:02x}")).concat())
        } else {
            leaked(&legacy)
        };
        let ended = dashboard.report_leak(report).await.unwrap();
        assert!(ended.was_live && ended.revoked);
        assert_eq!(
            sidecar.inactive_reason(&legacy).await,
            Some(InactiveReason::Revoked)
        );
    }
}

#[tokio::test]
async fn a_legacy_token_that_is_no_longer_accepted_was_not_live() {
    let clock = crate::support::doubles::TestClock::default();
    let options = server::Options {
        grpc: grpc::ServiceOptions {
            legacy_tokens_until: Expiry::At(clock.now() - TimeDelta::days(1)),
            ..grpc::ServiceOptions::default()
        },
        ..server::Options::default()
    };
    let app = TestApp::with(options).await;
    app.change(world()).await;
    let dashboard = app.dashboard().await;
    let made = dashboard.created(personal(VERA)).await;
    let legacy = app.legacy(&made.token).await;
    let ended = dashboard.report_leak(leaked(&legacy)).await.unwrap();
    assert!(ended.known && !ended.was_live && ended.revoked);
}

/// It would have worked later, and never does.
#[tokio::test]
async fn a_token_that_does_not_work_yet_was_not_live() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let mut request = personal(VERA);
    let client = request.api_client.as_mut().unwrap();
    client.not_before_time = Some(in_seconds(&app, 60));
    let made = dashboard.created(request).await;
    let ended = dashboard.report_leak(leaked(&made.token)).await.unwrap();
    assert!(ended.known && !ended.was_live && ended.revoked);
    app.clock.advance(TimeDelta::seconds(60));
    let reason = app.sidecar().await.inactive_reason(&made.token).await;
    assert_eq!(reason, Some(InactiveReason::Revoked));
}

#[tokio::test]
async fn a_service_accounts_token_is_for_the_command_line() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let token = app.token(Introspect).to_owned();
    let before = app.everything().await;
    for report in [leaked(&token), leaked_hash(&hash_of(&token))] {
        let refused = dashboard.report_leak(report).await;
        assert_eq!(told(&refused), "FailedPrecondition SERVICE_ACCOUNT_TOKEN");
        let message = refused.unwrap_err().message().to_owned();
        assert!(message.contains("service account introspect"), "{message}");
        assert!(message.contains("service-account revoke"), "{message}");
        assert!(!message.contains(&token));
    }
    assert_eq!(app.everything().await, before);
    // One that is revoked is nobody's any more.
    app.psql("UPDATE service_accounts SET revoke_time = now() WHERE name = 'introspect'")
        .await;
    let answer = dashboard.report_leak(leaked(&token)).await.unwrap();
    assert!(!answer.known);
}

#[tokio::test]
async fn every_mistake_of_a_report_is_named() {
    let (app, dashboard, made) = TestApp::with_client().await;
    let before = app.everything().await;
    let none = dashboard
        .report_leak(pb::ReportLeakRequest::default())
        .await;
    assert_eq!(
        explained(&none),
        ["token is required: the token, or its token_hash"]
    );
    for hash in ["", "00", &format!("{}é", &"0".repeat(62)), &"g".repeat(64)] {
        let refused = dashboard.report_leak(leaked_hash(hash)).await;
        assert_eq!(violations(&refused).len(), 1, "{hash}");
    }
    let all = pb::ReportLeakRequest {
        leaked: Some(Leaked::TokenHash("x".to_owned())),
        actor: Some(pb::Actor {
            user_id: "x".to_owned(),
            ..pb::Actor::default()
        }),
        source: "a\nb".to_owned(),
        url: String::new(),
    };
    let refused = dashboard.report_leak(all).await;
    assert_eq!(
        explained(&refused),
        [
            "token_hash must be 64 hexadecimal digits",
            "actor.user_id must be a UUID in lower-case text",
            "source must not contain control characters",
        ]
    );
    for (source, url, field) in [(101, 0, "source"), (0, 2049, "url")] {
        let long = pb::ReportLeakRequest {
            source: "ä".repeat(source),
            url: "ä".repeat(url),
            ..leaked(&made.token)
        };
        let refused = dashboard.report_leak(long).await;
        assert_eq!(violations(&refused), [field]);
    }
    assert_eq!(app.everything().await, before);
    let longest = pb::ReportLeakRequest {
        source: "ä".repeat(100),
        url: "ä".repeat(2048),
        ..leaked(&made.token)
    };
    assert!(dashboard.report_leak(longest).await.unwrap().was_live);
}

#[tokio::test]
async fn only_who_manages_clients_may_ask() {
    let app = TestApp::with_world().await;
    let made = app.dashboard().await.created(personal(VERA)).await;
    for caller in [app.sidecar().await, app.auditor().await] {
        let known = caller.report_leak(leaked(&made.token)).await;
        let unknown = caller.report_leak(leaked(&unknown())).await;
        assert_eq!(told(&known), "PermissionDenied CALLER_NOT_PERMITTED");
        assert_eq!(told(&known), told(&unknown));
        let refused = caller.revoke_all(all_of(VERA, of_user(VERA))).await;
        assert_eq!(told(&refused), "PermissionDenied CALLER_NOT_PERMITTED");
    }
    assert_eq!(app.sidecar().await.inactive_reason(&made.token).await, None);
}

/// A holder of a token needs no rights, but a person who may do nothing reports nothing.
#[tokio::test]
async fn an_actor_who_is_unknown_or_disabled_reports_nothing() {
    let (app, dashboard, made) = TestApp::with_client().await;
    app.change([put_user(EVE, InstanceRole::Owner, true)]).await;
    let before = app.everything().await;
    for user in [EVE, NOBODY] {
        for token in [app.token(Introspect), &made.token, &unknown()] {
            let report = pb::ReportLeakRequest {
                actor: actor(user),
                ..leaked(token)
            };
            let refused = dashboard.report_leak(report).await;
            assert_eq!(told(&refused), "NotFound API_CLIENT_NOT_FOUND", "{user}");
        }
    }
    assert_eq!(app.everything().await, before);
    let report = pb::ReportLeakRequest {
        actor: actor(ALICE),
        ..leaked(&made.token)
    };
    assert!(dashboard.report_leak(report).await.unwrap().was_live);
}

#[tokio::test]
async fn of_many_reports_at_once_one_ends_the_token() {
    let (app, dashboard, made) = TestApp::with_client().await;
    let reports = (0..8).map(|_| dashboard.report_leak(leaked(&made.token)));
    let all = join_all(reports).await;
    let all: Vec<_> = all.into_iter().map(Result::unwrap).collect();
    assert_eq!(all.iter().filter(|answer| answer.was_live).count(), 1);
    assert_eq!(all.iter().filter(|answer| answer.revoked).count(), 1);
    assert!(all.iter().all(|answer| answer.known));
    assert_eq!(recorded(&app, &made.id).await.len(), 3);
}
