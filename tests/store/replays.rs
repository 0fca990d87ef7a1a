//! Remembered requests and their sealed replies: what removes them, whichever session it is that
//! changes a row, and that no replica hears of them.

use std::time::Duration;

use chrono::TimeDelta;
use diesel_async::AsyncPgConnection;
use hitkeep_auth::live_index::usage::Flusher;

use crate::{
    database::{store, texts, world},
    postgres,
};

/// How many requests and replies there are.
async fn left(connection: &mut AsyncPgConnection) -> String {
    let counts = "SELECT format('%s %s', (SELECT count(*) FROM api_client_requests), \
                  (SELECT count(*) FROM api_client_replies)) AS text";
    texts(connection, counts).await.remove(0)
}

/// The world has one reply, about the newest token of client 32, which account 51 asked for.
#[tokio::test]
async fn each_end_of_what_a_reply_is_about_ends_it() {
    for (change, after) in [
        ("UPDATE api_client_tokens SET hint = hint", "1 1"),
        (
            "UPDATE api_client_tokens SET end_time = now() WHERE hash = hash(2)",
            "1 1",
        ),
        (
            "UPDATE api_client_tokens SET end_time = now() WHERE hash = hash(3)",
            "1 0",
        ),
        // An overlap that goes on: the token was replaced all the same.
        (
            "UPDATE api_client_tokens SET end_time = now() + interval '1 day' WHERE hash = hash(3)",
            "1 0",
        ),
        ("DELETE FROM api_client_tokens WHERE hash = hash(3)", "1 0"),
        ("UPDATE api_clients SET description = 'another'", "1 1"),
        (
            "UPDATE api_clients SET revoke_time = now() WHERE id = id(31)",
            "1 1",
        ),
        (
            "UPDATE api_clients SET revoke_time = now() WHERE id = id(32)",
            "1 0",
        ),
        ("DELETE FROM api_clients WHERE id = id(32)", "1 0"),
        ("UPDATE service_accounts SET token_hint = ''", "1 1"),
        (
            "UPDATE service_accounts SET revoke_time = now() WHERE id = id(51)",
            "0 0",
        ),
        ("DELETE FROM service_accounts WHERE id = id(51)", "0 0"),
        ("DELETE FROM api_client_requests", "0 0"),
    ] {
        let url = world().await;
        let mut connection = postgres::connect(&url).await;
        assert_eq!(left(&mut connection).await, "1 1");
        postgres::execute(&url, change).await;
        assert_eq!(left(&mut connection).await, after, "{change}");
        // Rows that are replicated or restored are no exception, as far as triggers go.
        if change.starts_with("UPDATE") {
            let url = world().await;
            let replicated = format!("SET session_replication_role = replica; {change}");
            postgres::execute(&url, &replicated).await;
            let mut connection = postgres::connect(&url).await;
            assert_eq!(
                left(&mut connection).await,
                after.replace("0 0", "0 1"),
                "{change}"
            );
        }
    }
}

#[tokio::test]
async fn no_replica_hears_of_a_request() {
    let url = world().await;
    let mut connection = postgres::connect(&url).await;
    let state = "SELECT index_state::text AS text FROM index_state";
    let before = texts(&mut connection, state).await;
    postgres::execute(
        &url,
        "UPDATE api_client_replies SET revision = 2;
         INSERT INTO api_client_requests VALUES (hash(99), id(51), hash(62), now());
         INSERT INTO api_client_replies VALUES (hash(2), hash(99), hash(63), '', 0);
         DELETE FROM api_client_requests",
    )
    .await;
    assert_eq!(texts(&mut connection, state).await, before);
}

/// A minute later than it could be, since the clock is not exactly the database's.
#[tokio::test]
async fn a_server_looks_every_ten_minutes_for_what_is_to_be_removed() {
    let url = world().await;
    let mut connection = postgres::connect(&url).await;
    let store = store(&url);
    postgres::execute(
        &url,
        "UPDATE api_client_requests SET create_time = now() - interval '24 hours 61 seconds';
         INSERT INTO api_client_requests
             VALUES (hash(98), id(51), hash(62), now() - interval '24 hours')",
    )
    .await;
    let (_ledger, mut flusher) = Flusher::with_ledger();
    flusher.forget(&store).await.unwrap();
    assert_eq!(left(&mut connection).await, "2 1");
    tokio::time::pause();
    tokio::time::advance(Duration::from_mins(10)).await;
    tokio::time::resume();
    flusher.forget(&store).await.unwrap();
    assert_eq!(left(&mut connection).await, "1 0");
}

#[tokio::test]
async fn what_is_no_longer_remembered_is_removed() {
    let url = world().await;
    let mut connection = postgres::connect(&url).await;
    postgres::execute(
        &url,
        "UPDATE api_client_requests SET create_time = '2026-01-01T12:00:00Z';
         INSERT INTO api_client_requests
             VALUES (hash(98), id(51), hash(62), '2026-01-01T12:00:00.000001Z')",
    )
    .await;
    let store = store(&url);
    let noon = "2026-01-01T12:00:00Z".parse().unwrap();
    let before = noon - TimeDelta::microseconds(1);
    assert_eq!(store.remove_requests(before).await.unwrap(), 0);
    assert_eq!(left(&mut connection).await, "2 1");
    assert_eq!(store.remove_requests(noon).await.unwrap(), 1);
    assert_eq!(left(&mut connection).await, "1 0");
    // A bounded number at once.
    postgres::execute(
        &url,
        "INSERT INTO api_client_requests
         SELECT sha256(n::text::bytea), id(51), hash(62), '2026-01-01T12:00:00Z'
         FROM generate_series(1000, 11000) AS n",
    )
    .await;
    let now = store.clock().now();
    assert_eq!(store.remove_requests(now).await.unwrap(), 10_000);
    assert_eq!(store.remove_requests(now).await.unwrap(), 2);
    assert_eq!(store.remove_requests(now).await.unwrap(), 0);
}
