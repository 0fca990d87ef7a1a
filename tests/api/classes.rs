//! What Postgres can say, and what callers get for it: decided by the SQLSTATE alone, in
//! whatever language the message is.

use std::{fmt::Write, sync::Arc};

use hitkeep_auth::{
    pb::InactiveReason,
    server,
    store::{self, Store},
};

use crate::{
    fixtures::*,
    harness::{TestApp, told},
    support::{
        doubles::{SeededEntropy, TestClock},
        postgres,
        waiting::{until, wanted},
    },
};

const UNAVAILABLE: &str = "Unavailable DATABASE_UNAVAILABLE";
const OVERLOADED: &str = "Unavailable OVERLOADED";
const INTERNAL: &str = "Internal INTERNAL";

/// Backends of the service that wait for a lock.
const WAITING: &str = "FROM pg_stat_activity \
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";

impl TestApp {
    /// Has Postgres answer the insertion of API clients with that code.
    async fn raise(&self, state: &str) {
        self.psql(&format!(
            "CREATE OR REPLACE FUNCTION test_raise() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN RAISE EXCEPTION 'Es geht gerade nicht' USING ERRCODE = '{state}'; END $$;
             CREATE OR REPLACE TRIGGER test_raise BEFORE INSERT ON api_clients
             FOR EACH ROW EXECUTE FUNCTION test_raise()"
        ))
        .await;
    }

    /// What a call gets that something is done to in its middle, while it waits for a lock.
    async fn while_it_waits(&self, sql: &str) -> String {
        let dashboard = self.dashboard().await;
        // Its first statement would begin again on another connection.
        let lock = "LOCK TABLE audit_events IN EXCLUSIVE MODE";
        let blocker = self.hold(lock).await;
        let call = tokio::spawn(async move { dashboard.create(personal(VERA)).await });
        self.until_waiting(1).await;
        assert_eq!(self.number(sql).await, 1);
        let told = told(&call.await.unwrap());
        blocker.release().await;
        told
    }
}

#[tokio::test]
async fn each_sqlstate_has_its_class_in_any_language() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    let expected = [
        // Connection exceptions, some of them a pooler's.
        ("08000", UNAVAILABLE),
        ("08006", UNAVAILABLE),
        ("08P01", UNAVAILABLE),
        // Refusals.
        ("28000", UNAVAILABLE),
        ("28P01", UNAVAILABLE),
        ("3D000", UNAVAILABLE),
        // Read-only, and sessions that were ended for having taken too long.
        ("25006", UNAVAILABLE),
        ("25P03", UNAVAILABLE),
        ("25P04", UNAVAILABLE),
        // Disk, memory, connections.
        ("53000", UNAVAILABLE),
        ("53100", UNAVAILABLE),
        ("53200", UNAVAILABLE),
        ("53300", UNAVAILABLE),
        // Shutdown, crash, start, a dropped database, an idle session's end.
        ("57P01", UNAVAILABLE),
        ("57P02", UNAVAILABLE),
        ("57P03", UNAVAILABLE),
        ("57P04", UNAVAILABLE),
        ("57P05", UNAVAILABLE),
        // The system's errors, and internal ones, which poolers have as well.
        ("58000", UNAVAILABLE),
        ("58030", UNAVAILABLE),
        ("XX000", UNAVAILABLE),
        ("XX001", UNAVAILABLE),
        // It took too long, or was cancelled.
        ("55P03", OVERLOADED),
        ("57014", OVERLOADED),
        // Tried again, until it is enough.
        ("40001", OVERLOADED),
        ("40P01", OVERLOADED),
        // Defects. This limit is another one than that of notifications.
        ("54000", INTERNAL),
        ("22023", INTERNAL),
        ("23514", INTERNAL),
        ("25P02", INTERNAL),
        ("26000", INTERNAL),
        ("42501", INTERNAL),
        ("42703", INTERNAL),
        ("42P01", INTERNAL),
        ("P0001", INTERNAL),
    ];
    for (state, answer) in expected {
        app.raise(state).await;
        let created = dashboard.create(personal(VERA)).await;
        assert_eq!(told(&created), answer, "{state}");
        dashboard.list(list(VERA, of_user(VERA))).await.unwrap();
    }
    app.psql("DROP TRIGGER test_raise ON api_clients").await;
    dashboard.created(personal(VERA)).await;
}

