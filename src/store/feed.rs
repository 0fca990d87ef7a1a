//! What replicas read: where the database stands, which API clients a change
//! touched, and everything that a verdict on a client rests on. On a connection of
//! its own beside the pool, so that no crowd of writers keeps a replica from
//! learning what they did.
//!
//! What is read at once is of one snapshot, together with the revision that it is
//! true for. Rows come as a stream, and nothing here holds all of them.

use std::{pin::pin, time::Duration};

use futures_util::{FutureExt, TryStreamExt};
use tokio::time::{Instant, timeout};
use tokio_postgres::{Client, RowStream, Statement, types::ToSql};
use tracing::Instrument;
use uuid::Uuid;

mod rows;

use super::{
    Standbys, Store,
    connect::Validity,
    error::StoreError,
    lease::Work,
    revision,
    survey::{Driver, Identity, ServerId, Standing, Surveyed, Unsuitable},
};
use crate::domain::{
    Revision, Timestamp,
    caller::ServiceAccount,
    id::{ClientId, SiteId, TeamId, UserId},
    role::{SiteRole, TeamRole},
    token::TokenHash,
};
pub use rows::{ClientRow, GrantRow, TokenRow};

/// What a notification is sent on, by the database, for each change.
const CHANNEL: &str = "hitkeep_auth_changes";
/// How long the database may take for a short answer, or for the next row of a
/// long one. Longer, and it is as good as gone.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// How long it may take to the first row of everything, which has to be joined.
const FIRST_ROW_TIMEOUT: Duration = Duration::from_mins(2);
/// Clients in one statement, when they are read by their ids.
const CLIENTS_AT_ONCE: usize = 2000;

/// Changed clients are found by index scans alone: what one change costs must not
/// depend on how many clients there are. What is switched off looks so expensive to
/// the planner that it would have the plan compiled, which takes much longer.
const BEGIN_CHANGES: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
                             SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; \
                             SET LOCAL enable_mergejoin = off; \
                             SET LOCAL join_collapse_limit = 1; SET LOCAL jit = off";
/// Reading everything may take longer than a request, and sorts nothing.
const BEGIN_ALL: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
                         SET LOCAL statement_timeout = '30min'; SET LOCAL work_mem = '64MB'; \
                         SET LOCAL jit = off";
const COMMIT: &str = "COMMIT";
/// Where the database stands, and whether what is known at ($1, $2, $3) can be
/// brought there by the log: it is of this database and of this history, and
/// nothing since was trimmed.
///
/// Besides, what the server is: the one that the connection was opened to, and still one
/// that may be read from. A primary whose synchronous standbys have all left it is none:
/// one of them may be the primary by now, and have what is not found here. That is seen
/// here long before the next survey, and before the new primary takes its first write.
fn ask_state() -> String {
    format!(
        "SELECT database_id, revision, nonce, accounts_nonce, clock_timestamp(), \
                database_id = $1 AND revision >= $2 \
                AND CASE revision WHEN $2 THEN nonce = $3 ELSE EXISTS ( \
                    SELECT FROM index_revisions AS known \
                    WHERE known.revision = $2 AND known.nonce = $3) END, \
                trimmed_revision <= $2, {}, \
                NOT pg_is_in_recovery() \
                AND current_setting('synchronous_standby_names') <> '' \
                AND current_setting('synchronous_commit') NOT IN ('off', 'local') \
                AND NOT EXISTS (SELECT FROM pg_stat_replication) \
         FROM index_state",
        Identity::SQL
    )
}
/// The number of the first column of the server's identity.
const IDENTITY: usize = 7;
/// That of whether it is a primary that acknowledges nothing.
const IS_ALONE: usize = 12;
const CHANGED: &str = "SELECT DISTINCT client_id FROM index_changes WHERE revision > $1 LIMIT $2";

/// One revision of one history of one database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The database.
    pub database: Uuid,
    /// The revision.
    pub revision: Revision,
    /// Tells it from the same revision of another history: after a backup was
    /// restored, the same numbers are given out again.
    pub nonce: Uuid,
}

