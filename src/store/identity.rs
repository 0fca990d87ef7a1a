//! What a server reports about itself: which server it is, and whether it takes writes.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tokio_postgres::{Client, Row};

use crate::domain::Timestamp;

/// Identifies a running Postgres server by its start time, to the microsecond. Two servers
/// differ in it, and so does one before and after a restart; a promoted standby stays the
/// same server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ServerId(Timestamp);

impl ServerId {
    /// From the start time that the server reports.
    pub(super) const fn of(started: Timestamp) -> Self {
        Self(started)
    }
}

/// The role of a server in replication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServerRole {
    /// The server takes writes.
    Primary,
    /// The server was made read-only, which demotes a primary while it runs.
    ReadOnly,
    /// The server is in recovery.
    Standby {
        /// The commit time of the last replayed transaction, by the primary's clock; `None`
        /// if none was replayed.
        replayed: Option<Timestamp>,
    },
    /// The server receives its API clients by logical replication, whose lag is unknown.
    Subscriber,
}

/// Whether standbys may be read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standbys {
    /// Never: a standby shows writes late, by a lag that is not measured.
    #[default]
    Refused,
    /// If no server takes writes. The replay lag counts as staleness.
    Allowed,
}

/// The identity and the role of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) server: ServerId,
    pub(super) role: ServerRole,
}

impl Identity {
    /// The columns that [`Self::read`] reads. A demotion sets
    /// `default_transaction_read_only`; `transaction_read_only` is on in the feed's own
    /// snapshots as well.
    pub(super) const SQL: &'static str = "pg_postmaster_start_time(), pg_is_in_recovery(), \
         current_setting('default_transaction_read_only')::boolean, \
         CASE WHEN pg_is_in_recovery() THEN pg_last_xact_replay_timestamp() END, \
         EXISTS (SELECT FROM pg_subscription_rel WHERE srrelid = to_regclass('api_clients'))";

    /// Reads the columns of [`Self::SQL`], which start at column `at`.
    pub(super) fn read(row: &Row, at: usize) -> Result<Self, tokio_postgres::Error> {
        let role = if row.try_get(at + 1)? {
            let replayed = row.try_get(at + 3)?;
            ServerRole::Standby { replayed }
        } else if row.try_get(at + 4)? {
            ServerRole::Subscriber
        } else if row.try_get(at + 2)? {
            ServerRole::ReadOnly
        } else {
            ServerRole::Primary
        };
        Ok(Self {
            server: ServerId::of(row.try_get(at)?),
            role,
        })
    }
}

/// The history of a server: copies of one database cluster share the system identifier, and
/// each promotion starts a timeline with a higher number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct History {
    pub(super) system: i64,
    pub(super) timeline: i64,
}

impl History {
    const SQL: &'static str = "SELECT pg_postmaster_start_time(), \
         (SELECT system_identifier FROM pg_control_system()), ('x' || lpad(left(pg_walfile_name(pg_current_wal_lsn()), 8), 16, '0'))::bit(64)::bigint";

    /// The history of a primary; `None` if it cannot be read in time.
    ///
    /// # Errors
    /// If the connection leads to another server by now, whose history it would be.
    pub(super) async fn read(
        client: &Client,
        server: ServerId,
        deadline: Instant,
    ) -> Result<Option<Self>, Unsuitable> {
        let row = client.query_one(Self::SQL, &[]);
        let Ok(Ok(row)) = timeout_at(deadline, row).await else {
            return Ok(None);
        };
        if row.try_get(0).ok().map(ServerId::of) != Some(server) {
            return Err(Unsuitable::ServerChanged);
        }
        let history = || {
            Some(Self {
                system: row.try_get(1).ok()?,
                timeline: row.try_get(2).ok()?,
            })
        };
        Ok(history())
    }

    /// Whether a server of this history was promoted after one of the other.
    pub(super) fn overtakes(self, other: Self) -> bool {
        self.system == other.system && self.timeline > other.timeline
    }
}

/// Why a server is not used, although it accepts connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unsuitable {
    /// The server is in recovery, and standbys are refused.
    #[error("the server is a standby, which serves only with --allow-standby")]
    Standby,
    #[error("the server was made read-only")]
    ReadOnly,
    /// The server takes writes and acknowledges none.
    #[error("the server acknowledges no commit: its synchronous standbys have left it")]
    Unacknowledging,
    /// The server receives its API clients by logical replication.
    #[error("the server is a subscriber of logical replication: point the URL at the publisher")]
    Subscriber,
    /// Another server took over while the connection waited for an answer.
    #[error("the server did not answer, and another one has taken over")]
    Replaced,
    /// A pooler moved the connection to another server.
    #[error("the connection leads to another server than before")]
    ServerChanged,
}

impl ServerRole {
    /// The replication lag of a server in this role at that time; the maximum if it is
    /// unknown. Compares the standby's clock with the primary's, which stamped the commit,
    /// so that the two have to agree.
    pub(super) fn lag(self, now: Timestamp) -> Duration {
        match self {
            Self::Primary | Self::ReadOnly => Duration::ZERO,
            Self::Subscriber | Self::Standby { replayed: None } => Duration::MAX,
            Self::Standby {
                replayed: Some(replayed),
            } => (now - replayed).to_std().unwrap_or_default(),
        }
    }

    /// Refuses a server in a role that may not be read from.
    pub(super) const fn require_readable(self, standbys: Standbys) -> Result<(), Unsuitable> {
        match (self, standbys) {
            (Self::Primary, _) | (Self::Standby { .. }, Standbys::Allowed) => Ok(()),
            (Self::Standby { .. }, Standbys::Refused) => Err(Unsuitable::Standby),
            (Self::ReadOnly, _) => Err(Unsuitable::ReadOnly),
            (Self::Subscriber, _) => Err(Unsuitable::Subscriber),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_newer_timeline_of_the_same_cluster_overtakes() {
        let history = |system, timeline| History { system, timeline };
        for (other, expected) in [
            (history(7, 1), true),
            (history(7, 2), false),
            (history(7, 3), false),
            (history(8, 1), false),
        ] {
            assert_eq!(history(7, 2).overtakes(other), expected, "{other:?}");
        }
    }
}