#[tokio::test]
async fn a_backend_that_is_ended_is_unavailable_and_a_cancelled_statement_overloaded() {
    let app = TestApp::with_world().await;
    let ended = format!("SELECT count(pg_terminate_backend(pid)) {WAITING}");
    assert_eq!(app.while_it_waits(&ended).await, UNAVAILABLE);
    let cancelled = format!("SELECT count(pg_cancel_backend(pid)) {WAITING}");
    assert_eq!(app.while_it_waits(&cancelled).await, OVERLOADED);
    app.dashboard().await.created(personal(VERA)).await;
}

#[tokio::test]
async fn a_database_that_is_read_only_by_default_is_unavailable_for_writes_alone() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    // New connections have the default, so those that there are have to end.
    app.psql(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', \
         current_database()); END $$; \
         SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    .await;
    assert_eq!(told(&dashboard.create(personal(VERA)).await), UNAVAILABLE);
    dashboard.list(list(VERA, of_user(VERA))).await.unwrap();
}

/// Defaults of a database that would change something, and what the service's sessions are
/// set to, as `pg_settings` has it.
const DEFAULTS: [(&str, &str, &str); 32] = [
    ("statement_timeout", "7s", "10000"),
    ("lock_timeout", "7s", "5000"),
    ("idle_in_transaction_session_timeout", "7s", "20000"),
    ("idle_session_timeout", "7s", "0"),
    ("transaction_timeout", "7s", "0"),
    ("client_encoding", "LATIN1", "UTF8"),
    ("standard_conforming_strings", "off", "on"),
    ("array_nulls", "off", "on"),
    ("TimeZone", "Asia/Kathmandu", "UTC"),
    ("DateStyle", "German, DMY", "ISO, MDY"),
    ("IntervalStyle", "sql_standard", "postgres"),
    ("bytea_output", "escape", "hex"),
    ("extra_float_digits", "-15", "1"),
    ("transform_null_equals", "on", "off"),
    (
        "default_transaction_isolation",
        "serializable",
        "read committed",
    ),
    ("default_transaction_deferrable", "on", "off"),
    ("synchronous_commit", "off", "on"),
    ("session_replication_role", "replica", "origin"),
    ("row_security", "on", "off"),
    ("plan_cache_mode", "force_generic_plan", "auto"),
    ("jit", "on", "off"),
    ("enable_seqscan", "off", "on"),
    ("enable_indexscan", "off", "on"),
    ("enable_indexonlyscan", "off", "on"),
    ("enable_bitmapscan", "off", "on"),
    ("enable_nestloop", "off", "on"),
    ("enable_hashjoin", "off", "on"),
    ("enable_mergejoin", "off", "on"),
    ("enable_hashagg", "off", "on"),
    ("enable_sort", "off", "on"),
    ("enable_material", "off", "on"),
    ("client_min_messages", "debug5", "warning"),
];

/// A server on a database that has those defaults, and that notes the settings of the
/// sessions that insert API clients.
async fn with_defaults(defaults: impl IntoIterator<Item = (&str, &str)>) -> TestApp {
    with_defaults_on(postgres::migrated_database().await, defaults).await
}

/// The same, on that database.
async fn with_defaults_on(
    url: String,
    defaults: impl IntoIterator<Item = (&str, &str)>,
) -> TestApp {
    let mut sql = "CREATE TABLE noted AS SELECT name, setting FROM pg_settings WHERE false; \
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         INSERT INTO noted SELECT name, setting FROM pg_settings; RETURN NEW; END $$; \
         CREATE TRIGGER note BEFORE INSERT ON api_clients FOR EACH ROW EXECUTE FUNCTION note();"
        .to_owned();
    for (name, value) in defaults {
        // Not every Postgres knows all of them.
        write!(
            sql,
            "DO $$ BEGIN IF current_setting('{name}', true) IS NOT NULL THEN \
             EXECUTE format('ALTER DATABASE %I SET {name} = %L', current_database(), '{value}'); \
             END IF; END $$;"
        )
        .unwrap();
    }
    postgres::execute(&url, &sql).await;
    let options = store::StoreOptions::new(&url);
    let app = TestApp::on(&url, &options, server::Options::default()).await;
    app.change(world()).await;
    app
}

#[tokio::test]
async fn no_default_of_the_database_changes_how_the_service_works() {
    let app = with_defaults(DEFAULTS.map(|(name, value, _)| (name, value))).await;
    let dashboard = app.dashboard().await;
    let made = dashboard.created(personal(VERA)).await;
    dashboard.revoke(revoke(VERA, &made.id)).await.unwrap();
    let reason = app.sidecar().await.inactive_reason(&made.token).await;
    assert_eq!(reason, Some(InactiveReason::Revoked));
    for (name, _, set) in DEFAULTS {
        let other =
            format!("SELECT count(*) FROM noted WHERE name = '{name}' AND setting <> '{set}'");
        assert_eq!(app.number(&other).await, 0, "{name}");
    }
    assert!(app.number("SELECT count(*) FROM noted").await > 0);
}

