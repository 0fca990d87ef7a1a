//! Everything that is kept, in Postgres: the pool, the one way to read, and the
//! one way to write.
//!
//! `Store::read` reads from one snapshot. `Store::transaction` alone writes. It
//! takes the write lock first and holds it until the commit, so writes are serial,
//! and what was checked inside still holds when it commits; the database stamps the
//! next revision where something changed, and audit events can be written only
//! inside it. A caller who goes away in the middle leaves nothing behind: the
//! statement is cancelled and the connection thrown away, because one that was left
//! in the middle of something must not be handed on.

use std::{sync::Arc, time::Duration};

use deadpool::managed::Timeouts;
use diesel::{
    QueryResult, QueryableByName,
    pg::Pg,
    sql_types::{self, BigInt, Timestamptz},
};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use tokio::sync::Semaphore;
use tracing::Instrument;
use uuid::Uuid;

pub mod audit;
pub mod callers;
pub mod clients;
mod connect;
mod connection;
pub mod directory;
pub mod error;
pub mod explanation;
mod facts;
pub mod feed;
pub mod introspection;
mod lease;
pub mod migrations;
mod names;
mod pool;
pub mod replays;
mod schema;
mod session;
mod statement;
mod survey;
pub mod tls;
mod types;
mod url;
pub mod usage;

use crate::domain::{
    Revision, Timestamp,
    audit::{Event, Provenance},
    clock::{Clock, Entropy},
};
use connect::Connector;
pub use connect::{NoConnection, Reloaded};
use connection::Connection;
use error::StoreError;
use feed::Position;
use lease::{Lease, Work};
pub use names::Resolver;
use pool::{Object, Pool};
pub use pool::{Places, PoolStatus};
use statement::Statement;
pub use survey::Standbys;
pub use url::{DatabaseUrl, MalformedUrl};

/// How often a transaction is tried that collides with another.
const MAX_TRIES: u32 = 5;

/// How to reach Postgres.
#[derive(Clone, Debug)]
pub struct Options {
    /// `postgres://user:password@host/database`, or the key=value form.
    pub database_url: DatabaseUrl,
    /// Connections at most. Default 16.
    pub pool_size: usize,
    /// How long a request waits for a connection. Default 2 s.
    pub pool_wait: Duration,
    /// How long connecting may take, where the URL does not say it. Default 3 s.
    pub connect_timeout: Duration,
    /// Whether a standby may be read from. Default no.
    pub standbys: Standbys,
    /// Resolves the names of servers. Default as the system does.
    pub resolver: Resolver,
}

impl Options {
    /// The defaults, for that database.
    pub fn new(database_url: impl Into<DatabaseUrl>) -> Self {
        Self {
            database_url: database_url.into(),
            pool_size: 16,
            pool_wait: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(3),
            standbys: Standbys::Refused,
            resolver: Resolver::default(),
        }
    }
}

/// The store. Cheap to clone; all clones share one pool.
#[derive(Clone)]
pub struct Store {
    pool: Pool,
    /// One permit for each connection that writers may have.
    writers: Arc<Semaphore>,
    writers_wait: Duration,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    /// For connections beside the pool.
    connector: Arc<Connector>,
    /// How long connecting may take, where the URL does not say it.
    connect_timeout: Duration,
}

/// A snapshot of the database: everything read through it is of one moment.
pub struct Snapshot {
    lease: Lease,
    /// The moment, by the database's clock.
    pub now: Timestamp,
    /// The revision that the snapshot is of.
    pub revision: Revision,
}

/// A writing transaction, under the write lock.
pub struct Transaction {
    lease: Lease,
    /// The time, by the database's clock; it does not go on inside.
    pub now: Timestamp,
    entropy: Arc<dyn Entropy>,
    provenance: Arc<Provenance>,
}

/// What a transaction gave, and the first revision at which it is known.
#[derive(Clone, Copy, Debug)]
pub struct Committed<T> {
    /// The value.
    pub value: T,
    /// The revision; unchanged where nothing was.
    pub revision: Revision,
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
}

