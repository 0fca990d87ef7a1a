//! Events that wait to be delivered, and what attempts come to.

use hitkeep_auth::store::outbox::{FailedAttempt, OutboxEvent};
use uuid::Uuid;

use crate::database::{store, world};

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
