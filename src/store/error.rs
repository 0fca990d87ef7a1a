//! What can go wrong between the service and Postgres, in the classes that
//! callers need to tell apart: it cannot be reached, it is too much at once, or
//! there is a defect. A database's message is for our log, never for a caller.

use deadpool::managed::{PoolError, TimeoutType};
use diesel::result::Error as DieselError;
use tokio_postgres::error::DbError;
use tracing::error;

use super::{connect::ConnectError, survey::Unsuitable};

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres cannot be reached, is shutting down, or does not take writes.
    #[error("the database is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No connection, or no lock, was free in time.
    #[error("the database is overloaded")]
    Overloaded(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Two transactions stood in each other's way: the same may go through at
    /// the next try.
    #[error("the transaction collided with another")]
    Collision(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The database holds what no version of the service writes.
    #[error("the database is inconsistent: {0}")]
    Inconsistent(String),
    /// A statement that should have worked did not.
    #[error("a statement failed")]
    Defect(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What an SQLSTATE means for callers. This is the one table, for all connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Unavailable,
    Overloaded,
    Collision,
    Defect,
}

impl Class {
    /// The class by the codes of Postgres' documentation, appendix A. `PgBouncer` and its
    /// kind say all that is their own with 08P01, or with a code of class 58 or XX.
    ///
    /// `file` is the file of Postgres' source in which the error arose. A pooler names
    /// none.
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
            NOTIFY_LIMIT if is_of_notifications(file) => Self::Unavailable,
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

/// The code of a limit of the server's that was exceeded: one of them is how much it
/// keeps of notifications that somebody has not read yet.
const NOTIFY_LIMIT: &str = "54000";

/// Whether an error arose where Postgres keeps notifications.
fn is_of_notifications(file: Option<&str>) -> bool {
    file.is_none_or(|file| file.ends_with("async.c"))
}

/// What the server said, without its details: those can quote a row, and with it a hash.
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

/// Notifications that nobody reads filled the queue, and a commit that was to add one
/// failed. Changes add none from half of the queue on, so it filled in their middle.
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
            // What the connection hands on: see its `failed`.
            DieselError::QueryBuilderError(error) => {
                match error.downcast::<tokio_postgres::Error>() {
                    Ok(error) => (*error).into(),
                    Err(other) if other.is::<Unsuitable>() => Self::Unavailable(other),
                    Err(other) => Self::Defect(other),
                }
            }
            // What diesel itself has to say is about queries, and about their rows.
            other => Self::Defect(Box::new(other)),
        }
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(source: tokio_postgres::Error) -> Self {
        let Some(error) = source.as_db_error() else {
            // Without an answer of the server's it is the connection that failed, unless
            // a value could not be written or read.
            return if is_of_value(&source) {
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

/// Whether a value does not have the type that it is written or read as: anything else
/// that is not the server's answer comes of the input and output, or has no source.
fn is_of_value(error: &tokio_postgres::Error) -> bool {
    let source = std::error::Error::source(error);
    source.is_some_and(|source| !source.is::<std::io::Error>())
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
    /// Writes the failure, with all its causes, to the log: here and nowhere
    /// else, since nobody above sees the causes.
    pub fn log(&self) {
        let causes = causes(self);
        match self {
            Self::Unavailable(_) | Self::Overloaded(_) => tracing::warn!(causes, "{self}"),
            Self::Collision(_) | Self::Inconsistent(_) | Self::Defect(_) => {
                error!(causes, "{self}");
            }
        }
    }

    /// Whether it is the way to Postgres that failed, or Postgres as a whole, and not what
    /// it was asked for: that may merely have taken too long.
    pub fn is_connection_failure(&self) -> bool {
        match self {
            Self::Unavailable(source) => !source.is::<tokio::time::error::Elapsed>(),
            Self::Overloaded(_) | Self::Collision(_) | Self::Inconsistent(_) | Self::Defect(_) => {
                false
            }
        }
    }

    /// Whether Postgres has no connection left for us.
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

    /// Whether a person should look at it: no other try mends it.
    pub const fn is_defect(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Overloaded(_) | Self::Collision(_) => false,
            Self::Inconsistent(_) | Self::Defect(_) => true,
        }
    }

    /// Its class, in a word.
    pub(super) const fn class(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::Overloaded(_) => "overloaded",
            Self::Collision(_) => "collision",
            Self::Inconsistent(_) => "inconsistent",
            Self::Defect(_) => "defect",
        }
    }

    /// The name of the constraint that a statement ran into, if one did.
    pub(crate) fn violated(error: &DieselError) -> Option<&str> {
        let DieselError::QueryBuilderError(error) = error else {
            return None;
        };
        let error = error.downcast_ref::<tokio_postgres::Error>()?;
        error.as_db_error()?.constraint()
    }
}

/// An error's causes in a line, outermost first.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut causes: Vec<String> = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        // A wrapper often repeats what it wraps.
        if !causes.last().is_some_and(|wrapper| wrapper.contains(&text)) {
            causes.push(text);
        }
        next = cause.source();
    }
    causes.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_an_outage_where_it_is_that_of_notifications() {
        for file in [None, Some("async.c"), Some("src/backend/commands/async.c")] {
            assert_eq!(Class::of("54000", file), Class::Unavailable, "{file:?}");
        }
        assert_eq!(Class::of("54000", Some("nbtutils.c")), Class::Defect);
        assert_eq!(Class::of("54001", Some("async.c")), Class::Defect);
    }

    #[test]
    fn what_is_no_sqlstate_is_a_defect() {
        for state in ["", "5", "ä", "00000", "99999"] {
            assert_eq!(Class::of(state, None), Class::Defect, "{state}");
        }
    }
}
