//! The caller hangs up: all or nothing, and the pool whole.

use std::time::Duration;

use hitkeep_auth::pb::SiteRole;

use crate::{fixtures::*, harness::TestApp};

/// More than the pool has connections.
const HANG_UPS: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_write_that_is_given_up_while_it_waits_leaves_nothing() {
    let app = TestApp::with_world().await;
    let dashboard = app.dashboard().await;
    let before = app.everything().await;
    let blocker = app.hold_write_lock().await;
    for _ in 0..HANG_UPS {
        let dashboard = dashboard.clone();
        let call = tokio::spawn(async move { dashboard.create(personal(VERA)).await });
        app.until_waiting(1).await;
        call.abort();
        // Its statement does not go on without it, although the lock is held.
        app.until_waiting(0).await;
    }
    blocker.release().await;
    assert_eq!(app.everything().await, before);
    dashboard.created(personal(VERA)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_read_that_is_given_up_does_not_hold_up_the_next() {
    let app = TestApp::with_world().await;
    let dashboard = app.dashboard().await;
    let made = dashboard.created(personal(VERA)).await;
    let blocker = app
        .hold("LOCK TABLE api_clients IN ACCESS EXCLUSIVE MODE")
        .await;
    for _ in 0..HANG_UPS {
        let (dashboard, id) = (dashboard.clone(), made.id.clone());
        let call = tokio::spawn(async move { dashboard.get(get(VERA, &id)).await });
        app.until_waiting(1).await;
        call.abort();
        app.until_waiting(0).await;
    }
    // The table is still locked, and whoever does not need it is served.
    app.pusher()
        .await
        .directory_status(pb_status())
        .await
        .expect("the pool is whole");
    blocker.release().await;
    dashboard
        .get(get(VERA, &made.id))
        .await
        .expect("the pool is whole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_write_that_is_given_up_anywhere_is_whole_or_absent() {
    let app = TestApp::with_world().await;
    let dashboard = app.dashboard().await;
    let whole = async |what: &str| app.number(what).await;
    for turn in 0..60 {
        let request = personal(VERA).granted(SITE, SiteRole::Viewer);
        // From before it begins to after it is done.
        let patience = Duration::from_micros(turn * 150);
        drop(tokio::time::timeout(patience, dashboard.create(request)).await);
    }
    // What was given up last may still be under way: this comes after it.
    dashboard
        .created(personal(VERA).granted(SITE, SiteRole::Viewer))
        .await;
    let clients = whole("SELECT count(*) FROM api_clients").await;
    assert!(clients >= 1);
    for table in ["api_client_grants", "api_client_tokens"] {
        assert_eq!(
            whole(&format!("SELECT count(*) FROM {table}")).await,
            clients,
            "{table}"
        );
    }
    let events = "SELECT count(*) FROM audit_events WHERE action = 'api_client.created'";
    assert_eq!(whole(events).await, clients);
    assert_eq!(whole("SELECT revision - 1 FROM index_state").await, clients);
}

fn pb_status() -> hitkeep_auth::pb::GetDirectoryStatusRequest {
    hitkeep_auth::pb::GetDirectoryStatusRequest {}
}
