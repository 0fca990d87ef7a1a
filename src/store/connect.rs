//! Connects to Postgres: to the one of several servers that takes writes.

use std::{
    net::IpAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::ClientConfig;
use tokio::sync::{Notify, watch};
use tokio_postgres::{CancelToken, Client, config::TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    StoreOptions,
    connection::Connection as Pooled,
    error::connect::{ConnectError, NoConnection},
    identity::{History, ServerId, ServerRole, Standbys},
    names::Resolver,
    session::{SCHEMA, SESSION},
    tls::Encryption,
    url::{DatabaseUrl, MalformedUrl, Server, Target},
    wire::Wire,
};

/// How long a server may leave data unacknowledged before its connection fails, so that no
/// statement waits forever.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);
/// Opens all connections of a store.
pub(super) struct Connector {
    /// The parsed URL; a reload replaces it.
    target: ArcSwap<Result<Target, MalformedUrl>>,
    standbys: Standbys,
    pub(super) resolver: Resolver,
    /// The route of the last connection, which is tried first.
    last: ArcSwap<Route>,
    /// The choice of the last survey.
    chosen: ArcSwapOption<Choice>,
    /// The newest timeline of which a survey chose a server, until the URL leads elsewhere.
    pub(super) newest: ArcSwap<Option<History>>,
    /// Whether the last survey found several servers that take writes.
    pub(super) is_split: AtomicBool,
    /// Whether a survey that has ended still waits for servers that had not answered.
    pub(super) awaits_stragglers: AtomicBool,
    /// How long the slowest primary of a survey took to answer, in milliseconds.
    slowest_primary: AtomicU64,
    /// Notified when a new connection reaches another server than the last survey chose.
    server_changed: Notify,
    /// The TLS configuration of the last connection.
    tls: ArcSwapOption<ClientConfig>,
    /// Connections opened earlier must not be used again.
    valid_since: watch::Sender<Instant>,
    /// Notified when a server rejects the credentials.
    auth_failed: Notify,
}

/// Which server a survey chose, and when it began.
struct Choice {
    server: ServerId,
    began: Instant,
}

/// A server, by its number in the URL, and the address at which it was reached; `None` for
/// a Unix socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) at: usize,
    pub(super) address: Option<IpAddr>,
}

impl Route {
    pub(super) fn of(at: usize, server: &Server) -> Self {
        let address = server.config.get_hostaddrs().first().copied();
        Self { at, address }
    }
}

/// Tracks whether one connection may still be used.
pub(super) struct Validity {
    opened_at: Instant,
    valid_since: watch::Receiver<Instant>,
}

impl Validity {
    pub(super) const fn opened_at(&self) -> Instant {
        self.opened_at
    }

    pub(super) fn is_valid(&self) -> bool {
        self.opened_at >= *self.valid_since.borrow()
    }
}

/// What a reload of the URL changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// Nothing.
    Same,
    /// The password alone. Open connections stay in use.
    Password,
    /// More than the password, such as the server, the database or the user. Open
    /// connections are not used again.
    Place,
}

impl Connector {
    pub(super) fn new(options: &StoreOptions) -> Self {
        Self {
            target: ArcSwap::from_pointee(Target::parse(options.database_url.as_str())),
            standbys: options.standbys,
            resolver: options.resolver.clone(),
            last: ArcSwap::default(),
            chosen: ArcSwapOption::empty(),
            newest: ArcSwap::default(),
            is_split: AtomicBool::new(false),
            awaits_stragglers: AtomicBool::new(false),
            slowest_primary: AtomicU64::new(0),
            server_changed: Notify::new(),
            tls: ArcSwapOption::empty(),
            valid_since: watch::Sender::new(Instant::now()),
            auth_failed: Notify::new(),
        }
    }

