//! The revision: one higher with each change that is committed, in the order of
//! the commits and without gaps, however many write at once.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use hitkeep_auth::{
    domain::{
        Revision,
        caller::{CallerName, CallerPermission, ServiceAccount},
        directory::{DirectoryChange, User},
        id::UserId,
        role::InstanceRole,
    },
    store::{
        Committed, Snapshot, Store, Transaction, callers::InsertAccountError,
        directory::DirectoryError, error::StoreError,
    },
};
use tokio::sync::Barrier;

use crate::{
    database::{nobody, store, texts},
    postgres,
};

fn user(number: u128) -> UserId {
    UserId::from_uuid(uuid::Uuid::from_u128(number))
}

fn put(number: u128) -> DirectoryChange {
    DirectoryChange::PutUser(User {
        id: user(number),
        instance_role: InstanceRole::User,
        disabled: false,
    })
}

async fn apply(
    store: &Store,
    changes: &[DirectoryChange],
) -> Result<Committed<()>, DirectoryError> {
    let body = async |tx: &mut Transaction| tx.apply_changes(changes).await;
    store.transaction(&nobody(), body).await
}

/// Changes something, and then refuses.
async fn roll_back(store: &Store) {
    let body = async |tx: &mut Transaction| -> Result<(), DirectoryError> {
        tx.apply_changes(&[put(1_000_000)]).await?;
        Err(DirectoryError::Unknown(Vec::new()))
    };
    let refused = store.transaction(&nobody(), body).await;
    assert!(matches!(refused, Err(DirectoryError::Unknown(_))));
}

async fn current(store: &Store) -> Revision {
    let revision = async |snapshot: &mut Snapshot| Ok::<_, StoreError>(snapshot.revision);
    store.read(revision).await.unwrap()
}

#[tokio::test]
async fn each_change_is_one_revision_and_no_change_is_none() {
    let store = store(&postgres::migrated_database().await);
    assert_eq!(current(&store).await, Revision(0));
    assert_eq!(
        apply(&store, &[put(1)]).await.unwrap().revision,
        Revision(1)
    );
    // The same again changes nothing.
    assert_eq!(
        apply(&store, &[put(1)]).await.unwrap().revision,
        Revision(1)
    );
    // However much one transaction changes, it is one.
    let many: Vec<_> = (2..500).map(put).collect();
    assert_eq!(apply(&store, &many).await.unwrap().revision, Revision(2));
    let delete = DirectoryChange::DeleteUser(user(1));
    assert_eq!(
        apply(&store, &[delete]).await.unwrap().revision,
        Revision(3)
    );
    assert_eq!(
        apply(&store, &[delete]).await.unwrap().revision,
        Revision(3)
    );
    assert_eq!(apply(&store, &[]).await.unwrap().revision, Revision(3));
    assert_eq!(current(&store).await, Revision(3));
}

#[tokio::test]
async fn what_is_rolled_back_takes_no_revision() {
    let store = store(&postgres::migrated_database().await);
    roll_back(&store).await;
    assert_eq!(current(&store).await, Revision(0));
    assert_eq!(
        apply(&store, &[put(1)]).await.unwrap().revision,
        Revision(1)
    );
    // The connection of the refused transaction was fit to be used again.
    let pool = store.pool_status();
    assert_eq!((pool.connections, pool.idle), (1, 1));
}

/// A refusal is an answer, and costs no connection. Nor does a statement that fails.
#[tokio::test]
async fn a_read_that_fails_gives_its_connection_back() {
    let url = postgres::migrated_database().await;
    let store = store(&url);
    let body = async |_: &mut Snapshot| Err::<(), _>(DirectoryError::Unknown(Vec::new()));
    let refused = store.read(body).await;
    assert!(matches!(refused, Err(DirectoryError::Unknown(_))));
    postgres::execute(&url, "ALTER TABLE users RENAME TO people").await;
    let body = async |snapshot: &mut Snapshot| snapshot.directory_status().await;
    let failed = store.read(body).await;
    assert!(matches!(failed, Err(StoreError::Defect(_))));
    let pool = store.pool_status();
    assert_eq!((pool.connections, pool.idle), (1, 1));
    assert_eq!(current(&store).await, Revision(0));
}

