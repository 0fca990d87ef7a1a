//! Events that wait to be delivered, and what attempts come to.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use hitkeep_auth::{
    domain::{
        Timestamp,
        access::Owner,
        audit::{Action, Event},
        clock::Clock,
    },
    store::{
        Store, StoreOptions, Transaction,
        error::StoreError,
        outbox::{FailedAttempt, OutboxEvent},
    },
    system::SystemEntropy,
};
use uuid::Uuid;

use crate::{
    database::{nobody, store, texts, world},
    postgres,
};

/// Statements of this database that wait for a lock.
const WAITING: &str = "SELECT count(*)::text AS text FROM pg_stat_activity \
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";

/// A database that took over may have given an event's number to another one.
#[tokio::test]
async fn the_outcome_of_another_event_with_the_same_number_changes_nothing() {
    let store = store(&world().await);
    let due = store.due_events(&[], 8).await.unwrap();
    let [event] = &*due else { panic!("{due:?}") };
    let other = OutboxEvent {
        id: Uuid::nil(),
        ..event.clone()
    };
    let failed = || FailedAttempt {
        attempts: 9,
        next: event.try_until,
        error: "status 500",
        dead: None,
    };
    store.event_delivered(&other).await.unwrap();
    store.event_failed(&other, failed()).await.unwrap();
    assert_eq!(store.due_events(&[], 8).await.unwrap(), due);
    store.event_failed(event, failed()).await.unwrap();
    assert_eq!(store.due_events(&[], 8).await.unwrap()[0].attempts, 9);
    store.event_delivered(event).await.unwrap();
    assert_eq!(store.due_events(&[], 8).await.unwrap(), []);
}

/// A server begins to deliver while a write waits for the one before it: what that write changes
/// is committed later, and has its event.
#[tokio::test]
async fn a_write_that_waited_for_the_lock_sees_that_events_are_delivered_by_now() {
    let url = world().await;
    let store = store(&url);
    let mut before = postgres::connect(&url).await;
    let lock = "BEGIN; SELECT FROM index_state FOR UPDATE";
    before.batch_execute(lock).await.unwrap();
    let event = Event {
        action: Action::ClientRevoked,
        subject: Uuid::from_u128(31),
        subject_name: "personal".to_owned(),
        owner: Some(Owner::User(
            "00000000-0000-0000-0000-000000000001".parse().unwrap(),
        )),
        changes: Vec::new(),
    };
    let body =
        async |tx: &mut Transaction| -> Result<(), StoreError> { tx.record(event.clone()).await };
    let delivering = async {
        until_waiting(&mut postgres::connect(&url).await).await;
        store.begin_events().await.unwrap();
        before.batch_execute("COMMIT").await.unwrap();
    };
    let provenance = nobody();
    let (written, ()) = tokio::join!(store.transaction(&provenance, body), delivering);
    written.unwrap();
    let mut connection = postgres::connect(&url).await;
    let events = "SELECT event_type AS text FROM event_outbox WHERE sequence > 1";
    let sent = texts(&mut connection, events).await;
    assert_eq!(sent, ["com.hitkeep.auth.api_client.revoked"]);
}

/// The machine's clock may be days behind the database's, and no feed has compared them yet.
#[tokio::test]
async fn events_are_written_for_three_days_by_the_clock_of_the_database() {
    let url = world().await;
    let clock = Arc::new(BehindClock::default());
    let store = Store::new(&StoreOptions::new(&*url), clock, Arc::new(SystemEntropy));
    store.begin_events().await.unwrap();
    let mut connection = postgres::connect(&url).await;
    let until =
        "SELECT (active_until > now() + interval '71 hours')::text AS text FROM event_delivery";
    assert_eq!(texts(&mut connection, until).await, ["true"]);
}

/// A clock that starts in 1970, and is as calibrated.
#[derive(Default)]
struct BehindClock(Mutex<Timestamp>);

impl Clock for BehindClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }

    fn adopt(&self, database: Timestamp) -> Timestamp {
        database
    }

    fn calibrate(&self, database: Timestamp, _: Duration) {
        *self.0.lock().unwrap() = database;
    }

    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }
}

async fn until_waiting(connection: &mut AsyncPgConnection) {
    while texts(connection, WAITING).await != ["1"] {
        tokio::task::yield_now().await;
    }
}
