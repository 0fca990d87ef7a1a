//! Connecting to Postgres, to the server among several that will do.

use std::{
    net::IpAddr,
    pin::pin,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::ClientConfig;
use tokio::sync::{Notify, watch};
use tokio_postgres::{
    CancelToken, Client, Connection, Socket, config::TargetSessionAttrs, error::SqlState,
    tls::MakeTlsConnect,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    Options,
    connection::Connection as Pooled,
    error::{StoreError, causes},
    migrations::SCHEMA,
    names::Resolver,
    session::SESSION,
    survey::{ServerId, Standbys, Standing, Unsuitable},
    tls::{Encryption, TlsError},
    url::{DatabaseUrl, MalformedUrl, Server, Target},
};

/// How long a peer may leave data unacknowledged before it is taken for gone: a
/// statement that waits for it fails then, and does not wait for ever.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection's bytes, which are moved when it is polled.
pub(super) type Wire = Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// Knows the way to Postgres. All of a store's connections are made by one.
pub(super) struct Connector {
    /// What the latest URL says.
    target: ArcSwap<Result<Target, MalformedUrl>>,
    standbys: Standbys,
    pub(super) resolver: Resolver,
    /// The way that we were let in last, which is tried first.
    last: ArcSwap<Way>,
    /// The server that the last survey chose.
    chosen: ArcSwapOption<ServerId>,
    /// Whether the last survey found several servers that take writes.
    pub(super) is_split: AtomicBool,
    /// Notified when a new connection leads to another server than the last survey chose.
    doubt: Notify,
    /// How the last connection was encrypted.
    tls: ArcSwapOption<ClientConfig>,
    /// Connections that were opened before this must not be used any more.
    valid_since: watch::Sender<Instant>,
    /// Notified when a server refuses our credentials.
    refused: Notify,
}

/// A server of the URL's, by its number, and the address at which it was reached; none
/// for a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) at: usize,
    pub(super) address: Option<IpAddr>,
}

impl Way {
    pub(super) fn of(at: usize, server: &Server) -> Self {
        let address = server.config.get_hostaddrs().first().copied();
        Self { at, address }
    }
}

/// Says of one connection whether it may still be used.
pub(super) struct Validity {
    opened_at: Instant,
    valid_since: watch::Receiver<Instant>,
}

impl Validity {
    pub(super) fn holds(&self) -> bool {
        self.opened_at >= *self.valid_since.borrow()
    }
}

/// What another URL changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// Nothing: it says what the one before said.
    Same,
    /// The password alone. Connections that are open stay in use.
    Password,
    /// More than the password, such as the server, the database or the user. Connections
    /// that are open are not used again.
    Place,
}

