//! A whole server on a database of its own, reached over memory: `TestApp`, and
//! the callers that talk to it.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use diesel_async::AsyncPgConnection;
use hitkeep_auth::{
    domain::{
        audit::Provenance,
        caller::{CallerName, CallerPermission, ServiceAccount},
        client::Overlap,
    },
    pb,
    server::{self, Ended, Server},
    store::{self, Store, Transaction, callers::InsertAccountError, error::StoreError},
    telemetry::{metrics::Metrics, traces::Sampling},
};
use hyper_util::rt::TokioIo;
use tokio::{io::DuplexStream, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

mod caller;
mod exchange;

pub use caller::{Caller, Conversation, told, violations};
pub use exchange::{exchange, framed};

use crate::support::{
    doubles::{SeededEntropy, TestClock},
    postgres,
    proxy::Proxy,
};

/// The service whose health is reported last.
pub const LAST_SERVICE: &str = "hitkeep.auth.v1.AuditService";
/// How much a memory connection holds before its writer waits.
const DUPLEX_BYTES: usize = 64 * 1024;

/// Where a server gets its connections from.
pub type Connections = mpsc::UnboundedSender<std::io::Result<DuplexStream>>;

/// A server, and everything that a test needs to talk to it.
pub struct TestApp {
    pub clock: Arc<TestClock>,
    pub entropy: Arc<SeededEntropy>,
    pub store: Store,
    pub database_url: String,
    pub stop: mpsc::Sender<()>,
    pub server: JoinHandle<Ended>,
    pub connections: Connections,
    pub http_connections: Connections,
    tokens: Vec<(CallerPermission, String)>,
}

/// Options of a server whose database is there, so that every answer comes, however slow the
/// machine.
pub fn patient(mut options: server::Options) -> server::Options {
    options.index.refresh_timeout = Duration::from_mins(1);
    options
}

impl TestApp {
    /// A server with the default options, except for the time limits of tests
    /// that ask for others.
    pub async fn start() -> Self {
        Self::with(server::Options::default()).await
    }

    /// A server with other options.
    pub async fn with(options: server::Options) -> Self {
        let options = patient(options);
        let url = postgres::migrated_database().await;
        let store_options = store::StoreOptions {
            pool_size: 8,
            // A burst of calls gets its connections one after the other, however slow the machine.
            pool_wait: Duration::from_mins(1),
            ..store::StoreOptions::new(&url)
        };
        Self::on(&url, &store_options, options).await
    }

    /// A server that reaches its database through a proxy, and the world's directory.
    pub async fn behind_proxy(options: server::Options) -> (Self, Proxy) {
        let direct = postgres::migrated_database().await;
        let (proxy, url) = Proxy::start(&direct);
        let app = Self::on(&direct, &store::StoreOptions::new(url), options).await;
        app.change(crate::fixtures::world()).await;
        (app, proxy)
    }

    /// A server that reaches its database, which is at `direct`, in another way.
    pub async fn on(direct: &str, store: &store::StoreOptions, options: server::Options) -> Self {
        let clock = Arc::new(TestClock::default());
        let entropy = Arc::new(SeededEntropy::default());
        let store = Store::new(store, Arc::clone(&clock) as _, Arc::clone(&entropy) as _);
        let mut tokens = Vec::new();
        for permission in CallerPermission::ALL {
            let token = make_account(&store, permission.as_str(), &[*permission]).await;
            tokens.push((*permission, token));
        }
        Self::serve(direct, store, clock, entropy, tokens, options).await
    }

    /// Another server on the same database, with the same clock and callers.
    pub async fn beside(&self, options: server::Options) -> Self {
        let clock = Arc::clone(&self.clock);
        let entropy = Arc::clone(&self.entropy);
        let store = store::StoreOptions::new(&self.database_url);
        let store = Store::new(&store, Arc::clone(&clock) as _, Arc::clone(&entropy) as _);
        let (url, tokens) = (&self.database_url, self.tokens.clone());
        Self::serve(url, store, clock, entropy, tokens, patient(options)).await
    }

    async fn serve(
        direct: &str,
        store: Store,
        clock: Arc<TestClock>,
        entropy: Arc<SeededEntropy>,
        tokens: Vec<(CallerPermission, String)>,
        options: server::Options,
    ) -> Self {
        let (connections, incoming) = mpsc::unbounded_channel();
        let (stop, mut stopped) = mpsc::channel(2);
        let (http_connections, http_incoming) = mpsc::unbounded_channel();
        let server = Server {
            backend: store.clone().into(),
            options,
            metrics: Metrics::default(),
            sampling: Sampling::default(),
            grpc: UnboundedReceiverStream::new(incoming),
            http: UnboundedReceiverStream::new(http_incoming),
        };
        let server = tokio::spawn(async move { server.run(&mut stopped).await });
        let database_url = direct.to_owned();
        let app = Self {
            clock,
            entropy,
            store,
            database_url,
            stop,
            server,
            connections,
            http_connections,
            tokens,
        };
        app.until_health(LAST_SERVICE, ServingStatus::Serving).await;
        app
    }

    /// Waits until health says that of a service.
    pub async fn until_health(&self, service: &str, wanted: ServingStatus) {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let mut health = HealthClient::new(self.channel().await);
        let mut statuses = health.watch(request).await.unwrap().into_inner();
        while statuses.message().await.unwrap().unwrap().status() != wanted {}
    }

    /// Waits until the server knows all that was done in the database by hand.
    pub async fn settle(&self) {
        let revision = self.number("SELECT index_stamp()").await;
        let request = pb::IntrospectRequest {
            at_least_revision: Some(revision.try_into().unwrap()),
            ..pb::IntrospectRequest::default()
        };
        let sidecar = self.sidecar().await;
        sidecar.introspect(request).await.expect("it catches up");
    }

    /// A new connection to the server.
    pub async fn channel(&self) -> Channel {
        channel(&self.connections).await
    }

    /// Hands the server its end of a connection.
    pub fn connect(&self, theirs: DuplexStream) {
        self.connections
            .send(Ok(theirs))
            .expect("the server accepts connections");
    }

    /// Hands the server's HTTP listener its end of a connection.
    pub fn connect_http(&self, theirs: DuplexStream) {
        self.http_connections
            .send(Ok(theirs))
            .expect("the server accepts connections");
    }

    /// A caller that shows that token, on a connection of its own.
    pub async fn caller(&self, token: &str) -> Caller {
        Caller::with_token(self.channel().await, token)
    }

    /// A caller with one permission.
    pub async fn permitted(&self, permission: CallerPermission) -> Caller {
        let token = self.token(permission).to_owned();
        self.caller(&token).await
    }

    /// The token of the account that has that permission alone.
    pub fn token(&self, permission: CallerPermission) -> &str {
        let mut tokens = self.tokens.iter();
        &tokens
            .find(|(other, _)| *other == permission)
            .expect("there is one for each")
            .1
    }

    /// HitKeep's dashboard: manages API clients.
    pub async fn dashboard(&self) -> Caller {
        self.permitted(CallerPermission::Manage).await
    }

    /// A sidecar: introspects.
    pub async fn sidecar(&self) -> Caller {
        self.permitted(CallerPermission::Introspect).await
    }

    /// HitKeep's directory push.
    pub async fn pusher(&self) -> Caller {
        self.permitted(CallerPermission::Directory).await
    }

    /// The reader of the audit trail.
    pub async fn auditor(&self) -> Caller {
        self.permitted(CallerPermission::Audit).await
    }

    /// A connection to the database itself.
    pub async fn database(&self) -> AsyncPgConnection {
        postgres::connect(&self.database_url).await
    }

    /// Runs statements by hand, as an operator with psql would.
    pub async fn psql(&self, sql: &str) {
        postgres::execute(&self.database_url, sql).await;
    }

    /// One number out of the database.
    pub async fn number(&self, sql: &str) -> i64 {
        postgres::number(&self.database_url, sql).await
    }

    /// Everything that a refused call must leave alone, as one text.
    pub async fn everything(&self) -> String {
        let tables = [
            "index_state",
            "users",
            "teams",
            "team_members",
            "sites",
            "site_members",
            "directory_state",
            "api_clients",
            "api_client_grants",
            "api_client_tokens",
            "api_client_requests",
            "api_client_replies",
            "audit_events",
        ];
        let mut connection = self.database().await;
        let mut all = Vec::new();
        for table in tables {
            let sql = format!(
                "SELECT coalesce(string_agg(t::text, E'\\n' ORDER BY t::text), '') \
                 FROM {table} AS t"
            );
            let rows = postgres::texts(&mut connection, &sql).await;
            all.push(format!("{table}:\n{}", rows[0]));
        }
        all.join("\n")
    }
}

/// A new connection to the server that takes its connections from there.
pub async fn channel(connections: &Connections) -> Channel {
    let connections = connections.clone();
    let connect = tower::service_fn(move |_| {
        let connections = connections.clone();
        async move {
            let (ours, theirs) = tokio::io::duplex(DUPLEX_BYTES);
            let gone = |_| std::io::Error::other("the server is gone");
            connections.send(Ok(theirs)).map_err(gone)?;
            Ok::<_, std::io::Error>(TokioIo::new(ours))
        }
    });
    let endpoint = Endpoint::from_static("http://test.invalid");
    endpoint
        .connect_with_connector(connect)
        .await
        .expect("the server accepts connections")
}

/// All rows of all tables, as text.
pub async fn dump(database: &mut AsyncPgConnection) -> String {
    let tables = "SELECT oid::regclass::text FROM pg_class \
                  WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
    let mut all = Vec::new();
    for table in postgres::texts(database, tables).await {
        let rows = format!("SELECT t::text FROM {table} AS t");
        all.extend(postgres::texts(database, &rows).await);
    }
    all.join("\n")
}

/// Makes a service account, and gives its token.
pub async fn make_account(store: &Store, name: &str, allow: &[CallerPermission]) -> String {
    let name = CallerName::parse(name).unwrap();
    let body = async |tx: &mut Transaction| -> Result<String, InsertAccountError> {
        let made = ServiceAccount::create(name.clone(), allow, tx.now, &*tx.entropy());
        tx.insert_account(&made.account, &made.token.hash()).await?;
        tx.record(made.event).await?;
        Ok(made.token.reveal())
    };
    store
        .transaction(&Arc::new(Provenance::default()), body)
        .await
        .unwrap()
        .value
}

/// Replaces the token of a service account, and gives the new one.
pub async fn rotate_account(store: &Store, name: &str, overlap: TimeDelta) -> String {
    let name = CallerName::parse(name).unwrap();
    let overlap = Overlap::new(overlap).unwrap();
    let body = async |tx: &mut Transaction| -> Result<String, StoreError> {
        let account = tx.find_account(&name).await?.expect("it exists");
        let old = tx.account_token(account.id).await?;
        let rotated = account.rotate(old, overlap, tx.now, &*tx.entropy());
        tx.rotate_account(&rotated.account, &rotated.token.hash())
            .await?;
        tx.record(rotated.event).await?;
        Ok(rotated.token.reveal())
    };
    store
        .transaction(&Arc::new(Provenance::default()), body)
        .await
        .unwrap()
        .value
}

impl Conversation {
    /// Asks, and waits for the answer.
    pub async fn ask(
        &mut self,
        request: pb::IntrospectRequest,
    ) -> Result<pb::IntrospectResponse, Status> {
        // Where the stream has ended, its end is the answer.
        self.requests.send(request).await.ok();
        self.answers
            .message()
            .await
            .map(|answer| answer.expect("one for one"))
    }

    /// What the stream says unasked.
    pub async fn end(&mut self) -> Result<Option<pb::IntrospectResponse>, Status> {
        self.answers.message().await
    }
}