#[tokio::test]
async fn what_no_introspection_depends_on_takes_no_revision() {
    let store = store(&postgres::migrated_database().await);
    let create = async |tx: &mut Transaction| -> Result<(), InsertAccountError> {
        let name = CallerName::parse("sidecar").unwrap();
        let allow = [CallerPermission::Introspect];
        let made = ServiceAccount::create(name, &allow, tx.now, &*tx.entropy());
        tx.insert_account(&made.account, &made.token.hash()).await?;
        Ok(tx.record(made.event).await?)
    };
    let made = store.transaction(&nobody(), create).await.unwrap();
    assert_eq!(made.revision, Revision(0));
    let note = async |tx: &mut Transaction| {
        let entry = tx.directory_progress().await?.accept_batch(Some(7));
        tx.record_applied(entry.expect("it is new")).await
    };
    let noted = store.transaction::<_, StoreError, _>(&nobody(), note).await;
    assert_eq!(noted.unwrap().revision, Revision(0));
}

/// Each change adds one user, so in every snapshot there must be as many users
/// as the revision says: a revision that was handed out in another order than
/// the commits, or a gap, would show.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn revisions_follow_the_commits_without_gaps() {
    const WRITERS: u128 = 8;
    const WRITES: u128 = 25;

    let url = postgres::migrated_database().await;
    // Two stores, as two processes would have.
    let stores = [store(&url), store(&url)];
    let start = Arc::new(Barrier::new(usize::try_from(WRITERS).unwrap() + 2));
    let writing = Arc::new(AtomicBool::new(true));

    let writer = |number: u128| {
        let store = stores[usize::try_from(number % 2).unwrap()].clone();
        let start = Arc::clone(&start);
        tokio::spawn(async move {
            start.wait().await;
            let mut revisions = Vec::new();
            for write in 0..WRITES {
                let change = [put(1000 * (number + 1) + write)];
                let made = apply(&store, &change).await.unwrap();
                revisions.push(made.revision);
                if write % 5 == 0 {
                    // The same again, and one that is rolled back: neither counts.
                    apply(&store, &change).await.unwrap();
                    roll_back(&store).await;
                }
            }
            revisions
        })
    };
    let writers: Vec<_> = (0..WRITERS).map(writer).collect();

    let reader = |number: usize| {
        let (store, start) = (stores[number].clone(), Arc::clone(&start));
        let writing = Arc::clone(&writing);
        tokio::spawn(async move {
            start.wait().await;
            let mut last = Revision(0);
            while writing.load(Ordering::Relaxed) {
                let body = async |snapshot: &mut Snapshot| {
                    Ok::<_, StoreError>((snapshot.revision, snapshot.directory_status().await?))
                };
                let (revision, status) = store.read(body).await.unwrap();
                assert_eq!(u64::from(status.users), revision.0);
                assert!(revision >= last, "{revision:?} after {last:?}");
                last = revision;
            }
        })
    };
    let readers = [reader(0), reader(1)];

    let mut all = BTreeSet::new();
    for writer in writers {
        let revisions = writer.await.unwrap();
        assert!(
            revisions.is_sorted(),
            "one after the other is in that order"
        );
        all.extend(revisions);
    }
    writing.store(false, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
    let total = u64::try_from(WRITERS * WRITES).unwrap();
    assert_eq!(all, (1..=total).map(Revision).collect());
    assert_eq!(current(&stores[0]).await, Revision(total));
}

/// Whatever the database's own default is.
#[tokio::test]
async fn a_transaction_is_of_the_level_that_it_relies_on() {
    let url = postgres::migrated_database().await;
    let sql = "
        DO $$ BEGIN
            EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = serializable',
                           current_database());
        END $$;
        CREATE TABLE levels (level text);
        CREATE FUNCTION note_level() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO levels VALUES (current_setting('transaction_isolation'));
            RETURN NULL;
        END $$;
        CREATE TRIGGER note_level AFTER INSERT ON users EXECUTE FUNCTION note_level()";
    postgres::execute(&url, sql).await;
    let store = store(&url);
    apply(&store, &[put(1)]).await.unwrap();
    let mut connection = postgres::connect(&url).await;
    let levels = texts(&mut connection, "SELECT level AS text FROM levels").await;
    assert_eq!(levels, ["read committed"]);
}
