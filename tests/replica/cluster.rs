//! Several servers on one database: each with a store of its own, which reaches
//! the database through a proxy of its own.

use std::{sync::Arc, time::Duration};

use diesel_async::{AsyncPgConnection, RunQueryDsl};
use hitkeep_auth::{
    domain::{
        caller::CallerPermission,
        clock::{Clock, Entropy},
        introspection::InactiveReason,
        token::{Token, TokenHash},
    },
    pb,
    server::{self, Ended},
    store::{self, Store, introspection::LookUp},
    system::{SystemClock, SystemEntropy},
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Code;

use crate::{
    fixtures::{batch, introspect, world},
    harness::{self, Caller},
    index,
    support::{doubles::TestClock, postgres, proxy::Proxy},
    waiting::until,
};

/// Connections of each replica's pool.
const POOL_SIZE: usize = 8;

/// A database, and the servers on it.
pub struct Cluster {
    /// The way to the database that no fault is on.
    pub direct: String,
    /// On that way: what the database itself says.
    pub store: Store,
    pub replicas: Vec<Replica>,
}

/// A server.
pub struct Replica {
    pub proxy: Proxy,
    /// Manages API clients.
    pub dashboard: Caller,
    /// Introspects.
    pub sidecar: Caller,
    /// Pushes the directory.
    pub pusher: Caller,
    _connections: harness::Connections,
    _stop: mpsc::Sender<()>,
    _server: JoinHandle<Ended>,
}

/// What a server says of a token, in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    Active,
    Inactive(pb::InactiveReason),
    /// It cannot tell.
    Nothing,
}

impl Cluster {
    /// That many servers, on the machine's clock and on a database of their own
    /// that has the world's directory.
    pub async fn start(replicas: usize) -> Self {
        let direct = postgres::migrated_database().await;
        Self::on(direct, replicas, index::options()).await
    }

    /// Servers on a database that has nothing in it yet.
    pub async fn on(direct: String, replicas: usize, options: server::Options) -> Self {
        let clock = || Arc::new(SystemClock::default()) as Arc<dyn Clock>;
        Self::with(direct, replicas, options, &clock).await
    }

    /// Servers that share a clock which the test moves.
    pub async fn with_clock(replicas: usize, shared: &Arc<TestClock>) -> Self {
        let direct = postgres::migrated_database().await;
        let clock = || Arc::clone(shared) as Arc<dyn Clock>;
        Self::with(direct, replicas, index::options(), &clock).await
    }

    async fn with(
        direct: String,
        replicas: usize,
        options: server::Options,
        clock: &dyn Fn() -> Arc<dyn Clock>,
    ) -> Self {
        let store = open(&direct, clock());
        let mut tokens = Vec::new();
        for permission in CallerPermission::ALL {
            let name = permission.as_str();
            let token = harness::make_account(&store, name, &[*permission]).await;
            tokens.push((*permission, token));
        }
        let mut started = Vec::new();
        for _ in 0..replicas {
            started.push(Replica::start(&direct, clock(), &tokens, options).await);
        }
        let cluster = Self {
            direct,
            store,
            replicas: started,
        };
        for replica in &cluster.replicas {
            until("the replica answers", async || {
                replica.sidecar.introspect(introspect("x")).await.ok()
            })
            .await;
        }
        cluster.replicas[0]
            .pusher
            .apply(batch(world()))
            .await
            .unwrap();
        cluster
    }

    /// What the database itself says of a token.
    pub async fn truth(&self, token: &str) -> LookUp {
        self.store.look_up(Some(hash(token))).await.unwrap()
    }

    /// The same, in short.
    pub async fn true_word(&self, token: &str) -> Said {
        let found = self.truth(token).await;
        match found.subject.map(|subject| subject.judge(found.now)) {
            Some(Ok(_)) => Said::Active,
            Some(Err(reason)) => Said::Inactive(to_reason(reason)),
            None => Said::Inactive(pb::InactiveReason::UnknownToken),
        }
    }

    /// Runs statements by hand, as an operator with psql would.
    pub async fn psql(&self, sql: &str) {
        postgres::execute(&self.direct, sql).await;
    }

    /// A connection to the database itself.
    pub async fn database(&self) -> AsyncPgConnection {
        postgres::connect(&self.direct).await
    }

    /// One number out of the database.
    pub async fn number(&self, sql: &str) -> i64 {
        #[derive(diesel::QueryableByName)]
        struct Row {
            #[diesel(sql_type = diesel::sql_types::BigInt)]
            number: i64,
        }
        let sql = format!("SELECT ({sql})::bigint AS number");
        let mut connection = self.database().await;
        let row = diesel::sql_query(&sql).get_result::<Row>(&mut connection);
        row.await.expect(&sql).number
    }

