//! Writing: one serial transaction under the write lock.

use std::{sync::Arc, time::Duration};

use diesel::sql_types::{self, BigInt, Timestamptz};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use tokio::time::timeout;
use uuid::Uuid;

use super::{
    FirstRow, Store, TransactionBody, change_log::ChangeLog, connection::Connection,
    error::StoreError, feed::Position, identity::ServerId, lease::Lease, revision,
    statement::Statement,
};
use crate::domain::{
    Revision, Timestamp,
    audit::Provenance,
    clock::Entropy,
    id::{ClientId, EventId},
};

/// How often a transaction is tried if it collides with others.
const MAX_TRIES: u32 = 5;
/// How long a commit may take. It may wait for a synchronous standby, without any other limit:
/// `statement_timeout` does not count then.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);

/// A writing transaction, which holds the write lock.
pub struct Transaction {
    lease: Lease,
    /// The time by the database's clock, constant within the transaction.
    pub now: Timestamp,
    entropy: Arc<dyn Entropy>,
    pub(super) provenance: Arc<Provenance>,
    /// The server that runs it.
    server: ServerId,
    /// The revision before it.
    begun_at: Revision,
    change_log: ChangeLog,
    pub(super) last_event_id: Option<EventId>,
}

/// The result of a transaction, with the revision that contains it.
#[derive(Clone, Copy, Debug)]
pub struct Committed<T> {
    /// What the body returned.
    pub value: T,
    /// The revision after the commit; the previous one if nothing changed.
    pub revision: Revision,
}

/// A commit, and how another server is known to have it.
#[derive(Clone, Copy, Debug)]
pub struct Commit {
    /// The position after it; the one before it if nothing of the index changed.
    pub position: Position,
    /// The server that has it, if its position does not tell: another server can be at that
    /// position without the commit.
    pub(super) only_on: Option<ServerId>,
}

impl Commit {
    /// A commit that has a position of its own.
    pub const fn stamped(position: Position) -> Self {
        Self {
            position,
            only_on: None,
        }
    }

    /// Whether the commit has a position of its own.
    pub const fn is_stamped(&self) -> bool {
        self.only_on.is_none()
    }
}

/// Why a commit is not acknowledged, by its revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAcknowledged {
    /// A failover lost it: the new primary does not have it.
    #[error("the commit of revision {0} is not in the database that took over")]
    Lost(u64),
    /// No connection to the primary showed in time that it has it, or the primary was replaced
    /// and nothing can show it. It may be in force.
    #[error(
        "nothing showed in time that the primary has the commit of revision {0}: the change may \
         be in force, or lost"
    )]
    Unproven(u64),
}

#[derive(diesel::QueryableByName)]
struct CommitRow {
    #[diesel(sql_type = BigInt)]
    revision: i64,
    #[diesel(sql_type = sql_types::Uuid)]
    database_id: Uuid,
    #[diesel(sql_type = sql_types::Uuid)]
    nonce: Uuid,
}

#[derive(diesel::QueryableByName)]
struct TimeRow {
    #[diesel(sql_type = Timestamptz)]
    now: Timestamp,
    #[diesel(sql_type = Timestamptz)]
    started: Timestamp,
    #[diesel(sql_type = BigInt)]
    revision: i64,
}

impl FirstRow for TimeRow {
    fn started(&self) -> Timestamp {
        self.started
    }
}

impl Store {
    /// Runs `body` as one writing transaction, and commits it unless it fails. Retries it
    /// from the start if it collides with another.
    ///
    /// # Errors
    /// The error of `body`, after a rollback; or a [`StoreError`].
    pub async fn transaction<T, E, F>(
        &self,
        provenance: &Arc<Provenance>,
        body: F,
    ) -> Result<Committed<T>, E>
    where
        F: for<'t> TransactionBody<&'t mut Transaction, Result<T, E>> + Sync,
        T: Send,
        E: From<StoreError> + IsCollision + Send,
    {
        let (value, commit) = self.transact(provenance, body).await?;
        let revision = commit.position.revision;
        Ok(Committed { value, revision })
    }

    /// Like [`Self::transaction`], but returns how to find the commit. A revision alone may be
    /// assigned again, by a server that never had the commit.
    ///
    /// # Errors
    /// As [`Self::transaction`].
    pub async fn transact<T, E, F>(
        &self,
        provenance: &Arc<Provenance>,
        body: F,
    ) -> Result<(T, Commit), E>
    where
        F: for<'t> TransactionBody<&'t mut Transaction, Result<T, E>> + Sync,
        T: Send,
        E: From<StoreError> + IsCollision + Send,
    {
        // Taken before a connection, which would only wait for the write lock.
        let permit = timeout(self.writers_wait, self.writers.acquire()).await;
        let _permit = permit.map_err(|late| StoreError::Overloaded(Box::new(late)))?;
        let mut tries = 1;
        loop {
            match self.attempt(provenance, &body).await {
                Err(error) if error.is_collision() && tries < MAX_TRIES => tries += 1,
                done => return done,
            }
        }
    }