/// Where the database stands.
#[derive(Clone, Copy, Debug)]
pub struct State {
    /// Its revision.
    pub position: Position,
    /// The time, by its clock.
    pub now: Timestamp,
    /// Changes with the service accounts.
    pub accounts: Uuid,
    /// Whether the history contains what was asked about.
    pub contains: bool,
    /// Whether the log leads here from there.
    pub continues: bool,
    /// How far what is read lags behind the primary; zero on the primary itself.
    pub lag: Duration,
}

/// What takes in the rows of a snapshot: clients come before their grants and
/// tokens.
pub trait Sink: Send {
    /// A client, with its owner.
    fn client(&mut self, row: ClientRow);
    /// A grant of a client, with the site's standing towards the client's owner.
    fn grant(&mut self, row: GrantRow);
    /// A token of a client.
    fn token(&mut self, row: TokenRow);
    /// A client of which something cannot be read: nothing can be said of it, and
    /// no other client suffers for it. Its rows may come besides.
    fn unreadable(&mut self, client: ClientId);
}

/// What takes in the rows of everything. Joining millions of grants with the sites
/// and memberships that they depend on takes Postgres longer than reading all of
/// them, so that is left to the replica. Sites come first, and memberships between
/// clients and their grants; a role that cannot be read is `None`.
pub trait FullLoadSink: Sink {
    /// A site, in its team, which may be archived.
    fn site(&mut self, site: SiteId, team: TeamId, archived: bool);
    /// A user's role in a team.
    fn team_member(&mut self, team: TeamId, user: UserId, role: Option<TeamRole>);
    /// A user's role on a site.
    fn site_member(&mut self, site: SiteId, user: UserId, role: Option<SiteRole>);
    /// A client's grant.
    fn bare_grant(&mut self, client: ClientId, site: SiteId, role: Option<SiteRole>);
}

/// How far a look at the log got.
#[derive(Debug)]
pub enum CatchUp {
    /// Nothing changed.
    Nothing(State),
    /// These clients changed, or are gone; their rows were handed over.
    Changed(State, Vec<ClientId>),
    /// More clients changed than were to be read.
    TooMuch,
    /// The log does not lead from what is known to here: read everything.
    Lost,
}

/// The callers that there are, by the hashes of their tokens.
pub type Accounts = Vec<(TokenHash, ServiceAccount)>;

/// A connection that reads for a replica. Broken once an operation failed, or was
/// given up in its middle: then another one is needed.
pub struct Feed {
    client: Client,
    driver: Driver,
    statements: Statements,
    /// The server that it leads to.
    server: ServerId,
    /// When the survey began that found the server, by the store's clock: then writes
    /// went there, and what became of them since is not known to anybody who looks only
    /// through this connection.
    pub since: Duration,
    validity: Validity,
    standbys: Standbys,
}

/// A connection that hears of changes. Says nothing of what changed.
pub struct Listener {
    driver: Driver,
    _client: Client,
}

struct Statements {
    state: Statement,
    changed: Statement,
    clients: Statement,
    grants: Statement,
    tokens: Statement,
}

impl Store {
    /// Connects a reader to the server that takes the writes, which it looks for anew.
    pub async fn connect_feed(&self) -> Result<Feed, StoreError> {
        self.connect_feed_within(self.connect_timeout()).await
    }

    /// The same. Looking takes no longer than the limit.
    pub async fn connect_feed_within(&self, limit: Duration) -> Result<Feed, StoreError> {
        let connected = async {
            let (since, validity) = (self.clock.elapsed(), self.connector.validity());
            let Surveyed {
                client,
                driver,
                identity,
            } = self.connector.survey(limit).await?;
            let ask_state = ask_state();
            let (state, changed, clients, grants, tokens) = tokio::try_join!(
                client.prepare(&ask_state),
                client.prepare(CHANGED),
                client.prepare(rows::CHANGED_CLIENTS),
                client.prepare(rows::CHANGED_GRANTS),
                client.prepare(rows::CHANGED_TOKENS),
            )?;
            let statements = Statements {
                state,
                changed,
                clients,
                grants,
                tokens,
            };
            Ok(Feed {
                client,
                driver,
                statements,
                server: identity.server,
                since,
                validity,
                standbys: self.connector.standbys(),
            })
        };
        within(limit + ANSWER_TIMEOUT, connected).await
    }