#[derive(diesel::QueryableByName)]
struct StateRow {
    #[diesel(sql_type = BigInt)]
    revision: i64,
    #[diesel(sql_type = Timestamptz)]
    now: Timestamp,
    #[diesel(sql_type = Timestamptz)]
    started: Timestamp,
}

/// The answer to a transaction's first query.
trait First: QueryableByName<Pg> + Send + 'static {
    /// When the server was started, by which it is told from others.
    fn started(&self) -> Timestamp;
}

impl First for TimeRow {
    fn started(&self) -> Timestamp {
        self.started
    }
}

impl First for StateRow {
    fn started(&self) -> Timestamp {
        self.started
    }
}

impl Store {
    /// Makes a store. Connects when first asked for something.
    pub fn new(options: &Options, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        let connector = Arc::new(Connector::new(options));
        let pool = pool::of(options, &connector);
        let writers = Places::of(options.pool_size).writes;
        Self {
            pool,
            writers: Arc::new(Semaphore::new(writers)),
            writers_wait: options.pool_wait,
            clock,
            entropy,
            connector,
            connect_timeout: options.connect_timeout,
        }
    }

    /// Uses another URL for the connections that are opened from now on. Unless only the
    /// password is another, those that are open are not used again: the pool closes each
    /// when it would be handed out, and the feed its own at once.
    ///
    /// # Errors
    /// Where the URL cannot be used; then nothing changes.
    pub fn reload(&self, url: &DatabaseUrl) -> Result<Reloaded, MalformedUrl> {
        self.connector.reload(url)
    }

    /// Waits until Postgres refuses the user or the password of a new connection. A
    /// refusal that came since the last call counts.
    pub async fn credentials_refused(&self) {
        self.connector.credentials_refused().await;
    }

    /// How long connecting may take, by the URL that is used now.
    fn connect_timeout(&self) -> Duration {
        self.connector.patience(self.connect_timeout)
    }

    /// The clock that goes by the database's.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The store's source of randomness.
    pub fn entropy(&self) -> &dyn Entropy {
        &*self.entropy
    }

    /// How many it works for at once.
    pub fn places(&self) -> Places {
        Places::of(self.pool.status().max_size)
    }

    /// How the pool is used.
    pub fn pool_status(&self) -> PoolStatus {
        PoolStatus::of(&self.pool)
    }

    /// Closes a connection of the pool that nobody uses, and says whether there was one.
    pub fn close_idle_connection(&self) -> bool {
        pool::close_idle(&self.pool)
    }

    /// Sees whether the database takes connections, with one of its own.
    pub async fn probe(&self) -> Result<(), NoConnection> {
        self.connector.probe().await
    }

    /// What may be shown of where the database is.
    pub fn place(&self) -> String {
        self.connector.place()
    }

    /// The migrations that the database still needs.
    pub async fn pending_migrations(&self) -> Result<Vec<String>, StoreError> {
        let (mut lease, ()) = self
            .start("migrations", async |_: &mut Connection| Ok(()))
            .await?;
        let pending = migrations::pending(lease.start()).await?;
        lease.finish();
        Ok(pending)
    }

