//! The writer of the index with its position in the change log: how it catches up, and when
//! a full load is needed instead.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use uuid::Uuid;

use super::Shared;
use crate::{
    client::follow::nanoseconds,
    domain::{Revision, id::ClientId, index::Writer},
    live_index::client_builder::ClientBuilder,
    store::{
        error::StoreError,
        feed::{CatchUp, Changes, Feed, Position},
    },
};

/// Changed clients are read by their ids up to this fraction of all clients, `1 / 4`;
/// beyond it, a full load is faster.
const SHARE_READ_BY_ID: usize = 4;
/// The number of changed clients up to which they are read by their ids in any case.
const MIN_READ_BY_ID: usize = 10_000;
/// Failures to catch up in a row, though the database answers, before a full load.
const MAX_FAILED_CATCH_UPS: u32 = 3;
/// Below this number of clients, the index is written on the thread of the feed. More would
/// delay the other tasks of that thread.
const INLINE_CLIENTS: usize = 1000;

/// The state of the database that this process holds.
pub(super) struct LocalIndex {
    pub(super) writer: Writer,
    pub(super) position: Position,
    /// The nonce of the service accounts that the writer has.
    pub(super) accounts: Uuid,
    /// Whether the published version contains everything that the writer has.
    pub(super) published: bool,
    /// Failures to catch up in a row.
    pub(super) failed: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CaughtUp {
    /// The writer has the state of the server, which lags that far behind the primary.
    Complete(Duration),
    Reload(ReloadCause),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReloadCause {
    /// The change log does not continue the local position.
    Lost,
    /// So much changed that a full load is faster.
    TooMuch,
    Failing,
}

/// Why the database is queried.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// A notification, or a commit of this process, announced a change.
    Notification,
    /// The poll interval, or a refresh.
    Poll,
    /// Another connection reached another server.
    ServerChanged,
}

/// When a version of the index was complete, in nanoseconds of the clock's `elapsed`.
#[derive(Clone, Copy, Debug)]
pub(super) struct CompleteAt {
    /// By the word of the connected server.
    unverified: i64,
    /// The same, but not after the last survey that found this server to be the primary.
    verified: i64,
}

impl CompleteAt {
    pub(super) const UNKNOWN: Self = Self {
        unverified: i64::MIN,
        verified: i64::MIN,
    };

    /// For the result of a query at that time, of a server with that lag.
    pub(super) fn of(feed: &Feed, queried_at: Duration, lag: Duration) -> Self {
        let at = |time| nanoseconds(time).saturating_sub(nanoseconds(lag));
        Self {
            unverified: at(queried_at),
            verified: at(queried_at.min(feed.surveyed_at)),
        }
    }
}

impl LocalIndex {
    /// Applies the changes since the local position, or returns why a full load is needed.
    pub(super) async fn catch_up(
        &mut self,
        feed: &mut Feed,
        reason: Reason,
        shared: &Shared,
    ) -> Result<CaughtUp, StoreError> {
        if self.failed >= MAX_FAILED_CATCH_UPS {
            return Ok(CaughtUp::Reload(ReloadCause::Failing));
        }
        let queried_at = shared.clock.elapsed();
        if reason != Reason::Notification {
            let state = feed.state(self.position).await?;
            shared.calibrate(&state, queried_at);
            if state.position == self.position && state.accounts == self.accounts {
                return Ok(CaughtUp::Complete(state.lag));
            }
        }
        let mut builder = ClientBuilder::default();
        let max_clients = read_by_id(self.writer.clients());
        let caught_up = feed
            .catch_up(self.position, max_clients, &mut builder)
            .await;
        self.failed = match &caught_up {
            Err(error) if !error.is_connection_failure() => self.failed + 1,
            Err(_) => self.failed,
            Ok(_) => 0,
        };
        let state = match caught_up? {
            CatchUp::Lost => return Ok(CaughtUp::Reload(ReloadCause::Lost)),
            CatchUp::TooMuch => return Ok(CaughtUp::Reload(ReloadCause::TooMuch)),
            CatchUp::Nothing(state) => state,
            CatchUp::Changed(state, Changes { clients, passed }) => {
                self.published = false;
                // Before the version is published: replicas that follow it need the way to it.
                shared
                    .recent
                    .record(self.position, passed, state.position, &clients);
                self.position = state.position;
                self.writer = write(builder, clients, std::mem::take(&mut self.writer)).await;
                state
            }
        };
        shared.calibrate(&state, queried_at);
        if state.accounts != self.accounts {
            // The accounts may be newer than the state, which is harmless: no verdict on a
            // token depends on them.
            let accounts = feed.read_accounts().await?;
            self.published = false;
            self.writer.set_callers(accounts);
            self.accounts = state.accounts;
        }
        Ok(CaughtUp::Complete(state.lag))
    }

    /// Publishes the current version of the index, and when it was complete.
    pub(super) fn publish(&mut self, shared: &Shared, complete_at: CompleteAt) {
        let CompleteAt {
            unverified,
            verified,
        } = complete_at;
        if !self.published {
            let version = self.writer.version(self.position);
            // It may be staler than the one that it replaces, and no reader takes it for fresher.
            shared
                .unverified_complete_at
                .fetch_min(unverified, Ordering::AcqRel);
            shared.complete_at.fetch_min(verified, Ordering::AcqRel);
            shared.index.store(Some(Arc::new(version)));
            self.published = true;
        }
        shared
            .unverified_complete_at
            .store(unverified, Ordering::Relaxed);
        shared.complete_at.store(verified, Ordering::Release);
    }
}

/// The most changed clients that are read by their ids, of `clients` in the index.
fn read_by_id(clients: usize) -> usize {
    MIN_READ_BY_ID.max(clients / SHARE_READ_BY_ID)
}

impl ReloadCause {
    /// Logs the full load at its start.
    pub(super) fn log(self, known: Revision) {
        let revision = known.0;
        match self {
            Self::Lost => tracing::warn!(
                revision,
                "the change log does not continue the local index: the database was replaced or \
                 restored, or the log was trimmed. A full reload starts"
            ),
            Self::TooMuch => tracing::info!(
                revision,
                "so many API clients changed that a full reload is faster"
            ),
            Self::Failing => tracing::warn!(
                revision,
                "catching up with the change log keeps failing, though the database answers: a \
                 full reload starts"
            ),
        }
    }
}

async fn write(builder: ClientBuilder, changed: Vec<ClientId>, mut writer: Writer) -> Writer {
    if builder.len() < INLINE_CLIENTS && changed.len() < INLINE_CLIENTS {
        builder.write(&changed, &mut writer);
        return writer;
    }
    let writing = tokio::task::spawn_blocking(move || {
        builder.write(&changed, &mut writer);
        writer
    });
    writing.await.expect("it neither panics nor is aborted")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_clients_is_read_by_id() {
        for (clients, read) in [
            (0, 10_000),
            (40_003, 10_000),
            (40_004, 10_001),
            (1_000_000, 250_000),
        ] {
            assert_eq!(read_by_id(clients), read, "{clients}");
        }
    }
}