    /// Waits until a connection of the pool leads to another server than the reader's.
    pub async fn server_changed(&self) {
        self.connector.doubted().await;
    }

    /// Connects a listener, and calls `heard` for each notification from here on:
    /// at once, whatever the hearer does with it, because a listener that does not
    /// read keeps Postgres from forgetting what it sent.
    pub async fn listen(&self, heard: impl Fn() + Send + 'static) -> Result<Listener, StoreError> {
        let connected = async {
            let invalidated = self.connector.invalidation();
            let (client, mut connection) = self.connector.open().await?;
            let listening = async move {
                let mut messages =
                    futures_util::stream::poll_fn(move |cx| connection.poll_message(cx));
                loop {
                    match messages.try_next().await {
                        Ok(Some(tokio_postgres::AsyncMessage::Notification(_))) => heard(),
                        Ok(Some(_)) => {}
                        Ok(None) => return,
                        Err(error) => {
                            tracing::debug!(%error, "the listener's connection ended");
                            return;
                        }
                    }
                }
            };
            let driver = Driver(tokio::spawn(async move {
                tokio::select! {
                    () = listening => {}
                    () = invalidated => {}
                }
            }));
            client.batch_execute(&format!("LISTEN {CHANNEL}")).await?;
            Ok(Listener {
                driver,
                _client: client,
            })
        };
        within(self.connect_timeout() + ANSWER_TIMEOUT, connected).await
    }
}

impl Listener {
    /// Comes back when the connection has ended.
    pub async fn ended(&mut self) {
        // Aborted, panicked or finished: it listens no more.
        drop((&mut self.driver.0).await);
    }
}

impl Feed {
    /// Where the database stands. Nothing else, and in one round trip.
    pub async fn state(&mut self, known: Position) -> Result<State, StoreError> {
        let since = stored(known.revision)?;
        let parameters: [&(dyn ToSql + Sync); 3] = [&known.database, &since, &known.nonce];
        let asked = async {
            let statement = &self.statements.state;
            Ok(self.client.query_opt(statement, &parameters).await?)
        };
        self.state_of(within(ANSWER_TIMEOUT, asked).await?.as_ref())
    }

    /// Notifies all who listen, this process among them: a listener that hears it is
    /// shown to hear what happens.
    ///
    /// # Errors
    /// Where the connection is of no use any more. That the server refuses is none: then
    /// nobody hears anything.
    pub async fn notify(&mut self) -> Result<(), StoreError> {
        let asked = async {
            match self
                .client
                .batch_execute(&format!("NOTIFY {CHANNEL}"))
                .await
            {
                Err(error) if error.code().is_none() => Err(error.into()),
                Err(error) => {
                    tracing::debug!(%error, "a notification of our own was refused");
                    Ok(())
                }
                Ok(()) => Ok(()),
            }
        };
        within(ANSWER_TIMEOUT, asked).await
    }

    /// Reads where the database stands, if it is still the server that this connection
    /// was opened to, and still one to read from.
    fn state_of(&self, row: Option<&tokio_postgres::Row>) -> Result<State, StoreError> {
        let row = row.ok_or_else(no_state)?;
        let identity = Identity::read(row, IDENTITY)?;
        let unsuitable = |why: Unsuitable| StoreError::Unavailable(Box::new(why));
        if identity.server != self.server {
            return Err(unsuitable(Unsuitable::Moved));
        }
        identity.standing.suits(self.standbys).map_err(unsuitable)?;
        if row.try_get(IS_ALONE)? {
            return Err(unsuitable(Unsuitable::Alone));
        }
        state(row, identity.standing)
    }

    /// Reads all that changed since, of one snapshot, unless it is more than so many
    /// clients.
    pub async fn catch_up(
        &mut self,
        known: Position,
        at_most: usize,
        sink: &mut dyn Sink,
    ) -> Result<CatchUp, StoreError> {
        in_span("catch_up", self.try_catch_up(known, at_most, sink)).await
    }

