//! A server whose database gets its rows through a subscription (logical replication):
//! what is changed at the publisher arrives in its index, whether the change log is
//! published too or not, from the first copy of the tables on.

use hitkeep_auth::{
    pb::InactiveReason::{self, OwnerInactive, Revoked},
    server,
    store::{self, migrations},
};

use crate::{
    fixtures::*,
    harness::{Caller, TestApp},
    own_postgres::OwnPostgres,
    support::postgres,
    waiting::{until, wanted},
};

/// What there is one row of from the first migration on, which the copy would bring again.
const SINGLE_ROWS: &str = "directory_state, directory_order";

/// A token's verdict arrives: active, or inactive for that reason.
async fn arrives(sidecar: &Caller, token: &str, reason: Option<InactiveReason>) {
    let asked = async || {
        let answer = sidecar.introspect(introspect(token)).await;
        let answer = answer.map_err(|status| status.to_string())?;
        let found = (!answer.active).then(|| answer.inactive_reason());
        wanted(found == reason).map_err(|why| format!("{why}: {found:?} instead of {reason:?}"))
    };
    until("the publisher's change arrives", asked).await;
}

async fn number(url: &str, sql: &str) -> i64 {
    use diesel::sql_types::BigInt;
    use diesel_async::RunQueryDsl;

    let mut connection = postgres::connect(url).await;
    let number = diesel::dsl::sql::<BigInt>(&format!("SELECT ({sql})::bigint"));
    number.get_result(&mut connection).await.expect(sql)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_publisher_changes_arrives_in_who_reads_the_subscriber() {
    let own = OwnPostgres::start().await;
    let database = |name: &str| format!("{}{name}", own.url);
    let admin = database("postgres");
    for sql in [
        "ALTER SYSTEM SET wal_level = logical",
        "ALTER SYSTEM SET wal_retrieve_retry_interval = '50ms'",
        "ALTER SYSTEM SET max_logical_replication_workers = 16",
        "ALTER SYSTEM SET max_worker_processes = 24",
    ] {
        postgres::execute(&admin, sql).await;
    }
    own.kill_and_restart().await;
    let publisher = database("publisher");
    for name in ["publisher", "with_log", "without_log"] {
        postgres::execute(&admin, &format!("CREATE DATABASE {name}")).await;
        migrations::apply(&database(name)).await.unwrap();
    }
    let mut app = TestApp::on(
        &publisher,
        &store::Options::new(&publisher),
        server::Options::default(),
    )
    .await;
    app.change(world()).await;
    let dashboard = app.dashboard().await;
    let before = dashboard.created(personal(VERA)).await;
    let revoked_before = dashboard.created(personal(VERA)).await;
    dashboard
        .revoke(revoke(VERA, &revoked_before.id))
        .await
        .unwrap();

    // Everything, and everything but the change log.
    let tables = "SELECT string_agg(oid::regclass::text, ', ') FROM pg_class \
                  WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace \
                  AND relname NOT LIKE 'index\\_%' AND relname NOT LIKE '\\_\\_%'";
    postgres::execute(
        &publisher,
        &format!(
            "CREATE PUBLICATION with_log FOR ALL TABLES; \
             DO $$ BEGIN EXECUTE 'CREATE PUBLICATION without_log FOR TABLE ' || ({tables}); END $$"
        ),
    )
    .await;
    for (name, single_rows) in [
        (
            "with_log",
            format!("{SINGLE_ROWS}, index_state, index_revisions, __diesel_schema_migrations"),
        ),
        ("without_log", SINGLE_ROWS.to_owned()),
    ] {
        // Beside each other in one Postgres: the slot is to be made first.
        let slot = format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')");
        postgres::execute(&publisher, &slot).await;
        let there = database(name);
        postgres::execute(&there, &format!("TRUNCATE {single_rows}")).await;
        let host = own.url.strip_prefix("postgres://postgres@").unwrap();
        let host = host.trim_end_matches('/').replace("%2F", "/");
        let subscribe = format!(
            "CREATE SUBSCRIPTION {name} CONNECTION 'host={host} user=postgres dbname=publisher' \
             PUBLICATION {name} WITH (create_slot = false)"
        );
        postgres::execute(&there, &subscribe).await;
    }
    // They serve while the tables are being copied.
    let mut there = Vec::new();
    for name in ["with_log", "without_log"] {
        app.database_url = database(name);
        there.push(app.beside(server::Options::default()).await);
    }
    app.database_url.clone_from(&publisher);
    let mut sidecars = Vec::new();
    for server in &there {
        sidecars.push(server.sidecar().await);
    }
    for sidecar in &sidecars {
        arrives(sidecar, &before.token, None).await;
        arrives(sidecar, &revoked_before.token, Some(Revoked)).await;
    }
    for server in &there {
        let sql = "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'";
        let copied = async || wanted(server.number(sql).await == 0);
        until("all tables are copied", copied).await;
    }

    let made = dashboard.created(personal(ALICE)).await;
    dashboard.revoke(revoke(VERA, &before.id)).await.unwrap();
    for sidecar in &sidecars {
        arrives(sidecar, &made.token, None).await;
        arrives(sidecar, &before.token, Some(Revoked)).await;
    }
    app.change([put_user(ALICE, hitkeep_auth::pb::InstanceRole::User, true)])
        .await;
    for sidecar in &sidecars {
        arrives(sidecar, &made.token, Some(OwnerInactive)).await;
    }
    // Somebody changes rows by hand, there and in the way of a restore.
    let by_hand = format!(
        "SET session_replication_role = replica; UPDATE users SET disabled = false; \
         UPDATE api_clients SET revoke_time = NULL WHERE id = '{}'",
        before.id
    );
    for (server, sidecar) in there.iter().zip(&sidecars) {
        server.psql(&by_hand).await;
        arrives(sidecar, &made.token, None).await;
        arrives(sidecar, &before.token, None).await;
    }
    // Nothing of that is in the way of what comes next.
    let last = dashboard.created(personal(VERA)).await;
    dashboard.revoke(revoke(VERA, &last.id)).await.unwrap();
    let rotated = dashboard.created(personal(VERA)).await;
    for sidecar in &sidecars {
        arrives(sidecar, &last.token, Some(Revoked)).await;
        arrives(sidecar, &rotated.token, None).await;
    }
    let revision = "SELECT revision FROM index_state";
    let published = number(&publisher, revision).await;
    assert_eq!(number(&database("with_log"), revision).await, published);
    for server in there {
        server.stop.send(()).await.unwrap();
        server.server.await.unwrap();
    }
    app.stop.send(()).await.unwrap();
    app.server.await.unwrap();
}
