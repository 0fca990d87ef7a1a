//! Reads for the index: the position of the database, the API clients that changed, and all
//! rows that a verdict on a client depends on. They use a connection beside the pool, so
//! that an overloaded pool does not delay the feed.
//!
//! Each read is of one snapshot, with the revision that it shows. Rows are streamed, never
//! buffered as a whole.

use std::time::{Duration, Instant};

use tokio::time::timeout;
use tokio_postgres::{Client, Statement, types::ToSql};
use tracing::Instrument;
use uuid::Uuid;

mod changes;
mod full_load;
mod listener;
mod rows;

use super::{
    Commit, Standbys, Store,
    connect::Validity,
    error::StoreError,
    identity::{Identity, ServerId, ServerRole, Unsuitable},
    lease::Work,
    revision,
    survey::Surveyed,
    wire::Driver,
};
pub use crate::domain::Position;
use crate::domain::{
    Revision, Timestamp,
    caller::ServiceAccount,
    id::{ClientId, SiteId, TeamId, UserId},
    role::{SiteRole, TeamRole},
    token::TokenHash,
};
pub use listener::NotificationListener;
pub use rows::{ClientRow, GrantRow, TokenRow};

/// The channel on which the database notifies of each change.
const CHANNEL: &str = "hitkeep_auth_changes";
/// The timeout of a short query, or of the next row of a long one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
const COMMIT: &str = "COMMIT";
/// The revisions that the change log keeps at least, by the database's own `index_stamp`.
const LOGGED_REVISIONS: u64 = 10_000;
/// The position of the database, and whether the log leads there from the local position
/// ($1, $2, $3): that one is of this database and this history, and nothing since was
/// trimmed.
///
/// Also the identity of the server, to check that the connection still reaches the same
/// server and that it may be read from. A primary that all synchronous standbys have left
/// may not: one of them may be the new primary, with commits that are missing here. This
/// check finds that long before the next survey, and before the new primary takes its
/// first write. A role without `pg_read_all_stats` is not shown which standbys are synchronous,
/// so that for it each may be one.
fn state_query() -> String {
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
                AND NOT EXISTS (SELECT FROM pg_stat_replication \
                                WHERE sync_state IS DISTINCT FROM 'async') \
         FROM index_state",
        Identity::SQL
    )
}
/// The first column of the server's identity.
const IDENTITY: usize = 7;
/// The column that is true for a primary that acknowledges no commit.
const IS_UNACKNOWLEDGING: usize = 12;
/// The positions after $1, newest first: a replica elsewhere may be at any of them.
const PASSED: &str = "SELECT revision, nonce FROM index_revisions WHERE revision > $1 \
                      ORDER BY revision DESC LIMIT 1000";
const CHANGED: &str = "SELECT DISTINCT client_id FROM index_changes WHERE revision > $1 LIMIT $2";

/// The state of the database at one moment.
#[derive(Clone, Copy, Debug)]
pub struct State {
    pub position: Position,
    /// The time by the database's clock.
    pub now: Timestamp,
    /// A nonce that changes with the service accounts.
    pub accounts: Uuid,
    /// Whether the history contains the queried position; also false if the log no longer
    /// shows it.
    pub contains: bool,
    /// Whether the log leads here from the queried position.
    pub continues: bool,
    /// The replication lag of the server; zero on the primary.
    pub lag: Duration,
    /// Whether the server replays the log of another one.
    pub is_standby: bool,
    server: ServerId,
}

/// Whether a database has a commit of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Yes,
    No,
    /// The database is at the commit's position, and would be without the commit.
    Unknown,
}

/// Receives the rows of a snapshot: clients before their grants and tokens.
pub trait Sink: Send {
    /// A client, with its owner.
    fn client(&mut self, row: ClientRow);
    /// A grant of a client, with the site's standing towards the client's owner.
    fn grant(&mut self, row: GrantRow);
    fn token(&mut self, row: TokenRow);
    /// A client with an unreadable row, so that its tokens cannot be judged. Other clients
    /// are unaffected. Readable rows of the client may arrive too.
    fn unreadable(&mut self, client: ClientId);
}

/// Receives the rows of a full load. The receiver joins grants with sites and memberships
/// itself, because Postgres takes longer to join millions of grants than to read them.
/// Sites arrive first, and memberships between clients and their grants; an unreadable role
/// is `None`.
pub trait FullLoadSink: Sink {
    /// A site, in its team, which may be archived.
    fn site(&mut self, site: SiteId, team: TeamId, archived: bool);
    fn team_member(&mut self, team: TeamId, user: UserId, role: Option<TeamRole>);
    fn site_member(&mut self, site: SiteId, user: UserId, role: Option<SiteRole>);
    /// A grant of a client, not joined with its site.
    fn bare_grant(&mut self, client: ClientId, site: SiteId, role: Option<SiteRole>);
}

