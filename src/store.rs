//! Persistence in Postgres: the connection pool, snapshots to read from, and the single
//! transaction that writes.
//!
//! [`Store::read`] reads from one snapshot. [`Store::transaction`] writes: it takes the
//! write lock first and holds it until the commit, so that writes are serial and every check
//! inside still holds at the commit. The database stamps the next revision if something
//! changed, and audit events are written only inside the transaction. If a caller drops the
//! future midway, the statement is cancelled and the connection closed, because a connection
//! in the middle of a transaction must not return to the pool.
//!
//! What no answer depends on is written beside it, in single statements: uses, what was
//! delivered of the outbox, and what is removed after its time.

use std::{sync::Arc, time::Duration};

use deadpool::managed::Timeouts;
use diesel::{QueryResult, QueryableByName, pg::Pg, sql_types::Timestamptz};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use tokio::{sync::Semaphore, time::sleep};
use tracing::Instrument;

pub mod audit;
pub mod callers;
pub mod census;
mod change_log;
pub mod clients;
mod connect;
mod connection;
pub mod directory;
pub mod error;
pub mod examination;
pub mod explanation;
mod facts;
pub mod feed;
mod identity;
pub mod imports;
pub mod introspection;
mod lease;
pub mod migrations;
mod names;
pub mod outbox;
mod pool;
mod proven;
pub mod replays;
mod schema;
mod session;
mod snapshot;
mod statement;
mod survey;
pub mod tls;
mod transaction;
mod types;
mod url;
pub mod usage;
mod wire;

use crate::domain::{
    Revision, Timestamp,
    clock::{Clock, Entropy},
};
use connect::Connector;
pub use connect::Reloaded;
use connection::Connection;
use error::StoreError;
pub use error::connect::NoConnection;
pub use identity::Standbys;
use identity::Unsuitable;
use lease::{Lease, Work};
pub use names::Resolver;
use pool::{Object, Pool};
pub use pool::{PoolPermits, PoolStatus};
pub use snapshot::Snapshot;
use statement::Statement;
pub use transaction::{Commit, Committed, IsCollision, NotAcknowledged, Transaction};
pub use url::{DatabaseUrl, MalformedUrl};

/// How long the server before a failover may take to finish what it was asked.
const LAST_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How to reach Postgres.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// `postgres://user:password@host/database`, or the key=value form.
    pub database_url: DatabaseUrl,
    /// The maximum number of connections in the pool. Default 16.
    pub pool_size: usize,
    /// The timeout of waiting for a connection of the pool. Default 2 s.
    pub pool_wait: Duration,
    /// The timeout of connecting, if the URL has none. Default 3 s.
    pub connect_timeout: Duration,
    /// Whether standbys may be read from. Default [`Standbys::Refused`].
    pub standbys: Standbys,
    /// Resolves the names of servers. Default the system's resolver.
    pub resolver: Resolver,
}

impl StoreOptions {
    /// The defaults for a database.
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

/// A handle to the database. Cheap to clone; all clones share one pool.
#[derive(Clone)]
pub struct Store {
    pool: Pool,
    /// One permit for each connection that writers may hold.
    writers: Arc<Semaphore>,
    writers_wait: Duration,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    /// Opens connections beside the pool.
    connector: Arc<Connector>,
    /// The timeout of connecting, if the URL has none.
    connect_timeout: Duration,
}

/// Which server a connection leads to, by its start time.
#[derive(QueryableByName)]
struct ServerRow {
    #[diesel(sql_type = Timestamptz)]
    started: Timestamp,
}

#[derive(QueryableByName)]
struct ClockRow {
    #[diesel(sql_type = Timestamptz)]
    now: Timestamp,
}

/// The result of a transaction's first query.
trait FirstRow: QueryableByName<Pg> + Send + 'static {
    /// The server's start time, which identifies the server.
    fn started(&self) -> Timestamp;
}

