//! The connection pool, and its division between readers and writers.

use std::sync::Arc;

use deadpool::{Runtime, managed};

use super::{
    StoreOptions, connect::Connector, connection::Connection, error::connect::ConnectError,
};

pub(super) type Pool = managed::Pool<Manager>;
pub(super) type Object = managed::Object<Manager>;

/// Writers may hold one in this many connections. They wait for each other anyway, and must
/// not starve readers.
const WRITERS_SHARE: usize = 4;

/// The number of concurrent operations of the store; others wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolPermits {
    /// Permits of readers: all connections.
    pub reads: usize,
    /// Permits of writers, who share the connections with readers.
    pub writes: usize,
}

impl PoolPermits {
    /// The permits of a pool of that size.
    pub(super) fn of(connections: usize) -> Self {
        Self {
            reads: connections,
            writes: (connections / WRITERS_SHARE).max(1),
        }
    }
}

/// The use of the pool at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    pub connections: usize,
    /// Open connections that are not in use.
    pub idle: usize,
    /// The maximum number of connections.
    pub capacity: usize,
    /// Operations that wait for a connection.
    pub waiting: usize,
}

impl PoolStatus {
    pub(super) fn of(pool: &Pool) -> Self {
        let status = pool.status();
        Self {
            connections: status.size,
            idle: status.available,
            capacity: status.max_size,
            waiting: status.waiting,
        }
    }
}

/// Opens connections, and checks whether one can be reused.
pub(super) struct Manager(Arc<Connector>);

impl managed::Manager for Manager {
    type Type = Connection;
    type Error = ConnectError;

    async fn create(&self) -> Result<Connection, ConnectError> {
        // Boxed, since this large, rare future is part of every user's future.
        Box::pin(self.0.connect()).await
    }

    async fn recycle(
        &self,
        connection: &mut Connection,
        metrics: &managed::Metrics,
    ) -> managed::RecycleResult<ConnectError> {
        // Without a round trip: a dead connection reports itself as closed.
        if connection.is_closed() {
            return Err(managed::RecycleError::message("the connection has ended"));
        }
        // A connection to a former primary would otherwise be reused forever.
        let opened_at = metrics.created;
        let is_superseded = |server| self.0.is_superseded(server, opened_at);
        if !self.0.is_valid(opened_at) || connection.server().is_some_and(is_superseded) {
            return Err(managed::RecycleError::message(
                "the database is elsewhere now",
            ));
        }
        Ok(())
    }
}

/// Closes one idle connection. Returns whether there was one.
pub(super) fn close_idle(pool: &Pool) -> bool {
    let mut is_closed = false;
    let is_first = |_: &Connection, _| std::mem::replace(&mut is_closed, true);
    drop(pool.retain(is_first));
    is_closed
}

/// A pool, which connects on first use. Callers pass the timeout of connecting.
pub(super) fn of(options: &StoreOptions, connector: &Arc<Connector>) -> Pool {
    Pool::builder(Manager(Arc::clone(connector)))
        .max_size(options.pool_size)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(options.pool_wait))
        .build()
        .expect("a runtime is set, which timeouts need")
}
