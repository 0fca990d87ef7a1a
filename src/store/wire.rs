//! The socket side of a connection to Postgres, and the task that drives it.

use tokio::task::JoinHandle;
use tokio_postgres::{Connection, Socket, tls::MakeTlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;

/// A connection, which makes progress only while it is polled.
pub(super) type Wire = Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// The task that polls a connection. It is aborted when this is dropped.
pub(super) struct Driver(pub(super) JoinHandle<()>);

impl Driver {
    /// Spawns the task.
    pub(super) fn of(wire: Wire) -> Self {
        Self(tokio::spawn(async move {
            if let Err(error) = wire.await {
                tracing::debug!(%error, "a connection to Postgres ended");
            }
        }))
    }

    /// Whether the connection is known to have ended.
    pub(super) fn has_ended(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}
