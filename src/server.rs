//! The server: the services behind their layers, with health and reflection, from the first
//! connection until the last one is drained.

use std::{ffi::OsStr, pin::Pin, sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc, watch},
};
use tokio_stream::{Stream, StreamExt};

mod auth;
mod bodies;
mod census;
#[cfg(test)]
mod connection_tests;
mod gauges;
pub mod health;
mod layers;
mod readiness;
mod routes;
pub mod signals;
mod supervisor;

use health::Scope;
use routes::router;
use supervisor::Supervisor;

use crate::{
    calls::admission::{Admission, Burst, Capacity},
    domain::clock::{Clock, Entropy},
    fastpath::{FastPath, dispatch::Dispatch},
    grpc::{
        self, Management, Origin, Services,
        replication::{StoredUsage, UsageDestination},
    },
    http::{self, GrpcWeb},
    replica::{self, Replica, UsageWriter},
    store::Store,
    telemetry::{metrics::Metrics, traces::Sampling},
    transport::{
        activity::IdleTimeouts,
        age::Ages,
        auto, http2, io,
        workers::{Unregistered, Workers},
    },
    upstream::{self, Upstream},
};

/// Concurrent replacements of the directory: each may be large, and holds the write lock
/// while it is applied.
const MAX_REPLACEMENTS: usize = 2;
/// Concurrent calls of a replica to the server upstream, before calls queue.
const UPSTREAM_CALLS: usize = 16;

#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub grpc: grpc::ServiceOptions,
    pub replica: replica::ReplicaOptions,
    /// How long a call may take, unless its caller's timeout is shorter. Default 10 s.
    /// Replacements of the directory are exempt, since they are streams.
    pub request_timeout: Duration,
    /// How long connections are still accepted after a stop signal, while health reports
    /// `NOT_SERVING`: as long as load balancers may take to notice. Default 0.
    pub drain_delay: Duration,
    /// How long calls in flight may take to finish after that. Default 30 s.
    pub drain_timeout: Duration,
    /// Concurrent introspections on the slow path, over all connections. Default 4,096.
    pub max_introspections: usize,
    /// Other concurrent calls, over all connections. Default 256.
    pub max_calls: usize,
    /// How long a queue for Postgres may last before calls are shed. Beyond it, at most
    /// four reads and four writes for each database connection are admitted. Default 1 s.
    pub max_burst: Duration,
    /// Concurrent connections on each of the two listeners; further ones are closed.
    /// Default 10,000.
    pub max_connections: usize,
    /// When gRPC connections that are idle, stalled or too old are closed.
    pub idle_timeouts: IdleTimeouts,
    /// The maximum age of connections on both listeners, with a jitter of a tenth. Default
    /// none.
    pub max_connection_age: Option<Duration>,
    /// The number of I/O threads. Default 0: the current runtime serves the connections.
    pub threads: usize,
    /// How gRPC-Web is served on the HTTP listener. Default: it is not.
    pub grpc_web: Option<GrpcWebOptions>,
    /// The socket of the supervisor that readiness and the drain are reported to, such as
    /// systemd, as `NOTIFY_SOCKET` names it. Default none.
    pub notify_socket: Option<&'static OsStr>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            grpc: grpc::ServiceOptions::default(),
            replica: replica::ReplicaOptions::default(),
            request_timeout: Duration::from_secs(10),
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(30),
            max_introspections: 4096,
            max_calls: 256,
            max_burst: Duration::from_secs(1),
            max_connections: 10_000,
            idle_timeouts: IdleTimeouts::default(),
            max_connection_age: None,
            threads: 0,
            grpc_web: None,
            notify_socket: None,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct GrpcWebOptions {
    /// The origins whose pages may call from a browser, such as `https://tools.example.org`.
    /// Default none.
    pub origins: &'static [::http::HeaderValue],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All calls in flight were finished.
    Drained,
    /// Calls were cut off: the drain timed out, or another stop signal came.
    CutOff,
}

/// A server with its sources of connections.
pub struct Server<G, H> {
    pub backend: Backend,
    pub options: Options,
    /// The instruments that calls and connections are counted in.
    pub metrics: Metrics,
    pub sampling: Sampling,
    /// The gRPC connections. The server ends with this stream.
    pub grpc: G,
    /// The HTTP connections.
    pub http: H,
}