    /// Uses another URL from the next connection on.
    ///
    /// # Errors
    /// If the URL cannot be used; the current one then stays in force.
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
            // After the store above, so that connections opened later use the new URL.
            self.valid_since.send_replace(Instant::now());
            self.newest.store(Arc::default());
        }
        Ok(reloaded)
    }

    /// Whether a connection opened at that time may still be used.
    pub(super) fn is_valid(&self, opened_at: Instant) -> bool {
        opened_at >= *self.valid_since.borrow()
    }

    /// Whether a survey that began after a connection was opened chose another server than the
    /// one that the connection leads to. The pool may have connected to that one because the
    /// chosen one did not answer.
    pub(super) fn is_superseded(&self, server: ServerId, opened_at: Instant) -> bool {
        let chosen = self.chosen.load();
        let chosen = chosen.as_ref();
        chosen.is_some_and(|chosen| chosen.began > opened_at && chosen.server != server)
    }

    /// Tracks the validity of a connection that is opened after this call.
    pub(super) fn validity(&self) -> Validity {
        Validity {
            opened_at: Instant::now(),
            valid_since: self.valid_since.subscribe(),
        }
    }

    /// Completes when a connection opened after this call must not be used any more.
    pub(super) fn invalidation(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut valid_since = self.valid_since.subscribe();
        async move {
            if valid_since.changed().await.is_err() {
                // A dropped store never reloads its URL.
                std::future::pending::<()>().await;
            }
        }
    }

    /// The parsed URL.
    pub(super) fn target(&self) -> Arc<Result<Target, MalformedUrl>> {
        self.target.load_full()
    }

    pub(super) const fn standbys(&self) -> Standbys {
        self.standbys
    }

    /// The route of the last connection.
    pub(super) fn last(&self) -> Route {
        **self.last.load()
    }

    /// Stores which server a survey chose, and when the survey began. If it is another one
    /// than before, connections opened before the survey are not used again. Of surveys that
    /// run concurrently, the one counts that began last.
    pub(super) fn choose(&self, route: Route, server: ServerId, began: Instant) {
        let choice = Arc::new(Choice { server, began });
        let is_newer = |before: &Arc<Choice>| before.began > began;
        let before = self.chosen.rcu(|before| match before {
            Some(before) if is_newer(before) => Some(Arc::clone(before)),
            _ => Some(Arc::clone(&choice)),
        });
        if before.as_ref().is_some_and(is_newer) {
            return;
        }
        self.last.store(Arc::new(route));
        if before.is_some_and(|before| before.server != server) {
            tracing::warn!("the primary is another database server from now on, or was restarted");
            self.valid_since.send_if_modified(|since| {
                let is_later = began > *since;
                *since = began.max(*since);
                is_later
            });
        }
    }

    /// How long the slowest primary took to answer, of those that surveys knew of.
    pub(super) fn slowest_primary(&self) -> Duration {
        Duration::from_millis(self.slowest_primary.load(Ordering::Relaxed))
    }

    pub(super) fn set_slowest_primary(&self, taken: Duration) {
        let milliseconds = u64::try_from(taken.as_millis()).unwrap_or(u64::MAX);
        self.slowest_primary.store(milliseconds, Ordering::Relaxed);
    }

    /// Another server takes writes than the last survey chose.
    pub(super) fn signal_server_changed(&self) {
        self.server_changed.notify_one();
    }

    /// Waits until a new connection reaches another server than the last survey chose.
    pub(super) async fn server_changed(&self) {
        self.server_changed.notified().await;
    }

    /// Waits until a server rejects the credentials.
    pub(super) async fn credentials_refused(&self) {
        self.auth_failed.notified().await;
    }

    /// The servers and the database, without credentials, for display.
    pub(super) fn place(&self) -> String {
        match &**self.target.load() {
            Ok(target) => target.place(),
            Err(_) => "an unknown place".to_owned(),
        }
    }

    /// The timeout of connecting: the URL's, if it has one; with several servers, the sum of
    /// theirs, but at least `least`; otherwise `least`.
    pub(super) fn connect_timeout(&self, least: Duration) -> Duration {
        match &**self.target.load() {
            Ok(target) if target.servers.len() > 1 => least.max(target.connect_timeout()),
            Ok(target) if target.has_connect_timeout => target.connect_timeout(),
            _ => least,
        }
    }

    /// Connects and sets the session up. The caller polls the wire from then on.
    pub(super) async fn open(&self) -> Result<(Client, Wire), ConnectError> {
        let opened = self.try_open().await;
        self.signal_auth_failure(opened.as_ref().err());
        opened
    }

    /// Wakes [`Self::credentials_refused`] if that is why connecting failed.
    pub(super) fn signal_auth_failure(&self, failed: Option<&ConnectError>) {
        if failed.is_some_and(ConnectError::is_auth_failure) {
            self.auth_failed.notify_one();
        }
    }

    async fn try_open(&self) -> Result<(Client, Wire), ConnectError> {
        let target = self.target.load_full();
        let target = (*target).as_ref().map_err(|error| *error)?;
        let tls = self.encrypt(&target.encryption).await?;
        let last = self.last.load_full();
        let first = last.at;
        let count = target.servers.len();
        let mut failed = Vec::new();
        let in_turn = || (0..count).map(|next| (first + next) % count);
        for at in in_turn() {
            let server = &target.servers[at];
            match self.connect_server(at, server, tls.clone()).await {
                Ok((route, connected)) => {
                    // Unless a survey has chosen meanwhile.
                    self.last.compare_and_swap(&last, Arc::new(route));
                    return Ok(connected);
                }
                Err(error) => failed.push((server.place.clone(), error)),
            }
        }
        if self.standbys == Standbys::Allowed && count > 1 {
            for at in in_turn() {
                let any = with_any(&target.servers[at]);
                if let Ok((_, connected)) = self.connect_server(at, &any, tls.clone()).await {
                    return Ok(connected);
                }
            }
        }
        Err(ConnectError::none_of(failed))
    }

    /// Connects to one address of a server. If it has several, prefers one that takes
    /// writes, and among those the last one used.
    async fn connect_server(
        &self,
        at: usize,
        server: &Server,
        tls: MakeRustlsConnect,
    ) -> Result<(Route, (Client, Wire)), ConnectError> {
        let entered = async {
            let mut routes = self.resolver.resolve(server).await?;
            let last = self.last();
            routes.sort_by_key(|route| Route::of(at, route) != last);
            if routes.len() > 1 {
                for route in &routes {
                    if let Ok(connected) = connect_address(&writable(route), tls.clone()).await {
                        return Ok((Route::of(at, route), connected));
                    }
                }
            }
            let mut failed = Vec::new();
            for route in routes {
                match connect_address(&route, tls.clone()).await {
                    Ok(connected) => return Ok((Route::of(at, &route), connected)),
                    Err(error) => failed.push((route.place, error)),
                }
            }
            Err(ConnectError::none_of(failed))
        };
        // The timeout covers all addresses, and the resolution of the name.
        let entered = tokio::time::timeout(server.connect_timeout, entered).await;
        let late = |_| ConnectError::TimedOut(server.connect_timeout);
        entered.map_err(late)?
    }

    pub(super) async fn connect(&self) -> Result<Pooled, ConnectError> {
        loop {
            let opened_at = Instant::now();
            let opened = self.open().await;
            // The pool counts a connection's age from when it receives it.
            if !self.is_valid(opened_at) {
                continue;
            }
            let (client, wire) = opened?;
            let mut connection = Pooled::new(client, wire);
            self.identify(&mut connection).await?;
            return Ok(connection);
        }
    }

    /// Checks that a connection of the pool reaches a suitable server, and whether it is the
    /// one that the last survey chose.
    async fn identify(&self, connection: &mut Pooled) -> Result<(), ConnectError> {
        let identity = connection.identify().await?;
        // A read-only server rejects writes by itself.
        if identity.role != ServerRole::ReadOnly {
            identity.role.require_readable(self.standbys)?;
        }
        let chosen = self.chosen.load();
        if chosen
            .as_ref()
            .is_some_and(|chosen| chosen.server != identity.server)
        {
            self.signal_server_changed();
        }
        Ok(())
    }

    /// Checks whether Postgres accepts connections.
    pub(super) async fn probe(&self) -> Result<(), NoConnection> {
        match self.open().await {
            Ok(_) => Ok(()),
            Err(error) if error.is_permanent() => Err(NoConnection::Refused(error.to_string())),
            Err(error) => Err(NoConnection::Unreachable(error.to_string())),
        }
    }

    /// Cancels the running statement of a connection.
    pub(super) async fn cancel(&self, token: CancelToken) -> Result<(), ConnectError> {
        let target = self.target.load_full();
        let target = (*target).as_ref().map_err(|error| *error)?;
        let tls = match self.tls.load_full() {
            Some(client) => MakeRustlsConnect::new((*client).clone()),
            None => self.encrypt(&target.encryption).await?,
        };
        Ok(token.cancel_query(tls).await?)
    }

    /// Builds the TLS configuration. Reads the files again each time, since they may have
    /// been replaced; on a blocking thread, because the system's authorities are many.
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

/// The same server, required to take writes.
fn writable(server: &Server) -> Server {
    let mut writable = server.clone();
    let attributes = TargetSessionAttrs::ReadWrite;
    writable.config.target_session_attrs(attributes);
    writable
}

/// The same server, not required to take writes.
pub(super) fn with_any(server: &Server) -> Server {
    let mut any = server.clone();
    any.config.target_session_attrs(TargetSessionAttrs::Any);
    any
}

/// Connects to a server at its one address.
pub(super) async fn connect_address(
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
    // The timeout also covers a server that accepts connections and then stays silent.
    let entered = tokio::time::timeout(server.connect_timeout, entered).await;
    let late = |_| ConnectError::TimedOut(server.connect_timeout);
    entered.map_err(late)?
}

/// Applies the session's settings and search path to a new connection.
async fn set_up(client: &Client, wire: &mut Wire) -> Result<(), tokio_postgres::Error> {
    let session = format!("{}; {SCHEMA}", *SESSION);
    let mut set = pin!(client.batch_execute(&session));
    tokio::select! {
        biased;
        // The wire's error is more specific than "connection closed".
        ended = wire => ended?,
        done = &mut set => return done,
    }
    set.await
}
