//! An index that cannot go on as it did reloads everything, and knows what there is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use diesel_async::SimpleAsyncConnection;
use futures_util::future::join_all;
use hitkeep_auth::{
    domain::{Revision, Timestamp, clock::Clock},
    live_index::{self, LiveIndex, Unanswerable, UsageWriter},
    store::{Commit, NotAcknowledged, Store, StoreOptions, feed::Position},
    system::{SystemClock, SystemEntropy},
    telemetry::metrics::Metrics,
};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    by_hand::{full_world, text},
    database, postgres,
};

/// How long anything may take before a test gives up on it.
const PATIENCE: Duration = Duration::from_secs(20);

/// An index that knows what there is.
async fn loaded(store: &Store) -> (LiveIndex, UsageWriter) {
    let options = live_index::IndexOptions {
        refresh_timeout: PATIENCE,
        ..live_index::IndexOptions::default()
    };
    let (index, writer) = LiveIndex::start(store, options, &Metrics::default());
    let loaded = index.loaded_view(Instant::now() + PATIENCE).await;
    assert!(loaded.is_ok(), "nothing is known after {PATIENCE:?}");
    (index, writer)
}

/// Changes something, and gives the revision.
async fn change(url: &str, besides: &str) -> Revision {
    let mut connection = postgres::connect(url).await;
    let change = format!("BEGIN; UPDATE api_clients SET name = name || '!'; {besides} COMMIT");
    postgres::execute(url, &change).await;
    let revision = "SELECT revision::text AS text FROM index_state";
    Revision(text(&mut connection, revision).await.parse().unwrap())
}

async fn reaches(index: &LiveIndex, revision: Revision) {
    let reached = index
        .wait_for_revision(revision, Instant::now() + PATIENCE)
        .await;
    assert_eq!(reached, Ok(()), "it wants {revision:?}");
}

/// A clock that breaks the next time that the feed looks at it.
#[derive(Default)]
struct Fragile {
    clock: SystemClock,
    breaks: AtomicBool,
}

impl Clock for Fragile {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn adopt(&self, database: Timestamp) -> Timestamp {
        self.clock.adopt(database)
    }

    fn calibrate(&self, database: Timestamp, waited: Duration) {
        let breaks = self.breaks.swap(false, Ordering::SeqCst);
        assert!(!breaks, "the clock is broken, as it should be");
        self.clock.calibrate(database, waited);
    }

    fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }
}

#[tokio::test]
async fn a_defect_while_following_is_not_the_end_of_it() {
    let url = full_world().await;
    let clock = Arc::new(Fragile::default());
    let store = Store::new(
        &StoreOptions::new(&url),
        Arc::clone(&clock) as _,
        Arc::new(SystemEntropy),
    );
    let (index, _writer) = loaded(&store).await;
    for _ in 0..2 {
        clock.breaks.store(true, Ordering::SeqCst);
        let revision = change(&url, "").await;
        reaches(&index, revision).await;
        assert!(!clock.breaks.load(Ordering::SeqCst));
        // What is known is given out all the time.
        assert!(index.view().is_ok());
        let revision = change(&url, "").await;
        reaches(&index, revision).await;
    }
}

#[tokio::test]
async fn a_log_that_cannot_be_read_is_given_up() {
    let url = full_world().await;
    let store = database::store(&url);
    let (index, _writer) = loaded(&store).await;
    let break_log = "ALTER TABLE index_changes RENAME TO hidden_changes; \
                     CREATE VIEW index_changes AS SELECT revision, client_id \
                         FROM hidden_changes WHERE 1 / (revision - revision) = 0;";
    let revision = change(&url, break_log).await;
    reaches(&index, revision).await;
    let mend_log = "DROP VIEW index_changes; ALTER TABLE hidden_changes RENAME TO index_changes";
    postgres::execute(&url, mend_log).await;
    let revision = change(&url, "").await;
    reaches(&index, revision).await;
}