/// What a server makes its index from; its services keep the [`Origin`].
pub enum Backend {
    /// The database, where the server manages API clients as well.
    Database {
        store: Store,
        /// Until it completes, the database is not used, and health reports `NOT_SERVING`.
        ready: Pin<Box<dyn Future<Output = ()> + Send>>,
    },
    /// Another server's index. The server has no database, and manages nothing.
    Upstream {
        /// The servers that it follows.
        upstream: Upstream,
        /// The clock that the server upstream calibrates.
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    },
}

impl From<Store> for Backend {
    /// A database that can be used at once.
    fn from(store: Store) -> Self {
        let ready = Box::pin(std::future::ready(()));
        Self::Database { store, ready }
    }
}

/// Serves gRPC on `incoming` until a message on `stop`. The first message begins the drain.
/// A second one ends the drain delay if that is still running, and the server otherwise.
pub async fn serve<I, C, E>(
    store: Store,
    options: Options,
    incoming: I,
    stop: mpsc::Receiver<()>,
) -> Ended
where
    I: Stream<Item = Result<C, E>>,
    C: Unregistered,
    E: std::fmt::Display,
{
    let server = Server {
        backend: store.into(),
        options,
        metrics: Metrics::default(),
        sampling: Sampling::default(),
        grpc: incoming,
        http: tokio_stream::empty::<Result<C, E>>(),
    };
    server.run(stop).await
}

impl<G, H, C, E, D, F> Server<G, H>
where
    G: Stream<Item = Result<C, E>>,
    C: Unregistered,
    E: std::fmt::Display,
    H: Stream<Item = Result<D, F>>,
    D: Unregistered,
    F: std::fmt::Display,
{
    /// Serves until a message on `stop`. The first message begins the drain. A second one
    /// ends the drain delay if that is still running, and the server otherwise.
    pub async fn run(self, mut stop: mpsc::Receiver<()>) -> Ended {
        let Self {
            backend,
            options,
            metrics,
            sampling,
            grpc,
            http,
        } = self;
        let Started {
            origin,
            replica,
            usage,
            reports,
        } = backend.start(options.replica, &metrics);
        let workers = Workers::start(options.threads).unwrap_or_else(|error| {
            tracing::warn!(%error, "could not start I/O threads: using the shared runtime");
            Workers::current()
        });
        gauges::observe(&metrics, &replica, options.grpc.legacy_tokens_until);
        gauges::name_fast_methods(&metrics);
        let scope = Scope::of(&origin);
        let (health, health_service) = health::service(scope);
        let health = Arc::new(health);
        let supervisor = Supervisor::at(options.notify_socket);
        let reporter = Arc::clone(&health);
        let mut watch = readiness::Watch::new(replica.clone(), scope, reporter, supervisor);
        watch.report();
        let watch = tokio::spawn(watch.run());
        let (shut_down, shutting_down) = watch::channel(false);
        let (drain, draining) = watch::channel(false);
        let services = Arc::new(Services::new(
            origin.clone(),
            replica,
            metrics.clone(),
            sampling,
            options.grpc,
            options.request_timeout,
            draining.clone(),
        ));
        let introspections = Arc::new(Semaphore::new(options.max_introspections));
        let burst = Burst {
            max_calls: options.max_calls,
            max_duration: options.max_burst,
        };
        let database_calls = Arc::new(Admission::new(burst, capacity(&origin)));
        let limits = Arc::new(layers::Limits::new(
            Arc::clone(&introspections),
            MAX_REPLACEMENTS,
            Arc::clone(&database_calls),
            draining,
        ));
        let http_state = http::HttpState {
            services: Arc::clone(&services),
            limit: introspections,
            database_calls,
            shutting_down,
        };
        let ages = || Ages::new(options.max_connection_age, services.entropy());
        let (ages, http_ages) = (ages(), ages());
        let mut census = None;
        let management = match origin {
            Origin::Database(store) => {
                let replica = services.replica().clone();
                let latest = census::observe(&metrics);
                census = Some(tokio::spawn(census::run(
                    store.clone(),
                    replica.clone(),
                    latest,
                )));
                Some(Arc::new(Management::new(
                    store,
                    replica,
                    metrics.clone(),
                    options.grpc,
                )))
            }
            Origin::Upstream { .. } => None,
        };
        let rest = management.clone().filter(|_| options.grpc.hitkeep_rest);
        let router = router(management, &services, reports, limits, health_service);
        let grpc_web = options.grpc_web.map(|GrpcWebOptions { origins }| GrpcWeb {
            services: router.clone(),
            origins,
        });
        let fast_path = Arc::new(FastPath {
            router,
            services,
            runtime: Handle::current(),
        });
        let max = options.max_connections;
        let dispatch =
            move |activity: &_| Dispatch::new(Arc::clone(&fast_path), Arc::clone(activity));
        let idle_timeouts = options.idle_timeouts;
        let mut connections = http2::GrpcConnections::new(
            dispatch,
            workers,
            max,
            idle_timeouts,
            ages,
            metrics.clone(),
        );
        let http_router = http::router(http_state, rest, grpc_web);
        let mut http_connections = auto::HttpConnections::new(http_router, metrics, max, http_ages);
        let http = http.map(|connection| match connection {
            // Client certificates authenticate callers over gRPC only.
            Ok(connection) => Ok(async { Ok(io::open(connection).await?.0) }),
            Err(error) => Err(error.to_string()),
        });
        tokio::pin!(http);
        // Dropped, with its listeners, at the end of the drain delay.
        let mut incoming = Box::pin(grpc);
        let is_stop_signal = tokio::select! {
            () = connections.accept(incoming.as_mut()) => false,
            () = http_connections.accept(http.as_mut()) => false,
            signal = stop.recv() => signal.is_some(),
        };
        if let Some(census) = census {
            census.abort();
        }
        watch.abort();
        // The task must have ended, or it could overwrite the last report.
        watch.await.ok();
        health.report(health::Readiness::NONE);
        supervisor.stopping();
        shut_down.send_replace(true);
        if is_stop_signal && !options.drain_delay.is_zero() {
            let seconds = options.drain_delay.as_secs_f64();
            tracing::info!("stop signal received: accepting connections for another {seconds} s");
            tokio::select! {
                () = connections.accept(incoming.as_mut()) => {}
                () = http_connections.accept(http.as_mut()) => {}
                () = tokio::time::sleep(options.drain_delay) => {}
                Some(()) = stop.recv() => tracing::info!("second stop signal: the drain begins"),
            }
        }
        drop(incoming);
        // Ends the streams of health's watchers.
        drop(health);
        // Streams would otherwise last as long as their callers like.
        drain.send_replace(true);
        let drained = async {
            tokio::select! {
                () = connections.drain() => {}
                // HTTP goes on during the drain: readiness probes get the reason, and the
                // metrics stay readable.
                () = http_connections.accept(http) => {}
            }
            http_connections.drain().await;
        };
        let ended = tokio::select! {
            () = drained => Ended::Drained,
            () = tokio::time::sleep(options.drain_timeout) => Ended::CutOff,
            Some(()) = stop.recv() => Ended::CutOff,
        };
        tokio::select! {
            // After the last response, so that all uses are included.
            () = usage.finish() => ended,
            Some(()) = stop.recv() => {
                tracing::warn!("second stop signal: the last uses may not be written");
                ended
            }
        }
    }
}