/// The result of reading the change log.
#[derive(Debug)]
pub enum CatchUp {
    Nothing(State),
    /// Clients changed or were deleted; the sink received their rows.
    Changed(State, Changes),
    /// More clients changed than the limit.
    TooMuch,
    /// The log does not lead here from the queried position: a full load is needed.
    Lost,
}

/// What the change log says about the way from one position to another.
#[derive(Debug, Default)]
pub struct Changes {
    /// The clients that changed or were deleted.
    pub clients: Vec<ClientId>,
    /// The positions on the way, including the last; of very many, the last ones.
    pub passed: Vec<Position>,
}

/// All active service accounts, with the hashes of their tokens.
pub type Accounts = Vec<(TokenHash, ServiceAccount)>;

/// A connection that reads for the index. It must be discarded after an operation failed
/// or was dropped midway.
pub struct Feed {
    client: Client,
    driver: Driver,
    statements: Statements,
    /// The server that it was opened to.
    server: ServerId,
    /// When the survey began that chose the server, by `elapsed` of the store's clock. This
    /// connection alone cannot prove that it would be chosen again.
    pub surveyed_at: Duration,
    /// Whether the survey found the server to be the primary, rather than a standby.
    pub is_primary: bool,
    validity: Validity,
    standbys: Standbys,
}

struct Statements {
    state: Statement,
    changed: Statement,
    passed: Statement,
    clients: Statement,
    grants: Statement,
    tokens: Statement,
}

impl Store {
    /// Surveys for the primary, and connects a reader to it.
    pub async fn connect_feed(&self) -> Result<Feed, StoreError> {
        self.connect_feed_within(self.connect_timeout()).await
    }

    /// Like [`Self::connect_feed`], with a timeout of the survey.
    pub async fn connect_feed_within(&self, limit: Duration) -> Result<Feed, StoreError> {
        let connected = async {
            // The survey must not invalidate the connection that it finds.
            let (surveyed_at, validity) = (self.clock.elapsed(), self.connector.validity());
            let began_at = validity.opened_at();
            let Surveyed {
                client,
                driver,
                identity,
            } = self.connector.survey(limit, began_at).await?;
            let state_query = state_query();
            let (state, changed, passed, clients, grants, tokens) = tokio::try_join!(
                client.prepare(&state_query),
                client.prepare(CHANGED),
                client.prepare(PASSED),
                client.prepare(rows::CHANGED_CLIENTS),
                client.prepare(rows::CHANGED_GRANTS),
                client.prepare(rows::CHANGED_TOKENS),
            )?;
            let statements = Statements {
                state,
                changed,
                passed,
                clients,
                grants,
                tokens,
            };
            Ok(Feed {
                client,
                driver,
                statements,
                server: identity.server,
                surveyed_at,
                is_primary: identity.role == ServerRole::Primary,
                validity,
                standbys: self.connector.standbys(),
            })
        };
        within(limit + ANSWER_TIMEOUT, connected).await
    }

    /// Surveys for the primary, and connects to it to ask for commits.
    ///
    /// # Errors
    /// If no server takes writes.
    pub async fn connect_primary(&self, limit: Duration) -> Result<Primary, StoreError> {
        let connected = async {
            let surveyed_at = self.clock.elapsed();
            let Surveyed {
                client,
                driver,
                identity: Identity { server, role },
            } = self.connector.survey(limit, Instant::now()).await?;
            role.require_readable(Standbys::Refused)
                .map_err(|why| StoreError::Unavailable(Box::new(why)))?;
            Ok(Primary {
                client,
                _driver: driver,
                server,
                surveyed_at,
            })
        };
        within(limit + ANSWER_TIMEOUT, connected).await
    }

    /// Waits until a connection of the pool reaches another server than the reader's.
    pub async fn server_changed(&self) {
        self.connector.server_changed().await;
    }
}

/// A connection to the primary, as a survey found it. It reads no table but the one with the
/// state, so that no lock on another one is waited for.
pub struct Primary {
    client: Client,
    _driver: Driver,
    server: ServerId,
    /// When the survey began, by `elapsed` of the store's clock.
    pub surveyed_at: Duration,
}

