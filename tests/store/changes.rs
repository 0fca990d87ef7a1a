//! The change log: whatever is changed, and by whichever session, the log names every
//! API client whose answer that can alter, at the revision from which on it does.

use std::collections::BTreeSet;

use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use uuid::Uuid;

mod cases;
mod sessions;
mod trim;

use crate::{
    by_hand::{accepts, answers, any_statement, full_world, hashes, seed, text},
    database::{store, texts},
    dice::Dice,
    postgres,
};
use cases::{CASES, Logged};

/// Set it to the seed that a failure printed, to see the same statements again.
const SEED: Option<u64> = None;
/// How many worlds the random test changes, and how often each: much that happens to
/// a world cannot happen to it any more.
const WORLDS: usize = 8;
const STATEMENTS: usize = 40;

/// Where the log stands.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stand {
    revision: i64,
    trimmed: i64,
    nonce: String,
    accounts: String,
    /// Whether the newest revision is noted with its nonce.
    noted: bool,
}

impl Stand {
    async fn read(connection: &mut AsyncPgConnection) -> Self {
        let sql = "SELECT format('%s %s %s %s %s', revision, trimmed_revision, nonce, \
                          accounts_nonce, EXISTS (SELECT FROM index_revisions AS noted \
                          WHERE (noted.revision, noted.nonce) = (state.revision, state.nonce))) \
                   AS text FROM index_state AS state";
        let text = text(connection, sql).await;
        let parts: Vec<_> = text.split(' ').collect();
        Self {
            revision: parts[0].parse().unwrap(),
            trimmed: parts[1].parse().unwrap(),
            nonce: parts[2].to_owned(),
            accounts: parts[3].to_owned(),
            noted: parts[4] == "t",
        }
    }
}

/// The clients that are logged after a revision, each as `revision:number`.
async fn logged_after(connection: &mut AsyncPgConnection, revision: i64) -> Vec<String> {
    let sql = format!(
        "SELECT format('%s:%s', revision, ltrim(replace(client_id::text, '-', ''), '0')) AS text \
         FROM index_changes WHERE revision > {revision} ORDER BY revision, client_id"
    );
    texts(connection, &sql).await
}

/// The same, as ids.
async fn clients_after(connection: &mut AsyncPgConnection, revision: i64) -> BTreeSet<Uuid> {
    let sql =
        format!("SELECT client_id::text AS text FROM index_changes WHERE revision > {revision}");
    let logged = texts(connection, &sql).await;
    logged.iter().map(|id| id.parse().unwrap()).collect()
}

