//! What a replica is sent at a time: a snapshot or changes, in parts, and then answers. All
//! of it is of one version of the index, which is held only until it is sent.

use std::{sync::Arc, time::Duration, vec};

use chrono::TimeDelta;
use prost::Message;

use super::turn::SnapshotTurn;
use crate::{
    domain::{clock::Clock, id::ClientId, index::Index},
    grpc::{
        convert::{
            replication::{Audience, to_accounts, to_client, to_position, to_removed},
            to_duration, to_timestamp,
        },
        error::ApiError,
    },
    live_index::Unanswerable,
    pb::{self, replicate_response::Message as Sent},
};

/// About how many bytes of clients a part has. The buffer that a part is written to stays with
/// the stream, which many replicas hold open.
const PART_BYTES: usize = 4 * 1024;

/// A version of the index, and how stale it was at a moment.
#[derive(Clone)]
pub(super) struct Version {
    pub(super) index: Arc<Index>,
    pub(super) staleness: Duration,
    /// By `elapsed` of the clock.
    pub(super) seen_at: Duration,
}

/// An answer to a question, or why there is none.
pub(super) type Answer = (u64, Result<(), Unanswerable>);

/// What is to be sent.
pub(super) struct Parts {
    version: Version,
    audience: Audience,
    content: Content,
    answers: vec::IntoIter<Answer>,
}

/// What comes before the answers.
pub(super) enum Content {
    /// A snapshot, of which nothing was sent.
    SnapshotBegin(SnapshotTurn),
    /// The part of the version that comes next.
    Snapshot(SnapshotTurn, usize),
    /// Clients that changed, and whether the accounts did.
    Changes {
        clients: vec::IntoIter<ClientId>,
        with_accounts: bool,
    },
    None,
}

impl Parts {
    pub(super) fn new(
        version: Version,
        audience: Audience,
        content: Content,
        answers: Vec<Answer>,
    ) -> Self {
        Self {
            version,
            audience,
            content,
            answers: answers.into_iter(),
        }
    }

    /// Whether the next part is one of a snapshot that has begun.
    pub(super) const fn is_within_snapshot(&self) -> bool {
        matches!(self.content, Content::Snapshot(..))
    }

    /// The next part, and `None` after the last.
    pub(super) fn next(
        &mut self,
        clock: &dyn Clock,
    ) -> Result<Option<pb::ReplicateResponse>, ApiError> {
        let sent = match std::mem::replace(&mut self.content, Content::None) {
            Content::SnapshotBegin(turn) => {
                turn.require()?;
                self.content = Content::Snapshot(turn, 0);
                Some(Sent::SnapshotBegin(self.snapshot_begin(clock)))
            }
            Content::Snapshot(turn, part) => {
                turn.require()?;
                Some(self.snapshot_part(turn, part))
            }
            Content::Changes {
                clients,
                with_accounts,
            } => Some(Sent::Changes(self.changes(clients, with_accounts))),
            Content::None => self
                .answers
                .next()
                .map(|answer| Sent::Answer(self.answer(answer, clock))),
        };
        Ok(sent.map(|message| pb::ReplicateResponse {
            message: Some(message),
        }))
    }

    fn snapshot_begin(&self, clock: &dyn Clock) -> pb::SnapshotBegin {
        let index = &self.version.index;
        pb::SnapshotBegin {
            position: Some(to_position(index.position)),
            api_clients: u64::try_from(index.clients()).unwrap_or(u64::MAX),
            staleness: Some(self.staleness(clock)),
            now: Some(to_timestamp(clock.now())),
        }
    }

    fn snapshot_part(&mut self, turn: SnapshotTurn, mut part: usize) -> Sent {
        let index = &self.version.index;
        let mut changes = pb::ReplicationChanges::default();
        let mut size = 0;
        if part == 0 {
            let accounts = to_accounts(index.callers());
            size += accounts.encoded_len();
            changes.accounts = Some(accounts);
        }
        let mut bytes = 0;
        while part < Index::PARTS && bytes < PART_BYTES {
            for client in index.part(part) {
                let client = to_client(client, self.audience);
                bytes += client.encoded_len();
                changes.put.push(client);
            }
            part += 1;
        }
        if changes.put.is_empty() && changes.accounts.is_none() {
            // The turn ends with it.
            return Sent::SnapshotEnd(pb::SnapshotEnd {});
        }
        turn.take_part(size + bytes);
        self.content = Content::Snapshot(turn, part);
        Sent::Changes(changes)
    }

    fn changes(
        &mut self,
        mut clients: vec::IntoIter<ClientId>,
        with_accounts: bool,
    ) -> pb::ReplicationChanges {
        let index = &self.version.index;
        let mut changes = pb::ReplicationChanges::default();
        if with_accounts {
            changes.accounts = Some(to_accounts(index.callers()));
        }
        let mut bytes = 0;
        while bytes < PART_BYTES
            && let Some(id) = clients.next()
        {
            if let Some(client) = index.client(id) {
                let client = to_client(client, self.audience);
                bytes += client.encoded_len();
                changes.put.push(client);
            } else {
                let removed = to_removed(id);
                bytes += removed.len();
                changes.removed.push(removed);
            }
        }
        if clients.len() == 0 {
            changes.position = Some(to_position(index.position));
        } else {
            self.content = Content::Changes {
                clients,
                with_accounts: false,
            };
        }
        changes
    }

    fn answer(&self, (number, result): Answer, clock: &dyn Clock) -> pb::ReplicationAnswer {
        match result {
            Ok(()) => pb::ReplicationAnswer {
                number,
                position: Some(to_position(self.version.index.position)),
                staleness: Some(self.staleness(clock)),
                now: Some(to_timestamp(clock.now())),
                error: None,
            },
            Err(error) => pb::ReplicationAnswer {
                number,
                error: Some(ApiError::from(error).into_stream_error()),
                ..pb::ReplicationAnswer::default()
            },
        }
    }

    /// How stale the version is by now: nothing was proven of it since it was seen.
    fn staleness(&self, clock: &dyn Clock) -> prost_types::Duration {
        let since = clock.elapsed().saturating_sub(self.version.seen_at);
        let staleness = self.version.staleness.saturating_add(since);
        to_duration(TimeDelta::from_std(staleness).unwrap_or(TimeDelta::MAX))
    }
}
