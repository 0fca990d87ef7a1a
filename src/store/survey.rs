//! Surveys: find out which of the configured servers is the primary now.
//!
//! An open connection proves nothing about that: its server may have been demoted, its
//! address or name moved, or another server promoted while this one still runs. So a survey
//! opens a new connection to each address of each configured server, queries its role, and
//! chooses. The connection that it returns reached the primary at the moment at which the
//! survey began.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{
    FutureExt, StreamExt,
    future::{join_all, ready},
    stream::{BoxStream, FuturesUnordered, SelectAll, once, select_all},
};
use tokio::time::{Instant, timeout_at};
use tokio_postgres::Client;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    connect::{self, Connector, Route},
    error::connect::ConnectError,
    identity::{History, Identity, ServerId, ServerRole},
    url::Server,
    wire::Driver,
};

/// A new connection to the chosen server.
pub(super) struct Surveyed {
    pub(super) client: Client,
    pub(super) driver: Driver,
    pub(super) identity: Identity,
}

/// A server that accepted a connection.
struct Candidate {
    route: Route,
    place: String,
    surveyed: Surveyed,
    is_replicated: bool,
}

/// Several servers that take writes, for the log.
struct PlaceList<'c>(&'c [Candidate]);

impl fmt::Display for PlaceList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, candidate) in self.0.iter().enumerate() {
            let separator = if number == 0 { "" } else { ", " };
            write!(f, "{separator}{}", candidate.place)?;
        }
        Ok(())
    }
}

/// The last column is true if a commit may wait for a standby, or a standby depends on
/// commits: the survey then requires an acknowledged commit.
fn identity_query() -> String {
    format!(
        "SELECT {}, current_setting('synchronous_standby_names') <> '' \
             OR EXISTS (SELECT FROM pg_stat_replication)",
        Identity::SQL
    )
}
const IS_REPLICATED: usize = 5;
/// The timeout of cancelling an unacknowledged commit.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);
/// Once a primary is found, the other servers have as long again as it took to answer, and
/// at least this long; longer if another primary was seen to need it. While a split brain is
/// known, that begins when two have answered.
const MIN_GRACE: Duration = Duration::from_millis(100);
/// The least time for what follows once the servers have answered: comparing timelines, and the
/// heartbeat.
const LAST_STEP_TIMEOUT: Duration = Duration::from_secs(1);
/// Writes WAL and touches no table. Its commit is acknowledged like every write, and its
/// commit time shows the lag of a standby that replays it.
const HEARTBEAT: &str = "SELECT pg_logical_emit_message(true, 'hitkeep_auth', '')";

impl Connector {
    /// Opens a connection to the primary: the only server that takes writes, or of several
    /// the one of the newest timeline. If none does, and standbys are allowed, to a standby.
    /// Takes at most `limit`, and waits only briefly for silent servers once a primary is
    /// found. It begins now, at `began_at`: if it finds another primary than before, older
    /// connections are not used again.
    ///
    /// # Errors
    /// If no server is suitable; if several take writes and their timelines do not order
    /// them; if the timeline of an earlier choice is newer; or if the server does not
    /// acknowledge a commit.
    pub(super) async fn survey(
        self: &Arc<Self>,
        limit: Duration,
        began_at: std::time::Instant,
    ) -> Result<Surveyed, ConnectError> {
        let surveyed = self.try_survey(limit, began_at).await;
        self.signal_auth_failure(surveyed.as_ref().err());
        surveyed
    }

