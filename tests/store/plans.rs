//! The queries that are asked all the time find their rows by an index, also
//! once the tables are large. Counted by Postgres itself while the store asks
//! its own queries, so that there is no copy of them to go out of date.

use std::collections::BTreeMap;

use hitkeep_auth::{
    domain::{
        audit::{Action, Filter},
        id::{ClientId, SiteId, TeamId, UserId},
        role::{SiteRole, TeamRole},
        token::TokenHash,
    },
    store::{
        Snapshot,
        error::StoreError,
        feed::{CatchUp, ClientRow, Feed, FullLoadSink, GrantRow, Position, Sink, TokenRow},
    },
};

mod queries;

use queries::{
    answer_incidents, deliver_events, filters, find_callers, find_requests, flush_usage,
    introspect, list_clients, list_events, list_everybodys, tell_usage,
};

use crate::{
    database::{store, texts},
    postgres,
};

/// Enough for a sequential scan to be clearly the worse choice.
const FILL: &str = "
    CREATE FUNCTION id(bigint) RETURNS uuid IMMUTABLE LANGUAGE sql
        AS $$ SELECT lpad(to_hex($1), 32, '0')::uuid $$;
    CREATE FUNCTION hash(bigint) RETURNS bytea IMMUTABLE LANGUAGE sql
        AS $$ SELECT decode(lpad(to_hex($1), 64, '0'), 'hex') $$;
    INSERT INTO users SELECT id(n), 'user' FROM generate_series(1, 2000) AS n;
    INSERT INTO teams SELECT id(n) FROM generate_series(1, 2000) AS n;
    INSERT INTO team_members SELECT id(n % 2000 + 1), id(n / 5 + 1), 'member'
        FROM generate_series(0, 9999) AS n;
    INSERT INTO sites SELECT id(n), id(n % 2000 + 1) FROM generate_series(1, 5000) AS n;
    INSERT INTO site_members SELECT id(n % 5000 + 1), id(n / 5 + 1), 'viewer'
        FROM generate_series(0, 9999) AS n;
    INSERT INTO api_clients
        SELECT id(n), CASE n % 2 WHEN 0 THEN id(n / 10 + 1) END,
               CASE n % 2 WHEN 1 THEN id(n / 10 + 1) END, 'client', '', 'user',
               CASE n % 10 WHEN 0 THEN now() + n * interval '1 hour' END, NULL,
               id(n % 1000 + 1), now() - n * interval '1 second', now()
        FROM generate_series(1, 10000) AS n;
    INSERT INTO api_client_grants SELECT id(n), id((n * 7 + extra) % 5000 + 1), 'viewer'
        FROM generate_series(1, 10000) AS n, generate_series(0, 2) AS extra;
    INSERT INTO api_client_tokens SELECT hash(n), id(n), 'hint', now(), NULL
        FROM generate_series(1, 10000) AS n;
    INSERT INTO api_client_usage SELECT id(n), now() FROM generate_series(1, 10000) AS n;
    INSERT INTO api_client_usage_days SELECT id(n), '2026-03-01'::date + day, 'USED', 1
        FROM generate_series(1, 10000) AS n, generate_series(1, 5) AS day;
    INSERT INTO audit_events
        SELECT id(n), now() - n * interval '1 second',
               (ARRAY['api_client.created', 'api_client.updated', 'api_client.rotated'])[n % 3 + 1],
               id(n / 3 + 1), 'client',
               CASE n % 2 WHEN 0 THEN id(n / 10 + 1) END,
               CASE n % 2 WHEN 1 THEN id(n / 10 + 1) END,
               id(n % 1000 + 1), '', '', 'dashboard', '', '[]'
        FROM generate_series(1, 20000) AS n;
    INSERT INTO service_accounts
        SELECT id(n), 'account-' || n, '{introspect}', hash(n), '', now(), NULL
        FROM generate_series(1, 3000) AS n;
    INSERT INTO api_client_requests
        SELECT hash(n), id(n % 3000 + 1), hash(n), now() - n * interval '1 second'
        FROM generate_series(1, 5000) AS n;
    INSERT INTO api_client_replies
        SELECT hash(n), hash(n), hash(n), '', 1 FROM generate_series(1, 5000) AS n;
    INSERT INTO service_account_certificates
        SELECT 'dns:' || n || '.example', id(n) FROM generate_series(1, 3000) AS n;
    -- A few of what an operator looks for: expiring soon, expired, revoked, of owners who
    -- cannot act, and long unused. Of many, a scan of a small table can be the better way.
    UPDATE api_clients SET expire_time = now() + interval '1 day' WHERE id > id(9988);
    UPDATE api_clients SET expire_time = now() WHERE id BETWEEN id(9800) AND id(9811);
    UPDATE api_clients SET revoke_time = now() WHERE id BETWEEN id(9700) AND id(9711);
    UPDATE users SET disabled = true WHERE id = id(951);
    UPDATE teams SET archived = true WHERE id = id(956);
    UPDATE api_clients SET create_time = create_time - interval '200 days'
        WHERE id BETWEEN id(9600) AND id(9611);
    UPDATE api_client_usage SET last_used_time = now() - interval '100 days'
        WHERE client_id BETWEEN id(9600) AND id(9611);
    INSERT INTO event_outbox
        (sequence, id, client_id, event_type, data, create_time, next_attempt_time, try_until)
        SELECT n, id(n), id(n % 4000 + 1), 'created', '{}', now(),
               now() + (n - 100) * interval '1 minute', now() + interval '3 days'
        FROM generate_series(1, 5000) AS n;
    INSERT INTO event_notices
        SELECT id(n), 'expiring', now() + n * interval '1 minute'
        FROM generate_series(1, 5000) AS n;
    ANALYZE;
