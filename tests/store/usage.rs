//! Flushing uses: several replicas at once, beside everything else that goes on,
//! and clients that end in the middle of it.

use std::{collections::BTreeMap, num::NonZeroU64, ops::Range, sync::Arc};

use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use hitkeep_auth::{
    domain::{
        Timestamp,
        id::{ClientId, ReplicaId},
        usage::{Batch, Count, Day, DayUsage, Outcome, RefusalReason},
    },
    store::{
        Snapshot, Store,
        error::StoreError,
        usage::{CLIENTS_PER_STATEMENT, FLUSH_LOCK, Trimmed},
    },
};
use tokio::sync::Barrier;
use uuid::Uuid;

use crate::{
    database::{store, texts},
    postgres,
};

/// A user with that many clients, `id(1)` and so on.
const CLIENTS: &str = "
    CREATE FUNCTION id(bigint) RETURNS uuid IMMUTABLE LANGUAGE sql
        AS $$ SELECT lpad(to_hex($1), 32, '0')::uuid $$;
    INSERT INTO users VALUES (id(1), 'user');
    INSERT INTO api_clients
        (id, owner_user_id, name, description, instance_role, created_by_user_id,
         create_time, update_time)
        SELECT id(n), id(1), 'client', '', 'user', id(1), now(), now()
        FROM generate_series(1, %) AS n;
";
/// Statements of this database that wait for a lock.
const WAITING: &str = "SELECT count(*)::text AS text FROM pg_stat_activity \
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
const REVOKED: Outcome = Outcome::Refused(RefusalReason::Revoked);

async fn database(clients: usize) -> String {
    let url = postgres::migrated_database().await;
    postgres::execute(&url, &CLIENTS.replace('%', &clients.to_string())).await;
    url
}