    /// Runs `body` on a snapshot, from which it reads what was true at one moment.
    ///
    /// # Errors
    /// What `body` refuses with; or a [`StoreError`].
    pub async fn read<T, E, F>(&self, body: F) -> Result<T, E>
    where
        F: for<'s> Body<&'s mut Snapshot, Result<T, E>> + Sync,
        T: Send,
        E: From<StoreError> + Send,
    {
        let mut snapshot = self.snapshot().await?;
        let read = body(&mut snapshot).await;
        // Also after a failure: a connection that is left in the middle is thrown away.
        let closed = snapshot.close().await;
        let value = read?;
        closed?;
        Ok(value)
    }

    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        let state = Statement(
            "SELECT revision, clock_timestamp() AS now, pg_postmaster_start_time() AS started \
             FROM index_state",
        );
        let (lease, state): (_, StateRow) = self.begin_with("snapshot", begin, state).await?;
        Ok(Snapshot {
            lease,
            now: self.clock.adopt(state.now),
            revision: revision(state.revision)?,
        })
    }

    /// Runs `body` as one writing transaction, and commits what it did unless it
    /// fails. Tried again, from the start, where it collides with another.
    ///
    /// # Errors
    /// What `body` refuses with, after a rollback; or a [`StoreError`].
    pub async fn transaction<T, E, F>(
        &self,
        provenance: &Arc<Provenance>,
        body: F,
    ) -> Result<Committed<T>, E>
    where
        F: for<'t> Body<&'t mut Transaction, Result<T, E>> + Sync,
        T: Send,
        E: From<StoreError> + IsCollision + Send,
    {
        let (value, Position { revision, .. }) = self.transact(provenance, body).await?;
        Ok(Committed { value, revision })
    }

    /// The same, and says at which position of its history the database is thereby: a
    /// revision alone may be given out again, by a server that never had the commit.
    ///
    /// # Errors
    /// As [`Self::transaction`].
    pub async fn transact<T, E, F>(
        &self,
        provenance: &Arc<Provenance>,
        body: F,
    ) -> Result<(T, Position), E>
    where
        F: for<'t> Body<&'t mut Transaction, Result<T, E>> + Sync,
        T: Send,
        E: From<StoreError> + IsCollision + Send,
    {
        // Taken before a connection is, which would only wait as well.
        let permit = tokio::time::timeout(self.writers_wait, self.writers.acquire()).await;
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
    ) -> Result<(T, Position), E>
    where
        F: for<'t> Body<&'t mut Transaction, Result<T, E>> + Sync,
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
        // The time is taken after the lock, so that it orders the writes too.
        let lock = Statement(
            "WITH locked AS MATERIALIZED (SELECT FROM index_state FOR UPDATE) \
             SELECT clock_timestamp() AS now, pg_postmaster_start_time() AS started FROM locked",
        );
        // Said, since a database can have another default: at a higher level whoever
        // waited for the lock would collide with whom it waited for. A database that
        // was made read-only by default stays so.
        let begin = "BEGIN ISOLATION LEVEL READ COMMITTED";
        let (lease, state): (_, TimeRow) = self.begin_with("transaction", begin, lock).await?;
        Ok(Transaction {
            lease,
            now: self.clock.adopt(state.now),
            entropy: Arc::clone(&self.entropy),
            provenance,
        })
    }

    /// Begins a transaction with its first query, which changes nothing. Both are
    /// sent before the first answer is there. A connection that a pooler moved to another
    /// server is of no use, like one that ended.
    async fn begin_with<R>(
        &self,
        operation: &'static str,
        begin: &'static str,
        first: Statement,
    ) -> Result<(Lease, R), StoreError>
    where
        R: First,
    {
        let begin = async |connection: &mut Connection| {
            let (mut one, mut other) = (&*connection, &*connection);
            let (begun, row) = futures_util::future::join(
                one.batch_execute(begin),
                first.get_result::<R>(&mut other),
            )
            .await;
            begun?;
            let row = row?;
            connection.require_server(row.started())?;
            Ok(row)
        };
        self.start(operation, begin).await
    }

    /// Takes a connection and runs the first statement of some work, which must
    /// change nothing. A connection that died while it lay idle says nothing
    /// about the database: then the next one is tried, at last a new one. The
    /// operation names the work's span.
    async fn start<T, F>(&self, operation: &'static str, first: F) -> Result<(Lease, T), StoreError>
    where
        F: for<'c> Body<&'c mut Connection, QueryResult<T>> + Sync,
        T: Send,
    {
        let work = Work::begin(operation);
        let started = self.start_in(&work, first).instrument(work.span()).await;
        match started {
            Ok((lease, value)) => Ok((lease.of(work), value)),
            Err(error) => {
                work.failed(&error);
                Err(error)
            }
        }
    }

    async fn start_in<T, F>(&self, work: &Work, first: F) -> Result<(Lease, T), StoreError>
    where
        F: for<'c> Body<&'c mut Connection, QueryResult<T>> + Sync,
        T: Send,
    {
        let connecting = Some(self.connect_timeout());
        let timeouts = Timeouts {
            create: connecting,
            recycle: connecting,
            ..self.pool.timeouts()
        };
        loop {
            let object = self
                .pool
                .timeout_get(&timeouts)
                .instrument(work.connecting())
                .await?;
            let used_before = Object::metrics(&object).recycle_count > 0;
            let mut lease = Lease::new(object, Arc::clone(&self.connector));
            match first(lease.start()).await.map_err(StoreError::from) {
                Err(StoreError::Unavailable(error)) if used_before => {
                    tracing::debug!(error, "an idle connection had died");
                }
                Err(error) => return Err(error),
                Ok(value) => return Ok((lease, value)),
            }
        }
    }
}

