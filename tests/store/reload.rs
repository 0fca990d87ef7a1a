//! A database URL is replaced by another one while connections are open.

use std::{future::pending, time::Duration};

use hitkeep_auth::{
    domain::Revision,
    store::{MalformedUrl, Reloaded, Store, error::StoreError},
};
use tokio::time::{Instant, sleep};

use crate::{
    database::store,
    passwords::Role,
    postgres::{execute, migrated_database},
};

/// Reads something on a connection of the pool.
async fn revision(store: &Store) -> Result<Revision, StoreError> {
    let read = async |snapshot: &mut hitkeep_auth::store::Snapshot| Ok(snapshot.revision);
    store.read::<_, StoreError, _>(read).await
}

#[tokio::test]
async fn a_password_is_rotated() {
    let role = Role::create(&migrated_database().await, "old").await;
    let store = store(&role.url("old"));
    revision(&store).await.unwrap();
    // It is more than one rotation that has to work.
    for (before, after) in [("old", "new"), ("new", "newer")] {
        role.rotate(after).await;
        let refused = revision(&store).await.unwrap_err();
        assert!(matches!(refused, StoreError::Unavailable(_)), "{refused:?}");
        store.credentials_refused().await;
        let same = store.reload(&role.url(before).into());
        assert_eq!(same, Ok(Reloaded::Same));
        revision(&store).await.unwrap_err();
        store.credentials_refused().await;
        let reloaded = store.reload(&role.url(after).into());
        assert_eq!(reloaded, Ok(Reloaded::Password));
        revision(&store).await.unwrap();
        let (mut feed, _listener) = (
            store.connect_feed().await.unwrap(),
            store.listen(|| ()).await.unwrap(),
        );
        feed.read_accounts().await.unwrap();
    }
}

/// A password that comes in time interrupts nothing.
#[tokio::test]
async fn open_connections_survive_a_new_password() {
    let role = Role::create(&migrated_database().await, "old").await;
    let store = store(&role.url("old"));
    revision(&store).await.unwrap();
    let mut feed = store.connect_feed().await.unwrap();
    let before = role.backends().await;
    assert_eq!(before.len(), 2);
    let reloaded = store.reload(&role.url("not yet").into());
    assert_eq!(reloaded, Ok(Reloaded::Password));
    revision(&store).await.unwrap();
    feed.read_accounts().await.unwrap();
    assert_eq!(role.backends().await, before);
    // A new connection goes by the new one.
    assert!(store.connect_feed().await.is_err());
    store.credentials_refused().await;
}

#[tokio::test]
async fn connections_to_another_database_are_not_used_again() {
    let (first, second) = (migrated_database().await, migrated_database().await);
    execute(&second, "UPDATE index_state SET revision = 7").await;
    let store = store(&first);
    assert_eq!(revision(&store).await.unwrap(), Revision(0));
    let feed = store.connect_feed().await.unwrap();
    let mut listener = store.listen(|| ()).await.unwrap();
    assert!(!feed.is_closed());
    for (url, expected) in [(&second, 7), (&first, 0), (&second, 7)] {
        assert_eq!(store.reload(&(&**url).into()), Ok(Reloaded::Place));
        assert_eq!(revision(&store).await.unwrap(), Revision(expected));
        // The second time on that connection.
        assert_eq!(revision(&store).await.unwrap(), Revision(expected));
    }
    listener.ended().await;
    while !feed.is_closed() {
        tokio::task::yield_now().await;
    }
    let (_, name) = second.rsplit_once('/').unwrap();
    assert!(store.place().ends_with(&format!("/{name}")));
}

/// A feed needs the store for nothing but its beginning.
#[tokio::test]
async fn a_feed_outlives_the_store() {
    let store = store(&migrated_database().await);
    let mut feed = store.connect_feed().await.unwrap();
    drop(store);
    feed.read_accounts().await.unwrap();
    feed.read_accounts().await.unwrap();
}

/// What works at that moment is finished where it began.
#[tokio::test]
async fn work_under_way_is_finished_on_its_connection() {
    let (first, second) = (migrated_database().await, migrated_database().await);
    execute(&second, "UPDATE index_state SET revision = 7").await;
    let store = store(&first);
    let read = async |snapshot: &mut hitkeep_auth::store::Snapshot| -> Result<_, StoreError> {
        assert_eq!(store.reload(&(&*second).into()), Ok(Reloaded::Place));
        Ok(snapshot.revision)
    };
    assert_eq!(store.read(read).await.unwrap(), Revision(0));
    assert_eq!(revision(&store).await.unwrap(), Revision(7));
}

/// A server that hangs may keep its connections open, and never answer.
#[tokio::test(start_paused = true)]
async fn work_that_hangs_is_given_up_some_time_later() {
    let store = store("host=/nowhere user=nobody");
    let begun = Instant::now();
    let work = store.until_failover(pending::<Result<(), StoreError>>());
    let reload = async { store.reload(&"host=/elsewhere user=nobody".into()) };
    let (done, reloaded) = tokio::join!(work, reload);
    assert_eq!(reloaded, Ok(Reloaded::Place));
    let error = done.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    assert_eq!(begun.elapsed(), Duration::from_secs(10));
    // There may be time before, but no failover.
    let work = async {
        sleep(Duration::from_hours(1)).await;
        Ok(())
    };
    store.until_failover(work).await.unwrap();
}

#[tokio::test]
async fn a_url_that_cannot_be_used_changes_nothing() {
    let url = migrated_database().await;
    let store = store(&url);
    revision(&store).await.unwrap();
    let reloaded = store.reload(&"postgres://somebody@".into());
    assert_eq!(reloaded, Err(MalformedUrl::Unreadable));
    revision(&store).await.unwrap();
    store.connect_feed().await.unwrap();
    assert_eq!(store.reload(&(&*url).into()), Ok(Reloaded::Same));
}
