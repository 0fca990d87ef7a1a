//! A pooled connection in use, and the span of that use, from the wait for the connection to
//! its return. Spans name the operation; they never contain statements or values.

use std::{sync::Arc, time::Duration};

use tracing::{Span, field::Empty, info_span};

use super::{connect::Connector, connection::Connection, error::StoreError, pool::Object};
use crate::telemetry::traces;

/// How long an abandoned statement may take to be cancelled.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// The span of a database operation, by OpenTelemetry's conventions for databases.
pub(super) struct Work(Span);

impl Work {
    pub(super) fn begin(operation: &'static str) -> Self {
        Self(info_span!(
            target: traces::TARGET,
            "store",
            otel.name = %format_args!("store.{operation}"),
            otel.kind = "client",
            otel.status_code = Empty,
            db.system.name = "postgresql",
            db.operation.name = operation,
            error.type = Empty,
        ))
    }

    pub(super) fn span(&self) -> Span {
        self.0.clone()
    }

    /// The child span of waiting for a connection.
    pub(super) fn connecting(&self) -> Span {
        info_span!(target: traces::TARGET, parent: &self.0, "store.connection")
    }

    pub(super) fn failed(&self, error: &StoreError) {
        self.fail(error.class());
    }

    fn fail(&self, class: &'static str) {
        self.0.record("error.type", class);
        self.0.record("otel.status_code", traces::ERROR);
    }
}

/// A connection that returns to the pool only after [`Lease::finish`].
pub(super) struct Lease {
    connection: Option<Object>,
    /// Whether no statement or transaction is open on the connection.
    idle: bool,
    connector: Arc<Connector>,
    work: Option<Work>,
}

impl Lease {
    pub(super) const fn new(connection: Object, connector: Arc<Connector>) -> Self {
        Self {
            connection: Some(connection),
            idle: true,
            connector,
            work: None,
        }
    }

    /// Attaches the span of the operation.
    pub(super) fn of(mut self, work: Work) -> Self {
        self.work = Some(work);
        self
    }

    /// The connection, which counts as in use from here on.
    pub(super) fn start(&mut self) -> &mut Connection {
        self.idle = false;
        self.connection
            .as_mut()
            .expect("taken out only when dropped")
    }

    /// Discards the connection, whose statement failed.
    pub(super) fn failed(mut self, error: &StoreError) {
        if let Some(work) = self.work.take() {
            work.failed(error);
        }
    }

    /// Returns the connection to the pool.
    pub(super) fn finish(mut self) {
        self.idle = true;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(object) = self.connection.take() else {
            return;
        };
        if self.idle {
            return;
        }
        if let Some(work) = &self.work {
            work.fail("unfinished");
        }
        // Dropped midway: the next user of the connection would wait for the statement to
        // end, and its locks would be held until then.
        let connection = Object::take(object);
        let cancel = connection.cancel_token();
        let connector = Arc::clone(&self.connector);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let cancelled = connector.cancel(cancel);
                let cancelled = tokio::time::timeout(CANCEL_TIMEOUT, cancelled).await;
                if !matches!(cancelled, Ok(Ok(()))) {
                    tracing::debug!("an abandoned statement could not be cancelled");
                }
                drop(connection);
            });
        }
    }
}
