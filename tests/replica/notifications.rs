//! The queue of notifications is one for all databases of a Postgres. Where somebody
//! else's listener keeps it full, changes are committed without a notification, and other
//! servers find them by polling.

use std::io::Write as _;

use diesel::{dsl::sql, sql_types::Integer};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use hitkeep_auth::{pb::InactiveReason, server, store, store::migrations};

use crate::{
    fixtures::*,
    harness::TestApp,
    nodes::Node,
    support::{folder::Folder, postgres},
    waiting::{until, wanted},
};

/// The first version in which the queue's length can be set: before it, it has 8 GB.
const CAN_BE_SHORT: i32 = 170_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_keeps_no_change_from_being_made() {
    let own = Node::start(Folder::new()).await;
    let mut connection = postgres::connect(&own.url("postgres")).await;
    let version = sql::<Integer>("SELECT current_setting('server_version_num')::int");
    let version: i32 = version.get_result(&mut connection).await.unwrap();
    if version < CAN_BE_SHORT {
        // Not by a macro: what those print is only shown of tests that fail.
        let line = b"\nSKIPPED, because Postgres is older than 17: a full queue\n\n";
        std::io::stderr().write_all(line).unwrap();
        return;
    }
    drop(connection);
    own.admin("ALTER SYSTEM SET max_notify_queue_pages = 64")
        .await;
    own.kill_and_restart().await;
    for name in ["app", "others"] {
        own.admin(&format!("CREATE DATABASE {name}")).await;
    }
    let url = own.url("app");
    migrations::apply(&url).await.unwrap();
    let options = store::StoreOptions::new(&url);
    let app = TestApp::on(&url, &options, server::Options::default()).await;
    let other = app.beside(server::Options::default()).await;
    app.change(world()).await;
    let dashboard = app.dashboard().await;
    let made = dashboard.created(personal(VERA)).await;

    let others = own.url("others");
    let mut stuck = postgres::connect(&others).await;
    // Apart: it listens once that is committed.
    for sql in ["LISTEN x", "BEGIN; SELECT 1"] {
        stuck.batch_execute(sql).await.unwrap();
    }
    let mut filling = postgres::connect(&others).await;
    let mut sent = 0;
    loop {
        sent += 1;
        let notify = format!("SELECT pg_notify('x', lpad('{sent}', 7999, 'y'))");
        if filling.batch_execute(&notify).await.is_err() {
            break;
        }
        assert!(sent < 1000, "the queue is never full");
    }

    dashboard.revoke(revoke(VERA, &made.id)).await.unwrap();
    let sidecar = other.sidecar().await;
    let revoked = async || {
        let reason = sidecar.inactive_reason(&made.token).await;
        wanted(reason == Some(InactiveReason::Revoked))
    };
    until("the other server finds it", revoked).await;
    // Callers have notifications of their own.
    app.psql("UPDATE service_accounts SET name = name || '-x'")
        .await;
    stuck.batch_execute("ROLLBACK").await.unwrap();
    for server in [other, app] {
        server.stop.send(()).await.unwrap();
        server.server.await.unwrap();
    }
}
