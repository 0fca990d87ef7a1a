//! Foreign keys: each has an index, and those of the owners refuse what would
//! bypass the audit trail.

use crate::{
    constraints::violated,
    database::{texts, world},
    postgres,
};

/// Without an index, deleting what a key points to scans the whole table, under
/// the write lock. An index of the rows where the column is set serves as well:
/// no other row is ever looked for.
#[tokio::test]
async fn every_foreign_key_has_an_index_that_begins_with_its_columns() {
    let url = postgres::migrated_database().await;
    let mut connection = postgres::connect(&url).await;
    let keys = "SELECT conname::text AS text FROM pg_constraint \
                WHERE contype = 'f' AND connamespace = 'public'::regnamespace";
    assert!(texts(&mut connection, keys).await.len() >= 9);
    let without = "
        SELECT foreign_key.conname::text AS text
        FROM pg_constraint AS foreign_key
        WHERE contype = 'f' AND connamespace = 'public'::regnamespace AND NOT EXISTS (
            SELECT FROM pg_index
            WHERE indrelid = foreign_key.conrelid AND indisvalid
              AND (string_to_array(indkey::text, ' ')::smallint[])[1:cardinality(conkey)] @> conkey
              AND (indpred IS NULL OR pg_get_expr(indpred, indrelid) IN (
                  SELECT format('(%I IS NOT NULL)', attname) FROM pg_attribute
                  WHERE attrelid = conrelid AND attnum = ANY(conkey))))";
    assert_eq!(
        texts(&mut connection, without).await,
        Vec::<String>::new(),
        "foreign keys without an index"
    );
}

#[tokio::test]
async fn an_owner_of_clients_cannot_be_deleted_by_hand() {
    let url = world().await;
    let mut connection = postgres::connect(&url).await;
    for (delete, foreign_key) in [
        (
            "DELETE FROM users WHERE id = id(1)",
            "api_clients_owner_user_id_fkey",
        ),
        (
            "DELETE FROM teams WHERE id = id(11)",
            "api_clients_owner_team_id_fkey",
        ),
        ("DELETE FROM users", "api_clients_owner_user_id_fkey"),
        ("DELETE FROM teams", "api_clients_owner_team_id_fkey"),
    ] {
        let refused = violated(&mut connection, delete).await;
        assert_eq!(refused.as_deref(), Some(foreign_key), "{delete}");
    }
    // A revoked client is still a client.
    postgres::execute(&url, "UPDATE api_clients SET revoke_time = now()").await;
    let refused = violated(&mut connection, "DELETE FROM users WHERE id = id(1)").await;
    assert_eq!(refused.as_deref(), Some("api_clients_owner_user_id_fkey"));
    // Those without clients go, and so do those whose clients went.
    postgres::execute(&url, "DELETE FROM users WHERE id = id(2)").await;
    postgres::execute(&url, "DELETE FROM teams WHERE id = id(12)").await;
    postgres::execute(&url, "DELETE FROM api_clients").await;
    postgres::execute(&url, "DELETE FROM users; DELETE FROM teams").await;
    let left = "SELECT count(*)::text AS text FROM \
                (SELECT FROM sites UNION ALL SELECT FROM team_members \
                 UNION ALL SELECT FROM site_members UNION ALL SELECT FROM api_client_grants \
                 UNION ALL SELECT FROM api_client_tokens) AS rest";
    assert_eq!(texts(&mut connection, left).await, ["0"]);
}

/// Nothing can point to a site in another row than the site's own.
#[tokio::test]
async fn a_site_takes_its_members_and_grants_along_and_nothing_else() {
    let url = world().await;
    postgres::execute(&url, "DELETE FROM sites WHERE id = id(21)").await;
    let mut connection = postgres::connect(&url).await;
    let left = "SELECT format('%s %s %s', (SELECT count(*) FROM site_members), \
                (SELECT count(*) FROM api_client_grants), (SELECT count(*) FROM api_clients)) \
                AS text";
    assert_eq!(texts(&mut connection, left).await, ["0 0 2"]);
}