/// A function that connections call as they are set up, and that all reads of the feed call:
/// found first in a search path that has it before Postgres' own, it notes the settings. In
/// transactions that may only read, it cannot.
const NOTING_SETTING: &str = "
    CREATE SCHEMA noting;
    CREATE TABLE noting.notes AS
        SELECT pg_backend_pid() AS pid, current_query() AS query, name, setting
        FROM pg_settings WHERE false;
    CREATE FUNCTION noting.current_setting(name text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
        IF NOT pg_catalog.current_setting('transaction_read_only')::boolean THEN
            INSERT INTO noting.notes
            SELECT pg_backend_pid(), current_query(), pg_settings.name, pg_settings.setting
            FROM pg_settings;
        END IF;
        RETURN pg_catalog.current_setting(name);
    END $$;
    DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = noting, pg_catalog, public',
        current_database()); END $$";

#[tokio::test]
async fn no_default_of_the_database_changes_how_the_feed_reads_and_listens() {
    let url = postgres::migrated_database().await;
    postgres::execute(&url, NOTING_SETTING).await;
    let app = with_defaults_on(url, DEFAULTS.map(|(name, value, _)| (name, value))).await;
    // The state is all that a poll reads.
    let reading = "query LIKE '%FROM index_state%'";
    let listening = "pid IN (SELECT pid FROM pg_stat_activity \
                     WHERE datname = current_database() AND query ILIKE 'LISTEN %')";
    for sessions in [reading, listening] {
        let noted = format!("SELECT count(*) FROM noting.notes WHERE {sessions}");
        until("its settings are noted", async || {
            wanted(app.number(&noted).await > 0)
        })
        .await;
        for (name, _, set) in DEFAULTS {
            let other = format!("{noted} AND name = '{name}' AND setting <> '{set}'");
            assert_eq!(app.number(&other).await, 0, "{name} where {sessions}");
        }
    }
}

#[tokio::test]
async fn commits_wait_for_at_least_the_disk() {
    for (default, set) in [
        ("off", "on"),
        ("local", "on"),
        ("on", "on"),
        ("remote_write", "remote_write"),
        ("remote_apply", "remote_apply"),
    ] {
        let app = with_defaults([("synchronous_commit", default)]).await;
        app.dashboard().await.created(personal(VERA)).await;
        let as_set = format!(
            "SELECT count(*) FROM noted WHERE name = 'synchronous_commit' AND setting = '{set}'"
        );
        assert_eq!(app.number(&as_set).await, 1, "{default}");
    }
}

/// A role of its own for one test, with the rights that a server needs, and the URL of a
/// migrated database for it.
async fn role_of_its_own() -> (String, String, String) {
    let direct = postgres::migrated_database().await;
    let role = format!("role_of_{}", direct.rsplit('/').next().unwrap());
    let sql = format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA public TO {role}; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"
    );
    postgres::execute(&direct, &sql).await;
    let url = direct.replacen("postgres://postgres@", &format!("postgres://{role}@"), 1);
    (direct, url, role)
}

#[tokio::test]
async fn a_role_that_has_all_its_connections_is_unavailable() {
    let (direct, url, role) = role_of_its_own().await;
    let options = store::StoreOptions::new(&url);
    let app = TestApp::on(&direct, &options, server::Options::default()).await;
    app.change(world()).await;
    let dashboard = app.dashboard().await;
    app.psql(&format!(
        "ALTER ROLE {role} CONNECTION LIMIT 0; \
         SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = '{role}'"
    ))
    .await;
    assert_eq!(told(&dashboard.create(personal(VERA)).await), UNAVAILABLE);
    app.psql(&format!("ALTER ROLE {role} CONNECTION LIMIT -1"))
        .await;
    dashboard.created(personal(VERA)).await;
}

#[tokio::test]
async fn a_role_whose_changes_fire_no_triggers_gets_no_connection() {
    let (direct, url, role) = role_of_its_own().await;
    postgres::execute(
        &direct,
        &format!("ALTER ROLE {role} SET session_replication_role = replica"),
    )
    .await;
    let (clock, entropy) = (TestClock::default(), SeededEntropy::default());
    let store = Store::new(
        &store::StoreOptions::new(&url),
        Arc::new(clock),
        Arc::new(entropy),
    );
    let refused = store.probe().await.unwrap_err().to_string();
    assert!(refused.contains("session_replication_role"), "{refused}");
}