";
/// As often as it takes Postgres to consider one plan for all parameters.
const TIMES: u128 = 12;

/// Scans of each of the large tables from end to end, so far.
async fn scans(url: &str) -> BTreeMap<String, u64> {
    let mut connection = postgres::connect(url).await;
    // A connection tells its counts at the latest when it ends.
    let end = "SELECT pg_terminate_backend(pid, 60000)::text AS text FROM pg_stat_activity \
               WHERE datname = current_database() AND pid <> pg_backend_pid() \
                 AND backend_type = 'client backend'";
    // One that ends by itself meanwhile was not there to be ended.
    while !texts(&mut connection, end).await.is_empty() {}
    let counts = "SELECT format('%s %s', relname, seq_scan) AS text FROM pg_stat_user_tables \
                  WHERE relname NOT IN ('index_state', 'index_revisions', 'index_changes', \
                                        'directory_state', 'directory_order', \
                                        'import_state', 'event_delivery', 'event_numbers', \
                                        '__diesel_schema_migrations')";
    let count = |line: String| {
        let (table, count) = line.split_once(' ').unwrap();
        (table.to_owned(), count.parse().unwrap())
    };
    let counts = texts(&mut connection, counts).await;
    counts.into_iter().map(count).collect()
}

fn hash(number: u128) -> TokenHash {
    let mut hash = [0; 32];
    hash[16..].copy_from_slice(&number.to_be_bytes());
    TokenHash(hash)
}

