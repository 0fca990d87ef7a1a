//! Facts about a database, for the command `doctor`. Each is read by itself, in a read-only
//! transaction, and judged elsewhere. Nothing is changed.
//!
//! Queries use the simple protocol, which also works through a pooler in transaction mode, so
//! that such a pooler can be found.

use std::{collections::BTreeSet, time::Duration};

use chrono::TimeDelta;
use futures_util::TryStreamExt;
use tokio::{
    sync::{Mutex, mpsc},
    time::timeout,
};
use tokio_postgres::{AsyncMessage, Client, SimpleQueryMessage, SimpleQueryRow};

use super::{
    Connector, NoConnection, StoreOptions,
    error::{causes, connect::ConnectError},
    migrations::{self, Unknown},
    session::SCHEMA,
    wire::Driver,
};
use crate::domain::{Timestamp, clock::Clock};

/// The timeout of a statement, by the server.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a connection that shares its server connection may be kept waiting for it, and how
/// long a notification may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// The channel of the notification that is sent. No server listens to it.
const CHANNEL: &str = "hitkeep_auth_doctor";
/// Rights that a server needs on every table but those below.
const ALL_RIGHTS: &str = "SELECT,INSERT,UPDATE,DELETE";

/// The tables, with the rights that a server needs on each.
pub const TABLES: [(&str, &str); 27] = [
    ("api_client_grants", ALL_RIGHTS),
    ("api_client_imports", ALL_RIGHTS),
    ("api_client_replies", ALL_RIGHTS),
    ("api_client_requests", ALL_RIGHTS),
    ("api_client_tokens", ALL_RIGHTS),
    ("api_client_usage", ALL_RIGHTS),
    ("api_client_usage_days", ALL_RIGHTS),
    ("api_clients", ALL_RIGHTS),
    // The audit trail may be protected from the servers.
    ("audit_events", "SELECT,INSERT"),
    ("directory_order", ALL_RIGHTS),
    ("directory_state", ALL_RIGHTS),
    ("event_delivery", ALL_RIGHTS),
    ("event_notices", ALL_RIGHTS),
    ("event_numbers", ALL_RIGHTS),
    ("event_outbox", ALL_RIGHTS),
    ("import_state", ALL_RIGHTS),
    ("index_changes", ALL_RIGHTS),
    ("index_revisions", ALL_RIGHTS),
    ("index_state", ALL_RIGHTS),
    ("replica_usage", ALL_RIGHTS),
    ("service_account_certificates", ALL_RIGHTS),
    ("service_accounts", ALL_RIGHTS),
    ("site_members", ALL_RIGHTS),
    ("sites", ALL_RIGHTS),
    ("team_members", ALL_RIGHTS),
    ("teams", ALL_RIGHTS),
    ("users", ALL_RIGHTS),
];

/// Settings whose defaults operators may have changed, and which each session overrides.
const OVERRIDDEN: &str = "'statement_timeout', 'lock_timeout', \
     'idle_in_transaction_session_timeout', 'idle_session_timeout', 'transaction_timeout', \
     'synchronous_commit', 'session_replication_role'";

/// Two connections to a database, which are examined.
pub struct Examination {
    first: Client,
    second: Client,
    /// Notifications that the first connection receives.
    notifications: Mutex<mpsc::UnboundedReceiver<String>>,
    place: String,
    _drivers: [Driver; 2],
}

/// Why a fact could not be read. Its message names no part of the URL.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotRead(String);

#[derive(Debug)]
pub struct ServerFacts {
    /// The version as a number, such as 150018.
    pub version_number: u32,
    /// The version for display, such as 15.18.
    pub version: String,
    /// Whether the server is a standby.
    pub is_in_recovery: bool,
    /// By how many seconds a standby is behind, if it has replayed a transaction.
    pub lag_seconds: Option<f64>,
    /// Whether the server was made read-only.
    pub is_read_only: bool,
    /// Whether the API clients come from a publisher.
    pub is_subscriber: bool,
    /// The setting `synchronous_standby_names`.
    pub synchronous_names: String,
    pub standbys: u32,
    /// How many of them are synchronous.
    pub synchronous: u32,
    /// How many of them this role may not see the state of.
    pub hidden: u32,
    /// By how many seconds the slowest of them was behind, as far as that is known: it is not
    /// while the primary is idle.
    pub replay_lag_seconds: Option<f64>,
}

/// The database's clock, beside this machine's.
#[derive(Clone, Copy, Debug)]
pub struct ClockDifference {
    /// The database's time minus the machine's, at the middle of the request.
    pub offset: TimeDelta,
    /// By how much that may be wrong.
    pub uncertainty: TimeDelta,
}