fn client(number: usize) -> ClientId {
    ClientId::from_uuid(Uuid::from_u128(number as u128))
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn noon() -> Timestamp {
    at("2026-03-01T12:00:00Z")
}

fn add(batch: &mut Batch, number: usize, day: Day, outcome: Outcome, count: u64) {
    let count = NonZeroU64::new(count).unwrap();
    let count = Count {
        day,
        outcome,
        count,
    };
    batch.add(client(number), count);
}

/// Each of the clients used that often, at noon.
fn used(numbers: impl IntoIterator<Item = usize>, count: u64) -> Batch {
    let mut batch = Batch::default();
    for number in numbers {
        add(&mut batch, number, Day::of(noon()), Outcome::Used, count);
        batch.used_at(client(number), noon());
    }
    batch
}

async fn flush(store: &Store, mut batch: Batch) {
    store.flush_usage(&mut batch).await.expect("it is written");
    assert!(batch.is_empty(), "{batch:?}");
}

/// How often a client was used at all, and when last.
async fn known(store: &Store, number: usize) -> (u64, Option<Timestamp>) {
    let client = client(number);
    let days = Day::of(noon()).before(9)..Day::of(at("2026-03-10T12:00:00Z"));
    let body = async |snapshot: &mut Snapshot| {
        let days = snapshot.usage_days(client, days.clone()).await?;
        // Without a token, `find_client` finds none.
        Ok::<_, StoreError>((days, snapshot.find_client(client).await?))
    };
    let (days, found) = store.read(body).await.unwrap();
    let uses = days.iter().map(|day| day.uses).sum();
    (uses, found.and_then(|client| client.last_used))
}

async fn give_tokens(url: &str) {
    let tokens = "INSERT INTO api_client_tokens (hash, client_id, hint, create_time) \
                  SELECT sha256(id::text::bytea), id, 'hkp_...xxxx', now() FROM api_clients";
    postgres::execute(url, tokens).await;
}

async fn one(url: &str, sql: &str) -> String {
    let mut connection = postgres::connect(url).await;
    texts(&mut connection, sql).await.remove(0)
}

async fn until_waiting(url: &str, statements: &str) {
    let mut connection = postgres::connect(url).await;
    while texts(&mut connection, WAITING).await != [statements] {
        tokio::task::yield_now().await;
    }
}

/// Another open transaction.
async fn begun(url: &str, sql: &str) -> AsyncPgConnection {
    let mut connection = postgres::connect(url).await;
    let sql = format!("BEGIN; {sql}");
    connection.batch_execute(&sql).await.unwrap();
    connection
}

async fn end(mut connection: AsyncPgConnection, sql: &str) {
    connection.batch_execute(sql).await.unwrap();
}

#[tokio::test]
async fn replicas_add_up_and_the_last_use_never_goes_back() {
    let url = database(3).await;
    give_tokens(&url).await;
    let (one, other) = (store(&url), store(&url));
    let revision = async |snapshot: &mut Snapshot| Ok::<_, StoreError>(snapshot.revision);
    let before = one.read(revision).await.unwrap();
    let (early, late) = (at("2026-03-01T10:00:00Z"), at("2026-03-02T10:00:00Z"));
    // The one that noted earlier writes later.
    for (store, time, count) in [(&other, late, 3), (&one, early, 2), (&other, early, 1)] {
        let mut batch = Batch::default();
        add(&mut batch, 1, Day::of(time), Outcome::Used, count);
        batch.used_at(client(1), time);
        add(&mut batch, 2, Day::of(time), REVOKED, count);
        flush(store, batch).await;
    }
    assert_eq!(known(&one, 1).await, (6, Some(late)));
    assert_eq!(known(&one, 2).await, (0, None), "it was never good");
    assert_eq!(known(&one, 3).await, (0, None));

    // A refusal leaves a known last use alone.
    let mut batch = Batch::default();
    add(&mut batch, 1, Day::of(late), REVOKED, 1);
    flush(&one, batch).await;
    assert_eq!(known(&one, 1).await, (6, Some(late)));

    let days = async |number, days: Range<Day>| {
        let body =
            async |snapshot: &mut Snapshot| snapshot.usage_days(client(number), days.clone()).await;
        one.read(body).await.unwrap()
    };
    let (first, second) = (Day::of(early), Day::of(late));
    let expected = |day, uses, refusals: &[(RefusalReason, u64)]| DayUsage {
        legacy_tokens: 0,
        day,
        uses,
        refusals: refusals.iter().copied().collect::<BTreeMap<_, _>>(),
    };
    assert_eq!(days(1, first..second).await, [expected(first, 3, &[])]);
    let all = first.before(1)..Day::of(at("2026-03-03T10:00:00Z"));
    let refused = [(RefusalReason::Revoked, 1)];
    assert_eq!(
        days(1, all.clone()).await,
        [expected(first, 3, &[]), expected(second, 3, &refused)]
    );
    let refused = [(RefusalReason::Revoked, 3)];
    let expected = [expected(first, 0, &refused), expected(second, 0, &refused)];
    assert_eq!(days(2, all).await, expected);
    let after = one.read(revision).await.unwrap();
    assert_eq!(after, before, "no use makes a revision");
}

#[tokio::test]
async fn a_client_that_is_gone_is_forgotten_and_takes_nobody_along() {
    let url = database(4).await;
    let store = store(&url);
    flush(&store, used([1, 2], 1)).await;
    postgres::execute(&url, "DELETE FROM api_clients WHERE id IN (id(2), id(3))").await;
    flush(&store, used([1, 2, 3, 4, 99], 1)).await;
    let written = "SELECT string_agg(format('%s:%s', right(client_id::text, 1), count), ' ' \
                   ORDER BY client_id) AS text FROM api_client_usage_days";
    assert_eq!(one(&url, written).await, "1:2 4:1");
}

/// No flush waits for a deletion, which may be one of many clients under the write
/// lock, and what it may yet leave alive is kept.
#[tokio::test]
async fn a_client_that_is_being_deleted_is_left_for_the_next_time() {
    for (end_with, expected) in [("COMMIT", (1, 0)), ("ROLLBACK", (3, 2))] {
        let url = database(4).await;
        let store = store(&url);
        // One with a row already, and one without.
        flush(&store, used([1, 2], 1)).await;
        let gone = "DELETE FROM api_clients WHERE id IN (id(2), id(3))";
        let deletion = begun(&url, gone).await;
        let mut batch = used([1, 2, 3, 4], 2);
        store.flush_usage(&mut batch).await.expect("nothing fails");
        let left: Vec<_> = batch.after(None).map(|(client, _)| *client).collect();
        assert_eq!(left, [client(2), client(3)]);
        end(deletion, end_with).await;
        flush(&store, batch).await;
        for number in [1, 4] {
            let uses = if number == 1 { 3 } else { 2 };
            assert_eq!(known(&store, number).await.0, uses, "{end_with}");
        }
        let (second, third) = expected;
        let second = if end_with == "COMMIT" { 0 } else { second };
        assert_eq!(known(&store, 2).await.0, second, "{end_with}");
        assert_eq!(known(&store, 3).await.0, third, "{end_with}");
    }
}

/// The client was still there when the statement began, and is gone when it gets
/// to it.
#[tokio::test]
async fn a_client_that_goes_while_a_flush_waits_for_its_turn_does_no_harm() {
    let url = database(4).await;
    let store = store(&url);
    flush(&store, used([1, 2], 1)).await;
    let turn = begun(&url, &format!("SELECT pg_advisory_xact_lock({FLUSH_LOCK})")).await;
    let waiting = tokio::spawn({
        let store = store.clone();
        let mut batch = used([1, 2, 3, 4], 2);
        async move {
            store.flush_usage(&mut batch).await.expect("nothing fails");
            batch
        }
    });
    until_waiting(&url, "1").await;
    let gone = "DELETE FROM api_clients WHERE id IN (id(2), id(3))";
    postgres::execute(&url, gone).await;
    // Another replica was quicker with a client that had no row yet.
    let quicker = "INSERT INTO api_client_usage VALUES (id(4), NULL); \
                   INSERT INTO api_client_usage_days VALUES (id(4), '2026-03-01', 'USED', 5)";
    postgres::execute(&url, quicker).await;
    end(turn, "COMMIT").await;
    flush(&store, waiting.await.unwrap()).await;
    assert_eq!(known(&store, 1).await.0, 3);
    assert_eq!(known(&store, 4).await.0, 7);
    let rows = "SELECT count(*)::text AS text FROM api_client_usage";
    assert_eq!(one(&url, rows).await, "2");
}

/// The other way round: a deletion waits for the flush, and neither for the other.
#[tokio::test]
async fn a_deletion_waits_for_a_flush_that_is_under_way() {
    let url = database(3).await;
    let store = store(&url);
    flush(&store, used([1, 2], 1)).await;
    // Holds the flush up in its middle, when it has the rows of all of them.
    let day = "SELECT FROM api_client_usage_days WHERE client_id = id(1) FOR UPDATE";
    let blocker = begun(&url, day).await;
    let flushing = tokio::spawn({
        let store = store.clone();
        async move { flush(&store, used([1, 2, 3], 1)).await }
    });
    until_waiting(&url, "1").await;
    let deleting = tokio::spawn({
        let url = url.clone();
        async move { postgres::execute(&url, "DELETE FROM api_clients").await }
    });
    until_waiting(&url, "2").await;
    end(blocker, "COMMIT").await;
    flushing.await.expect("it is written");
    deleting.await.expect("they are deleted");
    let rows = "SELECT count(*)::text AS text FROM api_client_usage";
    assert_eq!(one(&url, rows).await, "0");
}

/// Neither the write lock nor a client that is being changed.
#[tokio::test]
async fn a_flush_waits_for_nobody_who_writes() {
    let url = database(2).await;
    let store = store(&url);
    flush(&store, used([1], 1)).await;
    let writer = "SELECT FROM index_state FOR UPDATE; \
                  UPDATE api_clients SET name = 'renamed', owner_user_id = id(1); \
                  UPDATE users SET disabled = true";
    let writer = begun(&url, writer).await;
    flush(&store, used([1, 2], 1)).await;
    end(writer, "ROLLBACK").await;
    assert_eq!(known(&store, 1).await.0, 2);
    assert_eq!(known(&store, 2).await.0, 1);
}

/// More than two statements' worth, the second of which fails at first.
#[tokio::test]
async fn a_large_batch_is_written_in_parts_and_each_once() {
    const MANY: usize = 2 * CLIENTS_PER_STATEMENT + 500;

    let url = database(MANY).await;
    let store = store(&url);
    let broken = CLIENTS_PER_STATEMENT + 1;
    let refuse = "
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql
            AS $$ BEGIN RAISE EXCEPTION 'refused'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON api_client_usage_days
            FOR EACH ROW WHEN (NEW.client_id = id(%)) EXECUTE FUNCTION refuse();";
    postgres::execute(&url, &refuse.replace('%', &broken.to_string())).await;
    let mut batch = used(1..=MANY, 2);
    for number in 1..=MANY {
        add(&mut batch, number, Day::of(noon()), REVOKED, 1);
        let yesterday = Day::of(noon()).before(1);
        add(&mut batch, number, yesterday, Outcome::Used, 3);
    }
    let failed = store.flush_usage(&mut batch).await;
    assert!(matches!(failed, Err(StoreError::Defect(_))), "{failed:?}");
    assert_eq!(batch.len(), MANY - CLIENTS_PER_STATEMENT);
    let sums = "SELECT format('%s %s %s', count(*), count(DISTINCT client_id), sum(count)) \
                AS text FROM api_client_usage_days";
    let expected = |clients: usize| format!("{} {clients} {}", 3 * clients, 6 * clients);
    assert_eq!(one(&url, sums).await, expected(CLIENTS_PER_STATEMENT));

    postgres::execute(&url, "DROP TRIGGER refuse ON api_client_usage_days").await;
    flush(&store, batch).await;
    assert_eq!(one(&url, sums).await, expected(MANY));
    let last = "SELECT count(*)::text AS text FROM api_client_usage \
                WHERE last_used_time = '2026-03-01T12:00:00Z'";
    assert_eq!(one(&url, last).await, MANY.to_string());
}

/// Replicas flush overlapping batches while clients are deleted, many at a time
/// and in another order: no flush fails, and nothing is lost or counted twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn replicas_and_deletions_never_stand_in_each_others_way() {
    const REPLICAS: usize = 3;
    const FLUSHES: usize = 30;
    const MANY: usize = 240;
    /// Those below stay.
    const STAYING: usize = 120;

    let url = database(MANY).await;
    let start = Arc::new(Barrier::new(REPLICAS + 1));
    let replica = |number: usize| {
        let (store, start) = (store(&url), Arc::clone(&start));
        tokio::spawn(async move {
            start.wait().await;
            let mut batch = Batch::default();
            for round in 0..FLUSHES {
                let day = Day::of(noon()).before(u32::try_from(round % 3).unwrap());
                for number in
                    (1..=MANY).filter(|client| !(client + round + number).is_multiple_of(3))
                {
                    add(&mut batch, number, day, Outcome::Used, 1);
                    batch.used_at(client(number), noon());
                }
                store
                    .flush_usage(&mut batch)
                    .await
                    .expect("nobody collides");
            }
            // What another session was deleting, and has deleted by now.
            while !batch.is_empty() {
                store
                    .flush_usage(&mut batch)
                    .await
                    .expect("nobody collides");
            }
        })
    };
    let replicas: Vec<_> = (0..REPLICAS).map(replica).collect();
    let deleting = tokio::spawn({
        let (url, start) = (url.clone(), Arc::clone(&start));
        async move {
            let mut connection = postgres::connect(&url).await;
            start.wait().await;
            for end in (STAYING..MANY).step_by(20).rev() {
                // From the last to the first, each in a statement of its own.
                let numbers = (end + 1..=end + 20).rev();
                let delete = numbers
                    .map(|number| format!("DELETE FROM api_clients WHERE id = id({number});"));
                let delete = format!("BEGIN; {} COMMIT", delete.collect::<String>());
                connection
                    .batch_execute(&delete)
                    .await
                    .expect("nobody collides");
            }
        }
    });
    for replica in replicas {
        replica.await.expect("it writes everything");
    }
    deleting.await.expect("it deletes everything");
    // Two of three rounds note a client, whichever way they are shifted.
    let expected = format!("{STAYING} {}", STAYING * REPLICAS * FLUSHES * 2 / 3);
    let sums = "SELECT format('%s %s', count(DISTINCT client_id), sum(count)) AS text \
                FROM api_client_usage_days";
    assert_eq!(one(&url, sums).await, expected);
    let deadlocks = "SELECT deadlocks::text AS text FROM pg_stat_database \
                     WHERE datname = current_database()";
    assert_eq!(one(&url, deadlocks).await, "0");
}

