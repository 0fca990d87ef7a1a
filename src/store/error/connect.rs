//! Why Postgres cannot be connected to.

use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::causes;
use crate::store::{identity::Unsuitable, tls::TlsError, url::MalformedUrl};

/// Why there is no connection. Its message has all causes, but no part of the URL except
/// the names of servers.
#[derive(Debug, thiserror::Error)]
pub(in crate::store) enum ConnectError {
    #[error(transparent)]
    Url(#[from] MalformedUrl),
    /// The TLS configuration cannot be built.
    #[error("{}", with_causes(.0))]
    Tls(#[from] TlsError),
    /// The server may not be used in its present role.
    #[error(transparent)]
    Unsuitable(#[from] Unsuitable),
    /// Several servers take writes, and their timelines do not order them.
    #[error("several servers take writes, and none of them is the newest: {0}")]
    SplitBrain(String),
    /// Only a server takes writes that another one had taken over from.
    #[error(
        "the server at {0} is on an older timeline than one that was the primary before, which is \
         away: what was acknowledged since is missing there. If that is meant, restart this server"
    )]
    Overtaken(String),
    /// The server takes writes and acknowledges none.
    #[error("the server acknowledges no commit: it waits for a synchronous standby")]
    Unacknowledged,
    /// The name of a server is not resolved.
    #[error("the name in {0} is not resolved: {1}")]
    Unresolved(String, #[source] std::io::Error),
    /// The server did not answer in time.
    #[error("nothing answers within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The server rejected the connection, or the network failed.
    #[error("{}", with_causes(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// Each of several servers or addresses failed, for its own reason.
    #[error("{}", .0.iter().map(|(place, why)| format!("{place}: {why}")).collect::<Vec<_>>().join("; "))]
    AllFailed(Vec<(String, ConnectError)>),
}

/// An error with its causes in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = causes(error);
    if causes.is_empty() {
        error.to_string()
    } else {
        format!("{error}: {causes}")
    }
}

/// Why there is no connection, by whether waiting can help.
#[derive(Debug, thiserror::Error)]
pub enum NoConnection {
    /// No server accepts connections at the moment.
    #[error("{0}")]
    Unreachable(String),
    /// The server rejects the user, the password or the database, or the URL is malformed:
    /// waiting does not help.
    #[error("{0}")]
    Refused(String),
}

impl ConnectError {
    /// Combines the failures of all servers.
    pub(in crate::store) fn none_of(mut failed: Vec<(String, Self)>) -> Self {
        match failed.pop() {
            Some((_, only)) if failed.is_empty() => only,
            last => Self::AllFailed(failed.into_iter().chain(last).collect()),
        }
    }

    /// Whether retrying does not help: the URL, the credentials or the database is wrong.
    pub(in crate::store) fn is_permanent(&self) -> bool {
        match self {
            Self::Url(_) => true,
            Self::AllFailed(all) => all.iter().all(|(_, error)| error.is_permanent()),
            // Invalid authorization, and invalid catalog name.
            _ => matches!(self.state_class(), Some("28" | "3D")),
        }
    }

    /// Whether a server has no connection left.
    pub(in crate::store) fn is_connection_shortage(&self) -> bool {
        match self {
            Self::AllFailed(all) => all.iter().any(|(_, error)| error.is_connection_shortage()),
            _ => self.state() == Some(&SqlState::TOO_MANY_CONNECTIONS),
        }
    }

    /// Whether a server rejected the credentials.
    pub(in crate::store) fn is_auth_failure(&self) -> bool {
        match self {
            Self::AllFailed(all) => all.iter().any(|(_, error)| error.is_auth_failure()),
            _ => self.state_class() == Some("28"),
        }
    }

    /// The `SQLSTATE` with which one server answered, if it answered.
    fn state(&self) -> Option<&SqlState> {
        match self {
            Self::Postgres(error) => error.code(),
            Self::Url(_)
            | Self::Tls(_)
            | Self::Unresolved(..)
            | Self::TimedOut(_)
            | Self::Unsuitable(_)
            | Self::SplitBrain(_)
            | Self::Overtaken(_)
            | Self::Unacknowledged
            | Self::AllFailed(_) => None,
        }
    }

    /// The class of that: its first two characters.
    fn state_class(&self) -> Option<&str> {
        self.state()?.code().get(..2)
    }
}
