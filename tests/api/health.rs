//! The health service, as the protocol describes it, for callers without a token.

use std::time::Duration;

use futures_util::FutureExt;
use hitkeep_auth::server::{self, Ended, health::LIVENESS};
use tonic::{Code, Streaming, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_client::HealthClient,
};

use crate::harness::TestApp;

fn named(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

async fn watch(
    health: &mut HealthClient<Channel>,
    service: &str,
) -> Streaming<HealthCheckResponse> {
    health.watch(named(service)).await.unwrap().into_inner()
}

async fn next(statuses: &mut Streaming<HealthCheckResponse>) -> Option<ServingStatus> {
    let answer = statuses.message().await.unwrap();
    answer.map(|answer| answer.status())
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_unknown_and_its_stream_stays_open() {
    let app = TestApp::with_world().await;
    let mut health = HealthClient::new(app.channel().await);
    for unknown in ["nope", "hitkeep.auth.v1", "Liveness"] {
        let refused = health.check(named(unknown)).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "{unknown}");
        let mut statuses = watch(&mut health, unknown).await;
        assert_eq!(
            next(&mut statuses).await,
            Some(ServingStatus::ServiceUnknown)
        );
        // Asked once more, so that a stream that ended would have said so by now.
        health.check(named("")).await.unwrap();
        assert!(statuses.message().now_or_never().is_none(), "{unknown}");
    }
    // It does not keep the server from its end.
    let mut statuses = watch(&mut health, "nope").await;
    assert!(next(&mut statuses).await.is_some());
    app.stop.send(()).await.unwrap();
    assert_eq!(next(&mut statuses).await, None);
    assert_eq!(app.server.await.unwrap(), Ended::Drained);
}

#[tokio::test]
async fn the_process_is_alive_whatever_becomes_of_the_database() {
    let (app, proxy) = TestApp::behind_proxy(server::Options::default()).await;
    let mut health = HealthClient::new(app.channel().await);
    let mut alive = watch(&mut health, LIVENESS).await;
    let mut whole = watch(&mut health, "").await;
    assert_eq!(next(&mut alive).await, Some(ServingStatus::Serving));
    assert_eq!(next(&mut whole).await, Some(ServingStatus::Serving));
    proxy.cut();
    app.clock.grow_old(Duration::from_secs(11));
    assert_eq!(next(&mut whole).await, Some(ServingStatus::NotServing));
    let answer = health.check(named(LIVENESS)).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
    assert!(alive.message().now_or_never().is_none());
    // Nor when it is stopped: the stream ends, and says nothing else.
    app.stop.send(()).await.unwrap();
    assert_eq!(next(&mut alive).await, None);
    assert_eq!(next(&mut whole).await, None);
}