/// What is done with a connection, a snapshot or a transaction: an async closure whose
/// future can be sent between threads, which `AsyncFn` alone cannot say.
pub trait Body<A, R>: Fn(A) -> Self::Future {
    /// What the closure returns.
    type Future: Future<Output = R> + Send;
}

impl<F, A, R, Fut> Body<A, R> for F
where
    F: Fn(A) -> Fut,
    Fut: Future<Output = R> + Send,
{
    type Future = Fut;
}

/// Whether a failure came of a collision, so that another try makes sense.
pub trait IsCollision {
    /// Whether it did.
    fn is_collision(&self) -> bool;
}

impl IsCollision for StoreError {
    fn is_collision(&self) -> bool {
        matches!(self, Self::Collision(_))
    }
}

impl Snapshot {
    fn connection(&mut self) -> &mut Connection {
        self.lease.start()
    }

    /// Ends the snapshot and gives its connection back.
    async fn close(mut self) -> Result<(), StoreError> {
        self.connection().batch_execute("COMMIT").await?;
        self.lease.finish();
        Ok(())
    }
}

impl Transaction {
    fn connection(&mut self) -> &mut Connection {
        self.lease.start()
    }

    /// The source of randomness.
    pub fn entropy(&self) -> Arc<dyn Entropy> {
        Arc::clone(&self.entropy)
    }

    /// Writes an event to the audit trail.
    pub async fn record(&mut self, event: Event) -> Result<(), StoreError> {
        self.record_all(vec![event]).await
    }

    /// Writes events to the audit trail.
    pub async fn record_all(&mut self, events: Vec<Event>) -> Result<(), StoreError> {
        audit::insert(self, events).await
    }

    async fn commit(mut self) -> Result<Position, StoreError> {
        // The database stamps the revision by itself, where something changed. It is read
        // before the commit is sent: after it, it may be somebody else's.
        let stamped = Statement("SELECT revision, database_id, nonce FROM index_state");
        let row: CommitRow = stamped.get_result(self.connection()).await?;
        let position = Position {
            database: row.database_id,
            revision: revision(row.revision)?,
            nonce: row.nonce,
        };
        self.connection().batch_execute("COMMIT").await?;
        self.lease.finish();
        Ok(position)
    }

    /// Gives the connection back where the rollback works, and throws it away,
    /// which rolls back as well, where it does not.
    async fn roll_back(mut self) {
        match self.connection().batch_execute("ROLLBACK").await {
            Ok(()) => self.lease.finish(),
            Err(error) => tracing::debug!(%error, "a rollback failed: the connection is dropped"),
        }
    }
}

fn revision(stored: i64) -> Result<Revision, StoreError> {
    let negative = || StoreError::Inconsistent(format!("revision {stored}"));
    u64::try_from(stored)
        .ok()
        .map(Revision)
        .ok_or_else(negative)
}