#[derive(Debug)]
pub struct MigrationFacts {
    pub pending: Vec<String>,
    /// Those of later releases.
    pub newer: Vec<String>,
    /// Those of a build from before a release, which has none of them.
    pub unreleased: Vec<String>,
}

/// How many connections there may be. A limit of -1 is none.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Of the server, without those for superusers.
    pub server: i64,
    /// Of the role.
    pub role: i64,
    /// Of the database.
    pub database: i64,
}

/// Whether a connection keeps its server process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// It does: there is no pooler, or one in session mode.
    Session,
    /// It does not: a pooler is in transaction or statement mode.
    Transaction,
}

impl Examination {
    /// Connects, as a server would.
    ///
    /// # Errors
    /// If there is no connection.
    pub async fn begin(options: &StoreOptions) -> Result<Self, NoConnection> {
        let connector = Connector::new(options);
        let failed = |error: ConnectError| {
            let why = error.to_string();
            if error.is_permanent() {
                NoConnection::Refused(why)
            } else {
                NoConnection::Unreachable(why)
            }
        };
        let (first, mut wire) = connector.open().await.map_err(failed)?;
        let (sender, notifications) = mpsc::unbounded_channel();
        let listening = tokio::spawn(async move {
            let mut messages = futures_util::stream::poll_fn(move |cx| wire.poll_message(cx));
            while let Ok(Some(message)) = messages.try_next().await {
                if let AsyncMessage::Notification(notification) = message {
                    // The receiver lives as long as the connection.
                    sender.send(notification.payload().to_owned()).ok();
                }
            }
        });
        let (second, wire) = connector.open().await.map_err(failed)?;
        Ok(Self {
            first,
            second,
            notifications: Mutex::new(notifications),
            place: connector.place(),
            _drivers: [Driver(listening), Driver::of(wire)],
        })
    }

    /// The servers and the database of these options, without credentials, for display.
    pub fn place_of(options: &StoreOptions) -> String {
        Connector::new(options).place()
    }

    /// How long connecting may take with these options, given that limit.
    pub fn connect_timeout_of(options: &StoreOptions, least: Duration) -> Duration {
        Connector::new(options).connect_timeout(least)
    }