#[tokio::test]
async fn days_of_long_ago_are_removed_some_at_a_time() {
    let url = database(2000).await;
    let store = store(&url);
    flush(&store, used(1..=2000, 1)).await;
    let old = "INSERT INTO api_client_usage_days \
               SELECT client_id, date '2026-03-01' - extra, 'USED', 1 \
               FROM api_client_usage, generate_series(1, 6) AS extra";
    postgres::execute(&url, old).await;
    // A client is ended: its days are left to that.
    let deletion = begun(&url, "DELETE FROM api_clients WHERE id = id(7)").await;
    let today = Day::of(noon());
    assert_eq!(store.trim_usage(today).await.unwrap(), Trimmed::Some);
    assert_eq!(store.trim_usage(today).await.unwrap(), Trimmed::All);
    assert_eq!(store.trim_usage(today).await.unwrap(), Trimmed::All);
    end(deletion, "ROLLBACK").await;
    let left = "SELECT format('%s %s', count(*) FILTER (WHERE day = '2026-03-01'), \
                count(*) FILTER (WHERE day < '2026-03-01')) AS text FROM api_client_usage_days";
    assert_eq!(one(&url, left).await, "2000 6");
    assert_eq!(store.trim_usage(today).await.unwrap(), Trimmed::All);
    assert_eq!(one(&url, left).await, "2000 0");
}

