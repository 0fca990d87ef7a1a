//! Which of the configured servers takes the writes right now.
//!
//! A connection that was opened a minute ago proves nothing about where writes go now:
//! its server may have been demoted, the address re-pointed, the name resolved anew, or
//! another server promoted while this one still runs. So a survey opens a new connection
//! to each configured server, at each of its addresses, asks each what it is, and decides. What it returns is known
//! to lead to the server that takes writes at the moment at which the survey began.

use std::{fmt, sync::atomic::Ordering, time::Duration};

use futures_util::{
    FutureExt, StreamExt,
    future::{join_all, ready},
    stream::{BoxStream, FuturesUnordered, once, select_all},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tokio_postgres::{Client, Row};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    connect::{self, ConnectError, Connector, Way, Wire},
    url::Server,
};
use crate::domain::Timestamp;

/// A running Postgres server: the time at which it started, to the microsecond. Two
/// servers, or one before and after a restart, differ in it; a standby that is promoted
/// stays the same server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ServerId(Timestamp);

impl ServerId {
    /// From the start time that the server reports.
    pub(super) const fn of(started: Timestamp) -> Self {
        Self(started)
    }
}

/// Whether writes can be acknowledged on a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It takes writes.
    Primary,
    /// It was made read-only, which is how a primary is demoted while it runs.
    ReadOnly,
    /// It is in recovery: a standby.
    Standby {
        /// By the primary's clock, when the newest transaction that was replayed was
        /// committed; `None` where none was.
        replayed: Option<Timestamp>,
    },
    /// Its API clients are what a subscription brings: logical replication. How far that
    /// is behind cannot be told.
    Subscriber,
}

/// Whether a server that is in recovery may be read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standbys {
    /// No: what is written would be seen late, by an amount that nobody measures.
    #[default]
    Refused,
    /// Where no server takes writes. Its replay lag counts as staleness.
    Counted,
}

/// What a server says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) server: ServerId,
    pub(super) standing: Standing,
}

impl Identity {
    /// Columns that [`Self::read`] reads. `transaction_read_only` would say of the feed's
    /// own snapshots that they are read-only; the default is what a demotion changes.
    pub(super) const SQL: &'static str = "pg_postmaster_start_time(), pg_is_in_recovery(), \
         current_setting('default_transaction_read_only')::boolean, \
         CASE WHEN pg_is_in_recovery() THEN pg_last_xact_replay_timestamp() END, \
         EXISTS (SELECT FROM pg_subscription_rel WHERE srrelid = to_regclass('api_clients'))";

    /// Reads the columns of [`Self::SQL`], of which the first is number `at`.
    pub(super) fn read(row: &Row, at: usize) -> Result<Self, tokio_postgres::Error> {
        let standing = if row.try_get(at + 1)? {
            let replayed = row.try_get(at + 3)?;
            Standing::Standby { replayed }
        } else if row.try_get(at + 4)? {
            Standing::Subscriber
        } else if row.try_get(at + 2)? {
            Standing::ReadOnly
        } else {
            Standing::Primary
        };
        Ok(Self {
            server: ServerId::of(row.try_get(at)?),
            standing,
        })
    }
}

/// Why a server cannot be read from, although it lets us in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unsuitable {
    /// It is in recovery, and standbys are refused.
    #[error("the server is a standby, which serves only with --allow-standby")]
    Standby,
    /// It was made read-only.
    #[error("the server was made read-only")]
    ReadOnly,
    /// It takes writes and acknowledges none.
    #[error("the server acknowledges no commit: its synchronous standbys have left it")]
    Alone,
    /// It has what a subscription brings.
    #[error("the server is a subscriber of logical replication: point the URL at the publisher")]
    Subscriber,
    /// A pooler leads the connection to another server than before.
    #[error("the connection leads to another server than before")]
    Moved,
}

