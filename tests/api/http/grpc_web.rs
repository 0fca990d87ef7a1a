//! The gRPC services as gRPC-Web on the HTTP listener.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use hitkeep_auth::{domain::caller::CallerPermission, pb, server};
use http::{HeaderMap, HeaderValue, Request, StatusCode, request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use prost::Message;
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;

mod pages;

use super::client::get as get_path;
use crate::{
    fixtures::*,
    harness::{LAST_SERVICE, TestApp, told},
    raw::bearer,
};

const INTROSPECT: &str = "/hitkeep.auth.v1.IntrospectionService/Introspect";
const BATCH: &str = "/hitkeep.auth.v1.IntrospectionService/BatchIntrospect";
const CREATE: &str = "/hitkeep.auth.v1.ApiClientService/CreateApiClient";
const GET: &str = "/hitkeep.auth.v1.ApiClientService/GetApiClient";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
const STREAMS: [&str; 5] = [
    "/hitkeep.auth.v1.IntrospectionService/IntrospectStream",
    "/hitkeep.auth.v1.DirectoryService/ReplaceDirectory",
    "/hitkeep.auth.v1.ReplicationService/Replicate",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
];
const BINARY: &str = "application/grpc-web+proto";
const TEXT: &str = "application/grpc-web-text+proto";
const ORIGIN: &str = "https://tools.example.org";
/// The flag of the frame that holds the trailers.
const TRAILERS: u8 = 0x80;

/// A response, as it was received.
struct Received {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// A call's end: its messages and its status.
struct Ended {
    messages: Vec<Vec<u8>>,
    status: Status,
    headers: HeaderMap,
}

impl Ended {
    fn message<M: Message + Default>(&self) -> M {
        assert_eq!(self.status.code(), Code::Ok, "{:?}", self.status);
        M::decode(&*self.messages[0]).unwrap()
    }
}

fn options() -> server::Options {
    server::Options {
        grpc_web: Some(server::GrpcWebOptions::default()),
        ..server::Options::default()
    }
}

/// A server with the world in it that serves gRPC-Web.
async fn app() -> TestApp {
    app_with(options()).await
}

async fn app_with(options: server::Options) -> TestApp {
    let app = TestApp::with(options).await;
    app.change(world()).await;
    app
}

fn framed(message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap();
    [&[0][..], &length.to_be_bytes(), &message].concat()
}

fn post(path: &str, kind: &str) -> request::Builder {
    Request::post(path).header("content-type", kind)
}

impl TestApp {
    async fn received(&self, request: request::Builder, body: Vec<u8>) -> Received {
        let request = request.header("host", "test");
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let io = TokioIo::new(self.http_connection());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        Received {
            status: head.status,
            headers: head.headers,
            body: body.collect().await.unwrap().to_bytes(),
        }
    }

    /// Calls by gRPC-Web, in the encoding of the content type.
    async fn called(
        &self,
        path: &str,
        kind: &str,
        token: Option<&str>,
        message: &impl Message,
    ) -> Ended {
        let mut request = post(path, kind);
        if let Some(token) = token {
            request = request.header("authorization", bearer(token));
        }
        let mut body = framed(message);
        if kind == TEXT {
            body = BASE64_STANDARD.encode(body).into();
        }
        let received = self.received(request, body).await;
        assert_eq!(received.status, 200);
        assert_eq!(received.headers["content-type"], kind);
        assert!(received.headers.contains_key("x-request-id") || path == INTROSPECT);
        ended(received, kind == TEXT)
    }

    fn introspector(&self) -> &str {
        self.token(CallerPermission::Introspect)
    }

    fn manager(&self) -> &str {
        self.token(CallerPermission::Manage)
    }
}

/// Reads the frames of a response.
fn ended(received: Received, is_text: bool) -> Ended {
    let Received { headers, body, .. } = received;
    let body = if is_text {
        unpadded(&body)
    } else {
        body.into()
    };
    let (mut messages, mut status) = (Vec::new(), Status::from_header_map(&headers));
    let mut rest = &*body;
    while let Some((flag, after)) = rest.split_first() {
        assert!(status.is_none(), "nothing comes after the trailers");
        let (length, after) = after.split_first_chunk().unwrap();
        let (frame, after) = after.split_at(u32::from_be_bytes(*length) as usize);
        if *flag == TRAILERS {
            status = Status::from_header_map(&trailers(frame));
        } else {
            messages.push(frame.to_vec());
        }
        rest = after;
    }
    Ended {
        messages,
        status: status.expect("a status"),
        headers,
    }
}

/// The bytes of a text, whose pieces are each padded.
fn unpadded(text: &[u8]) -> Vec<u8> {
    let decoded = text
        .chunks(4)
        .map(|piece| BASE64_STANDARD.decode(piece).unwrap());
    decoded.collect::<Vec<_>>().concat()
}

fn trailers(frame: &[u8]) -> HeaderMap {
    let lines = std::str::from_utf8(frame).unwrap().split_terminator("\r\n");
    let fields = lines.map(|line| {
        let (name, value) = line.split_once(':').unwrap();
        (name.parse().unwrap(), value.trim().parse().unwrap())
    });
    fields
        .collect::<Vec<(http::HeaderName, HeaderValue)>>()
        .into_iter()
        .collect()
}

#[tokio::test]
async fn a_client_is_created_checked_and_revoked_in_both_encodings() {
    let app = app().await;
    for kind in [BINARY, TEXT] {
        let created = app
            .called(CREATE, kind, Some(app.manager()), &personal(ALICE))
            .await;
        let created: pb::CreateApiClientResponse = created.message();
        let said = async || -> pb::IntrospectResponse {
            let request = introspect(&created.token);
            let said = app.called(INTROSPECT, kind, Some(app.introspector()), &request);
            said.await.message()
        };
        assert!(said().await.active);
        let item = pb::BatchIntrospectItem {
            token: created.token.clone(),
            ..pb::BatchIntrospectItem::default()
        };
        let request = pb::BatchIntrospectRequest {
            requests: vec![item; 1000],
            ..pb::BatchIntrospectRequest::default()
        };
        let batch = app
            .called(BATCH, kind, Some(app.introspector()), &request)
            .await;
        let batch: pb::BatchIntrospectResponse = batch.message();
        assert_eq!(batch.responses.len(), 1000);
        let id = created.api_client.unwrap().id;
        let path = "/hitkeep.auth.v1.ApiClientService/RevokeApiClient";
        let revoked = app
            .called(path, kind, Some(app.manager()), &revoke(ALICE, &id))
            .await;
        assert_eq!(revoked.status.code(), Code::Ok);
        assert!(!said().await.active);
    }
}

#[tokio::test]
async fn callers_prove_who_they_are_as_over_grpc() {
    let app = app().await;
    let made = app.dashboard().await.created(personal(ALICE)).await;
    for kind in [BINARY, TEXT] {
        let request = introspect(&made.token);
        for (token, expected) in [
            (None, "Unauthenticated CALLER_UNKNOWN"),
            (Some("hks_nonsense"), "Unauthenticated CALLER_UNKNOWN"),
            (Some(&*made.token), "Unauthenticated CALLER_UNKNOWN"),
            (Some(app.manager()), "PermissionDenied CALLER_NOT_PERMITTED"),
        ] {
            let ended = app.called(INTROSPECT, kind, token, &request).await;
            assert_eq!(told::<()>(&Err(ended.status)), expected);
            assert!(ended.messages.is_empty());
        }
    }
    // The token of a proxy is one for other paths.
    let request = post(INTROSPECT, BINARY)
        .header("x-hitkeep-caller", app.token(CallerPermission::Introspect));
    let received = app
        .received(request, framed(&introspect(&made.token)))
        .await;
    let ended = ended(received, false);
    assert_eq!(
        told::<()>(&Err(ended.status)),
        "Unauthenticated CALLER_UNKNOWN"
    );
    // Health is open to everybody, as over gRPC.
    let request = tonic_health::pb::HealthCheckRequest::default();
    let ended = app.called(HEALTH, BINARY, None, &request).await;
    assert_eq!(ended.status.code(), Code::Ok);
}

#[tokio::test]
async fn errors_carry_their_details() {
    let app = app().await;
    for kind in [BINARY, TEXT] {
        let id = "00000000-0000-7000-8000-0000000000ff";
        let ended = app
            .called(GET, kind, Some(app.manager()), &get(ALICE, id))
            .await;
        assert_eq!(
            told::<()>(&Err(ended.status)),
            "NotFound API_CLIENT_NOT_FOUND"
        );
        let ended = app
            .called(GET, kind, Some(app.manager()), &get(ALICE, ""))
            .await;
        assert_eq!(
            told::<()>(&Err(ended.status)),
            "InvalidArgument INVALID_FIELD"
        );
        let request = post(GET, kind).header("authorization", bearer(app.manager()));
        let received = app.received(request, b"no frame".to_vec()).await;
        let ended = self::ended(received, kind == TEXT);
        assert_eq!(
            told::<()>(&Err(ended.status)),
            "InvalidArgument INVALID_FIELD"
        );
    }
}

#[tokio::test]
async fn limits_are_those_of_grpc() {
    let app = app_with(server::Options {
        max_introspections: 0,
        ..options()
    })
    .await;
    let request = introspect("x");
    let ended = app
        .called(INTROSPECT, BINARY, Some(app.introspector()), &request)
        .await;
    assert_eq!(told::<()>(&Err(ended.status)), "Unavailable OVERLOADED");
    let app = self::app().await;
    let large = introspect(&"x".repeat(64 * 1024));
    for kind in [BINARY, TEXT] {
        let ended = app
            .called(INTROSPECT, kind, Some(app.introspector()), &large)
            .await;
        assert_eq!(
            told::<()>(&Err(ended.status)),
            "InvalidArgument INVALID_FIELD"
        );
    }
    // A revision that does not come ends with the caller's deadline.
    let never = pb::IntrospectRequest {
        at_least_revision: Some(u64::MAX),
        ..introspect("x")
    };
    let request = post(INTROSPECT, BINARY)
        .header("authorization", bearer(app.introspector()))
        .header("grpc-timeout", "200m");
    let received = app.received(request, framed(&never)).await;
    let ended = self::ended(received, false);
    assert_eq!(
        told::<()>(&Err(ended.status)),
        "Unavailable REVISION_NOT_REACHED"
    );
}

/// gRPC-Web has no streams of requests, and what would last is for gRPC.
#[tokio::test]
async fn streams_are_refused() {
    let app = app().await;
    for path in STREAMS {
        let nothing = pb::GetDirectoryStatusRequest::default();
        let ended = app
            .called(path, BINARY, Some(app.introspector()), &nothing)
            .await;
        assert!(
            ended.status.message().contains("is a stream"),
            "{:?}",
            ended.status
        );
        assert_eq!(
            told::<()>(&Err(ended.status)),
            "Unimplemented METHOD_UNKNOWN"
        );
    }
}

#[tokio::test]
async fn other_content_types_and_methods_are_refused() {
    let app = app().await;
    for kind in [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc-web+json",
        "application/json",
        "application/proto",
        "",
    ] {
        for path in [INTROSPECT, STREAMS[0], HEALTH] {
            let answer = app.ask(post(path, kind), "{}").await;
            assert_eq!(answer.told(), "415 invalid_request", "{kind:?} {path}");
        }
    }
    for method in ["GET", "PUT", "OPTIONS"] {
        let request = Request::builder().method(method).uri(INTROSPECT);
        let answer = app.ask(request.header("content-type", BINARY), "").await;
        assert_eq!(answer.told(), "405 invalid_request");
        assert_eq!(answer.header("allow").unwrap(), "POST");
    }
    let unknown = "/hitkeep.auth.v1.IntrospectionService/NoSuch";
    assert_eq!(
        app.ask(post(unknown, BINARY), "").await.told(),
        "404 not_found"
    );
}

/// Proxies hand on headers of their clients: what makes a call is the path.
#[tokio::test]
async fn the_content_type_of_another_path_changes_nothing() {
    let app = app().await;
    let caller = bearer(app.token(CallerPermission::Introspect));
    for path in [
        "/forward-auth",
        "/forward-auth/hitkeep.auth.v1.IntrospectionService/Introspect",
    ] {
        let request = post(path, BINARY)
            .header("x-hitkeep-caller", &caller)
            .header("x-forwarded-uri", INTROSPECT);
        let received = app.received(request, framed(&introspect("x"))).await;
        assert_eq!(received.status, 401, "{path}");
    }
    let request = get_path("/livez").header("content-type", BINARY);
    assert_eq!(app.ask(request, "").await.status, 200);
}

#[tokio::test]
async fn it_is_off_unless_it_is_asked_for() {
    let app = TestApp::start().await;
    for path in [INTROSPECT, HEALTH] {
        for kind in [BINARY, TEXT] {
            assert_eq!(app.ask(post(path, kind), "").await.told(), "404 not_found");
        }
    }
}

/// The `accept` of a library wins; one that says nothing of gRPC-Web does not.
#[tokio::test]
async fn the_response_is_encoded_as_accepted() {
    let app = app().await;
    let health = framed(&tonic_health::pb::HealthCheckRequest::default());
    for (accept, expected) in [
        ("application/grpc-web-text", TEXT),
        ("*/*", BINARY),
        ("text/html, application/grpc-web", BINARY),
    ] {
        let request = post(HEALTH, "application/grpc-web; charset=utf-8").header("accept", accept);
        let received = app.received(request, health.clone()).await;
        assert_eq!(received.headers["content-type"], expected);
        assert_eq!(ended(received, expected == TEXT).status.code(), Code::Ok);
    }
    let text = BASE64_STANDARD.encode(&health);
    let received = app
        .received(post(HEALTH, TEXT).header("accept", "*/*"), text.into())
        .await;
    assert_eq!(received.headers["content-type"], TEXT);
}

#[tokio::test]
async fn calls_are_counted_as_those_over_grpc() {
    let app = app().await;
    let id = "00000000-0000-7000-8000-0000000000ff";
    app.called(GET, BINARY, Some(app.manager()), &get(ALICE, id))
        .await;
    let metrics = app.ask(get_path("/metrics"), "").await.body;
    let counted = metrics.lines().any(|line| {
        line.starts_with("rpc_server_duration_milliseconds_count{")
            && line.contains(r#"rpc_grpc_status_code="5",rpc_method="GetApiClient""#)
            && line.ends_with(" 1")
    });
    assert!(counted, "{metrics}");
}

/// A call in flight is finished on shutdown, and its connection closed.
#[tokio::test]
async fn a_shutdown_finishes_calls_and_closes_their_connections() {
    let app = app_with(server::Options {
        drain_delay: Duration::from_mins(1),
        ..options()
    })
    .await;
    app.stop.send(()).await.unwrap();
    app.until_health(LAST_SERVICE, ServingStatus::NotServing)
        .await;
    let health = tonic_health::pb::HealthCheckRequest::default();
    let ended = app.called(HEALTH, BINARY, None, &health).await;
    assert_eq!(ended.headers["connection"], "close");
    app.stop.send(()).await.unwrap();
}
