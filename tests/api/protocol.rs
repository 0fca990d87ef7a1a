//! What gRPC's protocol asks of a server that is spoken to by others.

use bytes::Bytes;
use hitkeep_auth::domain::caller::CallerPermission;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tonic::Status;

use crate::{
    fixtures::*,
    harness::{TestApp, told},
    raw::bearer,
};

const INTROSPECT: &str = "/hitkeep.auth.v1.IntrospectionService/Introspect";
const STREAM: &str = "/hitkeep.auth.v1.IntrospectionService/IntrospectStream";
const GET: &str = "/hitkeep.auth.v1.ApiClientService/GetApiClient";
const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// The status, headers and trailers that one request is answered with.
async fn answered(
    app: &TestApp,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> http::Response<http::HeaderMap> {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    app.connect(theirs);
    let io = TokioIo::new(ours);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut request = http::Request::builder()
        .method(method)
        .uri(format!("http://test{path}"))
        .header("te", "trailers")
        .header(
            "authorization",
            bearer(app.token(CallerPermission::Introspect)),
        );
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let message = introspect("x").encode_to_vec();
    let mut framed = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap()];
    framed.extend(message);
    let request = request.body(Full::new(Bytes::from(framed))).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = http_body_util::BodyExt::collect(body).await.unwrap();
    let trailers = body.trailers().cloned().unwrap_or_default();
    http::Response::from_parts(head, trailers)
}

/// What a client of gRPC gets of a failure.
fn failure(response: &http::Response<http::HeaderMap>) -> String {
    let status = Status::from_header_map(response.headers()).expect("a status");
    told::<()>(&Err(status))
}

#[tokio::test]
async fn what_is_not_grpc_is_refused_in_the_words_of_http() {
    let app = TestApp::with_world().await;
    for kind in [
        "application/json",
        "application/grpc-web",
        "application/grpc-web+proto",
        "application/grpc+json",
        "application/grpc+json; charset=utf-8",
        "application/grpc-web-text",
        "application/connect+proto",
        "application/proto",
        "application/grpcx",
        "",
    ] {
        for path in [INTROSPECT, STREAM, GET, HEALTH, "/no/Such"] {
            let answer = answered(&app, "POST", path, &[("content-type", kind)]).await;
            assert_eq!(answer.status(), 415, "{kind:?} {path}");
            assert_eq!(failure(&answer), "InvalidArgument INVALID_FIELD");
            assert!(answer.headers().contains_key("x-request-id"));
        }
    }
    let answer = answered(&app, "POST", INTROSPECT, &[]).await;
    assert_eq!(answer.status(), 415);
    for kind in [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc;charset=utf-8",
        "Application/gRPC",
    ] {
        for path in [INTROSPECT, STREAM] {
            let answer = answered(&app, "POST", path, &[("content-type", kind)]).await;
            assert_eq!(answer.status(), 200, "{kind}");
            assert_eq!(answer.body()["grpc-status"], "0", "{kind} {path}");
        }
    }
    for method in ["GET", "PUT", "OPTIONS"] {
        let kind = ("content-type", "application/grpc");
        let answer = answered(&app, method, INTROSPECT, &[kind]).await;
        assert_eq!(answer.status(), 405, "{method}");
        assert_eq!(answer.headers()["allow"], "POST");
        assert_eq!(failure(&answer), "InvalidArgument INVALID_FIELD");
    }
}

/// Most libraries say what they can read with every call. It is an offer, and not a request.
#[tokio::test]
async fn what_a_caller_accepts_does_not_make_the_answer_compressed() {
    let app = TestApp::with_world().await;
    for accepted in ["gzip", "identity,deflate,gzip", "snappy"] {
        for path in [INTROSPECT, STREAM, HEALTH] {
            let headers = [
                ("content-type", "application/grpc+proto"),
                ("grpc-accept-encoding", accepted),
            ];
            let answer = answered(&app, "POST", path, &headers).await;
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.headers()["content-type"], "application/grpc");
            let encoding = answer.headers().get("grpc-encoding");
            assert!(encoding.is_none_or(|it| it == "identity"), "{path}");
        }
    }
    // Nor does it make a failure one.
    let headers = [
        ("content-type", "application/grpc"),
        ("grpc-accept-encoding", "gzip"),
    ];
    let answer = answered(&app, "POST", GET, &headers).await;
    assert_eq!(failure(&answer), "PermissionDenied CALLER_NOT_PERMITTED");
    assert!(!answer.headers().contains_key("grpc-encoding"));
}

/// grpcio's channels can be set to compress; they learn what to send instead.
#[tokio::test]
async fn a_compressed_call_is_told_what_is_accepted() {
    let app = TestApp::with_world().await;
    let kind = ("content-type", "application/grpc");
    for encoding in ["gzip", "deflate", "snappy"] {
        for path in [INTROSPECT, STREAM, HEALTH] {
            let headers = [kind, ("grpc-encoding", encoding)];
            let answer = answered(&app, "POST", path, &headers).await;
            assert_eq!(answer.status(), 200);
            assert_eq!(
                answer.headers()["grpc-accept-encoding"],
                "identity",
                "{path}"
            );
            assert_eq!(failure(&answer), "Unimplemented METHOD_UNKNOWN");
            let status = Status::from_header_map(answer.headers()).unwrap();
            assert!(status.message().contains("identity"), "{status:?}");
        }
    }
    for path in [INTROSPECT, STREAM] {
        let headers = [kind, ("grpc-encoding", "identity")];
        let answer = answered(&app, "POST", path, &headers).await;
        assert_eq!(answer.body()["grpc-status"], "0", "{path}");
    }
    let unknown = "/hitkeep.auth.v1.IntrospectionService/NoSuch";
    let answer = answered(&app, "POST", unknown, &[kind]).await;
    assert_eq!(failure(&answer), "Unimplemented METHOD_UNKNOWN");
    assert!(!answer.headers().contains_key("grpc-accept-encoding"));
}