impl Standing {
    /// How far a server of this standing lags behind the primary at that time. A standby
    /// that replayed nothing may be any time behind. Its own clock is compared with the
    /// primary's, which wrote the commit's time: the two have to agree.
    pub(super) fn lag(self, now: Timestamp) -> Duration {
        match self {
            Self::Primary | Self::ReadOnly => Duration::ZERO,
            Self::Subscriber | Self::Standby { replayed: None } => Duration::MAX,
            Self::Standby {
                replayed: Some(replayed),
            } => (now - replayed).to_std().unwrap_or_default(),
        }
    }

    /// Whether a server of this standing may be read from.
    pub(super) const fn suits(self, standbys: Standbys) -> Result<(), Unsuitable> {
        match (self, standbys) {
            (Self::Primary, _) | (Self::Standby { .. }, Standbys::Counted) => Ok(()),
            (Self::Standby { .. }, Standbys::Refused) => Err(Unsuitable::Standby),
            (Self::ReadOnly, _) => Err(Unsuitable::ReadOnly),
            (Self::Subscriber, _) => Err(Unsuitable::Subscriber),
        }
    }
}

/// Moves a connection's bytes, for as long as it lives.
pub(super) struct Driver(pub(super) JoinHandle<()>);

impl Driver {
    /// Takes over a connection.
    pub(super) fn of(wire: Wire) -> Self {
        Self(tokio::spawn(async move {
            if let Err(error) = wire.await {
                tracing::debug!(%error, "a connection to Postgres ended");
            }
        }))
    }

    /// Whether the connection is known to have ended.
    pub(super) fn has_ended(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A new connection to the server that was chosen.
pub(super) struct Surveyed {
    pub(super) client: Client,
    pub(super) driver: Driver,
    pub(super) identity: Identity,
}

/// A server that let us in.
struct Candidate {
    way: Way,
    place: String,
    surveyed: Surveyed,
    is_replicated: bool,
}

/// Where a server's history belongs: copies of one database cluster share the system
/// identifier, and each promotion begins a timeline with a higher number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct History {
    system: i64,
    timeline: i64,
}

/// Several servers that take writes, for the log.
struct Places<'c>(&'c [Candidate]);

impl fmt::Display for Places<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, candidate) in self.0.iter().enumerate() {
            let separator = if number == 0 { "" } else { ", " };
            write!(f, "{separator}{}", candidate.place)?;
        }
        Ok(())
    }
}

/// The last column says whether a commit may depend on a standby, or a standby on
/// commits: then the survey has one acknowledged.
fn ask_identity() -> String {
    format!(
        "SELECT {}, current_setting('synchronous_standby_names') <> '' \
             OR EXISTS (SELECT FROM pg_stat_replication)",
        Identity::SQL
    )
}
const IS_REPLICATED: usize = 5;
const HISTORY: &str = "SELECT (SELECT system_identifier FROM pg_control_system()), \
     ('x' || lpad(left(pg_walfile_name(pg_current_wal_lsn()), 8), 16, '0'))::bit(64)::bigint";
/// How long a commit that is not acknowledged may take to be cancelled.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the other servers have at least to say what they are, once one was found that
/// takes writes; they have as long again as that one took.
const LEAST_GRACE: Duration = Duration::from_millis(100);
/// A transaction that writes WAL and touches no table. Committed, it was acknowledged as
/// every write is; replayed on a standby, its commit time says how late the standby is.
const HEARTBEAT: &str = "SELECT pg_logical_emit_message(true, 'hitkeep_auth', '')";

impl Connector {
    /// Opens a connection to the server that takes writes: the only one that does, or of
    /// several the one of the newest timeline. Where none does, and standbys count, to a
    /// standby. Takes no longer than the limit, and does not wait for long for servers
    /// that are silent once one is found that takes writes.
    ///
    /// # Errors
    /// Where no server suits; where several take writes and no order between them can be
    /// told; and where the server does not acknowledge a commit.
    pub(super) async fn survey(&self, limit: Duration) -> Result<Surveyed, ConnectError> {
        let surveyed = self.try_survey(limit).await;
        self.note_refusal(surveyed.as_ref().err());
        surveyed
    }

