//! A connection that somebody works on, and the span of that work: from the wait for
//! the connection until it is given back. Spans name what is done, and never how: no
//! statement gets in, and no value.

use std::{sync::Arc, time::Duration};

use tracing::{Span, field::Empty, info_span};

use super::{connect::Connector, connection::Connection, error::StoreError, pool::Object};
use crate::telemetry::traces;

/// How long an abandoned statement may take to be cancelled.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// Work on the database, by OpenTelemetry's conventions for databases.
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

    /// The wait for a connection.
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

/// A connection that is put back into the pool only when its work was finished.
pub(super) struct Lease {
    connection: Option<Object>,
    /// Whether the connection has nothing under way.
    idle: bool,
    connector: Arc<Connector>,
    /// What it is for.
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

    /// The same, for that work.
    pub(super) fn of(mut self, work: Work) -> Self {
        self.work = Some(work);
        self
    }

    /// The connection, which from here on has something under way.
    pub(super) fn start(&mut self) -> &mut Connection {
        self.idle = false;
        self.connection
            .as_mut()
            .expect("taken out only when dropped")
    }

    /// Says that nothing is under way any more: the pool may have it back.
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
        // Left in the middle: the next user of the connection would wait for the
        // statement's end, and a lock that it holds would stay held until then.
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
