//! A replica without a database, which follows servers through gateways.

use std::{sync::Arc, time::Duration};

use hitkeep_auth::{
    domain::{caller::CallerPermission, clock::Clock},
    pb,
    server::{self, Backend, Ended, Server},
    system::{SystemClock, SystemEntropy},
    telemetry::{metrics::Metrics, traces::Sampling},
    upstream::{Certificates, TokenSource, Upstream},
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::{
    cluster::{Cluster, Said, said},
    fixtures::introspect,
    gateway::Gateway,
    harness::{self, Caller, Connections},
    index,
    waiting::until,
};

/// What a replica is made of, where a test wants it otherwise.
pub struct Settings {
    pub clock: Arc<dyn Clock>,
    pub options: server::Options,
    pub without_names: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock::default()),
            options: index::options(),
            without_names: false,
        }
    }
}

impl Settings {
    /// A replica whose index does not grow too old on a busy machine.
    pub fn patient() -> Self {
        let mut settings = Self::default();
        settings.options.index.max_staleness = Duration::from_mins(10);
        settings
    }
}

/// A replica.
pub struct Follower {
    /// Introspects.
    pub sidecar: Caller,
    pub connections: Connections,
    /// The same, over HTTP.
    pub http_connections: Connections,
    pub metrics: Metrics,
    pub stop: mpsc::Sender<()>,
    pub server: JoinHandle<Ended>,
}

impl Follower {
    /// Starts one, and waits until it answers.
    pub async fn start(cluster: &Cluster, gateways: &[&Gateway], settings: Settings) -> Self {
        let follower = Self::begin(cluster, gateways, settings).await;
        follower
            .until_says("x", Said::Inactive(pb::InactiveReason::UnknownToken))
            .await;
        follower
    }

    /// Starts one that does not have to answer.
    pub async fn begin(cluster: &Cluster, gateways: &[&Gateway], settings: Settings) -> Self {
        let token = cluster.token(CallerPermission::Replicate).to_owned();
        Self::with_token(cluster, gateways, settings, token).await
    }

    pub async fn with_token(
        cluster: &Cluster,
        gateways: &[&Gateway],
        settings: Settings,
        token: String,
    ) -> Self {
        let introspect = cluster.token(CallerPermission::Introspect);
        Self::with_tokens(introspect, gateways, settings, token).await
    }

    /// One that is asked by that caller, and follows with that token.
    pub async fn with_tokens(
        caller: &str,
        gateways: &[&Gateway],
        settings: Settings,
        token: String,
    ) -> Self {
        let (connections, incoming) = mpsc::unbounded_channel();
        let (http_connections, http_incoming) = mpsc::unbounded_channel();
        let (stop, mut stopped) = mpsc::channel(2);
        let metrics = Metrics::default();
        let upstream = Upstream {
            targets: gateways.iter().map(|gateway| gateway.target()).collect(),
            token: TokenSource::new(move || Ok(Some(token.clone()))),
            certificates: Arc::new(Certificates::default()),
            without_names: settings.without_names,
        };
        let server = Server {
            backend: Backend::Upstream {
                upstream,
                clock: settings.clock,
                entropy: Arc::new(SystemEntropy),
            },
            options: settings.options,
            metrics: metrics.clone(),
            sampling: Sampling::default(),
            grpc: UnboundedReceiverStream::new(incoming),
            http: UnboundedReceiverStream::new(http_incoming),
        };
        let server = tokio::spawn(async move { server.run(&mut stopped).await });
        let channel = harness::channel(&connections).await;
        let sidecar = Caller::with_token(channel, caller);
        Self {
            sidecar,
            connections,
            http_connections,
            metrics,
            stop,
            server,
        }
    }

    /// What it says of a token.
    pub async fn says(&self, token: &str) -> Said {
        said(&self.sidecar.introspect(introspect(token)).await)
    }

    /// Waits until it says that.
    pub async fn until_says(&self, token: &str, expected: Said) {
        until(&format!("{expected:?}"), async || {
            let said = self.says(token).await;
            if said == expected { Ok(()) } else { Err(said) }
        })
        .await;
    }

    /// Waits until it says that its index is too old to answer from. Until then, what it says
    /// of the token must be this.
    pub async fn until_stale(&self, token: &str, before: Said) {
        until("its index is stale", async || {
            let answer = self.sidecar.introspect(introspect(token)).await;
            let told = harness::told(&answer);
            if told == "Unavailable STALE_INDEX" {
                return Ok(());
            }
            assert_eq!(said(&answer), before);
            Err(told)
        })
        .await;
    }

    /// How many snapshots it took so far.
    pub fn snapshots(&self) -> u64 {
        self.number("hitkeep_auth_feed_loads_total")
    }

    /// One of its metrics; 0 where it is not there yet.
    pub fn number(&self, name: &str) -> u64 {
        let page = self.metrics.page().unwrap();
        let mut lines = page.lines();
        let line = lines.find(|line| line.starts_with(name) && !line.starts_with('#'));
        line.map_or(0, |line| {
            let (_, value) = line.rsplit_once(' ').unwrap();
            value.parse().unwrap()
        })
    }
}
