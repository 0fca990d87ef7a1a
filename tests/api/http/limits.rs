//! What is too large, too slow or too much gets its status, and the connection of
//! a connection that sends nonsense ends.

use std::time::Duration;

use hitkeep_auth::{domain::caller::CallerPermission, server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::{form, get};
use crate::{fixtures::*, harness::TestApp};

const PATH: &str = "/oauth2/introspect";

/// All that comes back for some bytes, until the server closes the connection.
async fn sent(app: &TestApp, bytes: &[u8]) -> String {
    let (mut reader, mut writer) = tokio::io::split(app.http_connection());
    let said = async {
        // Where the server closes first, not all of it gets there.
        writer.write_all(bytes).await.ok();
    };
    let mut answer = Vec::new();
    let ((), read) = tokio::join!(said, reader.read_to_end(&mut answer));
    read.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let app = TestApp::start().await;
    let bearer = format!("Bearer {}", app.token(CallerPermission::Introspect));
    let asked = async |length: usize| {
        let request = form(PATH).header("authorization", &bearer);
        let body = format!("token={}", "x".repeat(length - "token=".len()));
        app.ask(request, body).await
    };
    assert_eq!(asked(8 * 1024).await.json()["active"], false);
    assert_eq!(asked(8 * 1024 + 1).await.told(), "413 invalid_request");
    assert_eq!(asked(1024 * 1024).await.told(), "413 invalid_request");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let app = TestApp::with(server::Options {
        request_timeout: Duration::from_millis(100),
        ..server::Options::default()
    })
    .await;
    let caller = app.token(CallerPermission::Introspect);
    let request = format!(
        "POST {PATH} HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {caller}\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: 60\r\n\r\ntoken="
    );
    let answer = sent(&app, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains(r#""error":"invalid_request""#), "{answer}");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let app = TestApp::start().await;
    // As large as the proxies let it be.
    let fits = get("/livez").header("x", "y".repeat(60 * 1024));
    assert_eq!(app.ask(fits, "").await.status, 200);
    for length in [70 * 1024, 1024 * 1024] {
        let answer = app.ask(get("/livez").header("x", "y".repeat(length)), "");
        assert_eq!(answer.await.status, 431);
    }
    let request = get("http://test/livez").header("x", "y".repeat(70 * 1024));
    assert_eq!(app.ask_http2(request, "").await.status, 431);
    let many = "x: y\r\n".repeat(200);
    let request = format!("GET /livez HTTP/1.1\r\nhost: test\r\n{many}\r\n");
    let answer = sent(&app, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn what_is_no_http_ends_the_connection() {
    let app = TestApp::start().await;
    for (bytes, status) in [
        (&b"nonsense\r\n\r\n"[..], "HTTP/1.1 400 "),
        (
            b"GET /livez HTTP/1.1\r\nhost: test\r\nbad header\r\n\r\n",
            "HTTP/1.1 400 ",
        ),
        (
            b"GET /livez HTTP/1.1\r\ncontent-length: x\r\n\r\n",
            "HTTP/1.1 400 ",
        ),
        (
            b"POST /livez HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 4",
        ),
        (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            "HTTP/1.1 400 ",
        ),
    ] {
        let answer = sent(&app, bytes).await;
        assert!(answer.starts_with(status), "{bytes:?}: {answer}");
    }
}

/// The place is shared with introspections over gRPC.
#[tokio::test]
async fn what_is_over_the_limit_is_shed_at_once() {
    let app = TestApp::with(server::Options {
        max_introspections: 1,
        ..server::Options::default()
    })
    .await;
    app.change(world()).await;
    let dashboard = app.dashboard().await;
    let made = dashboard.created(personal(VERA)).await;
    let bearer = format!("Bearer {}", app.token(CallerPermission::Introspect));
    // It has its place for as long as its body does not come.
    let mut first = app.http_connection();
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: test\r\nauthorization: {bearer}\r\nconnection: close\r\n\
         expect: 100-continue\r\ncontent-type: application/x-www-form-urlencoded\r\n\
         content-length: {}\r\n\r\n",
        "token=".len() + made.token.len(),
    );
    first.write_all(head.as_bytes()).await.unwrap();
    let mut wanted = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
    first.read_exact(&mut wanted).await.unwrap();

    let introspect = form(PATH).header("authorization", &bearer);
    let shed = app.ask(introspect, "token=x").await;
    assert_eq!(shed.told(), "503 temporarily_unavailable");
    assert_eq!(shed.header("retry-after").as_deref(), Some("1"));
    let shed = app.ask(get("/forward-auth"), "").await;
    assert_eq!(shed.told(), "503 temporarily_unavailable");
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(app.ask(get(path), "").await.status, 200, "{path}");
    }

    let body = format!("token={}", made.token);
    first.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    first.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains(r#""active":true"#), "{answer}");
}

/// A connection may ask one thing after the other, also without waiting.
#[tokio::test]
async fn a_connection_is_used_again() {
    let app = TestApp::start().await;
    let twice = "GET /livez HTTP/1.1\r\nhost: test\r\n\r\n".repeat(2);
    let last = "GET /livez HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
    let answers = sent(&app, format!("{twice}{last}").as_bytes()).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3, "{answers}");
    let old = sent(&app, b"GET /livez HTTP/1.0\r\n\r\n").await;
    assert!(old.starts_with("HTTP/1.0 200 OK"), "{old}");
}

#[tokio::test]
async fn a_request_id_is_taken_over_or_made() {
    let app = TestApp::start().await;
    let given = get("/livez").header("x-request-id", "mine");
    let given = app.ask(given, "").await.header("x-request-id");
    assert_eq!(given.as_deref(), Some("mine"));
    let long = "x".repeat(129);
    for unusable in [None, Some("a b"), Some(""), Some(&*long)] {
        let request = match unusable {
            Some(id) => get("/livez").header("x-request-id", id),
            None => get("/livez"),
        };
        let made = app.ask(request, "").await.header("x-request-id").unwrap();
        assert_eq!(made.len(), 36, "{made}");
    }
}
