//! The pool of connections, and who may have how many of them.

use std::sync::Arc;

use deadpool::{Runtime, managed::HookError};
use diesel_async::{
    AsyncPgConnection,
    pooled_connection::{
        AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod,
        deadpool::{Hook, Pool},
    },
};
use futures_util::FutureExt;

use super::{
    Options,
    connect::{self, Connector},
};

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
    pub(super) fn of(pool: &Pool<AsyncPgConnection>) -> Self {
        let status = pool.status();
        Self {
            connections: status.size,
            idle: status.available,
            at_most: status.max_size,
            waiting: status.waiting,
        }
    }
}

/// A pool, which connects when first asked for a connection. How long that may take is
/// said by whoever asks.
pub(super) fn of(options: &Options, connector: &Arc<Connector>) -> Pool<AsyncPgConnection> {
    let mut config = ManagerConfig::<AsyncPgConnection>::default();
    // No round trip at checkout: a dead connection is seen as closed.
    config.recycling_method = RecyclingMethod::Fast;
    let validity = Arc::clone(connector);
    let connector = Arc::clone(connector);
    config.custom_setup = Box::new(move |_: &str| {
        let connector = Arc::clone(&connector);
        async move { connector.connect().await }.boxed()
    });
    // The connector knows where to.
    let manager = AsyncDieselConnectionManager::new_with_config("", config);
    let set_up = Hook::async_fn(|connection: &mut AsyncPgConnection, _| {
        async {
            let done = connect::set_up(connection).await;
            done.map_err(|error| HookError::Message(error.to_string().into()))
        }
        .boxed()
    });
    // A connection to where the database no longer is would be used for ever otherwise.
    let still_valid = Hook::sync_fn(move |_: &mut AsyncPgConnection, metrics| {
        if validity.is_valid(metrics.created) {
            Ok(())
        } else {
            Err(HookError::Message("the database is elsewhere now".into()))
        }
    });
    Pool::builder(manager)
        .max_size(options.pool_size)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(options.pool_wait))
        .post_create(set_up)
        .pre_recycle(still_valid)
        .build()
        .expect("a runtime is set, which timeouts need")
}
