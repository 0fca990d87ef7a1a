//! Several servers on one database: each with a store of its own, which reaches
//! the database through a proxy of its own.

use std::{sync::Arc, time::Duration};

use diesel_async::AsyncPgConnection;
use hitkeep_auth::{
    domain::{
        caller::CallerPermission,
        clock::{Clock, Entropy},
        token::{Token, TokenHash},
    },
    pb,
    server::{self, Ended},
    store::{self, Standbys, Store, introspection::TokenLookup},
    system::{SystemClock, SystemEntropy},
};
use http_body_util::Full;
use hyper::body::Bytes;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Code;

use crate::{
    checker::{bare, expected},
    fixtures::{SITE, batch, check, introspect, world},
    harness::{self, Caller, exchange, framed},
    index,
    support::{
        postgres,
        proxy::{Limit, Proxy},
    },
    time::SharedTime,
    waiting::until,
};

/// How long somebody waits who can ask again.
pub const IMPATIENCE: Duration = Duration::from_millis(150);
/// Connections of each replica's pool.
const POOL_SIZE: usize = 8;

/// A database, and the servers on it.
pub struct Cluster {
    /// The way to the database that no fault is on.
    pub direct: String,
    /// On that way: what the database itself says.
    pub store: Store,
    pub replicas: Vec<Replica>,
    pub options: server::Options,
    /// The time of the servers.
    pub time: SharedTime,
    /// Another server of the database, which the replicas know as well.
    pub other_host: Option<String>,
    tokens: Vec<(CallerPermission, String)>,
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
    /// Where it takes its connections from.
    pub connections: harness::Connections,
    pub stop: mpsc::Sender<()>,
    server: JoinHandle<Ended>,
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
        Self::on_hosts(direct, None, replicas, options).await
    }

    /// The same, where the database may also be on another host.
    pub async fn on_hosts(
        direct: String,
        other_host: Option<String>,
        replicas: usize,
        options: server::Options,
    ) -> Self {
        let store = open(&direct, Arc::new(SystemClock::default()));
        let mut tokens = Vec::new();
        for permission in CallerPermission::ALL {
            let name = permission.as_str();
            let token = harness::make_account(&store, name, &[*permission]).await;
            tokens.push((*permission, token));
        }
        let mut cluster = Self {
            direct,
            store,
            replicas: Vec::new(),
            options,
            time: SharedTime::default(),
            other_host,
            tokens,
        };
        for _ in 0..replicas {
            cluster.add(None).await;
        }
        cluster.replicas[0]
            .pusher
            .apply(batch(world()))
            .await
            .unwrap();
        cluster
    }

    /// The token of the account that has that permission alone.
    pub fn token(&self, permission: CallerPermission) -> &str {
        let mut tokens = self.tokens.iter();
        &tokens.find(|(other, _)| *other == permission).unwrap().1
    }

    /// Starts one more server, whose way to the database may have a limit from
    /// the beginning, and waits until it answers.
    pub async fn add(&mut self, limit: Option<Limit>) {
        let replica = self.start_one(limit).await;
        self.replicas.push(replica);
    }

    /// Kills a server, and starts another in its place.
    pub async fn restart(&mut self, number: usize) {
        self.replicas[number].server.abort();
        self.replicas[number] = self.start_one(None).await;
    }

    async fn start_one(&self, limit: Option<Limit>) -> Replica {
        let (proxy, mut through) = Proxy::start(&self.direct);
        if let Some(limit) = limit {
            proxy.limit(limit);
        }
        if let Some(other) = &self.other_host {
            let (own, database) = through.rsplit_once('/').unwrap();
            through = format!("{own},{other}/{database}");
        }
        let replica = self.start_through(proxy, &through, Standbys::Refused).await;
        replica.until_answers().await;
        replica
    }

    /// Starts one more server, which does not have to answer.
    pub async fn start_through(&self, proxy: Proxy, url: &str, standbys: Standbys) -> Replica {
        let options = store::StoreOptions {
            standbys,
            ..store::StoreOptions::new(url)
        };
        self.start_with(proxy, options).await
    }

    /// The same, where there is more to say of the way to the database.
    pub async fn start_with(&self, proxy: Proxy, options: store::StoreOptions) -> Replica {
        let options = store::StoreOptions {
            pool_size: POOL_SIZE,
            ..options
        };
        let entropy = Arc::new(SystemEntropy);
        let store = Store::new(&options, self.time.clock(), entropy as Arc<dyn Entropy>);
        Replica::start(proxy, store, self).await
    }

    /// Takes another server's word for what the database says.
    pub fn believe(&mut self, direct: String) {
        self.store = open(&direct, Arc::new(SystemClock::default()));
        self.direct = direct;
    }

    /// What the database itself says of a token.
    pub async fn truth(&self, token: &str) -> TokenLookup {
        self.store.look_up(Some(hash(token).into())).await.unwrap()
    }

    /// Waits until every replica says in full what the database says of these
    /// tokens, which nobody changes meanwhile.
    pub async fn agree(&self, tokens: &[&str]) {
        for (number, replica) in self.replicas.iter().enumerate() {
            for token in tokens {
                let request = check(token, SITE, "site.view");
                let truth = self.truth(token).await;
                let expected = expected(truth.subject, truth.now, request.check.as_ref());
                let what = format!("replica {number}: {expected:?}");
                let asked = until(&what, async || {
                    let answer = replica.sidecar.introspect(request.clone()).await;
                    match answer {
                        Ok(answer) if bare(&answer) == expected => Ok(()),
                        other => Err(other),
                    }
                });
                asked.await;
            }
        }
    }

    /// What a replica says that gives no verdict in as long as somebody waits who can ask again.
    /// A client of tonic's would give up by itself, however soon the server's word comes.
    pub async fn refusal_in_time(&self, replica: &Replica, token: &str) -> String {
        let path = "/hitkeep.auth.v1.IntrospectionService/Introspect";
        let timeout = format!("{}m", IMPATIENCE.as_millis());
        let headers = [("grpc-timeout", &*timeout)];
        let body = Full::new(Bytes::from(framed(&introspect(token))));
        let own = self.token(CallerPermission::Introspect);
        let refused = exchange(&replica.connections, own, path, &headers, body).await;
        harness::told(&Err::<(), _>(refused))
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
        postgres::number(&self.direct, sql).await
    }

    /// The rows of a query with one column, which is a text.
    pub async fn texts(&self, sql: &str) -> Vec<String> {
        postgres::texts(&mut self.database().await, sql).await
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
    async fn start(proxy: Proxy, store: Store, cluster: &Cluster) -> Self {
        let (connections, incoming) = mpsc::unbounded_channel();
        let (stop, stopped) = mpsc::channel(2);
        let incoming = UnboundedReceiverStream::new(incoming);
        let server = tokio::spawn(server::serve(store, cluster.options, incoming, stopped));
        let channel = harness::channel(&connections).await;
        let caller = |permission| {
            let token = cluster.token(permission);
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
            connections,
            stop,
            server,
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

    /// Waits until it has read its database. Where its way there stalled at a limit, it
    /// goes on.
    pub async fn until_answers(&self) {
        until("the replica answers", async || {
            let said = self.says_within("x", IMPATIENCE).await;
            if said == Said::Nothing {
                self.proxy.mend_at_limit();
                return Err(said);
            }
            Ok(())
        })
        .await;
    }

    /// Waits until it says that.
    pub async fn until_says(&self, token: &str, expected: Said) {
        until(&format!("{expected:?}"), async || {
            let said = self.says(token).await;
            if said == expected { Ok(()) } else { Err(said) }
        })
        .await;
    }

    /// Waits until it accepts a token. On a busy machine it may be unable to say so at first, but
    /// it never says that the token does not work.
    pub async fn accepts(&self, token: &str) {
        self.accepts_at(token, 0).await;
    }

    /// The same at a revision or a later one.
    pub async fn accepts_at(&self, token: &str, revision: u64) {
        until("it accepts the token", async || {
            match self.says_at(token, revision).await {
                Said::Active => Ok(()),
                nothing @ Said::Nothing => Err(nothing),
                inactive @ Said::Inactive(_) => panic!("it works, and here it is {inactive:?}"),
            }
        })
        .await;
    }

    /// Waits until it says that its index is too old to answer from.
    pub async fn until_stale(&self, token: &str) {
        until("its index is stale", async || {
            let answer = self.sidecar.clone().introspect(introspect(token)).await;
            let said = harness::told(&answer);
            if said == "Unavailable STALE_INDEX" {
                Ok(())
            } else {
                Err(said)
            }
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
            // The last one is the client's own, where not even the server's word
            // that it is too late came in time.
            let outage = [Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled];
            assert!(outage.contains(&status.code()), "{status:?}");
            Said::Nothing
        }
    }
}

/// What is kept of a token.
pub fn hash(token: &str) -> TokenHash {
    Token::parse(token).expect("it was issued").hash()
}

fn open(url: &str, clock: Arc<dyn Clock>) -> Store {
    let options = store::StoreOptions {
        pool_size: POOL_SIZE,
        ..store::StoreOptions::new(url)
    };
    Store::new(&options, clock, Arc::new(SystemEntropy) as Arc<dyn Entropy>)
}