    async fn try_survey(&self, limit: Duration) -> Result<Surveyed, ConnectError> {
        let (began, began_at) = (Instant::now(), std::time::Instant::now());
        let target = self.target();
        let target = (*target).as_ref().map_err(|error| *error)?;
        let tls = self.encrypt(&target.encryption).await?;
        let mut give_up = began + limit;
        let mut silent: Vec<_> = target.servers.iter().map(|server| &server.place).collect();
        let asked = target.servers.iter().enumerate().map(|(at, server)| {
            let asked = self.ask_all(at, server, tls.clone());
            asked.map(move |asked| (&server.place, asked))
        });
        let mut asked = select_all(asked);
        let (mut primaries, mut standbys, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        while let Ok(Some((place, entered))) = timeout_at(give_up, asked.next()).await {
            silent.retain(|silent| *silent != place);
            match entered {
                Ok(candidate) => match candidate.surveyed.identity.standing {
                    Standing::Primary => {
                        let taken = began.elapsed();
                        let grace = began + taken + taken.max(LEAST_GRACE);
                        give_up = give_up.min(grace);
                        primaries.push(candidate);
                    }
                    other => match other.suits(self.standbys()) {
                        Ok(()) => standbys.push(candidate),
                        Err(why) => failed.push((candidate.place, why.into())),
                    },
                },
                Err(error) => failed.push(error),
            }
        }
        let late = |place: &String| (place.clone(), ConnectError::Late(limit));
        failed.extend(silent.into_iter().map(late));
        let give_up = began + limit;
        // The same server by two names, or through two poolers, is one.
        let servers = distinct(&primaries);
        self.report_split(servers > 1, &primaries);
        let chosen = if servers > 1 {
            newest(primaries, give_up).await?
        } else {
            // The one that was used last, so that connections stay where they are.
            let last = self.last();
            let is_last = |candidate: &Candidate| candidate.way == last;
            let all = if primaries.is_empty() {
                &mut standbys
            } else {
                &mut primaries
            };
            let at = all.iter().position(is_last).unwrap_or(0);
            if all.is_empty() {
                return Err(ConnectError::none_of(failed));
            }
            all.swap_remove(at)
        };
        if chosen.surveyed.identity.standing == Standing::Primary && chosen.is_replicated {
            self.require_acknowledgement(&chosen, give_up).await?;
        }
        self.choose(chosen.way, chosen.surveyed.identity.server, began_at);
        Ok(chosen.surveyed)
    }

    /// Asks a server what it is, at each of its addresses.
    fn ask_all<'s>(
        &'s self,
        at: usize,
        server: &'s Server,
        tls: MakeRustlsConnect,
    ) -> BoxStream<'s, Result<Candidate, (String, ConnectError)>> {
        let asked = async move {
            let ways = match self.resolver.ways(server).await {
                Ok(ways) => ways,
                Err(error) => return once(ready(Err((server.place.clone(), error)))).boxed(),
            };
            let asked = ways.into_iter().map(|way| {
                let tls = tls.clone();
                async move {
                    let asked = ask(at, &way, tls).await;
                    asked.map_err(|error| (way.place, error))
                }
            });
            asked.collect::<FuturesUnordered<_>>().boxed()
        };
        asked.flatten_stream().boxed()
    }

    /// Commits something. A primary whose synchronous standby has left it, perhaps to
    /// become the primary itself, takes writes and acknowledges none.
    async fn require_acknowledgement(
        &self,
        candidate: &Candidate,
        give_up: Instant,
    ) -> Result<(), ConnectError> {
        let client = &candidate.surveyed.client;
        if let Ok(done) = timeout_at(give_up, client.batch_execute(HEARTBEAT)).await {
            return Ok(done?);
        }
        // Otherwise the server would keep waiting for its standby on our behalf.
        let cancelled = self.cancel(client.cancel_token());
        let cancelled = tokio::time::timeout(CANCEL_TIMEOUT, cancelled).await;
        if !matches!(cancelled, Ok(Ok(()))) {
            tracing::debug!("a commit that nobody acknowledges could not be cancelled");
        }
        Err(ConnectError::Unacknowledged)
    }

    /// Says in the log when several servers begin, and cease, to take writes.
    fn report_split(&self, is_split: bool, primaries: &[Candidate]) {
        if is_split == self.is_split.swap(is_split, Ordering::Relaxed) {
            return;
        }
        if is_split {
            let places = Places(primaries);
            tracing::error!(
                "several servers take writes: {places}. The one of the newest timeline is used; \
                 stop the others, what is written to them is lost"
            );
        } else if !primaries.is_empty() {
            tracing::info!("only one server takes writes again");
        }
    }
}

