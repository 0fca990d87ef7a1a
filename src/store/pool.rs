//! The pool of connections, and who may have how many of them.

use std::sync::Arc;

use deadpool::{Runtime, managed};

use super::{
    Options,
    connect::{ConnectError, Connector},
    connection::Connection,
};

/// Connections that are used again.
pub(super) type Pool = managed::Pool<Manager>;
/// A connection out of the pool.
pub(super) type Object = managed::Object<Manager>;

/// The part of the pool that writers may have. They wait for each other anyway,
/// and must not keep those who read waiting for a connection.
const WRITERS_SHARE: usize = 4;

/// How many the store works for at once; the others wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// Those who read.
    pub reads: usize,
    /// Those who write, with connections that those who read could have otherwise.
    pub writes: usize,
}

impl Places {
    /// Those of a pool of so many connections.
    pub(super) fn of(connections: usize) -> Self {
        Self {
            reads: connections,
            writes: (connections / WRITERS_SHARE).max(1),
        }
    }
}

/// How the pool is used at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    /// Connections that there are.
    pub connections: usize,
    /// Of these, those that nobody uses.
    pub idle: usize,
    /// Connections that there may be.
    pub at_most: usize,
    /// Those who wait for one.
    pub waiting: usize,
}

impl PoolStatus {
    pub(super) fn of(pool: &Pool) -> Self {
        let status = pool.status();
        Self {
            connections: status.size,
            idle: status.available,
            at_most: status.max_size,
            waiting: status.waiting,
        }
    }
}

/// Makes connections, and sees whether one can be used again.
pub(super) struct Manager(Arc<Connector>);

impl managed::Manager for Manager {
    type Type = Connection;
    type Error = ConnectError;

    async fn create(&self) -> Result<Connection, ConnectError> {
        // Boxed, since it is large, rare, and part of whatever needs a connection.
        Box::pin(self.0.connect()).await
    }

    async fn recycle(
        &self,
        connection: &mut Connection,
        metrics: &managed::Metrics,
    ) -> managed::RecycleResult<ConnectError> {
        // No round trip: a dead connection is seen as closed.
        if connection.is_closed() {
            return Err(managed::RecycleError::message("the connection has ended"));
        }
        // A connection to where the database no longer is would be used for ever otherwise.
        if !self.0.is_valid(metrics.created) {
            return Err(managed::RecycleError::message(
                "the database is elsewhere now",
            ));
        }
        Ok(())
    }
}

/// Closes one connection that nobody uses, if there is one.
pub(super) fn close_idle(pool: &Pool) -> bool {
    let mut is_closed = false;
    let is_first = |_: &Connection, _| std::mem::replace(&mut is_closed, true);
    drop(pool.retain(is_first));
    is_closed
}

/// A pool, which connects when first asked for a connection. How long that may take is
/// said by whoever asks.
pub(super) fn of(options: &Options, connector: &Arc<Connector>) -> Pool {
    Pool::builder(Manager(Arc::clone(connector)))
        .max_size(options.pool_size)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(options.pool_wait))
        .build()
        .expect("a runtime is set, which timeouts need")
}
