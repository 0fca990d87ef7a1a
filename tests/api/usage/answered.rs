//! From an answer to the row: whatever Introspect answers is counted, by every server,
//! whatever becomes of the client, and until the server's very end.

use std::time::Duration;

use chrono::TimeDelta;
use hitkeep_auth::{
    domain::clock::Clock,
    live_index::{self, usage::UsageOptions},
    pb::{self, InstanceRole, SiteRole, UsageRefusalReason},
    server::{self, Ended},
    store::usage::FLUSH_LOCK,
};

use super::{NEVER, Told, days, last_used, pb_time, time};
use crate::{
    fixtures::*,
    harness::TestApp,
    sidecars::envoy::{HUMAN_ONLY, Sending, asking, refusal},
    support::waiting::until,
};

async fn flushing(options: UsageOptions) -> TestApp {
    let app = TestApp::with(writing(options)).await;
    app.change(world()).await;
    app
}

fn writing(usage: UsageOptions) -> server::Options {
    server::Options {
        index: live_index::IndexOptions {
            usage,
            ..live_index::IndexOptions::default()
        },
        ..server::Options::default()
    }
}

/// The only day that there is.
fn today(uses: u64, refusals: &[(UsageRefusalReason, u64)]) -> Vec<Told> {
    vec![(time("2026-01-01T00:00:00Z"), uses, refusals.to_vec())]
}

/// Stops a server that nothing is under way on.
async fn stop(app: &mut TestApp) {
    app.stop.send(()).await.unwrap();
    assert_eq!((&mut app.server).await.unwrap(), Ended::Drained);
}

#[tokio::test]
async fn every_answer_about_a_client_is_counted_by_what_it_came_to() {
    use UsageRefusalReason::{
        Expired, NoSiteGrant, OwnerInactive, Revoked, RoleTooLow, TokenRotated,
    };

    let app = flushing(UsageOptions {
        flush_interval: Duration::from_millis(20),
    })
    .await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let request = personal(VERA)
        .granted(SITE, SiteRole::Viewer)
        .expiring(in_seconds(&app, 600));
    let made = dashboard.created(request).await;
    let newer = dashboard.rotate(rotate(VERA, &made.id)).await.unwrap();
    let mut stream = sidecar.stream().await;
    // Each of them once by a call, once in a stream and once in a batch.
    let mut ask = async |request: pb::IntrospectRequest| {
        let called = sidecar.introspect(request.clone()).await;
        let streamed = stream.ask(request.clone()).await.unwrap();
        let item = pb::BatchIntrospectItem {
            token: request.token,
            check: request.check,
            source_ip: request.source_ip,
        };
        let batch = pb::BatchIntrospectRequest {
            requests: vec![item],
            at_least_revision: None,
        };
        assert_eq!(sidecar.batch(batch).await.unwrap().responses.len(), 1);
        match called {
            Ok(answer) => assert_eq!(streamed, answer),
            Err(_) => assert!(streamed.error.is_some()),
        }
    };
    ask(introspect(&newer.token)).await;
    ask(check(&newer.token, SITE, "site.view")).await;
    ask(check(&newer.token, OTHER_SITE, "site.view")).await;
    app.clock.advance(TimeDelta::seconds(1));
    ask(check(&newer.token, SITE, "site.delete")).await;
    // Where only people pass, no role is enough: once on each path.
    for spoofed in [&[][..], &[("x-hitkeep-owner", "x")]] {
        let request = asking(&[("human_only", "true")], "/").bearing(&newer.token);
        let request = request.with(spoofed.iter().copied());
        assert_eq!(refusal(&sidecar.check(request).await.unwrap()), HUMAN_ONLY);
    }
    let last_good = app.clock.now();
    app.clock.advance(TimeDelta::seconds(1));
    ask(introspect(&made.token)).await;
    // What is no answer about the client is none of its uses.
    ask(check(&newer.token, "", "site.view")).await;
    ask(check(&newer.token, SITE, "site.fly")).await;
    ask(introspect("x")).await;
    ask(introspect(&newer.token.replace("hkp", "hkt"))).await;
    app.change([put_user(VERA, InstanceRole::User, true)]).await;
    ask(introspect(&newer.token)).await;
    app.clock.advance(TimeDelta::seconds(600));
    ask(introspect(&newer.token)).await;
    dashboard.revoke(revoke(ROOT, &made.id)).await.unwrap();
    ask(introspect(&newer.token)).await;
    ask(check(&newer.token, SITE, "site.view")).await;

    let mut expected = vec![
        (TokenRotated, 3),
        (Revoked, 6),
        (Expired, 3),
        (OwnerInactive, 3),
        (NoSiteGrant, 3),
        (RoleTooLow, 5),
    ];
    expected.sort_by_key(|(reason, _)| *reason as i32);
    let expected = today(6, &expected);
    // How long that takes is up to the machine, so the wait is far longer than the flush
    // interval. Uses that are never written still fail the test when it is over.
    until("all of them are written", async || {
        let seen = days(&dashboard, usage(ROOT, &made.id)).await;
        if seen == expected { Ok(()) } else { Err(seen) }
    })
    .await;
    // A client that may do nothing there has shown a token that works all the same.
    let last = last_used(&dashboard, ROOT, &made.id).await;
    assert_eq!(last, Some(pb_time(last_good)));
}