    async fn try_catch_up(
        &mut self,
        known: Position,
        at_most: usize,
        sink: &mut dyn Sink,
    ) -> Result<CatchUp, StoreError> {
        let since = stored(known.revision)?;
        let parameters: [&(dyn ToSql + Sync); 3] = [&known.database, &since, &known.nonce];
        let enough = i64::try_from(at_most).map_or(i64::MAX, |most| most.saturating_add(1));
        let changes: [&(dyn ToSql + Sync); 2] = [&since, &enough];
        let asked = async {
            // In this order, and all sent before the first answer is there.
            let ((), state_row, changed) = tokio::try_join!(
                self.client.batch_execute(BEGIN_CHANGES),
                self.client.query_opt(&self.statements.state, &parameters),
                self.client.query(&self.statements.changed, &changes),
            )?;
            Ok((self.state_of(state_row.as_ref())?, changed))
        };
        let (state, changed) = within(ANSWER_TIMEOUT, asked).await?;
        let changed = changed
            .iter()
            .map(|row| Ok(ClientId::from_uuid(row.try_get(0)?)))
            .collect::<Result<Vec<_>, StoreError>>()?;
        let is_too_much = changed.len() > at_most;
        if state.continues && !is_too_much {
            for some in changed.chunks(CLIENTS_AT_ONCE) {
                self.read_clients(some, sink).await?;
            }
        }
        within(ANSWER_TIMEOUT, async {
            Ok(self.client.batch_execute(COMMIT).await?)
        })
        .await?;
        Ok(if !state.continues {
            CatchUp::Lost
        } else if is_too_much {
            CatchUp::TooMuch
        } else if changed.is_empty() && state.position == known {
            CatchUp::Nothing(state)
        } else {
            CatchUp::Changed(state, changed)
        })
    }

    async fn read_clients(
        &self,
        clients: &[ClientId],
        sink: &mut dyn Sink,
    ) -> Result<(), StoreError> {
        let ids: Vec<Uuid> = clients.iter().map(|client| client.uuid()).collect();
        let parameters: [&(dyn ToSql + Sync); 1] = [&ids];
        let asked = async {
            Ok(tokio::try_join!(
                self.client.query(&self.statements.clients, &parameters),
                self.client.query(&self.statements.grants, &parameters),
                self.client.query(&self.statements.tokens, &parameters),
            )?)
        };
        let (clients, grants, tokens) = within(ANSWER_TIMEOUT, asked).await?;
        for row in &clients {
            ClientRow::hand(row, sink)?;
        }
        for row in &grants {
            GrantRow::hand(row, sink)?;
        }
        for row in &tokens {
            TokenRow::hand(row, sink)?;
        }
        Ok(())
    }

    /// Reads everything, of one snapshot.
    pub async fn read_all(
        &mut self,
        sink: &mut dyn FullLoadSink,
    ) -> Result<(State, Accounts), StoreError> {
        in_span("read_all", self.try_read_all(sink)).await
    }

    async fn try_read_all(
        &mut self,
        sink: &mut dyn FullLoadSink,
    ) -> Result<(State, Accounts), StoreError> {
        let nowhere = Uuid::nil();
        let parameters: [&(dyn ToSql + Sync); 3] = [&nowhere, &0_i64, &nowhere];
        let asked = async {
            let ((), state_row, accounts) = tokio::try_join!(
                self.client.batch_execute(BEGIN_ALL),
                self.client.query_opt(&self.statements.state, &parameters),
                self.client.query(rows::ACCOUNTS, &[]),
            )?;
            Ok((self.state_of(state_row.as_ref())?, accounts))
        };
        let (state, accounts) = within(ANSWER_TIMEOUT, asked).await?;
        self.stream(rows::SITES, |row| {
            let (site, team) = (row.try_get(0)?, row.try_get(1)?);
            sink.site(
                SiteId::from_uuid(site),
                TeamId::from_uuid(team),
                row.try_get(2)?,
            );
            Ok(())
        })
        .await?;
        self.stream(rows::ALL_CLIENTS, |row| ClientRow::hand(row, sink))
            .await?;
        self.stream(rows::TEAM_MEMBERS, |row| {
            let (team, user) = (row.try_get(0)?, row.try_get(1)?);
            let role = rows::role(row, 2)?;
            sink.team_member(TeamId::from_uuid(team), UserId::from_uuid(user), role);
            Ok(())
        })
        .await?;
        self.stream(rows::SITE_MEMBERS, |row| {
            let (site, user) = (row.try_get(0)?, row.try_get(1)?);
            let role = rows::role(row, 2)?;
            sink.site_member(SiteId::from_uuid(site), UserId::from_uuid(user), role);
            Ok(())
        })
        .await?;
        self.stream(rows::ALL_GRANTS, |row| {
            let (client, site) = (row.try_get(0)?, row.try_get(1)?);
            let role = rows::role(row, 2)?;
            sink.bare_grant(ClientId::from_uuid(client), SiteId::from_uuid(site), role);
            Ok(())
        })
        .await?;
        self.stream(rows::ALL_TOKENS, |row| TokenRow::hand(row, sink))
            .await?;
        within(ANSWER_TIMEOUT, async {
            Ok(self.client.batch_execute(COMMIT).await?)
        })
        .await?;
        Ok((state, rows::accounts(&accounts)?))
    }

