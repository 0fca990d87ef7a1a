//! Peers that let a server wait, or have no end: none is waited for without a limit.

use std::time::Duration;

use bytes::BytesMut;
use hitkeep_auth::{
    domain::caller::CallerPermission::{Introspect, Manage},
    pb::{
        self,
        envoy::service::auth::v3::{CheckResponse, check_response::HttpResponse},
    },
    server::{self, Ended},
    transport::activity::IdleTimeouts,
};
use http_body_util::BodyExt;
use prost::Message;
use tokio::{
    io::AsyncReadExt,
    sync::mpsc::{UnboundedSender, unbounded_channel},
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Request, Status, Streaming};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, ServerReflectionResponse,
    server_reflection_client::ServerReflectionClient, server_reflection_request::MessageRequest,
};

use crate::{
    fixtures::*,
    harness::{TestApp, told},
    layers::{framed, raw_as, raw_open},
    raw::{Answers, ask, ask_much, ask_status, data, open_stream},
    support::waiting::until,
};

const INTROSPECT: &str = "/hitkeep.auth.v1.IntrospectionService/Introspect";
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
/// A time that goes by before anything else happens.
const SHORT: Duration = Duration::from_millis(100);

async fn with(options: server::Options) -> TestApp {
    TestApp::with(options).await
}

#[tokio::test]
async fn a_message_that_does_not_come_is_given_up() {
    let ours = with(server::Options {
        request_timeout: SHORT,
        ..server::Options::default()
    })
    .await;
    let theirs = with(server::Options::default()).await;
    let begun = framed(&introspect("x"));
    let part = &begun[..begun.len() - 1];
    for path in [INTROSPECT, HEALTH] {
        for part in [&[][..], &begun[..3], part] {
            for (app, headers) in [(&ours, None), (&theirs, Some(("grpc-timeout", "60m")))] {
                let headers = headers.as_slice();
                let late = raw_open(app, Introspect, path, headers, part.to_vec()).await;
                let late: Result<(), _> = Err(late);
                let case = format!("{path} {part:?} {headers:?}");
                assert_eq!(told(&late), "DeadlineExceeded DEADLINE_EXCEEDED", "{case}");
            }
        }
    }
}

/// Of an error, Envoy would make what its configuration says, and that is 403 by default.
#[tokio::test]
async fn a_check_that_fails_is_answered_all_the_same() {
    let app = with(server::Options {
        request_timeout: SHORT,
        ..server::Options::default()
    })
    .await;
    let Answers { answers, .. } =
        ask(&app, Introspect, CHECK, tokio_stream::pending(), 65_535).await;
    assert!(answers.headers().contains_key("x-request-id"));
    let answer = answers.into_body().collect().await.unwrap();
    let trailers = answer.trailers().cloned().unwrap();
    assert_eq!(Status::from_header_map(&trailers).unwrap().code(), Code::Ok);
    let answer = CheckResponse::decode(&answer.to_bytes()[5..]).unwrap();
    let Some(HttpResponse::DeniedResponse(denied)) = answer.http_response else {
        panic!("{answer:?}");
    };
    assert_eq!(denied.status.unwrap().code, 503);
    // That a proxy is no known caller is its own fault.
    let refused = raw_as(&app, Manage, CHECK, &[], &[]).await;
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_message_may_come_bit_by_bit() {
    let app = TestApp::start().await;
    let message = framed(&introspect("x"));
    let bits: Vec<_> = message.iter().map(|byte| data(&[*byte])).collect();
    let Answers { answers, .. } = ask(
        &app,
        Introspect,
        INTROSPECT,
        tokio_stream::iter(bits),
        65_535,
    )
    .await;
    let answer = answers.into_body().collect().await.unwrap();
    let trailers = answer.trailers().cloned().unwrap();
    assert_eq!(Status::from_header_map(&trailers).unwrap().code(), Code::Ok);
    let answer = pb::IntrospectResponse::decode(&answer.to_bytes()[5..]).unwrap();
    assert_eq!(answer.inactive_reason(), pb::InactiveReason::UnknownToken);
}

/// Memory for a message is set aside as soon as it begins.
#[tokio::test]
async fn strangers_may_not_say_much() {
    let app = TestApp::start().await;
    let asked = |length| {
        framed(&HealthCheckRequest {
            service: "x".repeat(length),
        })
    };
    let unknown = raw_as(&app, Introspect, HEALTH, &[], &asked(4000)).await;
    assert_eq!(unknown.code(), Code::NotFound);
    let refused = raw_as(&app, Introspect, HEALTH, &[], &asked(5000)).await;
    assert_eq!(
        told(&Err::<(), _>(refused)),
        "InvalidArgument INVALID_FIELD"
    );
    let asked = |length| {
        framed(&ServerReflectionRequest {
            host: "x".repeat(length),
            message_request: Some(MessageRequest::ListServices(String::new())),
        })
    };
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        for (length, answered) in [(4000, true), (5000, false)] {
            let frames = tokio_stream::once(data(&asked(length)));
            let Answers { answers, .. } = ask(&app, Introspect, &path, frames, 65_535).await;
            let answer = answers.into_body().collect().await.unwrap();
            assert_eq!(
                !answer.to_bytes().is_empty(),
                answered,
                "{version} {length}"
            );
        }
    }
}