    async fn attempt<T, E, F>(
        &self,
        provenance: &Arc<Provenance>,
        body: &F,
    ) -> Result<(T, Commit), E>
    where
        F: for<'t> TransactionBody<&'t mut Transaction, Result<T, E>> + Sync,
        T: Send,
        E: From<StoreError> + Send,
    {
        let mut transaction = self.begin(Arc::clone(provenance)).await?;
        match body(&mut transaction).await {
            Ok(value) => Ok((value, transaction.commit().await?)),
            Err(error) => {
                transaction.roll_back().await;
                Err(error)
            }
        }
    }

    async fn begin(&self, provenance: Arc<Provenance>) -> Result<Transaction, StoreError> {
        // The time is read after the lock, so that it has the order of the writes. No other
        // table may be read here: the statement's snapshot is older than its wait for the lock,
        // and shows nothing of what was committed meanwhile, except in the locked row.
        let lock = Statement(
            "WITH locked AS MATERIALIZED (SELECT revision FROM index_state FOR UPDATE) \
             SELECT clock_timestamp() AS now, pg_postmaster_start_time() AS started, revision \
             FROM locked",
        );
        // Explicit, since a database may have another default: at a higher level, a
        // transaction that waited for the lock would collide with the one before it. A
        // database that is read-only by default stays so.
        let begin = "BEGIN ISOLATION LEVEL READ COMMITTED";
        let (lease, state): (_, TimeRow) = self.begin_with("transaction", begin, lock).await?;
        let now = self.clock.adopt(state.now);
        Ok(Transaction {
            lease,
            now,
            entropy: Arc::clone(&self.entropy),
            provenance,
            server: ServerId::of(state.started),
            begun_at: revision(state.revision)?,
            change_log: ChangeLog::default(),
            last_event_id: None,
        })
    }
}

fn unproven(position: Position) -> StoreError {
    StoreError::Unavailable(Box::new(NotAcknowledged::Unproven(position.revision.0)))
}

/// An error that may be a collision of transactions, which a retry resolves.
pub trait IsCollision {
    /// Whether a retry may succeed.
    fn is_collision(&self) -> bool;
}

impl IsCollision for StoreError {
    fn is_collision(&self) -> bool {
        matches!(self, Self::Collision(_))
    }
}

impl Transaction {
    pub(super) fn connection(&mut self) -> &mut Connection {
        self.lease.start()
    }

    /// Logs a change of a client as soon as it is committed.
    pub fn log_when_committed(&mut self, done: &'static str, client: ClientId) {
        self.change_log.push(done, client);
    }

    /// The store's source of randomness.
    pub fn entropy(&self) -> Arc<dyn Entropy> {
        Arc::clone(&self.entropy)
    }

    async fn commit(mut self) -> Result<Commit, StoreError> {
        // A trigger stamps the revision if something changed. It is read before the commit,
        // since another transaction may stamp the next one after it.
        let stamped = Statement("SELECT revision, database_id, nonce FROM index_state");
        let row: CommitRow = stamped.get_result(self.connection()).await?;
        let position = Position {
            database: row.database_id,
            revision: revision(row.revision)?,
            nonce: row.nonce,
        };
        self.change_log.commit_sent();
        let commit = self.connection().batch_execute("COMMIT");
        match timeout(COMMIT_TIMEOUT, commit).await {
            Ok(Ok(())) => {
                self.lease.finish();
                self.change_log.committed();
            }
            Ok(Err(error)) => {
                let error = StoreError::from(error);
                if !error.may_be_committed() {
                    self.change_log.rolled_back();
                    return Err(error);
                }
                error.log();
                return Err(unproven(position));
            }
            Err(_) => return Err(unproven(position)),
        }
        Ok(Commit {
            position,
            only_on: (position.revision == self.begun_at).then_some(self.server),
        })
    }

    /// Returns the connection to the pool if the rollback succeeds, and closes it, which
    /// rolls back as well, if not.
    async fn roll_back(mut self) {
        match self.connection().batch_execute("ROLLBACK").await {
            Ok(()) => self.lease.finish(),
            Err(error) => tracing::debug!(%error, "a rollback failed: the connection is closed"),
        }
    }
}