impl Primary {
    /// Reads the state of the database.
    pub async fn state(&self, known: Position) -> Result<State, StoreError> {
        let query = state_query();
        let since = stored(known.revision)?;
        let parameters: [&(dyn ToSql + Sync); 3] = [&known.database, &since, &known.nonce];
        let asked = async { Ok(self.client.query_opt(&query, &parameters).await?) };
        let row = within(ANSWER_TIMEOUT, asked).await?;
        state_of(row.as_ref(), self.server, Standbys::Refused)
    }
}

impl State {
    /// Whether the database has a commit.
    pub fn find(&self, commit: &Commit) -> Found {
        if self.lacks(commit.position) {
            Found::No
        } else if commit.only_on.is_some_and(|server| server != self.server) {
            Found::Unknown
        } else {
            Found::Yes
        }
    }

    /// Whether the history of the database is known not to have a position: the log keeps no
    /// older ones.
    pub fn lacks(&self, position: Position) -> bool {
        let is_logged =
            position.revision.0.saturating_add(LOGGED_REVISIONS) > self.position.revision.0;
        !self.contains && (is_logged || position.database != self.position.database)
    }
}

impl Feed {
    /// Whether what this reads shows that the primary had, or lacked, a commit of that time:
    /// only a survey that began later found out which server the primary was.
    pub fn proves(&self, committed_at: Duration) -> bool {
        self.is_primary && self.surveyed_at >= committed_at
    }

    /// Reads the state of the database alone, in one round trip.
    pub async fn state(&mut self, known: Position) -> Result<State, StoreError> {
        let since = stored(known.revision)?;
        let parameters: [&(dyn ToSql + Sync); 3] = [&known.database, &since, &known.nonce];
        let queries = async {
            let statement = &self.statements.state;
            Ok(self.client.query_opt(statement, &parameters).await?)
        };
        self.state_of(within(ANSWER_TIMEOUT, queries).await?.as_ref())
    }

    /// Sends a notification to all listeners, to test this process's own.
    ///
    /// # Errors
    /// If the connection failed. A server that rejects NOTIFY is no error: the listener then
    /// fails its test.
    pub async fn notify(&mut self) -> Result<(), StoreError> {
        let queries = async {
            match self
                .client
                .batch_execute(&format!("NOTIFY {CHANNEL}"))
                .await
            {
                Err(error) if error.code().is_none() => Err(error.into()),
                Err(error) => {
                    tracing::debug!(%error, "Postgres rejected a test notification");
                    Ok(())
                }
                Ok(()) => Ok(()),
            }
        };
        within(ANSWER_TIMEOUT, queries).await
    }

    fn state_of(&self, row: Option<&tokio_postgres::Row>) -> Result<State, StoreError> {
        state_of(row, self.server, self.standbys)
    }

    /// Whether the connection has ended, or a reload of the URL invalidated it.
    pub fn is_closed(&self) -> bool {
        self.driver.has_ended() || !self.validity.is_valid()
    }
}

/// Runs an operation in a span. Polls have none, since there are several a second.
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

/// Runs a step with a timeout.
async fn within<T>(
    limit: Duration,
    step: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match timeout(limit, step).await {
        Ok(done) => done,
        Err(late) => Err(StoreError::Unavailable(Box::new(late))),
    }
}

/// Reads the state, if the connection still reaches the same server and it may still be
/// read from.
fn state_of(
    row: Option<&tokio_postgres::Row>,
    server: ServerId,
    standbys: Standbys,
) -> Result<State, StoreError> {
    let row = row.ok_or_else(no_state)?;
    let identity = Identity::read(row, IDENTITY)?;
    let unsuitable = |why: Unsuitable| StoreError::Unavailable(Box::new(why));
    if identity.server != server {
        return Err(unsuitable(Unsuitable::ServerChanged));
    }
    identity
        .role
        .require_readable(standbys)
        .map_err(unsuitable)?;
    if row.try_get(IS_UNACKNOWLEDGING)? {
        return Err(unsuitable(Unsuitable::Unacknowledging));
    }
    state(row, identity)
}

fn no_state() -> StoreError {
    StoreError::Inconsistent("no index_state".to_owned())
}

fn state(row: &tokio_postgres::Row, identity: Identity) -> Result<State, StoreError> {
    let Identity { server, role } = identity;
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
        lag: role.lag(now),
        is_standby: matches!(role, ServerRole::Standby { .. }),
        server,
    })
}

fn stored(revision: Revision) -> Result<i64, StoreError> {
    let too_large = || StoreError::Inconsistent(format!("revision {}", revision.0));
    i64::try_from(revision.0).ok().ok_or_else(too_large)
}