/// A stream of reflection that was answered once.
struct Reflected {
    answers: Streaming<ServerReflectionResponse>,
    _requests: UnboundedSender<ServerReflectionRequest>,
}

async fn reflect(app: &TestApp) -> Result<Reflected, Status> {
    let (requests, receiver) = unbounded_channel();
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    requests.send(list).unwrap();
    let mut client = ServerReflectionClient::new(app.channel().await);
    let request = Request::new(UnboundedReceiverStream::new(receiver));
    let mut answers = client.server_reflection_info(request).await?.into_inner();
    answers.message().await?.expect("one for one");
    Ok(Reflected {
        answers,
        _requests: requests,
    })
}

#[tokio::test]
async fn there_are_only_so_many_streams_of_strangers() {
    let app = TestApp::start().await;
    let mut open = Vec::new();
    let refused = loop {
        match reflect(&app).await {
            Ok(stream) => open.push(stream),
            Err(refused) => break refused,
        }
    };
    assert_eq!(told(&Err::<(), _>(refused)), "Unavailable OVERLOADED");
    assert_eq!(open.len(), 64);
    // No other client is any worse off for it.
    let mut health = HealthClient::new(app.channel().await);
    health.check(HealthCheckRequest::default()).await.unwrap();
    let watch = health.watch(HealthCheckRequest::default()).await;
    watch.unwrap().into_inner().message().await.unwrap();
    app.sidecar()
        .await
        .introspect(introspect("x"))
        .await
        .unwrap();
    // Its place is free once the server has seen that one has gone.
    drop(open.pop());
    until("there is room", async || reflect(&app).await.map(drop)).await;
}

#[tokio::test]
async fn open_streams_do_not_hold_up_the_end() {
    let app = TestApp::start().await;
    let mut reflected = reflect(&app).await.unwrap();
    app.stop.send(()).await.unwrap();
    let end = reflected.answers.message().await;
    assert_eq!(told(&end), "Unavailable SHUTTING_DOWN");
    assert_eq!(app.server.await.unwrap(), Ended::Drained);
}

/// A request that waits for that revision.
fn awaiting(revision: i64) -> pb::IntrospectRequest {
    pb::IntrospectRequest {
        at_least_revision: Some(revision.try_into().unwrap()),
        ..introspect("x")
    }
}