/// Why there is no connection. Tells all the causes, but nothing of the URL.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// Nobody knows where to.
    #[error(transparent)]
    Url(#[from] MalformedUrl),
    /// It cannot be encrypted as it should be.
    #[error("{}", told(.0))]
    Tls(#[from] TlsError),
    /// The server is not one to read from, or to write to.
    #[error(transparent)]
    Unsuitable(#[from] Unsuitable),
    /// Several servers take writes, and nothing says which of them is the one.
    #[error("several servers take writes, and none of them is the newest: {0}")]
    SplitBrain(String),
    /// The server takes writes and does not say that they are kept.
    #[error("the server acknowledges no commit: it waits for a synchronous standby")]
    Unacknowledged,
    /// Nobody knows the address of a server.
    #[error("the name in {0} is not resolved: {1}")]
    Unresolved(String, #[source] std::io::Error),
    /// The server was silent.
    #[error("nothing answers within {} s", .0.as_secs())]
    Late(Duration),
    /// The server, or the way to it, said no.
    #[error("{}", told(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// None of several will do.
    #[error("{}", .0.iter().map(|(place, why)| format!("{place}: {why}")).collect::<Vec<_>>().join("; "))]
    None(Vec<(String, ConnectError)>),
}

/// An error with its causes, in a line.
fn told(error: &dyn std::error::Error) -> String {
    let causes = causes(error);
    if causes.is_empty() {
        error.to_string()
    } else {
        format!("{error}: {causes}")
    }
}

/// Why there is no connection, for who decides whether to wait.
#[derive(Debug, thiserror::Error)]
pub enum NoConnection {
    /// There is no Postgres that takes connections: perhaps later.
    #[error("{0}")]
    Away(String),
    /// There is, and it knows no such user, password or database: waiting is no cure.
    #[error("{0}")]
    Refused(String),
}

impl ConnectError {
    /// None of these servers will do.
    pub(super) fn none_of(mut failed: Vec<(String, Self)>) -> Self {
        match failed.pop() {
            Some((_, only)) if failed.is_empty() => only,
            last => Self::None(failed.into_iter().chain(last).collect()),
        }
    }

    /// Whether it was a server that is there and wants none of us.
    fn is_refusal(&self) -> bool {
        match self {
            Self::Url(_) => true,
            Self::Tls(_)
            | Self::Unresolved(..)
            | Self::Late(_)
            | Self::Unsuitable(_)
            | Self::SplitBrain(_)
            | Self::Unacknowledged => false,
            // Wrong credentials, and no such database.
            Self::Postgres(error) => {
                let code = error.code().and_then(|state| state.code().get(..2));
                matches!(code, Some("28" | "3D"))
            }
            Self::None(all) => all.iter().all(|(_, error)| error.is_refusal()),
        }
    }

    /// Whether a server that might have done has no connection left for us.
    pub(super) fn is_connection_shortage(&self) -> bool {
        match self {
            Self::Url(_)
            | Self::Tls(_)
            | Self::Unresolved(..)
            | Self::Late(_)
            | Self::Unsuitable(_)
            | Self::SplitBrain(_)
            | Self::Unacknowledged => false,
            Self::Postgres(error) => error.code() == Some(&SqlState::TOO_MANY_CONNECTIONS),
            Self::None(all) => all.iter().any(|(_, error)| error.is_connection_shortage()),
        }
    }

    /// Whether a server did not accept our credentials.
    fn is_of_credentials(&self) -> bool {
        match self {
            Self::Url(_)
            | Self::Tls(_)
            | Self::Unresolved(..)
            | Self::Late(_)
            | Self::Unsuitable(_)
            | Self::SplitBrain(_)
            | Self::Unacknowledged => false,
            Self::Postgres(error) => {
                let code = error.code().and_then(|state| state.code().get(..2));
                code == Some("28")
            }
            Self::None(all) => all.iter().any(|(_, error)| error.is_of_credentials()),
        }
    }
}

impl From<ConnectError> for StoreError {
    /// Whatever the reason is: without a connection, the database cannot be reached.
    fn from(error: ConnectError) -> Self {
        Self::Unavailable(Box::new(error))
    }
}

impl Connector {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            target: ArcSwap::from_pointee(Target::parse(options.database_url.as_str())),
            standbys: options.standbys,
            resolver: options.resolver.clone(),
            last: ArcSwap::default(),
            chosen: ArcSwapOption::empty(),
            is_split: AtomicBool::new(false),
            doubt: Notify::new(),
            tls: ArcSwapOption::empty(),
            valid_since: watch::Sender::new(Instant::now()),
            refused: Notify::new(),
        }
    }

    /// Goes by another URL from the next connection on.
    ///
    /// # Errors
    /// Where the URL cannot be used; then the one before stays.
    pub(super) fn reload(&self, url: &DatabaseUrl) -> Result<Reloaded, MalformedUrl> {
        let next = Target::parse(url.as_str())?;
        let before = self.target.load_full();
        let reloaded = match &*before {
            Ok(before) if *before == next => return Ok(Reloaded::Same),
            Ok(before) if before.without_passwords() == next.without_passwords() => {
                Reloaded::Password
            }
            _ => Reloaded::Place,
        };
        self.target.store(Arc::new(Ok(next)));
        if reloaded == Reloaded::Place {
            // Only now: a connection that is opened later goes by the new URL.
            self.valid_since.send_replace(Instant::now());
        }
        Ok(reloaded)
    }

    /// Whether a connection that was opened at that time may still be used.
    pub(super) fn is_valid(&self, opened_at: Instant) -> bool {
        opened_at >= *self.valid_since.borrow()
    }

    /// For a connection that is opened after this call: whether it may still be used.
    pub(super) fn validity(&self) -> Validity {
        Validity {
            opened_at: Instant::now(),
            valid_since: self.valid_since.subscribe(),
        }
    }

    /// Comes when a connection that is opened after this call must not be used any more.
    pub(super) fn invalidation(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut valid_since = self.valid_since.subscribe();
        async move {
            if valid_since.changed().await.is_err() {
                // Without a store there is no other URL any more.
                std::future::pending::<()>().await;
            }
        }
    }

    /// What the latest URL says.
    pub(super) fn target(&self) -> Arc<Result<Target, MalformedUrl>> {
        self.target.load_full()
    }

    /// Whether standbys may be read from.
    pub(super) const fn standbys(&self) -> Standbys {
        self.standbys
    }

    /// The way that we were let in last.
    pub(super) fn last(&self) -> Way {
        **self.last.load()
    }

    /// Notes which server a survey chose that began then. Where it is another one than
    /// before, connections that were opened earlier are not used again.
    pub(super) fn choose(&self, way: Way, server: ServerId, began: Instant) {
        self.last.store(Arc::new(way));
        let before = self.chosen.swap(Some(Arc::new(server)));
        if before.is_some_and(|before| *before != server) {
            tracing::warn!(
                "writes go to another database server from here on, or to a restarted one"
            );
            self.valid_since.send_replace(began);
        }
    }

    /// Waits until a new connection leads to another server than the one that was chosen.
    pub(super) async fn doubted(&self) {
        self.doubt.notified().await;
    }

    /// Waits until a server refuses our credentials.
    pub(super) async fn credentials_refused(&self) {
        self.refused.notified().await;
    }

    /// What may be shown of where Postgres is.
    pub(super) fn place(&self) -> String {
        match &**self.target.load() {
            Ok(target) => target.place(),
            Err(_) => "an unknown place".to_owned(),
        }
    }

    /// How long connecting may take: so much, or as much as the URL says, or as much as
    /// there is time for every one of several servers.
    pub(super) fn patience(&self, least: Duration) -> Duration {
        match &**self.target.load() {
            Ok(target) if target.servers.len() > 1 => least.max(target.patience()),
            Ok(target) if target.is_patience_given => target.patience(),
            _ => least,
        }
    }

    /// Connects. The session is set up; nothing else is done on the connection until it
    /// is polled.
    pub(super) async fn open(&self) -> Result<(Client, Wire), ConnectError> {
        let opened = self.try_open().await;
        self.note_refusal(opened.as_ref().err());
        opened
    }

    /// Notifies those who wait for a server to refuse our credentials, if that is what
    /// failed.
    pub(super) fn note_refusal(&self, failed: Option<&ConnectError>) {
        if failed.is_some_and(ConnectError::is_of_credentials) {
            self.refused.notify_one();
        }
    }

    async fn try_open(&self) -> Result<(Client, Wire), ConnectError> {
        let target = self.target.load_full();
        let target = (*target).as_ref().map_err(|error| *error)?;
        let tls = self.encrypt(&target.encryption).await?;
        let first = self.last().at;
        let count = target.servers.len();
        let mut failed = Vec::new();
        let in_turn = || (0..count).map(|next| (first + next) % count);
        for at in in_turn() {
            let server = &target.servers[at];
            match self.enter(at, server, tls.clone()).await {
                Ok((way, connected)) => {
                    self.last.store(Arc::new(way));
                    return Ok(connected);
                }
                Err(error) => failed.push((server.place.clone(), error)),
            }
        }
        if self.standbys == Standbys::Counted && count > 1 {
            for at in in_turn() {
                let any = with_any(&target.servers[at]);
                if let Ok((_, connected)) = self.enter(at, &any, tls.clone()).await {
                    return Ok(connected);
                }
            }
        }
        Err(ConnectError::none_of(failed))
    }

    /// Connects to a server by one of its addresses. Where it has several, that is one
    /// where it takes writes, if there is one, and the last one rather than another.
    async fn enter(
        &self,
        at: usize,
        server: &Server,
        tls: MakeRustlsConnect,
    ) -> Result<(Way, (Client, Wire)), ConnectError> {
        let entered = async {
            let mut ways = self.resolver.ways(server).await?;
            let last = self.last();
            ways.sort_by_key(|way| Way::of(at, way) != last);
            if ways.len() > 1 {
                for way in &ways {
                    if let Ok(connected) = enter(&writable(way), tls.clone()).await {
                        return Ok((Way::of(at, way), connected));
                    }
                }
            }
            let mut failed = Vec::new();
            for way in ways {
                match enter(&way, tls.clone()).await {
                    Ok(connected) => return Ok((Way::of(at, &way), connected)),
                    Err(error) => failed.push((way.place, error)),
                }
            }
            Err(ConnectError::none_of(failed))
        };
        // All addresses together, and the time that the name takes.
        let entered = tokio::time::timeout(server.patience, entered).await;
        let late = |_| ConnectError::Late(server.patience);
        entered.map_err(late)?
    }

    /// Connects, for the pool.
    pub(super) async fn connect(&self) -> Result<Pooled, ConnectError> {
        loop {
            let opened_at = Instant::now();
            let opened = self.open().await;
            // The pool takes a connection for as old as it is when it gets it.
            if !self.is_valid(opened_at) {
                continue;
            }
            let (client, wire) = opened?;
            let mut connection = Pooled::new(client, wire);
            self.identify(&mut connection).await?;
            return Ok(connection);
        }
    }

    /// Sees whether a connection of the pool leads to a server that is of use, and to the
    /// one that was chosen.
    async fn identify(&self, connection: &mut Pooled) -> Result<(), ConnectError> {
        let identity = connection.identify().await?;
        // One that was made read-only refuses writes by itself.
        if identity.standing != Standing::ReadOnly {
            identity.standing.suits(self.standbys)?;
        }
        let chosen = self.chosen.load();
        if chosen
            .as_ref()
            .is_some_and(|chosen| **chosen != identity.server)
        {
            self.doubt.notify_one();
        }
        Ok(())
    }

    /// Sees whether Postgres takes our connections.
    pub(super) async fn probe(&self) -> Result<(), NoConnection> {
        match self.open().await {
            Ok(_) => Ok(()),
            Err(error) if error.is_refusal() => Err(NoConnection::Refused(error.to_string())),
            Err(error) => Err(NoConnection::Away(error.to_string())),
        }
    }

    /// Cancels what a connection has under way, the way that it came.
    pub(super) async fn cancel(&self, token: CancelToken) -> Result<(), ConnectError> {
        let target = self.target.load_full();
        let target = (*target).as_ref().map_err(|error| *error)?;
        let tls = match self.tls.load_full() {
            Some(client) => MakeRustlsConnect::new((*client).clone()),
            None => self.encrypt(&target.encryption).await?,
        };
        Ok(token.cancel_query(tls).await?)
    }

    /// Reads the files anew, since they may have been replaced: not on a thread that
    /// others wait for, because the authorities of a system are many.
    pub(super) async fn encrypt(
        &self,
        encryption: &Encryption,
    ) -> Result<MakeRustlsConnect, ConnectError> {
        let client = if encryption.has_files() {
            let encryption = encryption.clone();
            let read = tokio::task::spawn_blocking(move || encryption.client());
            read.await.expect("it neither panics nor is aborted")?
        } else {
            encryption.client()?
        };
        self.tls.store(Some(Arc::new(client.clone())));
        Ok(MakeRustlsConnect::new(client))
    }
}

/// The same server, if it takes writes.
fn writable(server: &Server) -> Server {
    let mut writable = server.clone();
    let attributes = TargetSessionAttrs::ReadWrite;
    writable.config.target_session_attrs(attributes);
    writable
}

/// The same server, whether or not it takes writes.
pub(super) fn with_any(server: &Server) -> Server {
    let mut any = server.clone();
    any.config.target_session_attrs(TargetSessionAttrs::Any);
    any
}

/// Connects to a server that is reached in one way.
pub(super) async fn enter(
    server: &Server,
    tls: MakeRustlsConnect,
) -> Result<(Client, Wire), ConnectError> {
    let mut config = server.config.clone();
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(TCP_USER_TIMEOUT);
    }
    let entered = async {
        let (client, mut wire) = config.connect(tls).await?;
        set_up(&client, &mut wire).await?;
        Ok((client, wire))
    };
    // All of it: also one that accepts connections and then says nothing.
    let entered = tokio::time::timeout(server.patience, entered).await;
    let late = |_| ConnectError::Late(server.patience);
    entered.map_err(late)?
}

/// Sets a new connection up, whatever it is for, and has it find the tables.
async fn set_up(client: &Client, wire: &mut Wire) -> Result<(), tokio_postgres::Error> {
    let session = format!("{}; {SCHEMA}", *SESSION);
    let mut set = pin!(client.batch_execute(&session));
    tokio::select! {
        biased;
        // Its reason says more than that the connection is closed.
        ended = wire => ended?,
        done = &mut set => return done,
    }
    set.await
}
