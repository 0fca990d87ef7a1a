//! Postgres is gone, and comes back: an outage never looks like "revoked".

use hitkeep_auth::{
    pb::{self, SiteRole},
    server, store,
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    fixtures::*,
    harness::{TestApp, told},
    support::{postgres, proxy::Proxy},
};

const GONE: &str = "Unavailable DATABASE_UNAVAILABLE";

/// A server that reaches its database through a proxy.
async fn behind_proxy() -> (TestApp, Proxy) {
    let direct = postgres::migrated_database().await;
    let (proxy, url) = Proxy::start(&direct);
    let app = TestApp::on(
        &direct,
        &store::Options::new(url),
        server::Options::default(),
    )
    .await;
    app.change(world()).await;
    (app, proxy)
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
        for token in [made.token.as_str(), "x"] {
            // Not inactive, and the caller is not unknown either.
            assert_eq!(told(&sidecar.introspect(introspect(token)).await), GONE);
        }
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
            .replace("(t,3,", "(t,1,")
    };
    assert_eq!(clients(&app.everything().await), clients(&before));
}

#[tokio::test]
async fn connections_that_postgres_ended_are_not_handed_out() {
    let app = TestApp::with_world().await;
    let (dashboard, sidecar) = (app.dashboard().await, app.sidecar().await);
    let made = dashboard.created(personal(VERA)).await;
    let ended = "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity \
                 WHERE datname = current_database() AND pid <> pg_backend_pid()";
    for _ in 0..3 {
        assert!(app.number(ended).await > 0);
        assert_eq!(sidecar.inactive_reason(&made.token).await, None);
    }
}

#[tokio::test]
async fn health_follows_the_database() {
    let (app, proxy) = behind_proxy().await;
    let mut client = HealthClient::new(app.channel().await);
    let request = HealthCheckRequest::default();
    let mut statuses = client.watch(request).await.unwrap().into_inner();
    let mut next = async || statuses.message().await.unwrap().unwrap().status();
    assert_eq!(next().await, ServingStatus::Serving);
    proxy.cut();
    assert_eq!(next().await, ServingStatus::NotServing);
    proxy.mend();
    assert_eq!(next().await, ServingStatus::Serving);
}

#[tokio::test]
async fn health_that_stays_as_it_is_is_told_once() {
    use futures_util::FutureExt;

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