/// Asks a server what it is.
async fn ask(
    at: usize,
    server: &Server,
    tls: MakeRustlsConnect,
) -> Result<Candidate, ConnectError> {
    let (client, wire) = connect::enter(&connect::with_any(server), tls).await?;
    let driver = Driver::of(wire);
    let row = client.query_one(&ask_identity(), &[]).await?;
    Ok(Candidate {
        way: Way::of(at, server),
        place: server.place.clone(),
        is_replicated: row.try_get(IS_REPLICATED)?,
        surveyed: Surveyed {
            client,
            driver,
            identity: Identity::read(&row, 0)?,
        },
    })
}

/// How many servers these are.
fn distinct(candidates: &[Candidate]) -> usize {
    let servers: Vec<_> = candidates
        .iter()
        .map(|candidate| candidate.surveyed.identity.server)
        .collect();
    let is_first = |at: usize| !servers[..at].contains(&servers[at]);
    (0..servers.len()).filter(|at| is_first(*at)).count()
}

/// The server of the newest timeline among copies of one cluster.
async fn newest(candidates: Vec<Candidate>, give_up: Instant) -> Result<Candidate, ConnectError> {
    let asked = candidates.iter().map(|candidate| async move {
        let row = candidate.surveyed.client.query_one(HISTORY, &[]);
        let row = timeout_at(give_up, row).await.ok()?.ok()?;
        Some(History {
            system: row.try_get(0).ok()?,
            timeline: row.try_get(1).ok()?,
        })
    });
    let histories: Option<Vec<History>> = join_all(asked).await.into_iter().collect();
    let places = || Places(&candidates).to_string();
    let histories = histories.ok_or_else(|| ConnectError::SplitBrain(places()))?;
    let at = leading(&histories).ok_or_else(|| ConnectError::SplitBrain(places()))?;
    let server = candidates[at].surveyed.identity.server;
    // A server that is reached in two ways is in the list twice, with one timeline.
    let is_tied = histories
        .iter()
        .zip(&candidates)
        .any(|(history, candidate)| {
            *history == histories[at] && candidate.surveyed.identity.server != server
        });
    if is_tied {
        return Err(ConnectError::SplitBrain(places()));
    }
    let mut candidates = candidates;
    Ok(candidates.swap_remove(at))
}

/// The number of a history with the newest timeline; `None` where they are of different
/// clusters, between which there is no order.
fn leading(histories: &[History]) -> Option<usize> {
    let first = histories.first()?;
    let is_one_cluster = histories.iter().all(|other| other.system == first.system);
    let newest = |(_, history): &(usize, &History)| history.timeline;
    let (at, _) = histories.iter().enumerate().max_by_key(newest)?;
    is_one_cluster.then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_timeline_of_one_cluster_leads() {
        let history = |(system, timeline)| History { system, timeline };
        let leads = |all: &[(i64, i64)]| {
            let all: Vec<_> = all.iter().copied().map(history).collect();
            leading(&all)
        };
        assert_eq!(leads(&[]), None);
        assert_eq!(leads(&[(7, 1)]), Some(0));
        assert_eq!(leads(&[(7, 1), (7, 2)]), Some(1));
        assert_eq!(leads(&[(7, 3), (7, 2), (7, 1)]), Some(0));
        assert_eq!(leads(&[(7, 3), (8, 9)]), None);
    }
}
