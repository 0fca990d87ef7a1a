//! What the service cannot do: it says so, and leaves nothing half done.

use std::time::Duration;

use hitkeep_auth::{pb, server};
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::{OWN, call, created, edited, options, path_of, request, send, start, start_with, told};
use crate::{fixtures::*, harness::TestApp, http::client::ask_on};

const GONE: &str = "503 the database cannot be reached";

#[tokio::test]
async fn an_outage_is_503_and_nothing_else() {
    let (app, proxy) = TestApp::behind_proxy(options()).await;
    let (client, token) = created(&app, OWN, VERA, &json!({ "name": "x" })).await;
    let path = path_of(OWN, &client);
    let body = edited(&client, &json!({ "revoked": true }));
    for is_stale in [false, true] {
        proxy.cut();
        if is_stale {
            // Then the caller cannot be looked up either.
            app.clock.grow_old(Duration::from_hours(1));
        }
        let before = app.everything().await;
        for answer in [
            call(&app, "GET", OWN, VERA).await,
            send(&app, "POST", OWN, VERA, &json!({ "name": "y" })).await,
            send(&app, "PUT", &path, VERA, &body).await,
            call(&app, "POST", &format!("{path}/rotate"), VERA).await,
            call(&app, "DELETE", &path, VERA).await,
        ] {
            assert_eq!(told(&answer), GONE);
            assert_eq!(answer.header("retry-after").as_deref(), Some("1"));
        }
        assert_eq!(app.everything().await, before);
        proxy.mend();
        app.settle().await;
    }
    assert_eq!(app.sidecar().await.inactive_reason(&token).await, None);
    assert_eq!(send(&app, "PUT", &path, VERA, &body).await.status, 200);
    let revoked = Some(pb::InactiveReason::Revoked);
    assert_eq!(app.sidecar().await.inactive_reason(&token).await, revoked);
}

/// All or nothing, as over gRPC.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_caller_that_hangs_up_leaves_nothing() {
    let app = start().await;
    let before = app.everything().await;
    let blocker = app.hold_write_lock().await;
    // More than the pool has connections.
    for _ in 0..20 {
        let request = request(&app, "POST", OWN, VERA);
        let asked = tokio::spawn(ask_on(app.http_connection(), request, r#"{"name":"x"}"#));
        app.until_waiting(1).await;
        asked.abort();
        // Its half of the connection is kept by a task of its own, until it is no longer read.
        app.until_waiting(0).await;
    }
    blocker.release().await;
    assert_eq!(app.everything().await, before);
    created(&app, OWN, VERA, &json!({ "name": "x" })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_request_has_its_deadline() {
    let patient = start().await;
    let app = patient
        .beside(server::Options {
            request_timeout: Duration::from_millis(300),
            ..options()
        })
        .await;
    let before = app.everything().await;
    let blocker = app.hold_write_lock().await;
    let late = send(&app, "POST", OWN, VERA, &json!({ "name": "x" })).await;
    assert_eq!(told(&late), "503 the deadline passed");
    app.until_waiting(0).await;
    blocker.release().await;
    assert_eq!(app.everything().await, before);
    // Also for its body.
    let mut connection = app.http_connection();
    let caller = app.token(hitkeep_auth::domain::caller::CallerPermission::Manage);
    let head = format!(
        "POST {OWN} HTTP/1.1\r\nhost: test\r\nx-hitkeep-caller: {caller}\r\nx-hitkeep-actor: {VERA}\r\n\
         content-length: 12\r\n\r\n{{\"name\""
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut connection, &mut answer)
        .await
        .unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.ends_with("the deadline passed\n"), "{answer}");
}

/// The places are shared with the calls over gRPC.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_over_the_limit_is_shed_at_once() {
    let app = start_with(server::Options {
        max_calls: 1,
        ..options()
    })
    .await;
    let blocker = app.hold_write_lock().await;
    let dashboard = app.dashboard().await;
    let first = tokio::spawn(async move { dashboard.create(personal(VERA)).await });
    app.until_waiting(1).await;
    let shed = send(&app, "POST", OWN, VERA, &json!({ "name": "x" })).await;
    assert_eq!(told(&shed), "503 too many requests at once, try again");
    assert_eq!(
        told(&call(&app, "GET", OWN, VERA).await),
        "503 too many requests at once, try again"
    );
    blocker.release().await;
    first.await.unwrap().unwrap();
    let request = request(&app, "POST", OWN, VERA);
    let blocker = app.hold_write_lock().await;
    let second = tokio::spawn(ask_on(app.http_connection(), request, r#"{"name":"x"}"#));
    app.until_waiting(1).await;
    let shed = app.dashboard().await.create(personal(VERA)).await;
    assert_eq!(crate::harness::told(&shed), "Unavailable OVERLOADED");
    blocker.release().await;
    assert_eq!(second.await.unwrap().status, 201);
}

#[tokio::test]
async fn a_panic_is_a_500_and_no_more() {
    let app = start().await;
    let before = app.everything().await;
    let request = || request(&app, "POST", OWN, VERA).header("x-request-id", "panics");
    app.entropy.break_down();
    let failed = app.ask(request(), r#"{"name":"x"}"#).await;
    app.entropy.recover();
    assert_eq!(told(&failed), "500 internal error");
    assert_eq!(app.everything().await, before);
    assert_eq!(app.ask(request(), r#"{"name":"x"}"#).await.status, 201);
}
