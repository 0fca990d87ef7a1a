//! Connecting to Postgres: the URL, which holds a password and is shown to
//! nobody, and what every connection is set to.

use std::{fmt, time::Duration};

use diesel::{ConnectionError, ConnectionResult};
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use tokio_postgres::{Client, Config, Connection, NoTls, Socket, config::Host, tls::NoTlsStream};

use super::error::{StoreError, causes};

/// Where Postgres listens unless told otherwise.
const DEFAULT_PORT: u16 = 5432;
/// How long connecting may take where nothing else limits it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer may leave data unacknowledged before it is taken for gone: a
/// statement that waits for it fails then, and does not wait for ever.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);
/// After how much silence a connection is asked whether it is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// What every connection is set to. The service's own deadline comes first; these
/// end what it has lost hold of.
pub(super) const SESSION: &str = "SET statement_timeout = '10s'; SET lock_timeout = '5s'; \
                       SET idle_in_transaction_session_timeout = '20s'; SET timezone = 'UTC'";
/// Outages are told from defects by the text of a message, which must be the
/// English one. Where only a superuser may say so, the server's own language
/// stays.
pub(super) const MESSAGES: &str = "SET lc_messages = 'C'";

/// Where Postgres is, and with which password: its `Debug` shows nothing.
#[derive(Clone)]
pub struct DatabaseUrl(String);

/// The text is no Postgres URL. It is not repeated: it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the database URL cannot be read: it must be like postgres://USER:PASSWORD@HOST/DATABASE")]
pub struct MalformedUrl;

impl DatabaseUrl {
    /// Checks a URL, or settings in the key=value form.
    pub fn parse(text: &str) -> Result<Self, MalformedUrl> {
        match text.parse::<Config>() {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err(MalformedUrl),
        }
    }

    /// The URL itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What may be shown of it: the hosts, their ports, and the database.
    pub fn place(&self) -> String {
        let Ok(config) = self.0.parse::<Config>() else {
            return "an unknown place".to_owned();
        };
        let host = |host: &Host| match host {
            Host::Tcp(host) => host.clone(),
            Host::Unix(path) => path.display().to_string(),
        };
        let mut hosts: Vec<_> = config.get_hosts().iter().map(host).collect();
        if hosts.is_empty() {
            let addresses = config.get_hostaddrs().iter();
            hosts.extend(addresses.map(ToString::to_string));
        }
        // One port is everybody's.
        let ports = config.get_ports();
        let port = |at: usize| ports.get(at).or(ports.first()).unwrap_or(&DEFAULT_PORT);
        let places: Vec<_> = hosts
            .iter()
            .enumerate()
            .map(|(at, host)| format!("{host}:{}", port(at)))
            .collect();
        let database = config.get_dbname().or(config.get_user());
        format!("{}/{}", places.join(","), database.unwrap_or_default())
    }
}

impl<T: Into<String>> From<T> for DatabaseUrl {
    /// Takes a URL that is known to be good; one that is not fails to connect.
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseUrl")
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum NoConnection {
    /// There is no Postgres that takes connections: perhaps later.
    #[error("{0}")]
    Away(String),
    /// There is, and it knows no such user, password or database: waiting is no cure.
    #[error("{0}")]
    Refused(String),
}

/// Sees whether Postgres takes our connections.
pub(super) async fn probe(url: &str, limit: Duration) -> Result<(), NoConnection> {
    let config = config(url).map_err(|error| NoConnection::Refused(error.to_string()))?;
    let connected = tokio::time::timeout(limit, config.connect(NoTls)).await;
    let Ok(connected) = connected else {
        let why = format!("nothing answers within {} s", limit.as_secs());
        return Err(NoConnection::Away(why));
    };
    match connected {
        Ok(_) => Ok(()),
        Err(error) => {
            let why = format!("{error}: {}", causes(&error));
            // Wrong credentials, and no such database.
            let code = error.code().and_then(|state| state.code().get(..2));
            Err(match code {
                Some("28" | "3D") => NoConnection::Refused(why),
                _ => NoConnection::Away(why),
            })
        }
    }
}

/// Connects to Postgres. An error tells all its causes, but nothing of the URL.
pub(super) async fn connect(url: &str) -> ConnectionResult<AsyncPgConnection> {
    let config = config(url);
    let config = config.map_err(|error| ConnectionError::BadConnection(error.to_string()))?;
    let failed = |error: tokio_postgres::Error| {
        ConnectionError::BadConnection(format!("{error}: {}", causes(&error)))
    };
    let (client, connection) = config.connect(NoTls).await.map_err(failed)?;
    AsyncPgConnection::try_from_client_and_connection(client, connection).await
}

/// Connects to Postgres beneath diesel. Nothing is done on the connection until
/// it is polled.
pub(super) async fn open(
    url: &str,
) -> Result<(Client, Connection<Socket, NoTlsStream>), StoreError> {
    let config = config(url).map_err(|error| StoreError::Unavailable(Box::new(error)))?;
    Ok(config.connect(NoTls).await?)
}

fn config(url: &str) -> Result<Config, MalformedUrl> {
    let mut config: Config = url.parse().ok().ok_or(MalformedUrl)?;
    config.keepalives_idle(KEEPALIVE_IDLE);
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(TCP_USER_TIMEOUT);
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    Ok(config)
}

/// Sets a new connection up.
pub(super) async fn set_up(connection: &mut AsyncPgConnection) -> diesel::QueryResult<()> {
    connection.batch_execute(SESSION).await?;
    if let Err(error) = connection.batch_execute(MESSAGES).await {
        tracing::debug!(%error, "the language of messages stays the server's");
    }
    Ok(())
}