    /// The servers and the database, without credentials, for display.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// What the server is.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn server(&self) -> Result<ServerFacts, NotRead> {
        let row = self
            .row(
                "SELECT current_setting('server_version_num'), current_setting('server_version'), \
                 pg_is_in_recovery(), \
                 CASE WHEN pg_is_in_recovery() THEN greatest(0, extract(epoch FROM \
                     clock_timestamp() - pg_last_xact_replay_timestamp())) END, \
                 current_setting('default_transaction_read_only')::boolean, \
                 EXISTS (SELECT FROM pg_subscription_rel \
                     WHERE srrelid = to_regclass('api_clients')), \
                 current_setting('synchronous_standby_names'), \
                 count(standby.pid), \
                 count(*) FILTER (WHERE standby.sync_state IN ('sync', 'quorum')), \
                 count(*) FILTER (WHERE standby.pid IS NOT NULL AND standby.sync_state IS NULL), \
                 max(extract(epoch FROM standby.replay_lag)) \
                 FROM (SELECT) AS one LEFT JOIN pg_stat_replication AS standby ON true",
            )
            .await?;
        Ok(ServerFacts {
            version_number: number(&row, 0)?,
            version: text(&row, 1)?.to_owned(),
            is_in_recovery: flag(&row, 2)?,
            lag_seconds: row.get(3).and_then(|lag| lag.parse().ok()),
            is_read_only: flag(&row, 4)?,
            is_subscriber: flag(&row, 5)?,
            synchronous_names: text(&row, 6)?.to_owned(),
            standbys: number(&row, 7)?,
            synchronous: number(&row, 8)?,
            hidden: number(&row, 9)?,
            replay_lag_seconds: row.get(10).and_then(|lag| lag.parse().ok()),
        })
    }

    /// Compares the database's clock with the machine's.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn clock(&self, machine: &dyn Clock) -> Result<ClockDifference, NotRead> {
        let before = machine.now();
        let row = self
            .row("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
            .await?;
        let after = machine.now();
        let micros = number(&row, 0)?;
        let database = Timestamp::from_timestamp_micros(micros).ok_or_else(unexpected)?;
        let half = (after - before) / 2;
        Ok(ClockDifference {
            offset: database - (before + half),
            uncertainty: half,
        })
    }

    /// Which migrations are missing, and which are unknown.
    ///
    /// # Errors
    /// If they cannot be read.
    pub async fn migrations(&self) -> Result<MigrationFacts, NotRead> {
        let defect = |error| NotRead(format!("the migrations cannot be listed: {error}"));
        let known = migrations::names().map_err(defect)?;
        let exists = "SELECT to_regclass('__diesel_schema_migrations') IS NOT NULL";
        let applied = if flag(&self.row(exists).await?, 0)? {
            self.rows("SELECT version FROM __diesel_schema_migrations ORDER BY version")
                .await?
        } else {
            Vec::new()
        };
        let applied: BTreeSet<&str> = applied.iter().filter_map(|row| row.get(0)).collect();
        let is_pending = |name: &String| !applied.contains(&*migrations::version(name));
        let Unknown { newer, unreleased } = migrations::unknown(applied.iter().copied(), &known);
        Ok(MigrationFacts {
            newer,
            unreleased,
            pending: known.into_iter().filter(is_pending).collect(),
        })
    }

    /// Rights on tables and sequences that the role lacks, such as `INSERT on teams`.
    ///
    /// # Errors
    /// If they cannot be read.
    pub async fn missing_rights(&self) -> Result<Vec<String>, NotRead> {
        let tables = values();
        let rows = self
            .rows(&format!(
                "WITH needed (name, rights) AS (VALUES {tables}), \
                 found AS (SELECT name, rights, to_regclass(quote_ident(name)) AS id FROM needed) \
                 SELECT needed_right || ' on ' || name \
                 FROM found, unnest(string_to_array(rights, ',')) AS needed_right \
                 WHERE id IS NOT NULL AND NOT has_table_privilege(id, needed_right) \
                 UNION ALL SELECT 'USAGE on ' || sequence.relname \
                 FROM found JOIN pg_depend ON refobjid = id AND deptype = 'a' \
                     AND refclassid = 'pg_class'::regclass AND classid = 'pg_class'::regclass \
                 JOIN pg_class AS sequence ON sequence.oid = objid \
                 WHERE CASE WHEN relkind = 'S' \
                     THEN NOT has_sequence_privilege(sequence.oid, 'USAGE') END ORDER BY 1"
            ))
            .await?;
        rows.iter()
            .map(|row| Ok(text(row, 0)?.to_owned()))
            .collect()
    }

    /// Tables with row-level security that applies to the role.
    ///
    /// # Errors
    /// If they cannot be read.
    pub async fn secured_tables(&self) -> Result<Vec<String>, NotRead> {
        let tables = values();
        let rows = self
            .rows(&format!(
                "SELECT name FROM (VALUES {tables}) AS needed (name, rights), \
                 to_regclass(quote_ident(name)) AS id \
                 WHERE id IS NOT NULL AND (SELECT CASE WHEN relforcerowsecurity \
                     OR NOT pg_has_role(relowner, 'USAGE') THEN relrowsecurity ELSE false END \
                     FROM pg_class WHERE oid = id) \
                 AND NOT (SELECT rolsuper OR rolbypassrls FROM pg_roles \
                     WHERE rolname = current_user) ORDER BY 1"
            ))
            .await?;
        rows.iter()
            .map(|row| Ok(text(row, 0)?.to_owned()))
            .collect()
    }

    /// Settings of the role, the database or the server that each connection overrides, such as
    /// `statement_timeout = 5s`.
    ///
    /// # Errors
    /// If they cannot be read.
    pub async fn overridden_settings(&self) -> Result<Vec<String>, NotRead> {
        let rows = self
            .rows(&format!(
                "SELECT name || ' = ' || reset_val || CASE WHEN unit = 'ms' THEN ' ms' ELSE '' END \
                 FROM pg_settings WHERE name IN ({OVERRIDDEN}) AND reset_val <> boot_val ORDER BY 1"
            ))
            .await?;
        rows.iter()
            .map(|row| Ok(text(row, 0)?.to_owned()))
            .collect()
    }

    /// How many connections there may be.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn connection_limits(&self) -> Result<ConnectionLimits, NotRead> {
        let row = self
            .row(
                "SELECT current_setting('max_connections')::int \
                     - current_setting('superuser_reserved_connections')::int \
                     - coalesce(current_setting('reserved_connections', true)::int, 0), \
                 (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user), \
                 (SELECT datconnlimit FROM pg_database WHERE datname = current_database())",
            )
            .await?;
        Ok(ConnectionLimits {
            server: number(&row, 0)?,
            role: number(&row, 1)?,
            database: number(&row, 2)?,
        })
    }

    /// Whether connections keep their server processes: two clients of a pooler in transaction
    /// mode share one, or one of them gets another while the first is taken.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn pooling(&self) -> Result<Pooling, NotRead> {
        const PID: &str = "SELECT pg_backend_pid()";
        let process = async |client: &Client| -> Result<String, NotRead> {
            let rows = result(client.simple_query(PID).await.map_err(not_read)?, 0);
            let row = rows.first().ok_or_else(unexpected)?;
            Ok(text(row, 0)?.to_owned())
        };
        let before = process(&self.first).await?;
        let begun = self.second.batch_execute("BEGIN READ ONLY").await;
        begun.map_err(not_read)?;
        let other = process(&self.second).await;
        // It waits if the only server connection is taken.
        let after = timeout(ANSWER_TIMEOUT, process(&self.first)).await;
        let ended = self.second.batch_execute("ROLLBACK").await;
        ended.map_err(not_read)?;
        let is_kept = match after {
            Ok(after) => after? == before && other? != before,
            Err(_) => false,
        };
        Ok(if is_kept {
            Pooling::Session
        } else {
            Pooling::Transaction
        })
    }

    /// Whether a notification that one connection sends reaches another one that listens.
    ///
    /// # Errors
    /// If the connection may not listen.
    pub async fn is_notified(&self) -> Result<bool, NotRead> {
        let listen = format!("LISTEN {CHANNEL}");
        self.first.batch_execute(&listen).await.map_err(not_read)?;
        let mut notifications = self.notifications.lock().await;
        let row = self.row("SELECT pg_backend_pid()").await?;
        // Other doctors may be at work.
        let sign = text(&row, 0)?.to_owned();
        let notify = format!("NOTIFY {CHANNEL}, '{sign}'");
        self.second.batch_execute(&notify).await.map_err(not_read)?;
        let arrived = async {
            while let Some(payload) = notifications.recv().await {
                if payload == sign {
                    return true;
                }
            }
            false
        };
        Ok(timeout(ANSWER_TIMEOUT, arrived).await.unwrap_or(false))
    }

    async fn row(&self, query: &str) -> Result<SimpleQueryRow, NotRead> {
        let rows = self.rows(query).await?;
        rows.into_iter().next().ok_or_else(unexpected)
    }

    /// Runs a query in a read-only transaction of its own.
    async fn rows(&self, query: &str) -> Result<Vec<SimpleQueryRow>, NotRead> {
        let limit = STATEMENT_TIMEOUT.as_millis();
        let batch = format!(
            "BEGIN READ ONLY; SET LOCAL statement_timeout = {limit}; SET LOCAL lock_timeout = \
             {limit}; {SCHEMA}; {query}; COMMIT"
        );
        match self.first.simple_query(&batch).await {
            // The last but one: the last is that of COMMIT.
            Ok(messages) => Ok(result(messages, 1)),
            Err(error) => {
                // If this fails as well, so does the next query.
                self.first.batch_execute("ROLLBACK").await.ok();
                Err(not_read(error))
            }
        }
    }
}