/// A word that the table's constraint lacks would stop the uses of all clients beside it.
#[tokio::test]
async fn every_outcome_can_be_stored() {
    let url = database(1).await;
    let mut batch = Batch::default();
    for outcome in Outcome::ALL {
        add(&mut batch, 1, Day::of(noon()), outcome, 1);
    }
    flush(&store(&url), batch).await;
    let stored = "SELECT count(*)::text AS text FROM api_client_usage_days";
    assert_eq!(one(&url, stored).await, Outcome::ALL.len().to_string());
}

/// One count that is full would otherwise stop the uses of all clients beside it.
#[tokio::test]
async fn a_count_that_is_full_stays_full() {
    let url = database(2).await;
    let store = store(&url);
    let most = u64::try_from(i64::MAX).unwrap();
    flush(&store, used([1], most - 2)).await;
    for (count, expected) in [(2, most), (1, most), (u64::MAX, most)] {
        flush(&store, used([1, 2], count)).await;
        assert_eq!(known(&store, 1).await.0, expected, "{count}");
    }
    assert_eq!(known(&store, 2).await.0, most);
    let replica = ReplicaId::from_uuid(Uuid::from_u128(9));
    let batch = used([1, 2], most);
    let rest = store.report_usage(replica, 1, &batch).await.unwrap();
    assert!(rest.is_empty());
    assert_eq!(known(&store, 1).await.0, most);
}