/// One row of each table, changed by hand.
const CHANGES: [&str; 24] = [
    "INSERT INTO users VALUES (id(5000 + $), 'user')",
    "UPDATE users SET disabled = NOT disabled WHERE id = id($)",
    "DELETE FROM users WHERE id = id(5000 + $)",
    "INSERT INTO teams VALUES (id(5000 + $))",
    "UPDATE teams SET archived = NOT archived WHERE id = id($)",
    "DELETE FROM teams WHERE id = id(5000 + $)",
    "INSERT INTO sites VALUES (id(7000 + $), id($))",
    "UPDATE sites SET team_id = id($) WHERE id = id(7 * $)",
    "DELETE FROM sites WHERE id = id(9 * $)",
    "INSERT INTO team_members VALUES (id($), id(1900), 'member')",
    "UPDATE team_members SET role = 'owner' WHERE team_id = id($)",
    "DELETE FROM team_members WHERE user_id = id(10 * $)",
    "INSERT INTO site_members VALUES (id(200 + $), id(1900), 'viewer')",
    "UPDATE site_members SET role = 'editor' WHERE user_id = id($)",
    "DELETE FROM site_members WHERE user_id = id(10 * $)",
    "UPDATE api_clients SET name = name || '!' WHERE id = id($)",
    "UPDATE api_clients SET revoke_time = now() WHERE id = id(700 + $)",
    "DELETE FROM api_clients WHERE id = id(300 + $)",
    "INSERT INTO api_client_grants VALUES (id($), id(4000 + 7 * $), 'viewer') \
     ON CONFLICT (client_id, site_id) DO UPDATE SET role = 'editor'",
    "UPDATE api_client_grants SET role = 'owner' WHERE client_id = id($)",
    "DELETE FROM api_client_grants WHERE client_id = id(600 + $)",
    "UPDATE api_client_tokens SET end_time = now() WHERE client_id = id(400 + $)",
    "INSERT INTO api_client_tokens VALUES (hash(20000 + $), id(400 + $), '', now(), NULL)",
    "DELETE FROM api_client_tokens WHERE client_id = id(500 + $)",
];

/// No sink: what a replica does with its rows is not for the database to know.
struct Void(usize);

impl Sink for Void {
    fn client(&mut self, _: ClientRow) {
        self.0 += 1;
    }

    fn grant(&mut self, _: GrantRow) {}

    fn token(&mut self, _: TokenRow) {}

    fn unreadable(&mut self, _: ClientId) {}
}

impl FullLoadSink for Void {
    fn site(&mut self, _: SiteId, _: TeamId, _: bool) {}

    fn team_member(&mut self, _: TeamId, _: UserId, _: Option<TeamRole>) {}

    fn site_member(&mut self, _: SiteId, _: UserId, _: Option<SiteRole>) {}

    fn bare_grant(&mut self, _: ClientId, _: SiteId, _: Option<SiteRole>) {}
}

