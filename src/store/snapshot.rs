//! Reading: one snapshot per call.

use diesel::sql_types::{BigInt, Timestamptz};
use diesel_async::SimpleAsyncConnection;

use super::{
    FirstRow, Store, TransactionBody, connection::Connection, error::StoreError, lease::Lease,
    revision, statement::Statement,
};
use crate::domain::{Revision, Timestamp};

/// A read-only snapshot of the database.
pub struct Snapshot {
    lease: Lease,
    /// The time of the snapshot, by the database's clock.
    pub now: Timestamp,
    /// The revision that the snapshot shows.
    pub revision: Revision,
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

impl FirstRow for StateRow {
    fn started(&self) -> Timestamp {
        self.started
    }
}

impl Store {
    /// Runs `body` on a snapshot.
    ///
    /// # Errors
    /// The error of `body`, or a [`StoreError`].
    pub async fn read<T, E, F>(&self, body: F) -> Result<T, E>
    where
        F: for<'s> TransactionBody<&'s mut Snapshot, Result<T, E>> + Sync,
        T: Send,
        E: From<StoreError> + Send,
    {
        let mut snapshot = self.snapshot().await?;
        let read = body(&mut snapshot).await;
        // Closed after a failure too: a connection inside a transaction would be discarded.
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
}

impl Snapshot {
    pub(super) fn connection(&mut self) -> &mut Connection {
        self.lease.start()
    }

    /// Ends the snapshot and returns its connection to the pool.
    async fn close(mut self) -> Result<(), StoreError> {
        self.connection().batch_execute("COMMIT").await?;
        self.lease.finish();
        Ok(())
    }
}