/// The rows of the statement that so many others followed.
fn result(messages: Vec<SimpleQueryMessage>, followed_by: usize) -> Vec<SimpleQueryRow> {
    let mut results = vec![Vec::new()];
    for message in messages {
        match message {
            SimpleQueryMessage::Row(row) => {
                results.last_mut().expect("there is one").push(row);
            }
            SimpleQueryMessage::CommandComplete(_) => results.push(Vec::new()),
            _ => {}
        }
    }
    // After the last command, an empty one was begun.
    let at = results.len().checked_sub(followed_by + 2);
    at.map(|at| results.swap_remove(at)).unwrap_or_default()
}

/// The tables as rows of SQL.
fn values() -> String {
    let row = |(name, rights): &(&str, &str)| format!("('{name}', '{rights}')");
    TABLES.iter().map(row).collect::<Vec<_>>().join(", ")
}

fn text(row: &SimpleQueryRow, column: usize) -> Result<&str, NotRead> {
    row.get(column).ok_or_else(unexpected)
}

fn flag(row: &SimpleQueryRow, column: usize) -> Result<bool, NotRead> {
    Ok(text(row, column)? == "t")
}

fn number<T: std::str::FromStr>(row: &SimpleQueryRow, column: usize) -> Result<T, NotRead> {
    text(row, column)?.parse().ok().ok_or_else(unexpected)
}

fn unexpected() -> NotRead {
    NotRead("the server's answer is not as expected".to_owned())
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn not_read(error: tokio_postgres::Error) -> NotRead {
    let causes = causes(&error);
    NotRead(if causes.is_empty() {
        error.to_string()
    } else {
        causes
    })
}
