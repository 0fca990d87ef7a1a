//! The layers in front of the services: each refuses what is its to refuse, and
//! lets the rest through.

use std::{convert::Infallible, time::Duration};

use hitkeep_auth::{
    domain::caller::CallerPermission::{self, Directory, Manage},
    pb, server, store,
};
use http_body_util::{Full, StreamBody};
use hyper::body::{Bytes, Frame};
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tonic::Status;
use tonic_types::StatusExt;

pub use crate::harness::framed;
use crate::{
    fixtures::*,
    harness::{TestApp, exchange, told},
    support::postgres::migrated_database,
};

const CREATE: &str = "/hitkeep.auth.v1.ApiClientService/CreateApiClient";

#[tokio::test]
async fn a_panic_ends_the_call_and_not_the_connection() {
    let app = TestApp::with_world().await;
    let mut dashboard = app.dashboard().await;
    // With an id of the caller's own, only the handler needs randomness.
    dashboard
        .metadata
        .push(("x-request-id", "panics".to_owned()));
    let before = app.everything().await;
    app.entropy.break_down();
    let failed = dashboard.create(personal(VERA)).await;
    app.entropy.recover();
    assert_eq!(told(&failed), "Internal INTERNAL");
    assert_eq!(failed.unwrap_err().message(), "internal error");
    assert_eq!(app.everything().await, before);
    dashboard.created(personal(VERA)).await;
}

/// For programs in the details, and for a client's retry policy in the trailer of gRFC A6.
fn says_when_to_call_again(shed: &Status) {
    let retry = shed.get_details_retry_info().expect("it is about load");
    let delay = retry.retry_delay.expect("it names one");
    assert!((500..=1000).contains(&delay.as_millis()), "{delay:?}");
    let pushback = shed.metadata().get("grpc-retry-pushback-ms").unwrap();
    assert_eq!(pushback.to_str().unwrap(), delay.as_millis().to_string());
}

#[tokio::test]
async fn what_is_over_the_limit_is_shed_at_once() {
    let options = server::Options {
        max_calls: 1,
        ..server::Options::default()
    };
    let app = TestApp::with(options).await;
    app.change(world()).await;
    let dashboard = app.dashboard().await;
    let blocker = app.hold_write_lock().await;
    let first = tokio::spawn({
        let dashboard = dashboard.clone();
        async move { dashboard.create(personal(VERA)).await }
    });
    app.until_waiting(1).await;
    let shed = dashboard.create(personal(VERA)).await;
    assert_eq!(told(&shed), "Unavailable OVERLOADED");
    says_when_to_call_again(&shed.unwrap_err());
    // Also over another connection; introspection has a limit of its own.
    assert_eq!(
        told(&app.dashboard().await.get(get(VERA, VERA)).await),
        "Unavailable OVERLOADED"
    );
    app.sidecar()
        .await
        .introspect(introspect("x"))
        .await
        .expect("it is not shed");
    blocker.release().await;
    first.await.unwrap().expect("it was let in");
    dashboard.created(personal(VERA)).await;
}

#[tokio::test]
async fn a_queue_that_lasts_is_short() {
    let url = migrated_database().await;
    // Four calls for each connection.
    let store = store::StoreOptions {
        pool_size: 2,
        pool_wait: Duration::from_mins(1),
        ..store::StoreOptions::new(&url)
    };
    let options = server::Options {
        max_burst: Duration::ZERO,
        ..server::Options::default()
    };
    let app = TestApp::on(&url, &store, options).await;
    app.change(world()).await;
    let dashboard = app.dashboard().await;
    let blocker = app.hold_write_lock().await;
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        let dashboard = dashboard.clone();
        calls.spawn(async move { dashboard.create(personal(VERA)).await });
    }
    for _ in 8..20 {
        let shed = calls.join_next().await.unwrap().unwrap();
        assert_eq!(told(&shed), "Unavailable OVERLOADED");
    }
    // Those who read do not wait for those who write, nor are they refused for them.
    let listed = dashboard
        .list(list(VERA, of_user(VERA)))
        .await
        .expect("it is let in");
    assert_eq!(listed.api_clients, []);
    blocker.release().await;
    for made in calls.join_all().await {
        made.expect("it was let in");
    }
    dashboard.created(personal(VERA)).await;
}

#[tokio::test]
async fn introspections_are_shed_by_their_own_limit() {
    let options = server::Options {
        max_introspections: 1,
        ..server::Options::default()
    };
    let app = TestApp::with(options).await;
    app.change(world()).await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard.created(personal(VERA)).await;
    // It waits for what is only done once the other one was refused.
    let ahead = pb::IntrospectRequest {
        at_least_revision: Some(made.revision + 1),
        ..introspect(&made.token)
    };
    let first = sidecar.introspect(ahead.clone());
    let second = async {
        let shed = sidecar.introspect(ahead.clone()).await;
        assert_eq!(told(&shed), "Unavailable OVERLOADED");
        dashboard.created(personal(VERA)).await;
    };
    let (first, ()) = tokio::join!(first, second);
    assert!(first.expect("it was let in").active);
}

#[tokio::test]
async fn a_call_ends_when_our_time_is_up() {
    let request_timeout = Duration::from_millis(100);
    let app = TestApp::with(server::Options {
        request_timeout,
        ..server::Options::default()
    })
    .await;
    let dashboard = app.dashboard().await;
    let blocker = app.hold_write_lock().await;
    let late = dashboard.create(personal(VERA)).await;
    assert_eq!(told(&late), "DeadlineExceeded DEADLINE_EXCEEDED");
    // Nor does its statement go on.
    app.until_waiting(0).await;
    blocker.release().await;
}

