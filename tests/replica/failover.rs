//! A primary that dies, and a standby that takes its place: whoever was told of both
//! finds the new one without help.

use hitkeep_auth::{pb, server, store};

use crate::{fixtures::*, harness::TestApp, nodes, support::postgres, waiting::until};

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
