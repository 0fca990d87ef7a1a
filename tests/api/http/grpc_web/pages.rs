//! Pages in browsers, which ask first whether they may call.

use super::*;

#[tokio::test]
async fn pages_of_named_origins_alone_may_call() {
    let origins: &[HeaderValue] = Box::leak(Box::new([HeaderValue::from_static(ORIGIN)]));
    let app = app_with(server::Options {
        grpc_web: Some(server::GrpcWebOptions { origins }),
        ..options()
    })
    .await;
    let asks_first = |origin: &str| {
        Request::builder()
            .method("OPTIONS")
            .uri(INTROSPECT)
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,x-grpc-web")
    };
    let answer = app.ask(asks_first(ORIGIN), "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.header("access-control-allow-origin").unwrap(),
        ORIGIN
    );
    assert_eq!(
        answer.header("access-control-allow-methods").unwrap(),
        "POST"
    );
    let allowed = answer.header("access-control-allow-headers").unwrap();
    for header in [
        "authorization",
        "content-type",
        "x-grpc-web",
        "grpc-timeout",
    ] {
        assert!(allowed.contains(header), "{allowed}");
    }
    assert_eq!(answer.header("access-control-allow-credentials"), None);
    let other = app
        .ask(asks_first("https://elsewhere.example.org"), "")
        .await;
    assert_eq!(other.header("access-control-allow-origin"), None);
    let health = framed(&tonic_health::pb::HealthCheckRequest::default());
    let request = post(HEALTH, BINARY).header("origin", ORIGIN);
    let received = app.received(request, health).await;
    assert_eq!(received.headers["access-control-allow-origin"], ORIGIN);
    let exposed = received.headers["access-control-expose-headers"]
        .to_str()
        .unwrap();
    for header in [
        "grpc-status",
        "grpc-message",
        "grpc-status-details-bin",
        "x-request-id",
    ] {
        assert!(exposed.contains(header), "{exposed}");
    }
    // Other paths are no part of it.
    let path = get_path("/livez").header("origin", ORIGIN);
    assert_eq!(
        app.ask(path, "")
            .await
            .header("access-control-allow-origin"),
        None
    );
}