/// What a server says over HTTP/2, without a client library that has a deadline
/// of its own.
async fn raw(app: &TestApp, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Status {
    raw_as(app, Manage, path, headers, body).await
}

/// The same, for a caller with that permission.
pub async fn raw_as(
    app: &TestApp,
    permission: CallerPermission,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Status {
    let body = Full::new(Bytes::copy_from_slice(body));
    exchange(&app.connections, app.token(permission), path, headers, body).await
}

/// The same, for one that says no more after that, and does not say so either.
pub async fn raw_open(
    app: &TestApp,
    permission: CallerPermission,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> Status {
    let said = tokio_stream::once(Ok::<_, Infallible>(Frame::data(Bytes::from(body))));
    let body = StreamBody::new(said.chain(tokio_stream::pending()));
    exchange(&app.connections, app.token(permission), path, headers, body).await
}

#[tokio::test]
async fn a_call_ends_when_the_callers_time_is_up() {
    let app = TestApp::with_world().await;
    let blocker = app.hold_write_lock().await;
    let body = framed(&personal(VERA));
    for timeout in ["60m", "60000u", "1n"] {
        let late = raw(&app, CREATE, &[("grpc-timeout", timeout)], &body).await;
        let late: Result<(), _> = Err(late);
        assert_eq!(
            told(&late),
            "DeadlineExceeded DEADLINE_EXCEEDED",
            "{timeout}"
        );
    }
    blocker.release().await;
    assert_eq!(app.number("SELECT count(*) FROM api_clients").await, 0);
}

#[tokio::test]
async fn what_cannot_be_read_is_the_callers_fault() {
    let app = TestApp::with_world().await;
    let not_a_message = [0, 0, 0, 0, 2, 0xff, 0xff];
    // A string that is no UTF-8: the id of a GetApiClientRequest.
    let not_text = [0, 0, 0, 0, 4, 0x12, 0x02, 0xff, 0xfe];
    let too_large = framed(&pb::GetApiClientRequest {
        id: "x".repeat(5 << 20),
        ..get(VERA, "")
    });
    let get_path = "/hitkeep.auth.v1.ApiClientService/GetApiClient";
    for body in [&not_a_message[..], &not_text[..], &too_large[..], &[]] {
        let refused: Result<(), _> = Err(raw(&app, get_path, &[], body).await);
        assert_eq!(told(&refused), "InvalidArgument INVALID_FIELD");
    }
    // A stream is read by its handler.
    let replace = "/hitkeep.auth.v1.DirectoryService/ReplaceDirectory";
    let refused = raw_as(&app, Directory, replace, &[], &not_a_message).await;
    let refused: Result<(), _> = Err(refused);
    assert_eq!(told(&refused), "InvalidArgument INVALID_FIELD");
}

#[tokio::test]
async fn an_unknown_compression_is_refused_with_a_reason() {
    let app = TestApp::with_world().await;
    let get_path = "/hitkeep.auth.v1.ApiClientService/GetApiClient";
    let refused = raw(
        &app,
        get_path,
        &[("grpc-encoding", "snappy")],
        &framed(&get(VERA, VERA)),
    )
    .await;
    let refused: Result<(), _> = Err(refused);
    assert_eq!(told(&refused), "Unimplemented METHOD_UNKNOWN");
}

#[tokio::test]
async fn every_answer_has_the_id_of_its_request() {
    use hitkeep_auth::pb::api_client_service_client::ApiClientServiceClient;

    let app = TestApp::with_world().await;
    let mut dashboard = app.dashboard().await;
    let mut client = ApiClientServiceClient::new(dashboard.channel.clone());
    let made = client
        .create_api_client(dashboard.request(personal(VERA)))
        .await
        .unwrap();
    let id = made
        .metadata()
        .get("x-request-id")
        .unwrap()
        .to_str()
        .unwrap();
    assert_eq!(id.len(), 36, "one is made where there is none");
    dashboard
        .metadata
        .push(("x-request-id", "the-callers-own".to_owned()));
    let refused = client
        .get_api_client(dashboard.request(get(VERA, EVE)))
        .await
        .unwrap_err();
    assert_eq!(
        refused.metadata().get("x-request-id").unwrap(),
        "the-callers-own"
    );
    // Not one that would not fit into a line of a log.
    dashboard.metadata.pop();
    dashboard.metadata.push(("x-request-id", "x".repeat(129)));
    let refused = client
        .get_api_client(dashboard.request(get(VERA, EVE)))
        .await
        .unwrap_err();
    assert_eq!(refused.metadata().get("x-request-id").unwrap().len(), 36);
    assert!(refused.get_error_details().error_info().is_some());
}

#[tokio::test]
async fn headers_that_are_too_large_fail_their_call_alone() {
    let app = TestApp::start().await;
    let mut sidecar = app.sidecar().await;
    // Of 16 KiB; the others take some as well.
    for (kibibytes, fits) in [(15, true), (17, false), (15, true)] {
        let padding = ("x-padding", "x".repeat(kibibytes * 1024));
        sidecar.metadata.push(padding);
        let answer = sidecar.introspect(introspect("x")).await;
        sidecar.metadata.pop();
        match answer {
            Ok(_) => assert!(fits, "{kibibytes} KiB"),
            // HTTP's own refusal, before it is a call: gRPC has no code for it.
            Err(refused) => assert!(!fits && refused.message().contains("431"), "{refused:?}"),
        }
    }
}
