//! Connections that are old: they are ended one after the other, and no call fails.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::BytesMut;
use hitkeep_auth::{
    domain::caller::CallerPermission::Introspect, server, transport::activity::IdleTimeouts,
};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tonic::{Status, transport::Endpoint};
use tower::service_fn;

use crate::{
    fixtures::*,
    harness::{Caller, TestApp, told},
    raw::{ask, bearer, data, open_stream},
};

async fn aged(age: Duration, grace: Duration) -> TestApp {
    TestApp::with(server::Options {
        max_connection_age: Some(age),
        idle_timeouts: IdleTimeouts {
            grace,
            ..IdleTimeouts::default()
        },
        ..server::Options::default()
    })
    .await
}

/// Whether a call was still waiting in the client when its connection ended. Most gRPC
/// libraries send it again by themselves; tonic leaves that to its user.
fn was_never_sent(failed: &Status) -> bool {
    let mut source = failed.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            return error.is_canceled();
        }
        source = error.source();
    }
    false
}

/// A client that has one channel goes through many connections, and notices nothing.
#[tokio::test]
async fn a_client_under_load_notices_nothing() {
    let app = aged(Duration::from_millis(50), Duration::from_mins(1)).await;
    app.change(world()).await;
    let dashboard = app.dashboard().await;
    let made = dashboard.created(personal(VERA)).await;
    let opened = Arc::new(AtomicUsize::new(0));
    let app = Arc::new(app);
    let connect = service_fn({
        let (app, opened) = (Arc::clone(&app), Arc::clone(&opened));
        move |_| {
            opened.fetch_add(1, Relaxed);
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            app.connect(theirs);
            std::future::ready(Ok::<_, std::io::Error>(TokioIo::new(ours)))
        }
    });
    let sidecar = Caller {
        channel: Endpoint::from_static("http://test.invalid")
            .connect_with_connector(connect)
            .await
            .unwrap(),
        metadata: vec![("authorization", bearer(app.token(Introspect)))],
        timeout: None,
    };
    let calls = async || {
        while opened.load(Relaxed) < 20 {
            match sidecar.introspect(introspect(&made.token)).await {
                Ok(answer) => assert!(answer.active),
                Err(failed) => assert!(was_never_sent(&failed), "{failed:?}"),
            }
        }
    };
    tokio::join!(calls(), calls(), calls(), calls());
}

/// Whichever path a stream takes, and for any caller.
#[tokio::test]
async fn streams_end_in_order_after_their_grace() {
    // Long enough for the first answers to come before that, also on a busy machine.
    let app = aged(Duration::from_secs(10), Duration::from_millis(1)).await;
    let short = async {
        let mut stream = open_stream(&app, &[introspect("x")], 65_535).await;
        let mut read = BytesMut::new();
        stream.answer(&mut read).await.unwrap();
        let end = stream.answer(&mut read).await;
        assert_eq!(told(&end), "Unavailable SHUTTING_DOWN");
        stream.end.await.unwrap();
    };
    let usual = async {
        // With a deadline it takes the slow path.
        let sidecar = app.sidecar().await.within(Duration::from_mins(2));
        let mut stream = sidecar.stream().await;
        stream.ask(introspect("x")).await.unwrap();
        let end = stream.answers.message().await;
        assert_eq!(told(&end), "Unavailable SHUTTING_DOWN");
    };
    let watches = async {
        // No caller has to be known for that.
        let asked = data(&[0; 5]);
        let asked = tokio_stream::once(asked);
        let watch = "/grpc.health.v1.Health/Watch";
        let watched = ask(&app, Introspect, watch, asked, 65_535).await;
        let answers = watched.answers.into_body().collect().await.unwrap();
        let status = answers.trailers().and_then(Status::from_header_map);
        let end = Err::<(), _>(status.unwrap());
        assert_eq!(told(&end), "Unavailable SHUTTING_DOWN");
        watched.end.await.unwrap();
    };
    tokio::join!(short, usual, watches);
}