/// Changes by hand, each of them one row, all on one connection: whose plans are
/// made for all parameters after some of them.
async fn change_by_hand(url: &str) {
    use diesel_async::SimpleAsyncConnection;

    let mut connection = postgres::connect(url).await;
    for n in 1..=TIMES {
        for change in CHANGES {
            let sql = change.replace('$', &n.to_string());
            let done = connection.batch_execute(&sql).await;
            done.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
    }
}

/// A replica that looks at the log after each change.
async fn follow_changes(url: &str, feed: &mut Feed, mut position: Position) {
    let mut read = Void(0);
    for n in 1..=TIMES {
        for change in [
            "UPDATE users SET disabled = NOT disabled WHERE id = id($)",
            "UPDATE api_clients SET name = name || '?' WHERE id = id($)",
            "DELETE FROM api_clients WHERE id = id(800 + $)",
        ] {
            postgres::execute(url, &change.replace('$', &n.to_string())).await;
            let state = feed.state(position).await.unwrap();
            assert!(state.continues);
            let caught_up = feed
                .catch_up(position, usize::MAX, &mut read)
                .await
                .unwrap();
            let CatchUp::Changed(state, changed) = caught_up else {
                panic!("{change}: {caught_up:?}");
            };
            assert!(changed.clients.len() < 10);
            position = state.position;
        }
    }
    assert!(read.0 > 0);
}

#[tokio::test]
async fn a_change_costs_the_same_however_many_clients_there_are() {
    let url = postgres::migrated_database().await;
    postgres::execute(&url, FILL).await;
    let mut feed = store(&url).connect_feed().await.unwrap();
    let position = feed.read_all(&mut Void(0)).await.unwrap().0.position;
    drop(feed);
    let before = scans(&url).await;
    let settled = |what: &str, after: BTreeMap<String, u64>| {
        let scanned: Vec<_> = after
            .iter()
            .filter(|(table, count)| before[*table] != **count)
            .collect();
        assert!(scanned.is_empty(), "{what} scans {scanned:?}");
    };
    change_by_hand(&url).await;
    settled("a change by hand", scans(&url).await);
    // All of them at once, and then one after the other.
    let mut feed = store(&url).connect_feed().await.unwrap();
    let caught_up = feed
        .catch_up(position, usize::MAX, &mut Void(0))
        .await
        .unwrap();
    let CatchUp::Changed(state, changed) = caught_up else {
        panic!("{caught_up:?}");
    };
    assert!(changed.clients.len() > 100);
    follow_changes(&url, &mut feed, state.position).await;
    drop(feed);
    settled("a look at the log", scans(&url).await);
}

/// An index that holds all events in their order is read from end to end as well, if
/// it is the only one that helps.
#[tokio::test]
async fn a_rare_action_is_found_without_looking_at_the_others() {
    let url = postgres::migrated_database().await;
    postgres::execute(&url, FILL).await;
    // The oldest ones, which come last.
    let rare = "UPDATE audit_events SET action = 'api_client.deleted' WHERE id > id(19997); \
                ANALYZE audit_events";
    postgres::execute(&url, rare).await;
    let entries_read = async || {
        scans(&url).await;
        let sql = "SELECT sum(idx_tup_read)::text AS text FROM pg_stat_user_indexes \
                   WHERE relname = 'audit_events'";
        let read = texts(&mut postgres::connect(&url).await, sql).await;
        read[0].parse::<u64>().unwrap()
    };
    let before = entries_read().await;
    let filter = Filter {
        action: Some(Action::ClientDeleted),
        ..Filter::default()
    };
    let body = async |snapshot: &mut Snapshot| {
        for _ in 1..=TIMES {
            let events = snapshot.page_events(&filter, None, 51).await?;
            assert_eq!(events.len(), 3);
        }
        Ok::<_, StoreError>(())
    };
    store(&url).read(body).await.unwrap();
    let read = entries_read().await - before;
    assert_eq!(u128::from(read), 3 * TIMES);
}

#[tokio::test]
async fn no_frequent_query_scans_a_large_table() {
    let url = postgres::migrated_database().await;
    postgres::execute(&url, FILL).await;
    let mut before = scans(&url).await;
    assert_eq!(before.len(), 19, "every table but those of one row");
    let mut settled = |what: &str, after: BTreeMap<String, u64>| {
        let scanned: Vec<_> = after
            .iter()
            .filter(|(table, count)| before[*table] != **count)
            .collect();
        assert!(scanned.is_empty(), "{what} scans {scanned:?}");
        before = after;
    };

    introspect(&store(&url)).await;
    settled("Introspect", scans(&url).await);
    find_callers(&store(&url)).await;
    settled("authentication", scans(&url).await);
    store(&url).read(list_clients).await.unwrap();
    settled("the work on clients", scans(&url).await);
    for (filter, least) in filters() {
        let list = async |snapshot: &mut Snapshot| list_everybodys(snapshot, filter, least).await;
        store(&url).read(list).await.unwrap();
        settled(&format!("{filter:?}"), scans(&url).await);
    }
    store(&url).read(list_events).await.unwrap();
    settled("ListAuditEvents", scans(&url).await);
    flush_usage(&store(&url)).await;
    settled("a flush of uses", scans(&url).await);
    store(&url).read(tell_usage).await.unwrap();
    settled("GetApiClientUsage", scans(&url).await);
    find_requests(&store(&url)).await;
    settled("what is sent again", scans(&url).await);
    answer_incidents(&store(&url)).await;
    settled("what answers an incident", scans(&url).await);
    deliver_events(&store(&url)).await;
    settled("the delivery of events", scans(&url).await);

    // That a scan is noticed at all.
    postgres::execute(
        &url,
        "SELECT count(*) FROM users WHERE instance_role = 'admin'",
    )
    .await;
    let seen = scans(&url).await;
    assert_eq!(seen["users"], before["users"] + 1);
}