    /// Reads the callers.
    pub async fn read_accounts(&mut self) -> Result<Accounts, StoreError> {
        let asked = async { Ok(self.client.query(rows::ACCOUNTS, &[]).await?) };
        rows::accounts(&within(ANSWER_TIMEOUT, asked).await?)
    }

    async fn stream(
        &self,
        sql: &str,
        mut take: impl FnMut(&tokio_postgres::Row) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let statement = within(ANSWER_TIMEOUT, async {
            Ok(self.client.prepare(sql).await?)
        })
        .await?;
        let none: [&(dyn ToSql + Sync); 0] = [];
        let begun = async { Ok(self.client.query_raw(&statement, none).await?) };
        let stream: RowStream = within(FIRST_ROW_TIMEOUT, begun).await?;
        let mut stream = pin!(stream);
        let (mut rows, begun) = (0_u64, Instant::now());
        let mut wait = FIRST_ROW_TIMEOUT;
        loop {
            // Nearly all rows are there already, and need no time limit.
            let next = match stream.try_next().now_or_never() {
                Some(next) => next?,
                None => within(wait, async { Ok(stream.try_next().await?) }).await?,
            };
            let Some(row) = next else { break };
            take(&row)?;
            rows += 1;
            wait = ANSWER_TIMEOUT;
        }
        let duration_ms = begun.elapsed().as_millis();
        tracing::debug!(rows, duration_ms, "read {rows} rows");
        Ok(())
    }

    /// Whether the connection is known to have ended, or must not be used any more because
    /// the database is elsewhere now.
    pub fn is_closed(&self) -> bool {
        self.driver.has_ended() || !self.validity.holds()
    }
}

/// Runs some work of the feed's in a span. Questions whether anything changed have
/// none: there are several in a second.
async fn in_span<T>(
    operation: &'static str,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let span = Work::begin(operation);
    let done = work.instrument(span.span()).await;
    if let Err(error) = &done {
        span.failed(error);
    }
    done
}

/// Runs a step, unless the database takes too long for it.
async fn within<T>(
    limit: Duration,
    step: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match timeout(limit, step).await {
        Ok(done) => done,
        Err(late) => Err(StoreError::Unavailable(Box::new(late))),
    }
}

fn no_state() -> StoreError {
    StoreError::Inconsistent("no index_state".to_owned())
}

fn state(row: &tokio_postgres::Row, standing: Standing) -> Result<State, StoreError> {
    let (now, contains) = (row.try_get(4)?, row.try_get(5)?);
    Ok(State {
        position: Position {
            database: row.try_get(0)?,
            revision: revision(row.try_get(1)?)?,
            nonce: row.try_get(2)?,
        },
        accounts: row.try_get(3)?,
        now,
        contains,
        continues: contains && row.try_get(6)?,
        lag: standing.lag(now),
    })
}

fn stored(revision: Revision) -> Result<i64, StoreError> {
    let too_large = || StoreError::Inconsistent(format!("revision {}", revision.0));
    i64::try_from(revision.0).ok().ok_or_else(too_large)
}
