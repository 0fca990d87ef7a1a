//! The copy of the index, and how it is changed by what the server sends. Nothing is
//! published before it is whole, so a stream that breaks changes nothing.

use std::{collections::HashSet, time::Duration};

use hitkeep_auth_domain::{
    Position, caller::ServiceAccount, id::ClientId, index::Writer, token::TokenHash,
};
use hitkeep_auth_proto as pb;

use super::{
    intake::{Intake, SourceTime},
    wire::{
        Features, Malformed, ReadClient, read_accounts, read_client, read_client_id,
        read_sent_position,
    },
};

/// Below this number of clients, the index is written on the thread of the follower. More
/// would delay the other tasks of that thread.
const INLINE_CLIENTS: usize = 1000;

type Accounts = Vec<(TokenHash, ServiceAccount)>;

/// What is published, in the form in which it can be changed.
#[derive(Default)]
pub(super) struct Copy {
    writer: Writer,
    /// `None` before the first snapshot.
    position: Option<Position>,
}

/// What a stream sent that cannot be published yet.
#[derive(Default)]
pub(super) enum Incoming {
    #[default]
    Nothing,
    /// A part of a snapshot.
    Snapshot(Snapshot),
    /// A part of changes.
    Changes(Changes),
}

pub(super) struct Snapshot {
    position: Position,
    /// The number of clients that it has.
    expected: u64,
    source: SourceTime,
    clients: Vec<ReadClient>,
    ids: HashSet<ClientId>,
    accounts: Option<Accounts>,
}

#[derive(Default)]
pub(super) struct Changes {
    put: Vec<ReadClient>,
    removed: Vec<ClientId>,
    accounts: Option<Accounts>,
}

impl Incoming {
    /// A snapshot begins, after a question of that time was received.
    pub(super) fn begin(
        &mut self,
        sent: &pb::SnapshotBegin,
        asked_at: Duration,
    ) -> Result<(), Malformed> {
        if !matches!(self, Self::Nothing) {
            return Err(Malformed("a snapshot within something else"));
        }
        let source = SourceTime {
            asked_at,
            staleness: read_staleness(sent.staleness)?,
        };
        *self = Self::Snapshot(Snapshot {
            position: read_sent_position(sent.position.as_ref())?,
            expected: sent.api_clients,
            source,
            clients: Vec::new(),
            ids: HashSet::new(),
            accounts: None,
        });
        Ok(())
    }

    /// A part arrives. Returns the changes, with the position to which they lead, if they are
    /// whole.
    pub(super) fn add(
        &mut self,
        sent: pb::ReplicationChanges,
    ) -> Result<Option<(Changes, Position)>, Malformed> {
        if let Self::Nothing = self {
            *self = Self::Changes(Changes::default());
        }
        let put = sent.put.into_iter();
        let put = put.map(|client| read_client(client, Features::ENFORCED));
        let accounts = sent.accounts.map(read_accounts).transpose()?;
        match self {
            Self::Snapshot(snapshot) => {
                if sent.position.is_some() || !sent.removed.is_empty() {
                    return Err(Malformed("changes within a snapshot"));
                }
                for client in put {
                    let client = client?;
                    if !snapshot.ids.insert(client.0.id()) {
                        return Err(Malformed("a client twice in a snapshot"));
                    }
                    snapshot.clients.push(client);
                }
                snapshot.accounts = accounts.or(snapshot.accounts.take());
                Ok(None)
            }
            Self::Changes(changes) => {
                for client in put {
                    changes.put.push(client?);
                }
                for removed in &sent.removed {
                    changes.removed.push(read_client_id(removed)?);
                }
                changes.accounts = accounts.or(changes.accounts.take());
                let Some(position) = &sent.position else {
                    return Ok(None);
                };
                let position = read_sent_position(Some(position))?;
                let whole = std::mem::take(changes);
                *self = Self::Nothing;
                Ok(Some((whole, position)))
            }
            Self::Nothing => unreachable!("it was replaced above"),
        }
    }

    /// A snapshot ends.
    pub(super) fn end(&mut self) -> Result<Snapshot, Malformed> {
        let Self::Snapshot(snapshot) = std::mem::take(self) else {
            return Err(Malformed("the end of a snapshot that did not begin"));
        };
        if u64::try_from(snapshot.clients.len()) != Ok(snapshot.expected)
            || snapshot.accounts.is_none()
        {
            return Err(Malformed("a snapshot that is not whole"));
        }
        Ok(snapshot)
    }

    pub(super) const fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }
}

impl Copy {
    pub(super) const fn position(&self) -> Option<Position> {
        self.position
    }

    /// Replaces everything, and publishes it.
    pub(super) async fn replace(&mut self, snapshot: Snapshot, intake: &impl Intake) {
        let Snapshot {
            position,
            source,
            clients,
            ids,
            accounts,
            ..
        } = snapshot;
        let built = tokio::task::spawn_blocking(move || {
            drop(ids);
            let mut writer = Writer::of(clients.into_iter());
            writer.set_callers(accounts.unwrap_or_default());
            writer
        });
        let writer = built.await.expect("it neither panics nor is aborted");
        intake.publish_whole(writer.version(position), &source);
        let old = std::mem::replace(&mut self.writer, writer);
        self.position = Some(position);
        // Dropping a large index takes long.
        drop(tokio::task::spawn_blocking(move || drop(old)));
    }

    /// Applies changes, all at once, and publishes the result.
    pub(super) async fn apply(
        &mut self,
        changes: Changes,
        to: Position,
        intake: &impl Intake,
    ) -> Result<(), Malformed> {
        let from = self.position.ok_or(Malformed("changes of nothing"))?;
        if from.database != to.database || from.revision > to.revision {
            return Err(Malformed("changes that lead nowhere"));
        }
        let Changes {
            put,
            removed,
            accounts,
        } = changes;
        let ids = put.iter().map(|(known, _)| known.id());
        let changed: Vec<_> = ids.chain(removed.iter().copied()).collect();
        let mut writer = std::mem::take(&mut self.writer);
        let is_small = changed.len() < INLINE_CLIENTS;
        let write = move || {
            for id in removed {
                writer.remove(id);
            }
            for (known, tokens) in put {
                writer.put(known, &tokens);
            }
            if let Some(accounts) = accounts {
                writer.set_callers(accounts);
            }
            writer
        };
        self.writer = if is_small {
            write()
        } else {
            let writing = tokio::task::spawn_blocking(write);
            writing.await.expect("it neither panics nor is aborted")
        };
        self.position = Some(to);
        intake.publish_changes(from, &changed, self.writer.version(to));
        Ok(())
    }
}

/// Reads how stale something is.
pub(super) fn read_staleness(sent: Option<prost_types::Duration>) -> Result<Duration, Malformed> {
    let sent = sent.ok_or(Malformed("no staleness where one belongs"))?;
    Duration::try_from(sent).or(Err(Malformed("a staleness that is negative")))
}
