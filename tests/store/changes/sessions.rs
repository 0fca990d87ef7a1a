//! Two at once: a session that looks for the clients that a change touches does so under
//! the write lock, so that one that is just being made is not missed by both.

use diesel_async::AsyncPgConnection;

use super::{Stand, logged_after, run};
use crate::{by_hand::full_world, database::texts, postgres};

/// Statements of this database that wait for a lock.
const WAITING: &str = "SELECT count(*)::text AS text FROM pg_stat_activity \
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";

/// What one has done and not committed, what another does meanwhile, and which
/// clients that touches once it is its turn.
const CASES: &[(&str, &str, &[u32])] = &[
    (
        "INSERT INTO api_clients SELECT id(39), owner_user_id, owner_team_id, name, description, \
         instance_role, NULL, NULL, created_by_user_id, now(), now() FROM api_clients \
         WHERE id = id(36)",
        "UPDATE users SET disabled = true WHERE id = id(3)",
        &[36, 39],
    ),
    (
        "INSERT INTO api_clients SELECT id(39), owner_user_id, owner_team_id, name, description, \
         instance_role, NULL, NULL, created_by_user_id, now(), now() FROM api_clients \
         WHERE id = id(32)",
        "UPDATE teams SET archived = true WHERE id = id(11)",
        &[31, 32, 33, 36, 37, 39],
    ),
    (
        "INSERT INTO api_client_grants VALUES (id(34), id(22), 'viewer')",
        "UPDATE teams SET archived = true WHERE id = id(11)",
        &[31, 32, 33, 34, 36, 37],
    ),
    (
        "INSERT INTO api_client_grants VALUES (id(34), id(22), 'viewer')",
        "UPDATE sites SET team_id = id(13) WHERE id = id(22)",
        &[34, 36],
    ),
    (
        "INSERT INTO api_client_grants VALUES (id(34), id(22), 'viewer')",
        "UPDATE team_members SET role = 'owner' WHERE user_id = id(2)",
        &[33, 34],
    ),
    (
        "INSERT INTO api_client_grants VALUES (id(34), id(21), 'viewer')",
        "UPDATE site_members SET role = 'owner' WHERE user_id = id(2)",
        &[33, 34],
    ),
    // The other way round: what is gone meanwhile is not named again.
    (
        "DELETE FROM api_client_grants WHERE client_id = id(33)",
        "UPDATE site_members SET role = 'owner' WHERE user_id = id(2)",
        &[],
    ),
    // And a client whose owner changes hands.
    (
        "UPDATE api_clients SET owner_user_id = id(3) WHERE id = id(34)",
        "UPDATE users SET disabled = true WHERE id = id(3)",
        &[34, 36],
    ),
];

async fn until_waiting(connection: &mut AsyncPgConnection) {
    while texts(connection, WAITING).await != ["1"] {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_client_that_is_just_being_made_is_not_missed() {
    let url = full_world().await;
    let mut watching = postgres::connect(&url).await;
    for (first, second, expected) in CASES {
        let mut one = postgres::connect(&url).await;
        let mut other = postgres::connect(&url).await;
        let before = Stand::read(&mut watching).await.revision;
        run(&mut one, &format!("BEGIN; {first}")).await;
        let waiting = tokio::spawn(async move {
            run(&mut other, &format!("BEGIN; {second}")).await;
            other
        });
        until_waiting(&mut watching).await;
        run(&mut one, "COMMIT").await;
        let mut other = waiting.await.unwrap();
        let logged = logged_after(&mut other, before + 1).await;
        let expected = expected
            .iter()
            .map(|client| format!("{}:{client}", before + 2));
        assert_eq!(logged, expected.collect::<Vec<_>>(), "{first}; {second}");
        // For the next one everything is as it was, but for what the first has done.
        run(&mut other, "ROLLBACK").await;
        let undo = "BEGIN; DELETE FROM api_clients WHERE id = id(39); \
                    UPDATE api_clients SET owner_user_id = id(2) WHERE id = id(34); \
                    DELETE FROM api_client_grants WHERE client_id IN (id(33), id(34)); \
                    INSERT INTO api_client_grants VALUES \
                        (id(33), id(21), 'editor'), (id(33), id(23), 'owner'); COMMIT";
        run(&mut other, undo).await;
    }
}

/// One that cannot see what the other has committed must not go by what it sees.
#[tokio::test]
async fn an_older_snapshot_is_refused() {
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let url = full_world().await;
        let mut watching = postgres::connect(&url).await;
        let mut one = postgres::connect(&url).await;
        let mut other = postgres::connect(&url).await;
        let (first, second, _) = CASES[0];
        run(&mut one, &format!("BEGIN; {first}")).await;
        let refused = tokio::spawn(async move {
            use diesel_async::SimpleAsyncConnection;

            let sql = format!("BEGIN ISOLATION LEVEL {level}; {second}; COMMIT");
            other
                .batch_execute(&sql)
                .await
                .map_err(|error| error.to_string())
        });
        until_waiting(&mut watching).await;
        run(&mut one, "COMMIT").await;
        let refused = refused.await.unwrap().unwrap_err();
        assert!(
            refused.contains("could not serialize"),
            "{level}: {refused}"
        );
    }
}