impl Store {
    /// Creates a store, which connects on first use.
    pub fn new(options: &StoreOptions, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        let connector = Arc::new(Connector::new(options));
        let pool = pool::of(options, &connector);
        let writers = PoolPermits::of(options.pool_size).writes;
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

    /// Uses another URL for connections opened from now on. Unless only the password
    /// differs, open connections are not used again: the pool closes each before its next
    /// use, and the feed its own at once.
    ///
    /// # Errors
    /// If the URL cannot be used; nothing changes then.
    pub fn reload(&self, url: &DatabaseUrl) -> Result<Reloaded, MalformedUrl> {
        self.connector.reload(url)
    }

    /// Waits until Postgres rejects the user or the password of a new connection, or returns
    /// at once if it did since the last call.
    pub async fn credentials_refused(&self) {
        self.connector.credentials_refused().await;
    }

    /// The timeout of connecting with the present URL.
    fn connect_timeout(&self) -> Duration {
        self.connector.connect_timeout(self.connect_timeout)
    }

    /// The clock that is calibrated by the database's.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Calibrates the clock by the database's, for a process that has no feed which does it.
    async fn calibrate_clock(&self) -> Result<(), StoreError> {
        let read = async |connection: &mut Connection| {
            let asked_at = self.clock.elapsed();
            let row: ClockRow = Statement("SELECT clock_timestamp() AS now")
                .get_result(connection)
                .await?;
            Ok((row.now, self.clock.elapsed().saturating_sub(asked_at)))
        };
        let (lease, (now, waited)) = self.start("calibrate_clock", read).await?;
        lease.finish();
        self.clock.calibrate(now, waited);
        Ok(())
    }

    /// The store's source of randomness.
    pub fn entropy(&self) -> &dyn Entropy {
        &*self.entropy
    }

    /// The number of concurrent readers and writers.
    pub fn permits(&self) -> PoolPermits {
        PoolPermits::of(self.pool.status().max_size)
    }

    pub fn pool_status(&self) -> PoolStatus {
        PoolStatus::of(&self.pool)
    }

    /// Closes an idle connection of the pool. Returns whether there was one.
    pub fn close_idle_connection(&self) -> bool {
        pool::close_idle(&self.pool)
    }

    /// Checks whether the database accepts connections, with one beside the pool.
    pub async fn probe(&self) -> Result<(), NoConnection> {
        self.connector.probe().await
    }

    /// The servers and the database, without credentials, for display.
    pub fn place(&self) -> String {
        self.connector.place()
    }

    /// The names of the migrations that are not applied yet.
    pub async fn pending_migrations(&self) -> Result<Vec<String>, StoreError> {
        let mut lease = self.take("migrations").await?;
        let pending = migrations::pending(lease.start()).await?;
        lease.finish();
        Ok(pending)
    }

    /// Begins a transaction with its first query, which must change nothing. Both are
    /// pipelined. A connection that a pooler moved to another server is discarded, like one
    /// that ended.
    async fn begin_with<R>(
        &self,
        operation: &'static str,
        begin: &'static str,
        first: Statement,
    ) -> Result<(Lease, R), StoreError>
    where
        R: FirstRow,
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
        self.take_with(operation, begin).await
    }

    /// Takes a connection and runs a statement on it, in no transaction. It fails as a whole if
    /// the connection ends in between.
    async fn start<T, F>(
        &self,
        operation: &'static str,
        statement: F,
    ) -> Result<(Lease, T), StoreError>
    where
        F: for<'c> TransactionBody<&'c mut Connection, QueryResult<T>> + Sync,
        T: Send,
    {
        let mut lease = self.take(operation).await?;
        match statement(lease.start()).await.map_err(StoreError::from) {
            Ok(value) => Ok((lease, value)),
            Err(error) => {
                lease.failed(&error);
                Err(error)
            }
        }
    }

    /// Runs work that has no deadline, and gives it up some time after another server turned out
    /// to be the primary, or the URL came to lead elsewhere: a server that hangs may keep its
    /// connections open, and never answer.
    ///
    /// # Errors
    /// That of the work; and [`StoreError::Unavailable`] if it was given up. A part of it may be
    /// done.
    pub async fn until_failover<T>(
        &self,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let invalidated = self.connector.invalidation();
        let given_up = async {
            invalidated.await;
            sleep(LAST_ANSWER_TIMEOUT).await;
        };
        tokio::select! {
            biased;
            done = work => done,
            () = given_up => Err(StoreError::Unavailable(Box::new(Unsuitable::Replaced))),
        }
    }

    /// Takes a connection that leads to the server to which it was opened.
    async fn take(&self, operation: &'static str) -> Result<Lease, StoreError> {
        let server = async |connection: &mut Connection| {
            let mut same = &*connection;
            let row: ServerRow = Statement("SELECT pg_postmaster_start_time() AS started")
                .get_result(&mut same)
                .await?;
            connection.require_server(row.started)
        };
        let (lease, ()) = self.take_with(operation, server).await?;
        Ok(lease)
    }

    /// Takes a connection and runs a first statement on it, which must be safe to repeat and
    /// check the server. If an idle connection turns out to have ended, or to lead to another
    /// server, the next one is tried, and finally a new one: its end proves nothing about the
    /// database. The span is named after the operation.
    async fn take_with<T, F>(
        &self,
        operation: &'static str,
        first: F,
    ) -> Result<(Lease, T), StoreError>
    where
        F: for<'c> TransactionBody<&'c mut Connection, QueryResult<T>> + Sync,
        T: Send,
    {
        let work = Work::begin(operation);
        let started = self.take_in(&work, first).instrument(work.span()).await;
        match started {
            Ok((lease, value)) => Ok((lease.of(work), value)),
            Err(error) => {
                work.failed(&error);
                Err(error)
            }
        }
    }

    async fn take_in<T, F>(&self, work: &Work, first: F) -> Result<(Lease, T), StoreError>
    where
        F: for<'c> TransactionBody<&'c mut Connection, QueryResult<T>> + Sync,
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
                    tracing::debug!(error, "an idle connection had ended");
                }
                Err(error) => return Err(error),
                Ok(value) => return Ok((lease, value)),
            }
        }
    }
}

/// An async closure on a connection, a snapshot or a transaction, whose future is `Send`,
/// which `AsyncFn` alone cannot express.
pub trait TransactionBody<A, R>: Fn(A) -> Self::Future {
    /// The future that the closure returns.
    type Future: Future<Output = R> + Send;
}

impl<F, A, R, Fut> TransactionBody<A, R> for F
where
    F: Fn(A) -> Fut,
    Fut: Future<Output = R> + Send,
{
    type Future = Fut;
}

fn revision(stored: i64) -> Result<Revision, StoreError> {
    let negative = || StoreError::Inconsistent(format!("revision {stored}"));
    u64::try_from(stored)
        .ok()
        .map(Revision)
        .ok_or_else(negative)
}