/// What a replica reports is stored once, and what cannot be stored at the moment is given
/// back: it is not reported again.
#[tokio::test]
async fn a_report_is_stored_once_and_waits_for_no_deletion() {
    let url = database(3).await;
    let store = store(&url);
    let replica = ReplicaId::from_uuid(Uuid::from_u128(9));
    let mut deleting = postgres::connect(&url).await;
    deleting
        .batch_execute("BEGIN; DELETE FROM api_clients WHERE id = id(2)")
        .await
        .unwrap();
    let batch = used(1..=3, 5);
    let rest = store.report_usage(replica, 1, &batch).await.unwrap();
    assert_eq!(rest, used([2], 5));
    deleting.batch_execute("ROLLBACK").await.unwrap();
    // Again, which is too late for the one that was left out.
    let rest = store.report_usage(replica, 1, &batch).await.unwrap();
    assert!(rest.is_empty());
    let mut connection = postgres::connect(&url).await;
    let counts = "SELECT format('%s %s', client_id, count) AS text FROM api_client_usage_days \
                  ORDER BY client_id";
    let expected = [1, 3].map(|number| format!("{} 5", client(number)));
    assert_eq!(texts(&mut connection, counts).await, expected);
    // A replica that was forgotten is a new one.
    let long_ago = at("2000-01-01T00:00:00Z");
    store.forget_replicas(long_ago).await.unwrap();
    let rest = store.report_usage(replica, 1, &used([1], 1)).await.unwrap();
    assert!(rest.is_empty());
    assert_eq!(texts(&mut connection, counts).await, expected);
    store
        .forget_replicas(at("2100-01-01T00:00:00Z"))
        .await
        .unwrap();
    store.report_usage(replica, 1, &used([1], 1)).await.unwrap();
    assert_eq!(
        texts(&mut connection, counts).await[0],
        format!("{} 6", client(1))
    );
}