/// What a server is made of, whatever its backend.
struct Started {
    origin: Origin,
    replica: Replica,
    usage: UsageWriter,
    reports: Arc<dyn UsageDestination>,
}

impl Backend {
    /// Starts what keeps the index, and what writes the uses of its clients.
    fn start(self, options: replica::ReplicaOptions, metrics: &Metrics) -> Started {
        match self {
            Self::Database { store, ready } => {
                let (replica, usage) = Replica::start_when(ready, &store, options, metrics);
                gauges::observe_pool(metrics, &store);
                let reports = StoredUsage::new(store.clone(), replica.clone());
                Started {
                    origin: Origin::Database(store),
                    replica,
                    usage,
                    reports: Arc::new(reports),
                }
            }
            Self::Upstream {
                upstream,
                clock,
                entropy,
            } => {
                let upstream::Following {
                    replica,
                    usage,
                    reports,
                } = upstream::follow(upstream, clock, &entropy, options, metrics);
                Started {
                    origin: Origin::Upstream { entropy },
                    replica,
                    usage,
                    reports,
                }
            }
        }
    }
}

/// The calls that use what is behind the index at a time: the database, or the server
/// upstream.
fn capacity(origin: &Origin) -> Capacity {
    match origin {
        Origin::Database(store) => {
            let permits = store.permits();
            Capacity {
                reads: permits.reads,
                writes: permits.writes,
            }
        }
        Origin::Upstream { .. } => Capacity {
            reads: UPSTREAM_CALLS,
            writes: UPSTREAM_CALLS,
        },
    }
}
