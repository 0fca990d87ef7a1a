//! The queue of notifications is one for all databases of a server. A session of another
//! one that does not read can fill it, and then no change commits.

use std::io::Write as _;

use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use hitkeep_auth::{server, store, store::migrations};

use crate::{
    fixtures::*,
    harness::{TestApp, told},
    own_postgres::OwnPostgres,
    support::postgres,
};

/// The first version in which the queue's size can be set: it is 8 GB before.
const SETTABLE: i32 = 170_000;

#[derive(diesel::QueryableByName)]
struct Version {
    #[diesel(sql_type = diesel::sql_types::Integer)]
    number: i32,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_of_notifications_is_unavailable_until_it_is_read() {
    let own = OwnPostgres::start().await;
    let admin = format!("{}postgres", own.url);
    let version = diesel::sql_query("SELECT current_setting('server_version_num')::int AS number");
    let mut connection = postgres::connect(&admin).await;
    let version: Version = version.get_result(&mut connection).await.unwrap();
    if version.number < SETTABLE {
        // Not by a macro: what those print is only shown of tests that fail.
        let line = b"\nSKIPPED, because Postgres is older than 17: a full queue\n\n";
        std::io::stderr().write_all(line).unwrap();
        return;
    }
    postgres::execute(&admin, "ALTER SYSTEM SET max_notify_queue_pages = 64").await;
    postgres::execute(&admin, "CREATE DATABASE served").await;
    own.kill_and_restart().await;
    let url = format!("{}served", own.url);
    migrations::apply(&url).await.unwrap();
    let app = TestApp::on(&url, &store::Options::new(&url), server::Options::default()).await;
    app.change(world()).await;
    let dashboard = app.dashboard().await;
    let made = dashboard.created(personal(VERA)).await;

    let mut deaf = postgres::connect(&admin).await;
    deaf.batch_execute("LISTEN noise; BEGIN; SELECT 1")
        .await
        .unwrap();
    let mut loud = postgres::connect(&admin).await;
    let noise = "DO $$ BEGIN FOR i IN 1..200 LOOP \
                 PERFORM pg_notify('noise', repeat('y', 7999)); COMMIT; END LOOP; END $$";
    loud.batch_execute(noise)
        .await
        .expect_err("the queue is full");
    let revoked = dashboard.revoke(revoke(VERA, &made.id)).await;
    assert_eq!(told(&revoked), "Unavailable DATABASE_UNAVAILABLE");
    deaf.batch_execute("COMMIT").await.unwrap();
    dashboard.revoke(revoke(VERA, &made.id)).await.unwrap();
}
