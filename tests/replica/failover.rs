//! A primary that dies, and a standby that takes its place: whoever was told of both
//! finds the new one without help.

use std::sync::Arc;

use hitkeep_auth::{
    pb, server, store,
    system::{SystemClock, SystemEntropy},
};

use crate::{
    fixtures::*,
    harness::TestApp,
    nodes,
    primary::two_on,
    support::postgres,
    waiting::{until, wanted},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_new_primary_is_found() {
    let [primary, standby] = nodes::pair().await;
    // The standby comes first, and does not take writes.
    let hosts = format!("{},{}", standby.host(), primary.host());
    let url = format!("postgres://postgres@{hosts}/app");
    let (direct, after) = (primary.database(), standby.database());
    let app = TestApp::on(
        &direct,
        &store::StoreOptions::new(&url),
        server::Options::default(),
    )
    .await;
    app.change(world()).await;
    let dashboard = app.dashboard().await;
    let before = dashboard.created(personal(VERA)).await;
    let sidecar = app.sidecar().await;
    assert_eq!(sidecar.inactive_reason(&before.token).await, None);

    primary.kill().await;
    // What is in memory is answered meanwhile.
    assert_eq!(sidecar.inactive_reason(&before.token).await, None);
    standby.promote().await;
    let revoked = until("the new primary takes a change", async || {
        dashboard.revoke(revoke(VERA, &before.id)).await
    })
    .await;
    let request = pb::IntrospectRequest {
        at_least_revision: Some(revoked.revision),
        ..introspect(&before.token)
    };
    assert!(!sidecar.introspect(request).await.unwrap().active);
    let made = dashboard.created(personal(VERA)).await;
    assert_eq!(sidecar.inactive_reason(&made.token).await, None);
    // It is the promoted one that has all of it.
    postgres::execute(&after, "SELECT 1 / (count(*) - 1) FROM api_clients").await;
    app.stop.send(()).await.unwrap();
    app.server.await.unwrap();
}

/// Connections from before a survey are not used again if it finds another primary. The one that
/// it finds is not among them.
#[tokio::test(flavor = "multi_thread")]
async fn the_reader_that_a_survey_finds_on_a_new_primary_is_used() {
    let [primary, standby] = nodes::pair().await;
    let hosts = format!("{},{}", standby.host(), primary.host());
    let url = format!("postgres://postgres@{hosts}/app");
    let store = store::Store::new(
        &store::StoreOptions::new(&url),
        Arc::new(SystemClock::default()),
        Arc::new(SystemEntropy),
    );
    let before = store.connect_feed().await.unwrap();
    assert!(!before.is_closed());
    primary.demote().await;
    standby.promote().await;
    let after = store.connect_feed().await.unwrap();
    assert!(before.is_closed() && !after.is_closed());
}

/// A description is in no index, so the change has no revision of its own: by that alone, the
/// new primary might have it.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_without_a_revision_is_on_the_server_that_counts() {
    let pair = nodes::pair().await;
    let (cluster, kept, _) = two_on(&pair, false).await;
    let [first, second] = &pair;
    second.promote().await;
    first.acknowledge_alone().await;
    // Open connections stay where they are.
    cluster.replicas[0].proxy.repoint(&second.database());
    let dashboard = &cluster.replicas[0].dashboard;
    let is_there = format!(
        "SELECT 1 / count(*) FROM api_clients WHERE id = '{}' AND description = 'new'",
        kept.id
    );
    until("the change is acknowledged", async || {
        let described = pb::ApiClient {
            id: kept.id.clone(),
            description: "new".to_owned(),
            ..pb::ApiClient::default()
        };
        let changed = dashboard
            .update(update(VERA, described, &["description"]))
            .await;
        if changed.is_ok() {
            second.holds(&is_there).await.expect("it was acknowledged");
        }
        wanted(changed.is_ok())
    })
    .await;
}
