//! Postgres is gone, and comes back: an outage never looks like "revoked".

use std::time::Duration;

use futures_util::FutureExt;
use hitkeep_auth::{
    pb::{self, SiteRole},
    server,
};
use tonic::Streaming;
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_client::HealthClient,
};

use crate::{
    fixtures::*,
    harness::{TestApp, told},
    support::proxy::Proxy,
};

/// What could be a token, and never was one.
const UNHEARD_OF: &str = "hkp_00000000000000000000000000000000000000000004Rx6xu";
const GONE: &str = "Unavailable DATABASE_UNAVAILABLE";

async fn behind_proxy() -> (TestApp, Proxy) {
    TestApp::behind_proxy(server::Options::default()).await
}

#[tokio::test]
async fn an_outage_is_unavailable_and_nothing_else() {
    let (app, proxy) = behind_proxy().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard
        .created(personal(VERA).granted(SITE, SiteRole::Viewer))
        .await;
    for _ in 0..2 {
        proxy.cut();
        let before = app.everything().await;
        // From memory; and what is not in there may have been made meanwhile.
        assert_eq!(sidecar.inactive_reason(&made.token).await, None);
        let unheard_of = told(&sidecar.introspect(introspect(UNHEARD_OF)).await);
        assert_eq!(unheard_of, GONE);
        assert_eq!(told(&dashboard.create(personal(VERA)).await), GONE);
        assert_eq!(told(&dashboard.get(get(VERA, &made.id)).await), GONE);
        assert_eq!(told(&dashboard.list(list(VERA, of_user(VERA))).await), GONE);
        assert_eq!(told(&dashboard.revoke(revoke(VERA, &made.id)).await), GONE);
        assert_eq!(told(&app.pusher().await.apply(batch(world())).await), GONE);
        let events = pb::ListAuditEventsRequest::default();
        assert_eq!(told(&app.auditor().await.events(events).await), GONE);
        assert_eq!(app.everything().await, before);
        // It is over as soon as it is over.
        proxy.mend();
        assert_eq!(sidecar.inactive_reason(&made.token).await, None);
        dashboard.created(personal(VERA)).await;
        // It may be acknowledged before the index has it, which says nothing until then.
        app.settle().await;
    }
}

#[tokio::test]
async fn a_write_that_is_cut_off_in_its_middle_leaves_nothing() {
    let (app, proxy) = behind_proxy().await;
    let dashboard = app.dashboard().await;
    let before = app.everything().await;
    let blocker = app.hold_write_lock().await;
    let call = tokio::spawn({
        let dashboard = dashboard.clone();
        async move { dashboard.create(personal(VERA)).await }
    });
    app.until_waiting(1).await;
    proxy.cut();
    assert_eq!(told(&call.await.unwrap()), GONE);
    blocker.release().await;
    proxy.mend();
    // This one waits for the lock behind whatever may be left of the other.
    let made = dashboard.created(personal(VERA)).await;
    dashboard.delete(delete(VERA, &made.id)).await.unwrap();
    let clients = |dump: &str| {
        dump.split("audit_events:")
            .next()
            .unwrap()
            .split_once("users:")
            .expect("the state is first")
            .1
            .to_owned()
    };
    assert_eq!(clients(&app.everything().await), clients(&before));
}

#[tokio::test]
async fn connections_that_postgres_ended_are_not_handed_out() {
    let (app, dashboard, made) = TestApp::with_client().await;
    let ended = "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity \
                 WHERE datname = current_database() AND pid <> pg_backend_pid()";
    for _ in 0..3 {
        assert!(app.number(ended).await > 0);
        // Unlike an introspection, it needs one.
        dashboard.get(get(VERA, &made.id)).await.unwrap();
    }
}

#[tokio::test]
async fn health_follows_the_database() {
    let (app, proxy) = behind_proxy().await;
    let mut client = HealthClient::new(app.channel().await);
    let mut watch = async |service: &str| {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        client.watch(request).await.unwrap().into_inner()
    };
    let mut whole = watch("").await;
    let mut introspection = watch("hitkeep.auth.v1.IntrospectionService").await;
    let mut management = watch("hitkeep.auth.v1.ApiClientService").await;
    for statuses in [&mut whole, &mut introspection, &mut management] {
        assert_eq!(next(statuses).await, ServingStatus::Serving);
    }
    proxy.cut();
    // What works on the database stops at once, what answers from memory when that
    // has become too old.
    assert_eq!(next(&mut management).await, ServingStatus::NotServing);
    assert!(whole.message().now_or_never().is_none());
    app.clock.grow_old(Duration::from_secs(11));
    assert_eq!(next(&mut whole).await, ServingStatus::NotServing);
    assert_eq!(next(&mut introspection).await, ServingStatus::NotServing);
    proxy.mend();
    for statuses in [&mut whole, &mut introspection, &mut management] {
        assert_eq!(next(statuses).await, ServingStatus::Serving);
    }
}

async fn next(statuses: &mut Streaming<HealthCheckResponse>) -> ServingStatus {
    statuses.message().await.unwrap().unwrap().status()
}

#[tokio::test]
async fn health_that_stays_as_it_is_is_told_once() {
    let app = TestApp::with_world().await;
    let mut client = HealthClient::new(app.channel().await);
    let watch = client.watch(HealthCheckRequest::default()).await.unwrap();
    let mut statuses = watch.into_inner();
    let first = statuses.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    // A call that takes as long as it may: health is looked at meanwhile.
    let unreached = pb::IntrospectRequest {
        at_least_revision: Some(u64::MAX),
        ..introspect("x")
    };
    let late = app.sidecar().await.introspect(unreached).await;
    assert_eq!(told(&late), "Unavailable REVISION_NOT_REACHED");
    assert!(statuses.message().now_or_never().is_none());
}
