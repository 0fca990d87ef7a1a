//! The log is trimmed, by itself and by hand, and says how far.

use diesel_async::AsyncPgConnection;

use super::{Stand, run};
use crate::{
    by_hand::{full_world, text},
    postgres,
};

/// A log of that many revisions, with a change in each, as if they had been made.
async fn filled(revisions: u32) -> (String, AsyncPgConnection) {
    let url = full_world().await;
    let mut connection = postgres::connect(&url).await;
    let fill = format!(
        "BEGIN; DELETE FROM index_revisions; TRUNCATE index_changes; \
         INSERT INTO index_changes SELECT n, id(31) FROM generate_series(1, {revisions}) AS n; \
         UPDATE index_state SET revision = {revisions}, trimmed_revision = 0; \
         DELETE FROM index_revisions; INSERT INTO index_revisions \
             SELECT n, gen_random_uuid() FROM generate_series(0, {revisions}) AS n; \
         UPDATE index_state SET nonce = index_revisions.nonce FROM index_revisions \
             WHERE index_revisions.revision = {revisions}; COMMIT"
    );
    run(&mut connection, &fill).await;
    (url, connection)
}

/// The first revisions that are left of changes and of nonces.
async fn left(connection: &mut AsyncPgConnection) -> String {
    let sql = "SELECT format('%s %s', (SELECT min(revision) FROM index_changes), \
                      (SELECT min(revision) FROM index_revisions)) AS text";
    text(connection, sql).await
}

async fn change(connection: &mut AsyncPgConnection) -> Stand {
    let sql = "UPDATE users SET disabled = NOT disabled WHERE id = id(1)";
    run(connection, sql).await;
    Stand::read(connection).await
}

#[tokio::test]
async fn at_least_the_last_ten_thousand_revisions_are_kept() {
    let (_, mut connection) = filled(10_008).await;
    let stand = change(&mut connection).await;
    assert_eq!((stand.revision, stand.trimmed), (10_009, 0));
    assert_eq!(left(&mut connection).await, "1 0");
    let stand = change(&mut connection).await;
    assert_eq!((stand.revision, stand.trimmed), (10_010, 10));
    // Who knows revision 10 needs the changes after it, and proves with its nonce
    // that it is of this history.
    assert_eq!(left(&mut connection).await, "11 10");
    let stand = change(&mut connection).await;
    assert_eq!((stand.revision, stand.trimmed), (10_011, 10));
    assert_eq!(left(&mut connection).await, "11 10");
    assert!(stand.noted);
}

/// Up to the next trim, and its revision.
async fn change_until_trim(connection: &mut AsyncPgConnection) -> Stand {
    loop {
        let stand = change(connection).await;
        if stand.revision % 10 == 0 {
            return stand;
        }
    }
}

/// However much is due: what a change costs has a bound.
#[tokio::test]
async fn a_trim_removes_ten_thousand_changes_at_most() {
    let (_, mut connection) = filled(10_009).await;
    let touch_many = "INSERT INTO index_changes \
                      SELECT 3, gen_random_uuid() FROM generate_series(1, 25000)";
    run(&mut connection, touch_many).await;
    let of_it = "SELECT count(*)::text AS text FROM index_changes WHERE revision = 3";
    for (revision, trimmed, first, of_it_left) in [
        (10_010, 3, "3 3", "15003"),
        (10_020, 3, "3 3", "5003"),
        (10_030, 30, "31 30", "0"),
    ] {
        let stand = change_until_trim(&mut connection).await;
        assert_eq!((stand.revision, stand.trimmed), (revision, trimmed));
        assert_eq!(left(&mut connection).await, first);
        assert_eq!(text(&mut connection, of_it).await, of_it_left);
    }
}

/// However many revisions are due.
#[tokio::test]
async fn a_trim_catches_up_a_thousand_revisions_at_a_time() {
    let (_, mut connection) = filled(12_499).await;
    for (revision, trimmed, first) in [
        (12_500, 1000, "1001 1000"),
        (12_510, 2000, "2001 2000"),
        (12_520, 2520, "2521 2520"),
        (12_530, 2530, "2531 2530"),
    ] {
        let stand = change_until_trim(&mut connection).await;
        assert_eq!((stand.revision, stand.trimmed), (revision, trimmed));
        assert_eq!(left(&mut connection).await, first);
    }
}

#[tokio::test]
async fn a_short_log_is_not_trimmed() {
    let (_, mut connection) = filled(9999).await;
    let stand = change(&mut connection).await;
    assert_eq!((stand.revision, stand.trimmed), (10_000, 0));
    assert_eq!(left(&mut connection).await, "1 0");
}

#[tokio::test]
async fn what_is_deleted_by_hand_is_noted() {
    let (_, mut connection) = filled(20).await;
    for (sql, revision, trimmed) in [
        ("DELETE FROM index_changes WHERE revision = 0", 20, 0),
        ("DELETE FROM index_changes WHERE revision IN (3, 7)", 20, 7),
        ("DELETE FROM index_changes WHERE revision < 7", 20, 7),
        (
            "DELETE FROM index_changes WHERE client_id = id(31) AND revision = 19",
            20,
            19,
        ),
        ("BEGIN; DELETE FROM index_changes; ROLLBACK", 20, 19),
        ("TRUNCATE index_changes", 21, 21),
    ] {
        run(&mut connection, sql).await;
        let stand = Stand::read(&mut connection).await;
        assert_eq!(
            (stand.revision, stand.trimmed),
            (revision, trimmed),
            "{sql}"
        );
    }
}
