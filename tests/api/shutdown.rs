//! The server is told to stop: what is under way is finished, or cut off where
//! it is told to.

use std::time::Duration;

use hitkeep_auth::server::{self, Ended, pulse::Patience};
use http_body_util::BodyExt;
use tokio::time::timeout;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    fixtures::*,
    harness::TestApp,
    raw::{ask_much, open_stream},
};

#[tokio::test]
async fn what_is_under_way_is_finished() {
    let app = TestApp::with_world().await;
    let dashboard = app.dashboard().await;
    let mut health = HealthClient::new(app.channel().await);
    let watched = health.watch(HealthCheckRequest::default()).await.unwrap();
    let mut watched = watched.into_inner();
    let first = watched.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    let blocker = app.hold_write_lock().await;
    let call = tokio::spawn(async move { dashboard.created(personal(VERA)).await });
    app.until_waiting(1).await;

    app.stop.send(()).await.unwrap();
    // Those who watch are told, and their streams end.
    let second = watched.message().await.unwrap().unwrap();
    assert_eq!(second.status(), ServingStatus::NotServing);
    assert!(watched.message().await.unwrap().is_none());
    assert!(!app.server.is_finished());
    blocker.release().await;
    call.await.expect("the call is answered");
    assert_eq!(app.server.await.unwrap(), Ended::Drained);
}

#[tokio::test]
async fn a_second_word_ends_it_at_once() {
    let app = TestApp::with_world().await;
    let dashboard = app.dashboard().await;
    let blocker = app.hold_write_lock().await;
    let call = tokio::spawn(async move { dashboard.create(personal(VERA)).await });
    app.until_waiting(1).await;
    app.stop.send(()).await.unwrap();
    app.stop.send(()).await.unwrap();
    assert_eq!(app.server.await.unwrap(), Ended::CutOff);
    call.abort();
    blocker.release().await;
}

#[tokio::test]
async fn a_drain_ends_when_its_time_is_up() {
    let drain_timeout = Duration::from_millis(50);
    let app = TestApp::with(server::Options {
        drain_timeout,
        ..server::Options::default()
    })
    .await;
    let dashboard = app.dashboard().await;
    let blocker = app.hold_write_lock().await;
    let call = tokio::spawn(async move { dashboard.create(personal(VERA)).await });
    app.until_waiting(1).await;
    app.stop.send(()).await.unwrap();
    assert_eq!(app.server.await.unwrap(), Ended::CutOff);
    call.abort();
    blocker.release().await;
}

/// It has begun to take an answer, and takes no more of it: neither the answer that the
/// server gives once, nor a stream's, which its caller may take at leisure otherwise.
#[tokio::test]
async fn a_peer_that_takes_nothing_is_waited_for_no_longer() {
    // The answer says what is wrong, and so is longer than what is taken.
    let bad = [check("x", SITE, "site.invented")];
    for streams in [false, true] {
        let app = TestApp::with(server::Options {
            drain_timeout: Duration::from_millis(50),
            ..server::Options::default()
        })
        .await;
        let mut call = if streams {
            open_stream(&app, &bad, 8).await
        } else {
            ask_much(&app, 8).await
        };
        let first = call.answers.frame().await.unwrap().unwrap();
        assert!(first.is_data(), "{first:?}");
        app.stop.send(()).await.unwrap();
        // Neither for ever nor for as long as a stalled peer is suffered at other times.
        let ended = timeout(Patience::default().stalled / 2, app.server).await;
        assert_eq!(ended.expect("it ends").unwrap(), Ended::CutOff);
        call.end.await.unwrap();
    }
}

#[tokio::test]
async fn nothing_under_way_ends_at_once() {
    let app = TestApp::start().await;
    app.stop.send(()).await.unwrap();
    assert_eq!(app.server.await.unwrap(), Ended::Drained);
}