/// Replicas that followed it before, or another server, need no whole snapshot.
#[tokio::test]
async fn a_server_that_starts_knows_what_changed_before() {
    let url = full_world().await;
    let store = database::store(&url);
    let position = async || {
        let primary = store.connect_primary(PATIENCE).await.unwrap();
        primary.state(Position::UNKNOWN).await.unwrap().position
    };
    let ids = "SELECT id::text AS text FROM api_clients ORDER BY id LIMIT 2";
    let ids = postgres::texts(&mut postgres::connect(&url).await, ids).await;
    let mut positions = vec![position().await];
    for id in &ids {
        let rename = format!("UPDATE api_clients SET name = 'new' WHERE id = '{id}'");
        postgres::execute(&url, &rename).await;
        positions.push(position().await);
    }
    let changed_since = |index: &LiveIndex, position| {
        let changed = index.changed_since(position)?.into_iter();
        let mut changed: Vec<_> = changed.map(|client| client.uuid().to_string()).collect();
        changed.sort();
        Some(changed)
    };
    let (index, _writer) = loaded(&store).await;
    for (at, position) in positions.iter().enumerate() {
        let expected = ids[at..].to_vec();
        assert_eq!(changed_since(&index, *position), Some(expected), "{at}");
    }
    let other = Position {
        nonce: Uuid::nil(),
        ..positions[0]
    };
    assert_eq!(changed_since(&index, other), None);

    // Only as far as the log is whole, and as few changes lead there.
    let mut feed = store.connect_feed().await.unwrap();
    for (most, first) in [(0, 2), (1, 1), (2, 0)] {
        let way = feed.history(positions[2], most).await.unwrap();
        let passed: Vec<_> = way.iter().map(|(position, _)| *position).collect();
        assert_eq!(passed, positions[first..], "{most}");
        assert_eq!(way.iter().flat_map(|(_, clients)| clients).count(), most);
    }
    assert!(feed.history(other, 9).await.unwrap().is_empty());
    postgres::execute(&url, "DELETE FROM index_changes").await;
    let (late, _writer) = loaded(&store).await;
    assert_eq!(changed_since(&late, positions[0]), None);
    assert_eq!(changed_since(&late, positions[2]), Some(Vec::new()));
}

#[tokio::test]
async fn changes_that_the_index_is_late_to_apply_are_proven() {
    let url = full_world().await;
    let store = database::store(&url);
    let (index, _writer) = loaded(&store).await;
    // The feed reads this table, and what proves a change does not.
    let mut blocker = postgres::connect(&url).await;
    let lock = "BEGIN; LOCK TABLE site_members IN ACCESS EXCLUSIVE MODE";
    blocker.batch_execute(lock).await.unwrap();
    let mut committed = Vec::new();
    for _ in 0..20 {
        change(&url, "").await;
        let primary = store.connect_primary(PATIENCE).await.unwrap();
        committed.push(primary.state(Position::UNKNOWN).await.unwrap().position);
    }
    let deadline = Some(Instant::now() + PATIENCE);
    let waiting = committed
        .iter()
        .map(|position| index.wait_applied(&store, Commit::stamped(*position), deadline));
    for applied in join_all(waiting).await {
        assert_eq!(applied, Ok(()));
    }
    let behind = index.view().unwrap().require_caught_up();
    assert_eq!(behind, Err(Unanswerable::Behind));
    blocker.batch_execute("ROLLBACK").await.unwrap();
    reaches(&index, committed.last().unwrap().revision).await;
    let caught_up = index.caught_up_view(Instant::now() + PATIENCE).await;
    assert!(caught_up.is_ok(), "it says that it is behind");
}

#[tokio::test(start_paused = true)]
async fn a_change_that_nothing_proves_is_not_acknowledged() {
    let store = database::store("host=/nowhere user=nobody");
    let (options, metrics) = (live_index::IndexOptions::default(), Metrics::default());
    let never = std::future::pending();
    let (index, _writer) = LiveIndex::start_when(never, &store, options, &metrics);
    let committed = Position {
        database: Uuid::nil(),
        revision: Revision(1),
        nonce: Uuid::nil(),
    };
    for (left, waited) in [
        (None, 10_000),
        (Some(6000), 6000),
        (Some(200), 200),
        (Some(0), 0),
    ] {
        let begun = Instant::now();
        let give_up = left.map(|left| begun + Duration::from_millis(left));
        let applied = index
            .wait_applied(&store, Commit::stamped(committed), give_up)
            .await;
        assert_eq!(applied, Err(NotAcknowledged::Unproven(1)));
        assert_eq!(begun.elapsed().as_millis(), waited, "{left:?}");
    }
}
