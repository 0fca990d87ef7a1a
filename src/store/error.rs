//! What can go wrong between the service and Postgres, in the classes that
//! callers need to tell apart: it cannot be reached, it is too much at once, or
//! there is a defect. A database's message is for our log, never for a caller.

use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel_async::pooled_connection::deadpool::PoolError;
use tracing::error;

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
    Collision(#[source] DieselError),
    /// The database holds what no version of the service writes.
    #[error("the database is inconsistent: {0}")]
    Inconsistent(String),
    /// A statement that should have worked did not.
    #[error("a statement failed")]
    Defect(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What Postgres says, in English, when it is not there for us: diesel does not
/// pass the SQLSTATE on (57P01 to 57P03, 53xxx, 55000).
const UNAVAILABLE: [&str; 11] = [
    "terminating connection",
    "the database system is",
    "sorry, too many clients already",
    "remaining connection slots are reserved",
    "connection closed",
    "server closed the connection",
    "is not currently accepting connections",
    // Class 53: it cannot do anything for us just now.
    "No space left on device",
    "could not extend file",
    "out of memory",
    "out of shared memory",
];
/// Likewise when it gave up waiting (55P03, 57014).
const OVERLOADED: [&str; 2] = [
    "canceling statement due to lock timeout",
    "canceling statement due to statement timeout",
];

impl From<DieselError> for StoreError {
    fn from(source: DieselError) -> Self {
        let DieselError::DatabaseError(kind, information) = &source else {
            return Self::Defect(Box::new(source));
        };
        let says = |texts: &[&str]| {
            texts
                .iter()
                .any(|text| information.message().contains(text))
        };
        match kind {
            DatabaseErrorKind::SerializationFailure => Self::Collision(source),
            DatabaseErrorKind::ClosedConnection
            | DatabaseErrorKind::UnableToSendCommand
            | DatabaseErrorKind::ReadOnlyTransaction => Self::Unavailable(Box::new(source)),
            _ if says(&["deadlock detected"]) => Self::Collision(source),
            _ if says(&UNAVAILABLE) => Self::Unavailable(Box::new(source)),
            _ if says(&OVERLOADED) => Self::Overloaded(Box::new(source)),
            _ => Self::Defect(Box::new(source)),
        }
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(source: tokio_postgres::Error) -> Self {
        use tokio_postgres::error::SqlState as State;

        // Without an answer of the server's it is the connection that failed.
        let Some(state) = source.code() else {
            return Self::Unavailable(Box::new(source));
        };
        match state.code().get(..2) {
            _ if [&State::QUERY_CANCELED, &State::LOCK_NOT_AVAILABLE].contains(&state) => {
                Self::Overloaded(Box::new(source))
            }
            // Connection exceptions, insufficient resources, operator
            // intervention, wrong credentials, and no such database.
            Some("08" | "53" | "57" | "28" | "3D") => Self::Unavailable(Box::new(source)),
            _ => Self::Defect(Box::new(source)),
        }
    }
}

impl From<PoolError> for StoreError {
    fn from(source: PoolError) -> Self {
        use deadpool::managed::TimeoutType;
        match source {
            PoolError::Timeout(TimeoutType::Wait) => Self::Overloaded(Box::new(source)),
            _ => Self::Unavailable(Box::new(source)),
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
    pub fn is_of_connection(&self) -> bool {
        match self {
            Self::Unavailable(source) => !source.is::<tokio::time::error::Elapsed>(),
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
        match error {
            DieselError::DatabaseError(_, information) => information.constraint_name(),
            _ => None,
        }
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