async fn run(connection: &mut AsyncPgConnection, sql: &str) {
    let done = connection.batch_execute(sql).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

#[tokio::test]
async fn each_change_names_the_clients_that_it_touches_and_no_others() {
    let url = full_world().await;
    let mut connection = postgres::connect(&url).await;
    for (sql, expected) in CASES {
        let before = Stand::read(&mut connection).await;
        run(&mut connection, &format!("BEGIN; {sql}")).await;
        let after = Stand::read(&mut connection).await;
        let logged = logged_after(&mut connection, before.revision).await;
        run(&mut connection, "ROLLBACK").await;
        let next = before.revision + 1;
        match expected {
            Logged::Nothing => {
                assert_eq!(after, before, "{sql}");
                assert!(logged.is_empty(), "{sql}: {logged:?}");
            }
            Logged::Clients(clients) => {
                let clients = clients.iter().map(|client| format!("{next}:{client}"));
                assert_eq!(logged, clients.collect::<Vec<_>>(), "{sql}");
                assert_eq!(after.trimmed, before.trimmed, "{sql}");
            }
            // Of nothing that was known is it known what it has become.
            Logged::Everything => assert_eq!(after.trimmed, next, "{sql}"),
        }
        if !matches!(expected, Logged::Nothing) {
            assert_eq!(after.revision, next, "{sql}");
            assert_ne!(after.nonce, before.nonce, "{sql}");
            assert!(after.noted, "{sql}");
            assert_eq!(after.accounts, before.accounts, "{sql}");
        }
        // What is rolled back was never there.
        assert_eq!(Stand::read(&mut connection).await, before, "{sql}");
    }
}

/// Every table that a verdict is read from, with each kind of statement: a table
/// that is added later needs its triggers too.
#[tokio::test]
async fn every_table_has_a_trigger_for_every_kind_of_statement() {
    let url = postgres::migrated_database().await;
    let mut connection = postgres::connect(&url).await;
    // Those that no verdict is read from.
    let without = "SELECT format('%s %s', relname, kind.name) AS text \
        FROM pg_class, (VALUES ('INSERT', 4), ('DELETE', 8), ('UPDATE', 16), ('TRUNCATE', 32)) \
            AS kind (name, bit) \
        WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace \
          AND relname NOT IN ('audit_events', 'api_client_usage', 'api_client_usage_days', \
              'api_client_requests', 'api_client_replies', 'api_client_imports', 'import_state', \
              'replica_usage', 'event_outbox', 'event_delivery', 'event_notices', 'event_numbers', \
              'directory_state', 'directory_order', \
              'index_state', 'index_revisions', 'index_changes', \
              '__diesel_schema_migrations') \
          AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = pg_class.oid \
              AND tgtype & kind.bit <> 0 AND tgname LIKE 'index_%' AND tgenabled = 'A')";
    let without = texts(&mut connection, without).await;
    assert_eq!(without, Vec::<String>::new(), "no trigger");
    // The worker that applies what a subscription brings fires none for a statement, but
    // for TRUNCATE.
    let without = "SELECT DISTINCT tgrelid::regclass::text AS text FROM pg_trigger AS always \
        WHERE tgname LIKE 'index_%' AND tgenabled = 'A' \
          AND tgrelid <> 'index_changes'::regclass \
          AND NOT EXISTS (SELECT FROM pg_trigger AS of_row WHERE of_row.tgrelid = always.tgrelid \
              AND of_row.tgtype & 29 = 29 AND of_row.tgenabled = 'R')";
    let without = texts(&mut connection, without).await;
    assert_eq!(without, Vec::<String>::new(), "no trigger for a row");
}

#[tokio::test]
async fn callers_have_a_nonce_of_their_own() {
    let url = full_world().await;
    let mut connection = postgres::connect(&url).await;
    for sql in [
        "INSERT INTO service_accounts SELECT id(53), 'new', permissions, hash(53), '', now(), NULL \
         FROM service_accounts WHERE id = id(51)",
        "UPDATE service_accounts SET revoke_time = now() WHERE id = id(51)",
        "UPDATE service_accounts SET permissions = '{audit}'",
        "DELETE FROM service_accounts WHERE id = id(52)",
        "INSERT INTO service_account_certificates VALUES ('dns:new.example', id(53))",
        "UPDATE service_account_certificates SET service_account_id = id(51)",
        "DELETE FROM service_account_certificates",
        "TRUNCATE service_account_certificates",
        "TRUNCATE service_accounts CASCADE",
    ] {
        let before = Stand::read(&mut connection).await;
        run(&mut connection, sql).await;
        let after = Stand::read(&mut connection).await;
        assert_ne!(after.accounts, before.accounts, "{sql}");
        // No revision: no answer about a token depends on them.
        let expected = Stand {
            accounts: after.accounts.clone(),
            ..before
        };
        assert_eq!(after, expected, "{sql}");
    }
}

#[tokio::test]
async fn each_transaction_is_one_revision() {
    let url = full_world().await;
    let mut connection = postgres::connect(&url).await;
    let before = Stand::read(&mut connection).await.revision;
    // One after the other on one connection, which knows the stamps of earlier ones.
    for sql in [
        "UPDATE users SET disabled = true WHERE id = id(3)",
        "BEGIN; UPDATE users SET disabled = true; ROLLBACK",
        "UPDATE api_clients SET name = 'new' WHERE id = id(35)",
        "BEGIN; UPDATE api_clients SET name = 'newer' WHERE id = id(35); \
         UPDATE teams SET archived = true WHERE id = id(12); \
         DELETE FROM api_client_tokens WHERE client_id = id(31); COMMIT",
        "UPDATE users SET disabled = false WHERE id = id(3)",
    ] {
        run(&mut connection, sql).await;
    }
    let logged = logged_after(&mut connection, before).await;
    let expected = [
        (1, 36),
        (2, 35),
        (3, 31),
        (3, 33),
        (3, 35),
        (3, 37),
        (4, 36),
    ];
    let expected = expected.map(|(ahead, client)| format!("{}:{client}", before + ahead));
    assert_eq!(logged, expected);
    let after = Stand::read(&mut connection).await;
    assert_eq!(after.revision, before + 4);
    let nonces =
        "SELECT count(DISTINCT nonce)::text || ' ' || count(*) AS text FROM index_revisions";
    let all = after.revision + 1;
    assert_eq!(text(&mut connection, nonces).await, format!("{all} {all}"));
}

/// The oracle: a client whose answer has become another one is in the log of that
/// revision. That log may name more.
#[tokio::test]
async fn no_answer_changes_without_its_client_in_the_log() {
    let seed = seed(SEED);
    println!("SEED = {seed}");
    let mut dice = Dice::new(seed);
    let (mut accepted, mut altered) = (0, 0);
    for _ in 0..WORLDS {
        let url = full_world().await;
        let mut connection = postgres::connect(&url).await;
        let store = store(&url);
        let hashes = hashes(&mut connection).await;
        let mut before = answers(&store, &hashes).await;
        let mut revision = Stand::read(&mut connection).await.revision;
        for _ in 0..STATEMENTS {
            let sql = any_statement(&mut dice);
            accepted += usize::from(accepts(&mut connection, &sql).await);
            let stand = Stand::read(&mut connection).await;
            assert!(stand.revision <= revision + 1, "one for each: {sql}");
            let logged = clients_after(&mut connection, revision).await;
            let after = answers(&store, &hashes).await;
            for hash in &hashes {
                let (old, new) = (before.get(hash), after.get(hash));
                if old == new {
                    continue;
                }
                altered += 1;
                // Where a token went from one to another, that is both.
                for (client, _) in old.into_iter().chain(new) {
                    assert!(
                        logged.contains(&client.uuid()),
                        "{sql}\nturned {old:?}\ninto {new:?},\nand {client} is not logged"
                    );
                }
            }
            (before, revision) = (after, stand.revision);
        }
    }
    println!("{accepted} statements accepted, {altered} answers altered");
    // Otherwise this would have shown nothing.
    let all = WORLDS * STATEMENTS;
    assert!(accepted > all / 2 && altered > all / 8);
}
