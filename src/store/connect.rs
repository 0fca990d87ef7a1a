//! Connecting to Postgres: the URL, which holds a password and is shown to
//! nobody, and what every connection is set to.

use std::{fmt, time::Duration};

use diesel::{ConnectionError, ConnectionResult};
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use tokio_postgres::{Client, Config, Connection, NoTls, Socket, tls::NoTlsStream};

use super::error::{StoreError, causes};

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