    async fn try_survey(
        self: &Arc<Self>,
        limit: Duration,
        began_at: std::time::Instant,
    ) -> Result<Surveyed, ConnectError> {
        let began = Instant::now();
        let target = self.target();
        let target = (*target).as_ref().map_err(|error| *error)?;
        let tls = self.encrypt(&target.encryption).await?;
        let mut deadline = began + limit;
        let mut silent: Vec<_> = (0..target.servers.len()).collect();
        let answers =
            target.servers.iter().enumerate().map(|(at, server)| {
                identify_server(Arc::clone(self), at, server.clone(), tls.clone())
            });
        let mut answers = select_all(answers);
        let (mut primaries, mut standbys, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        let mut last_primary = Duration::ZERO;
        let was_split = self.is_split.load(Ordering::Relaxed);
        // Of an address that is yet to answer, nothing is known.
        let mut is_complete = false;
        while let Ok(next) = timeout_at(deadline, answers.next()).await {
            let Some(Identified { at, answer }) = next else {
                is_complete = true;
                break;
            };
            silent.retain(|silent| *silent != at);
            match answer {
                Ok(candidate) => match candidate.surveyed.identity.role {
                    ServerRole::Primary => {
                        primaries.push(candidate);
                        last_primary = began.elapsed();
                        let slowest = self.slowest_primary();
                        let grace = last_primary.max(MIN_GRACE).max(slowest + slowest / 2);
                        if !was_split || distinct(&primaries) > 1 {
                            deadline = deadline.min(began + last_primary + grace);
                        }
                    }
                    other => match other.require_readable(self.standbys()) {
                        Ok(()) => standbys.push(candidate),
                        Err(why) => failed.push((candidate.place, why.into())),
                    },
                },
                Err(error) => failed.push(error),
            }
        }
        let deadline = (began + limit).max(Instant::now() + LAST_STEP_TIMEOUT);
        let late = |at: &usize| {
            let place = target.servers[*at].place.clone();
            (place, ConnectError::TimedOut(limit))
        };
        failed.extend(silent.iter().map(late));
        // One server may be reached by two names, or through two poolers.
        let servers = distinct(&primaries);
        let is_split = servers > 1;
        // Where no primary answers, nothing is known of a split brain either.
        if !primaries.is_empty() && (is_complete || is_split || was_split) {
            self.log_split(is_split, &primaries);
        }
        // Only another primary is worth waiting for.
        let slowest = if is_split {
            last_primary
        } else {
            Duration::ZERO
        };
        if is_complete && !primaries.is_empty() {
            self.set_slowest_primary(slowest);
        }
        let chosen = if is_split {
            newest(primaries, deadline).await?
        } else {
            // Prefers the last one, so that connections stay on their server.
            let last = self.last();
            let is_last = |candidate: &Candidate| candidate.route == last;
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
        let server = chosen.surveyed.identity.server;
        if !is_complete {
            self.await_stragglers(answers, server, slowest, began, deadline);
        }
        if chosen.surveyed.identity.role == ServerRole::Primary {
            self.require_newest(&chosen, deadline).await?;
            if chosen.is_replicated {
                self.require_acknowledgement(&chosen, deadline).await?;
            }
        }
        self.choose(chosen.route, server, began_at);
        Ok(chosen.surveyed)
    }

    /// Goes on waiting for the servers that had not answered when a server was chosen. If
    /// another primary is among them, the next surveys wait as long as it took to answer, and
    /// one is due; otherwise they wait for the slowest that is known.
    fn await_stragglers(
        self: &Arc<Self>,
        mut answers: SelectAll<BoxStream<'static, Identified>>,
        chosen: ServerId,
        slowest: Duration,
        began: Instant,
        deadline: Instant,
    ) {
        if self.awaits_stragglers.swap(true, Ordering::Relaxed) {
            // Each holds connections, and one is enough to find out.
            return;
        }
        let connector = Arc::clone(self);
        tokio::spawn(async move {
            let mut slowest = slowest;
            while let Ok(Some(late)) = timeout_at(deadline, answers.next()).await {
                let identity = late.answer.ok().map(|late| late.surveyed.identity);
                let is_other =
                    |found: Identity| found.role == ServerRole::Primary && found.server != chosen;
                if identity.is_some_and(is_other) {
                    slowest = began.elapsed();
                    connector.set_slowest_primary(slowest);
                    connector.signal_server_changed();
                }
            }
            connector.set_slowest_primary(slowest);
            connector.awaits_stragglers.store(false, Ordering::Relaxed);
        });
    }

    /// Requires that no newer timeline of the same cluster was chosen before. The server on it may
    /// be away for a moment only, and without it, nothing else shows that it has taken over.
    async fn require_newest(
        &self,
        candidate: &Candidate,
        deadline: Instant,
    ) -> Result<(), ConnectError> {
        let Surveyed {
            client, identity, ..
        } = &candidate.surveyed;
        let Some(history) = History::read(client, identity.server, deadline).await? else {
            // Not every role or pooler lets it be read.
            return Ok(());
        };
        let has_overtaken = |newest: &History| newest.overtakes(history);
        let before = self
            .newest
            .rcu(|newest| newest.filter(has_overtaken).or(Some(history)));
        if before.is_some_and(|newest| has_overtaken(&newest)) {
            return Err(ConnectError::Overtaken(candidate.place.clone()));
        }
        Ok(())
    }

    /// Requires that the server acknowledges a commit. A primary whose synchronous standby
    /// has left, perhaps to become the primary itself, takes writes and acknowledges none.
    async fn require_acknowledgement(
        &self,
        candidate: &Candidate,
        deadline: Instant,
    ) -> Result<(), ConnectError> {
        let client = &candidate.surveyed.client;
        if let Ok(done) = timeout_at(deadline, client.batch_execute(HEARTBEAT)).await {
            return Ok(done?);
        }
        // Otherwise the server would keep waiting for its standby.
        let cancelled = self.cancel(client.cancel_token());
        let cancelled = tokio::time::timeout(CANCEL_TIMEOUT, cancelled).await;
        if !matches!(cancelled, Ok(Ok(()))) {
            tracing::debug!("an unacknowledged commit could not be cancelled");
        }
        Err(ConnectError::Unacknowledged)
    }

    /// Logs when a split brain begins and ends.
    fn log_split(&self, is_split: bool, primaries: &[Candidate]) {
        if is_split == self.is_split.swap(is_split, Ordering::Relaxed) {
            return;
        }
        if is_split {
            let places = PlaceList(primaries);
            tracing::error!(
                "split brain, several servers take writes: {places}. The one of the newest \
                 timeline is used; stop the others, since writes to them are lost"
            );
        } else {
            tracing::info!("only one server that takes writes answers again");
        }
    }
}

/// What one address of a server answered, by the server's number in the URL.
struct Identified {
    at: usize,
    answer: Result<Candidate, (String, ConnectError)>,
}

/// Queries the identity at each address of a server.
fn identify_server(
    connector: Arc<Connector>,
    at: usize,
    server: Server,
    tls: MakeRustlsConnect,
) -> BoxStream<'static, Identified> {
    let answers = async move {
        let routes = match connector.resolver.resolve(&server).await {
            Ok(routes) => routes,
            Err(error) => return once(ready(Err((server.place, error)))).boxed(),
        };
        let answers = routes.into_iter().map(|route| {
            let tls = tls.clone();
            async move {
                let answers = identify_address(at, &route, tls).await;
                answers.map_err(|error| (route.place, error))
            }
        });
        answers.collect::<FuturesUnordered<_>>().boxed()
    };
    let answers = answers.flatten_stream();
    answers.map(move |answer| Identified { at, answer }).boxed()
}

/// Queries the identity of a server at its one address.
async fn identify_address(
    at: usize,
    server: &Server,
    tls: MakeRustlsConnect,
) -> Result<Candidate, ConnectError> {
    let (client, wire) = connect::connect_address(&connect::with_any(server), tls).await?;
    let driver = Driver::of(wire);
    let row = client.query_one(&identity_query(), &[]).await?;
    Ok(Candidate {
        route: Route::of(at, server),
        place: server.place.clone(),
        is_replicated: row.try_get(IS_REPLICATED)?,
        surveyed: Surveyed {
            client,
            driver,
            identity: Identity::read(&row, 0)?,
        },
    })
}

/// The number of different servers among the candidates.
fn distinct(candidates: &[Candidate]) -> usize {
    let servers: Vec<_> = candidates
        .iter()
        .map(|candidate| candidate.surveyed.identity.server)
        .collect();
    let is_first = |at: usize| !servers[..at].contains(&servers[at]);
    (0..servers.len()).filter(|at| is_first(*at)).count()
}

/// The server of the newest timeline, if all are copies of one cluster.
async fn newest(candidates: Vec<Candidate>, deadline: Instant) -> Result<Candidate, ConnectError> {
    let surveyed = candidates.iter().map(|candidate| &candidate.surveyed);
    let answers =
        surveyed.map(|found| History::read(&found.client, found.identity.server, deadline));
    let answers: Result<Vec<_>, _> = join_all(answers).await.into_iter().collect();
    let histories: Option<Vec<History>> = answers?.into_iter().collect();
    let places = || PlaceList(&candidates).to_string();
    let histories = histories.ok_or_else(|| ConnectError::SplitBrain(places()))?;
    let at = leading(&histories).ok_or_else(|| ConnectError::SplitBrain(places()))?;
    let server = candidates[at].surveyed.identity.server;
    // A server that is reached by two routes is in the list twice, with one timeline.
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

/// The index of a history with the newest timeline; `None` if they are of different
/// clusters, which have no order.
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
