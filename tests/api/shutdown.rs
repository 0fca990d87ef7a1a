//! The server is stopped: what is under way is finished, or cut off where
//! it has to be.

use std::time::Duration;

use hitkeep_auth::{
    server::{self, Ended, health::LIVENESS},
    transport::activity::IdleTimeouts,
};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    fixtures::*,
    harness::{LAST_SERVICE, TestApp, told},
    http::client::get as get_http,
    raw::{ask_much, open_stream},
};

#[tokio::test]
async fn what_is_under_way_is_finished() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let mut health = HealthClient::new(app.channel().await);
    let watched = health.watch(HealthCheckRequest::default()).await.unwrap();
    let mut watched = watched.into_inner();
    let first = watched.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    let blocker = app.hold_write_lock().await;
    let call = tokio::spawn(async move { dashboard.created(personal(VERA)).await });
    app.until_waiting(1).await;

    app.stop.send(()).await.unwrap();
    // Watchers get the status, and their streams end.
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
    let (app, dashboard) = TestApp::with_dashboard().await;
    let blocker = app.hold_write_lock().await;
    let call = tokio::spawn(async move { dashboard.create(personal(VERA)).await });
    app.until_waiting(1).await;
    app.stop.send(()).await.unwrap();
    app.stop.send(()).await.unwrap();
    assert_eq!(app.server.await.unwrap(), Ended::Interrupted);
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
    assert_eq!(app.server.await.unwrap(), Ended::TimedOut);
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
        // Neither forever nor for as long as a stalled peer is suffered at other times.
        let ended = timeout(IdleTimeouts::default().stalled / 2, app.server).await;
        assert_eq!(ended.expect("it ends").unwrap(), Ended::TimedOut);
        call.end.await.unwrap();
    }
}

/// A server that is stopped, and accepts connections until it is stopped again.
async fn leaving() -> TestApp {
    let app = TestApp::with(server::Options {
        drain_delay: Duration::from_hours(1),
        ..server::Options::default()
    })
    .await;
    app.change(world()).await;
    app
}

async fn health(app: &TestApp, service: &str) -> ServingStatus {
    let service = service.to_owned();
    let mut health = HealthClient::new(app.channel().await);
    let answer = health.check(HealthCheckRequest { service }).await;
    answer.unwrap().into_inner().status()
}

#[tokio::test]
async fn whoever_connects_during_the_delay_is_told_to_go_elsewhere_and_answered() {
    let app = leaving().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let token = dashboard.created(personal(VERA)).await.token;
    let mut stream = sidecar.stream().await;
    let mut watching = HealthClient::new(app.channel().await);
    let watched = watching.watch(HealthCheckRequest::default()).await;
    let mut watched = watched.unwrap().into_inner();
    let status = watched.message().await.unwrap().unwrap().status();
    assert_eq!(status, ServingStatus::Serving);

    app.stop.send(()).await.unwrap();
    let status = watched.message().await.unwrap().unwrap().status();
    assert_eq!(status, ServingStatus::NotServing);
    for service in ["", LAST_SERVICE] {
        assert_eq!(health(&app, service).await, ServingStatus::NotServing);
    }
    assert_eq!(health(&app, LIVENESS).await, ServingStatus::Serving);
    let ready = app.ask(get_http("/readyz"), "").await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.body, "the server is shutting down\n");
    assert_eq!(app.ask(get_http("/livez"), "").await.status, 200);
    // On the connections that there were, on a stream, and on new ones.
    assert!(sidecar.introspect(introspect(&token)).await.unwrap().active);
    assert!(stream.ask(introspect(&token)).await.unwrap().active);
    let late = app.sidecar().await;
    assert!(late.introspect(introspect(&token)).await.unwrap().active);
    app.dashboard().await.created(personal(VERA)).await;
    assert!(!app.server.is_finished());

    app.stop.send(()).await.unwrap();
    assert!(watched.message().await.unwrap().is_none());
    let end = stream.end().await;
    assert!(told(&end).contains("SHUTTING_DOWN"), "{end:?}");
    assert_eq!(app.server.await.unwrap(), Ended::Drained);
    assert!(app.connections.is_closed());
}

/// It is calls that a further one cuts off.
#[tokio::test]
async fn a_second_word_ends_the_delay_and_not_the_calls() {
    let app = leaving().await;
    let dashboard = app.dashboard().await;
    let blocker = app.hold_write_lock().await;
    let call = tokio::spawn(async move { dashboard.created(personal(VERA)).await });
    app.until_waiting(1).await;
    app.stop.send(()).await.unwrap();
    app.stop.send(()).await.unwrap();
    // No connection is accepted any more.
    app.connections.closed().await;
    assert!(!app.server.is_finished());
    blocker.release().await;
    call.await.expect("the call is answered");
    assert_eq!(app.server.await.unwrap(), Ended::Drained);

    let app = leaving().await;
    let dashboard = app.dashboard().await;
    let blocker = app.hold_write_lock().await;
    let call = tokio::spawn(async move { dashboard.create(personal(VERA)).await });
    app.until_waiting(1).await;
    for _ in 0..3 {
        app.stop.send(()).await.unwrap();
    }
    assert_eq!(app.server.await.unwrap(), Ended::Interrupted);
    call.abort();
    blocker.release().await;
}

/// The time for the calls begins when the delay is over.
#[tokio::test]
async fn a_delay_ends_by_itself_and_is_none_of_the_drain_s_time() {
    let (delay, drain_timeout) = (Duration::from_millis(200), Duration::from_millis(50));
    let app = TestApp::with(server::Options {
        drain_delay: delay,
        drain_timeout,
        ..server::Options::default()
    })
    .await;
    let begun = Instant::now();
    app.stop.send(()).await.unwrap();
    assert_eq!(app.server.await.unwrap(), Ended::Drained);
    assert!(begun.elapsed() >= delay);
}

/// No client can connect any more, so none has to be informed.
#[tokio::test]
async fn without_a_listener_there_is_no_delay() {
    let app = leaving().await;
    drop(app.connections);
    assert_eq!(app.server.await.unwrap(), Ended::Drained);
}

#[tokio::test]
async fn nothing_under_way_ends_at_once() {
    let app = TestApp::start().await;
    app.stop.send(()).await.unwrap();
    assert_eq!(app.server.await.unwrap(), Ended::Drained);
}