#[tokio::test]
async fn what_a_stream_was_sent_is_answered_at_the_end() {
    let app = TestApp::start().await;
    app.settle().await;
    let next = app.number("SELECT revision FROM index_state").await + 1;
    // All in one, so that where the first was answered, the others were read.
    let first = [
        introspect("x"),
        awaiting(next),
        introspect("y"),
        introspect("z"),
    ];
    let mut stream = open_stream(&app, &first, 65_535).await;
    let mut read = BytesMut::new();
    stream.answer(&mut read).await.unwrap();
    app.stop.send(()).await.unwrap();
    app.psql("SELECT index_stamp()").await;
    let waited = stream.answer(&mut read).await.unwrap();
    assert!(waited.error.is_none() && waited.revision >= u64::try_from(next).unwrap());
    for _ in 0..2 {
        let answer = stream.answer(&mut read).await.unwrap();
        assert_eq!(answer.inactive_reason(), pb::InactiveReason::UnknownToken);
    }
    let end = stream.answer(&mut read).await;
    assert_eq!(told(&end), "Unavailable SHUTTING_DOWN");
    drop(stream);
    assert_eq!(app.server.await.unwrap(), Ended::Drained);
}

#[tokio::test]
async fn what_would_have_to_wait_is_not_begun_at_the_end() {
    let app = TestApp::start().await;
    app.settle().await;
    let next = app.number("SELECT revision FROM index_state").await + 1;
    let first = [introspect("x"), awaiting(next), awaiting(next + 1_000_000)];
    let mut stream = open_stream(&app, &first, 65_535).await;
    let mut read = BytesMut::new();
    stream.answer(&mut read).await.unwrap();
    app.stop.send(()).await.unwrap();
    app.psql("SELECT index_stamp()").await;
    stream.answer(&mut read).await.unwrap();
    let end = stream.answer(&mut read).await;
    assert_eq!(told(&end), "Unavailable SHUTTING_DOWN");
}

#[tokio::test]
async fn who_has_said_nothing_does_not_hold_up_the_end() {
    let app = TestApp::start().await;
    let (mut silent, theirs) = tokio::io::duplex(1024);
    app.connect(theirs);
    app.stop.send(()).await.unwrap();
    let begun = std::time::Instant::now();
    silent.read_to_end(&mut Vec::new()).await.unwrap();
    // Not as long as a greeting may take.
    assert!(begun.elapsed() < Duration::from_secs(8), "{begun:?}");
    assert_eq!(app.server.await.unwrap(), Ended::Drained);
}

fn with_patience(idle_timeouts: IdleTimeouts) -> server::Options {
    server::Options {
        idle_timeouts,
        ..server::Options::default()
    }
}

#[tokio::test]
async fn a_connection_without_calls_is_ended() {
    let app = with(with_patience(IdleTimeouts {
        idle: SHORT,
        ..IdleTimeouts::default()
    }))
    .await;
    let call = ask_status(&app, 65_535).await;
    call.answers.into_body().collect().await.unwrap();
    // We end it too, as soon as the server says so.
    call.end.await.ok();
}

#[tokio::test]
async fn an_open_stream_keeps_its_connection() {
    let app = with(with_patience(IdleTimeouts {
        idle: SHORT,
        ..IdleTimeouts::default()
    }))
    .await;
    let mut open = app.sidecar().await.stream().await;
    open.ask(introspect("x")).await.unwrap();
    // Others come and go meanwhile, of which each takes that long.
    for _ in 0..3 {
        let call = ask_status(&app, 65_535).await;
        call.answers.into_body().collect().await.unwrap();
        // We end it too, as soon as the server says so.
        call.end.await.ok();
    }
    open.ask(introspect("x")).await.expect("it goes on");
}

#[tokio::test]
async fn an_answer_that_nobody_takes_ends_the_connection() {
    let app = with(with_patience(IdleTimeouts {
        stalled: SHORT,
        ..IdleTimeouts::default()
    }))
    .await;
    // A stream may be left for later.
    let stream = open_stream(&app, &[introspect("x"), introspect("x")], 8).await;
    let call = ask_much(&app, 8).await;
    call.end.await.unwrap();
    let cut = call.answers.into_body().collect().await;
    let is_whole = cut.is_ok_and(|answer| answer.trailers().is_some());
    assert!(!is_whole, "the status comes last");
    assert!(stream.end.is_empty());
}