    /// The first column of some rows of the database, which is called `text`.
    pub async fn texts(&self, sql: &str) -> Vec<String> {
        #[derive(diesel::QueryableByName)]
        struct Row {
            #[diesel(sql_type = diesel::sql_types::Text)]
            text: String,
        }
        let mut connection = self.database().await;
        let rows = diesel::sql_query(sql).load::<Row>(&mut connection);
        let rows = rows.await.expect(sql).into_iter();
        rows.map(|row| row.text).collect()
    }

    /// The database's newest revision.
    pub async fn revision(&self) -> u64 {
        self.store.look_up(None).await.unwrap().revision.0
    }

    /// Whether the replicas have an index.
    pub async fn has_index(&self) -> bool {
        self.number(index::IS_THERE).await == 1
    }
}

impl Replica {
    async fn start(
        direct: &str,
        clock: Arc<dyn Clock>,
        tokens: &[(CallerPermission, String)],
        options: server::Options,
    ) -> Self {
        let (proxy, through) = Proxy::start(direct);
        let store = open(&through, clock);
        let (connections, incoming) = mpsc::unbounded_channel();
        let (stop, stopped) = mpsc::channel(2);
        let incoming = UnboundedReceiverStream::new(incoming);
        let server = tokio::spawn(server::serve(store, options, incoming, stopped));
        let channel = harness::channel(&connections).await;
        let caller = |permission| {
            let (_, token) = tokens
                .iter()
                .find(|(other, _)| *other == permission)
                .unwrap();
            Caller {
                channel: channel.clone(),
                metadata: vec![("authorization", format!("Bearer {token}"))],
                timeout: None,
            }
        };
        Self {
            proxy,
            dashboard: caller(CallerPermission::Manage),
            sidecar: caller(CallerPermission::Introspect),
            pusher: caller(CallerPermission::Directory),
            _connections: connections,
            _stop: stop,
            _server: server,
        }
    }

    /// What it says of a token.
    pub async fn says(&self, token: &str) -> Said {
        said(&self.sidecar.introspect(introspect(token)).await)
    }

    /// The same, for somebody who does not wait for long.
    pub async fn says_within(&self, token: &str, timeout: Duration) -> Said {
        let sidecar = self.sidecar.clone().within(timeout);
        said(&sidecar.introspect(introspect(token)).await)
    }

    /// What it says of a token at a revision or a later one.
    pub async fn says_at(&self, token: &str, revision: u64) -> Said {
        said(&self.sidecar.introspect(at_least(token, revision)).await)
    }

    /// Waits until it says that.
    pub async fn until_says(&self, token: &str, expected: Said) {
        let mut last = None;
        until(&format!("{expected:?} is said"), async || {
            let said = self.says(token).await;
            last = Some(said);
            (said == expected).then_some(())
        })
        .await;
    }
}

/// An introspection that is based on a revision or a later one.
pub fn at_least(token: &str, revision: u64) -> pb::IntrospectRequest {
    pb::IntrospectRequest {
        at_least_revision: Some(revision),
        ..introspect(token)
    }
}

/// What an answer says, in short. An error that is not about an outage is none.
pub fn said(answer: &Result<pb::IntrospectResponse, tonic::Status>) -> Said {
    match answer {
        Ok(answer) if answer.active => Said::Active,
        Ok(answer) => Said::Inactive(answer.inactive_reason()),
        Err(status) => {
            let outage = [Code::Unavailable, Code::DeadlineExceeded];
            assert!(outage.contains(&status.code()), "{status:?}");
            Said::Nothing
        }
    }
}

/// What is kept of a token.
pub fn hash(token: &str) -> TokenHash {
    Token::parse(token).expect("it was issued").hash()
}

pub fn to_reason(reason: InactiveReason) -> pb::InactiveReason {
    match reason {
        InactiveReason::UnknownToken => pb::InactiveReason::UnknownToken,
        InactiveReason::TokenRotated => pb::InactiveReason::TokenRotated,
        InactiveReason::Revoked => pb::InactiveReason::Revoked,
        InactiveReason::Expired => pb::InactiveReason::Expired,
        InactiveReason::OwnerInactive => pb::InactiveReason::OwnerInactive,
    }
}

fn open(url: &str, clock: Arc<dyn Clock>) -> Store {
    let options = store::Options {
        pool_size: POOL_SIZE,
        ..store::Options::new(url)
    };
    Store::new(&options, clock, Arc::new(SystemEntropy) as Arc<dyn Entropy>)
}
