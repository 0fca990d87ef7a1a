//! Failures of the database, in the classes that callers distinguish: unavailable,
//! overloaded, or a defect. Postgres's messages go to the log, never to a caller.

use deadpool::managed::{PoolError, TimeoutType};
use diesel::result::Error as DieselError;
use tokio_postgres::{error::DbError, types::WrongType};
use tracing::error;

pub(super) mod connect;

use super::identity::Unsuitable;
use connect::ConnectError;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres cannot be reached, is shutting down, or takes no writes.
    #[error("the database is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No connection or lock was available in time.
    #[error("the database is overloaded")]
    Overloaded(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The transaction collided with another; a retry may succeed.
    #[error("the transaction collided with another")]
    Collision(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The database holds a row that no version of the service writes.
    #[error("the database is inconsistent: {0}")]
    Inconsistent(String),
    /// A statement failed for a reason that points to a bug.
    #[error("a statement failed")]
    Defect(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The class of an SQLSTATE. This is the only table, for all connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Unavailable,
    Overloaded,
    Collision,
    Defect,
}

impl Class {
    /// Classifies the codes of appendix A of Postgres's documentation. Poolers such as
    /// `PgBouncer` report their own errors with 08P01, or with a code of class 58 or XX.
    ///
    /// `file` is the file of Postgres's source that raised the error; poolers report none.
    fn of(state: &str, file: Option<&str>) -> Self {
        match state {
            // serialization_failure, deadlock_detected.
            "40001" | "40P01" => Self::Collision,
            // lock_not_available, query_canceled (also by statement_timeout).
            "55P03" | "57014" => Self::Overloaded,
            // read_only_sql_transaction, idle_in_transaction_session_timeout,
            // transaction_timeout.
            "25006" | "25P03" | "25P04" => Self::Unavailable,
            // program_limit_exceeded: here, the queue of notifications is full.
            NOTIFY_LIMIT if is_from_notifications(file) => Self::Unavailable,
            _ => match state.get(..2) {
                // Connection exceptions, invalid authorization, invalid catalog name,
                // insufficient resources, operator intervention, system errors, internal
                // errors.
                Some("08" | "28" | "3D" | "53" | "57" | "58" | "XX") => Self::Unavailable,
                _ => Self::Defect,
            },
        }
    }
}

/// `program_limit_exceeded`: one of the limits is the size of the notification queue.
const NOTIFY_LIMIT: &str = "54000";

/// Whether Postgres's notification code raised the error.
fn is_from_notifications(file: Option<&str>) -> bool {
    file.is_none_or(|file| file.ends_with("async.c"))
}

/// The server's message without its details, which can quote a row, and with it a hash.
#[derive(Debug, thiserror::Error)]
#[error("{severity}: {message} (SQLSTATE {state})")]
struct Report {
    severity: String,
    message: String,
    state: String,
}

impl Report {
    fn of(error: &DbError) -> Self {
        Self {
            severity: error.severity().to_owned(),
            message: error.message().to_owned(),
            state: error.code().code().to_owned(),
        }
    }
}

/// A commit failed because the notification queue is full of unread notifications. Changes
/// send none once the queue is half full, so that it filled up during the transaction.
#[derive(Debug, thiserror::Error)]
#[error(
    "Postgres' queue of notifications is full (see pg_notification_queue_usage()): a session of \
     any of its databases listens and does not read, mostly because it is inside a transaction, \
     which pg_stat_activity shows as an old one"
)]
struct QueueFull(#[source] Report);

impl From<DieselError> for StoreError {
    fn from(source: DieselError) -> Self {
        match source {
            // The connection wraps its errors in this variant; see its `failed`.
            DieselError::QueryBuilderError(error) => {
                match error.downcast::<tokio_postgres::Error>() {
                    Ok(error) => (*error).into(),
                    Err(other) if other.is::<Unsuitable>() => Self::Unavailable(other),
                    Err(other) => Self::Defect(other),
                }
            }
            // Diesel's own errors are about queries and their rows.
            other => Self::Defect(Box::new(other)),
        }
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(source: tokio_postgres::Error) -> Self {
        let Some(error) = source.as_db_error() else {
            // Without a reply of the server, the connection failed, unless a value could
            // not be encoded or decoded.
            return if is_of_encoding(&source) {
                Self::Defect(Box::new(source))
            } else {
                Self::Unavailable(Box::new(source))
            };
        };
        let report = Report::of(error);
        match Class::of(&report.state, error.file()) {
            Class::Unavailable if report.state == NOTIFY_LIMIT => {
                Self::Unavailable(Box::new(QueueFull(report)))
            }
            Class::Unavailable => Self::Unavailable(Box::new(report)),
            Class::Overloaded => Self::Overloaded(Box::new(report)),
            Class::Collision => Self::Collision(Box::new(report)),
            Class::Defect => Self::Defect(Box::new(report)),
        }
    }
}

/// Whether a value could not be encoded or decoded. All other errors without a reply of
/// the server have an I/O error as their source, or none.
fn is_of_encoding(error: &tokio_postgres::Error) -> bool {
    let source = std::error::Error::source(error);
    source.is_some_and(|source| !source.is::<std::io::Error>())
}

impl From<ConnectError> for StoreError {
    /// Whatever the reason: without a connection, the database is unavailable.
    fn from(error: ConnectError) -> Self {
        Self::Unavailable(Box::new(error))
    }
}

impl From<PoolError<ConnectError>> for StoreError {
    fn from(source: PoolError<ConnectError>) -> Self {
        match source {
            PoolError::Timeout(TimeoutType::Wait) => Self::Overloaded(Box::new(source)),
            PoolError::Backend(error) => error.into(),
            PoolError::Timeout(TimeoutType::Create | TimeoutType::Recycle)
            | PoolError::Closed
            | PoolError::NoRuntimeSpecified
            | PoolError::PostCreateHook(_) => Self::Unavailable(Box::new(source)),
        }
    }
}

impl StoreError {
    /// Logs the failure with all its causes. Callers further up do not see the causes.
    pub fn log(&self) {
        let causes = causes(self);
        match self {
            Self::Unavailable(_) | Self::Overloaded(_) => tracing::warn!(causes, "{self}"),
            Self::Collision(_) | Self::Inconsistent(_) | Self::Defect(_) => {
                error!(causes, "{self}");
            }
        }
    }

    /// Whether a commit may have been done that failed with this error: Postgres may end a session
    /// after it, and so may the network.
    pub(super) fn may_be_committed(&self) -> bool {
        matches!(self, Self::Unavailable(cause) if !cause.is::<QueueFull>())
    }

    /// Whether a row has what no version of the service writes: a word that it does not know, or
    /// a value that its type cannot hold, such as an infinite time.
    pub(super) fn is_of_row(&self) -> bool {
        match self {
            Self::Inconsistent(_) => true,
            Self::Defect(source) => source
                .downcast_ref::<tokio_postgres::Error>()
                .and_then(std::error::Error::source)
                // A column of another type is no matter of its row.
                .is_some_and(|value| !value.is::<WrongType>()),
            Self::Unavailable(_) | Self::Overloaded(_) | Self::Collision(_) => false,
        }
    }

    /// Whether the connection or Postgres itself failed, rather than a statement, which may
    /// merely have timed out.
    pub fn is_connection_failure(&self) -> bool {
        match self {
            Self::Unavailable(source) => !source.is::<tokio::time::error::Elapsed>(),
            Self::Overloaded(_) | Self::Collision(_) | Self::Inconsistent(_) | Self::Defect(_) => {
                false
            }
        }
    }

    /// Whether Postgres has no connection left.
    pub fn is_connection_shortage(&self) -> bool {
        match self {
            Self::Unavailable(source) => source
                .downcast_ref()
                .is_some_and(ConnectError::is_connection_shortage),
            Self::Overloaded(_) | Self::Collision(_) | Self::Inconsistent(_) | Self::Defect(_) => {
                false
            }
        }
    }

    /// Whether an operator should look at it, since no retry helps.
    pub const fn is_defect(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Overloaded(_) | Self::Collision(_) => false,
            Self::Inconsistent(_) | Self::Defect(_) => true,
        }
    }

    /// The `error.type` of spans.
    pub(super) const fn class(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::Overloaded(_) => "overloaded",
            Self::Collision(_) => "collision",
            Self::Inconsistent(_) => "inconsistent",
            Self::Defect(_) => "defect",
        }
    }

    /// The name of the violated constraint, if the error is a violation.
    pub(crate) fn violated(error: &DieselError) -> Option<&str> {
        let DieselError::QueryBuilderError(error) = error else {
            return None;
        };
        let error = error.downcast_ref::<tokio_postgres::Error>()?;
        error.as_db_error()?.constraint()
    }
}

pub use crate::client::causes;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_notification_queue_is_an_outage() {
        for file in [None, Some("async.c"), Some("src/backend/commands/async.c")] {
            assert_eq!(Class::of("54000", file), Class::Unavailable, "{file:?}");
        }
        assert_eq!(Class::of("54000", Some("nbtutils.c")), Class::Defect);
        assert_eq!(Class::of("54001", Some("async.c")), Class::Defect);
    }

    #[test]
    fn an_unknown_sqlstate_is_a_defect() {
        for state in ["", "5", "ä", "00000", "99999"] {
            assert_eq!(Class::of(state, None), Class::Defect, "{state}");
        }
    }
}
