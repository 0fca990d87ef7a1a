//! Rows that are changed under `session_replication_role = replica`, as restores do it, are
//! heard of like any others; and everything can be reloaded on demand.

use hitkeep_auth::store::feed::Position;

use crate::{
    by_hand::{full_world, text},
    database::{store, texts},
    postgres,
};

/// What is changed, and the clients that it touches. No foreign key does anything there.
const CASES: &[(&str, &[u32])] = &[
    (
        "UPDATE api_clients SET revoke_time = now() WHERE id = id(31)",
        &[31],
    ),
    ("UPDATE api_clients SET description = 'other'", &[]),
    ("UPDATE api_clients SET name = name", &[]),
    ("DELETE FROM api_clients WHERE id = id(38)", &[38]),
    (
        "UPDATE api_client_tokens SET end_time = now() WHERE hash = hash(2)",
        &[31],
    ),
    ("DELETE FROM api_client_tokens WHERE hash = hash(3)", &[32]),
    (
        "INSERT INTO api_client_grants VALUES (id(34), id(22), 'viewer')",
        &[34],
    ),
    (
        "DELETE FROM api_client_grants WHERE client_id = id(33)",
        &[33],
    ),
    (
        "UPDATE api_client_grants SET client_id = id(34) WHERE client_id = id(36)",
        &[34, 36],
    ),
    ("UPDATE users SET disabled = true WHERE id = id(3)", &[36]),
    ("UPDATE users SET disabled = disabled", &[]),
    ("DELETE FROM users WHERE id = id(1)", &[31]),
    (
        "UPDATE teams SET archived = true WHERE id = id(12)",
        &[33, 35, 37],
    ),
    ("UPDATE sites SET team_id = id(13) WHERE id = id(22)", &[36]),
    (
        "DELETE FROM team_members WHERE user_id = id(2) AND team_id = id(12)",
        &[33],
    ),
    (
        "UPDATE site_members SET role = 'owner' WHERE user_id = id(2) AND site_id = id(21)",
        &[33],
    ),
];

/// What the log says of the newest revision.
async fn logged(connection: &mut diesel_async::AsyncPgConnection, after: i64) -> Vec<String> {
    let sql = format!(
        "SELECT ltrim(replace(client_id::text, '-', ''), '0') AS text FROM index_changes \
         WHERE revision > {after} ORDER BY client_id"
    );
    texts(connection, &sql).await
}

#[tokio::test]
async fn a_row_that_is_changed_as_a_restore_does_it_is_heard_of() {
    use diesel_async::SimpleAsyncConnection;

    let url = full_world().await;
    let mut connection = postgres::connect(&url).await;
    let revision = "SELECT revision::text AS text FROM index_state";
    let before: i64 = text(&mut connection, revision).await.parse().unwrap();
    for (sql, clients) in CASES {
        let begin = "BEGIN; SET LOCAL session_replication_role = replica";
        connection
            .batch_execute(&format!("{begin}; {sql}"))
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        let after: i64 = text(&mut connection, revision).await.parse().unwrap();
        let logged = logged(&mut connection, before).await;
        connection.batch_execute("ROLLBACK").await.unwrap();
        let clients: Vec<_> = clients.iter().map(ToString::to_string).collect();
        assert_eq!(logged, clients, "{sql}");
        assert_eq!(after - before, i64::from(!clients.is_empty()), "{sql}");
    }
    for sql in [
        "TRUNCATE api_client_tokens CASCADE",
        "TRUNCATE site_members",
    ] {
        let run = format!("SET session_replication_role = replica; {sql}");
        postgres::execute(&url, &run).await;
        let trimmed = "SELECT (trimmed_revision = revision)::text AS text FROM index_state";
        assert_eq!(text(&mut connection, trimmed).await, "true", "{sql}");
    }
}

#[tokio::test]
async fn callers_that_are_changed_as_a_restore_does_it_are_heard_of() {
    let url = full_world().await;
    let mut connection = postgres::connect(&url).await;
    let nonce = "SELECT accounts_nonce::text AS text FROM index_state";
    let mut before = text(&mut connection, nonce).await;
    for sql in [
        "UPDATE service_account_certificates SET name = 'dns:other.example'",
        "UPDATE service_accounts SET revoke_time = now() WHERE id = id(51)",
        "DELETE FROM service_accounts",
    ] {
        let run = format!("SET session_replication_role = replica; {sql}");
        postgres::execute(&url, &run).await;
        let after = text(&mut connection, nonce).await;
        assert_ne!(after, before, "{sql}");
        before = after;
    }
    // Who is revoked has no names, however that was done.
    let names = "SELECT count(*)::text AS text FROM service_account_certificates";
    assert_eq!(text(&mut connection, names).await, "0");
}

/// Also where another change comes before anybody looks.
#[tokio::test]
async fn everything_is_read_anew_on_demand() {
    let url = full_world().await;
    let store = store(&url);
    let mut feed = store.connect_feed().await.unwrap();
    let nowhere = Position {
        database: uuid::Uuid::nil(),
        revision: hitkeep_auth::domain::Revision(0),
        nonce: uuid::Uuid::nil(),
    };
    // Nothing hears of it.
    postgres::execute(
        &url,
        "ALTER TABLE users DISABLE TRIGGER ALL; UPDATE users SET disabled = true; \
         ALTER TABLE users ENABLE TRIGGER ALL",
    )
    .await;
    let known = feed.state(nowhere).await.unwrap().position;
    assert!(feed.state(known).await.unwrap().continues);
    postgres::execute(&url, "SELECT index_reload()").await;
    assert!(!feed.state(known).await.unwrap().continues);
    let change = "UPDATE api_clients SET name = name || '!'";
    postgres::execute(&url, change).await;
    assert!(!feed.state(known).await.unwrap().continues);
    // Once is enough.
    let known = feed.state(nowhere).await.unwrap().position;
    postgres::execute(&url, change).await;
    assert!(feed.state(known).await.unwrap().continues);
}

/// Enabling all triggers leaves them as others are.
#[tokio::test]
async fn triggers_can_be_enabled_as_they_were() {
    let url = postgres::migrated_database().await;
    let mut connection = postgres::connect(&url).await;
    let enabled = "SELECT format('%s.%s %s', tgrelid::regclass, tgname, tgenabled) AS text \
                   FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1";
    let before = texts(&mut connection, enabled).await;
    for table in ["users", "service_accounts", "index_changes"] {
        let sql = format!("ALTER TABLE {table} DISABLE TRIGGER ALL");
        postgres::execute(&url, &sql).await;
        let sql = format!("ALTER TABLE {table} ENABLE TRIGGER ALL");
        postgres::execute(&url, &sql).await;
    }
    assert_ne!(texts(&mut connection, enabled).await, before);
    postgres::execute(&url, "SELECT index_enable()").await;
    assert_eq!(texts(&mut connection, enabled).await, before);
}