#[tokio::test]
async fn nothing_is_lost_when_the_client_changes_or_the_server_ends() {
    let mut app = flushing(NEVER).await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard.created(personal(VERA)).await;
    let doomed = dashboard.created(personal(VERA).named("doomed")).await;
    let works = async |token: &str| {
        for _ in 0..2 {
            assert_eq!(sidecar.inactive_reason(token).await, None);
        }
    };
    works(&made.token).await;
    works(&doomed.token).await;
    let renamed = pb::ApiClient {
        name: "renamed".to_owned(),
        ..made.client.clone()
    };
    dashboard
        .update(update(VERA, renamed, &["name"]))
        .await
        .unwrap();
    works(&made.token).await;
    // Also where another change touches it, or takes its place.
    app.psql("UPDATE users SET instance_role = 'admin'").await;
    app.settle().await;
    works(&made.token).await;
    let newer = dashboard.rotate(rotate(VERA, &made.id)).await.unwrap();
    works(&newer.token).await;
    sidecar.inactive_reason(&made.token).await.expect("rotated");
    let deleted = dashboard.delete(delete(VERA, &doomed.id)).await;
    deleted.expect("it is there");
    let nothing = "SELECT count(*) FROM api_client_usage_days";
    assert_eq!(app.number(nothing).await, 0, "it was not written yet");

    stop(&mut app).await;
    let other = app.beside(server::Options::default()).await;
    let dashboard = other.dashboard().await;
    let seen = days(&dashboard, usage(VERA, &made.id)).await;
    assert_eq!(seen, today(8, &[(UsageRefusalReason::TokenRotated, 1)]));
    let last = last_used(&dashboard, VERA, &made.id).await;
    assert_eq!(last, Some(pb_time(app.clock.now())));
    // What was counted of the one that is gone is forgotten, and delayed no other write.
    assert_eq!(app.number(nothing).await, 2);
}

#[tokio::test]
async fn a_stream_counts_to_its_end() {
    let mut app = flushing(NEVER).await;
    let made = app.dashboard().await.created(personal(VERA)).await;
    let mut stream = app.sidecar().await.stream().await;
    for _ in 0..3 {
        stream.ask(introspect(&made.token)).await.unwrap();
    }
    // It is still open. And the server does not end before they are written.
    let turn = format!("SELECT pg_advisory_xact_lock({FLUSH_LOCK})");
    let somebodys_turn = app.hold(&turn).await;
    app.stop.send(()).await.unwrap();
    app.until_waiting(1).await;
    assert!(!app.server.is_finished());
    somebodys_turn.release().await;
    assert_eq!((&mut app.server).await.unwrap(), Ended::Drained);
    stream.end().await.expect_err("the server is gone");
    let counted = "SELECT sum(count) FROM api_client_usage_days";
    assert_eq!(app.number(counted).await, 3);
}

#[tokio::test]
async fn servers_on_one_database_count_together() {
    let mut app = flushing(NEVER).await;
    let mut other = app.beside(writing(NEVER)).await;
    let Created { id, token, .. } = app.dashboard().await.created(personal(VERA)).await;
    let begun = app.clock.now();
    let uses = async |app: &TestApp, times: usize| {
        let sidecar = app.sidecar().await;
        for _ in 0..times {
            assert_eq!(sidecar.inactive_reason(&token).await, None);
        }
    };
    uses(&app, 3).await;
    app.clock.advance(TimeDelta::seconds(60));
    uses(&other, 4).await;
    app.clock.advance(TimeDelta::seconds(60));
    // The one whose uses are older is the last to write.
    stop(&mut other).await;
    stop(&mut app).await;
    let reader = app.beside(server::Options::default()).await;
    let dashboard = reader.dashboard().await;
    assert_eq!(days(&dashboard, usage(VERA, &id)).await, today(7, &[]));
    let last = last_used(&dashboard, VERA, &id).await;
    assert_eq!(last, Some(pb_time(begun + TimeDelta::seconds(60))));
}
