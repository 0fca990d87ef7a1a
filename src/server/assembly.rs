//! The parts of a server, put together: its index, the services behind their layers, and the
//! tasks beside them.

use std::sync::Arc;

use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
    task::JoinHandle,
};

use super::{
    Backend, GrpcWebOptions, Options, census, directory::Replacements, gauges, health::Scope,
    layers, readiness::Reporting, routes::router, supervisor::Supervisor,
};
use crate::{
    calls::admission::{Admission, Burst, Capacity},
    fastpath::FastPath,
    grpc::{
        Management, Origin, Services,
        replication::{StoredUsage, UsageDestination},
    },
    http::{self, GrpcWeb},
    live_index::{IndexOptions, LiveIndex, UsageWriter},
    telemetry::{metrics::Metrics, traces::Sampling},
    upstream,
};

/// Concurrent replacements of the directory: each may be large, and holds the write lock
/// while it is applied.
const MAX_REPLACEMENTS: usize = 2;
/// Concurrent calls of a replica to the server upstream, before calls queue.
const UPSTREAM_CALLS: usize = 16;

/// What serves the calls of every connection, and what runs beside it.
pub(super) struct Assembled {
    pub(super) fast_path: Arc<FastPath>,
    pub(super) http_router: axum::Router,
    /// To be finished after the last call.
    pub(super) usage: UsageWriter,
    pub(super) reporting: Reporting,
    /// Counts API clients for the metrics, if there is a database.
    pub(super) census: Option<JoinHandle<()>>,
    /// True from the stop signal on: readiness probes get the reason.
    pub(super) shut_down: watch::Sender<bool>,
    /// True from the end of the drain delay on: streams end.
    pub(super) drain: watch::Sender<bool>,
}

/// Starts the index and the tasks, and puts the services together.
pub(super) fn assemble(
    backend: Backend,
    options: Options,
    metrics: &Metrics,
    sampling: Sampling,
) -> Assembled {
    let Started {
        origin,
        index,
        usage,
        reports,
    } = backend.start(options.index, metrics);
    gauges::observe(metrics, &index, options.grpc.legacy_tokens_until);
    gauges::name_fast_methods(metrics);
    let supervisor = Supervisor::at(options.notify_socket);
    let (reporting, health) = Reporting::start(index.clone(), Scope::of(&origin), supervisor);
    let (shut_down, shutting_down) = watch::channel(false);
    let (drain, draining) = watch::channel(false);
    let services = Arc::new(Services::new(
        origin.clone(),
        index.clone(),
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
    gauges::observe_admission(metrics, &database_calls);
    let limits = Arc::new(layers::Limits::new(
        Arc::clone(&introspections),
        Replacements::of(MAX_REPLACEMENTS),
        Arc::clone(&database_calls),
        draining,
    ));
    let http_state = http::HttpState {
        services: Arc::clone(&services),
        limit: introspections,
        database_calls,
        shutting_down,
    };
    let (management, census) = match origin {
        Origin::Database(store) => {
            let latest = census::observe(metrics);
            let census = census::run(store.clone(), index.clone(), latest);
            let management = Management::new(store, index, metrics.clone(), options.grpc);
            (Some(Arc::new(management)), Some(tokio::spawn(census)))
        }
        Origin::Upstream { .. } => (None, None),
    };
    let rest = management.clone().filter(|_| options.grpc.hitkeep_rest);
    let router = router(management, &services, reports, limits, health);
    let grpc_web = options.grpc_web.map(|GrpcWebOptions { origins }| GrpcWeb {
        services: router.clone(),
        origins,
    });
    Assembled {
        fast_path: Arc::new(FastPath {
            router,
            services,
            runtime: Handle::current(),
        }),
        http_router: http::router(http_state, rest, grpc_web),
        usage,
        reporting,
        census,
        shut_down,
        drain,
    }
}

/// What a server is made of, whatever its backend.
struct Started {
    origin: Origin,
    index: LiveIndex,
    usage: UsageWriter,
    reports: Arc<dyn UsageDestination>,
}

impl Backend {
    /// Starts what keeps the index, and what writes the uses of its clients.
    fn start(self, options: IndexOptions, metrics: &Metrics) -> Started {
        match self {
            Self::Database { store, ready } => {
                let (index, usage) = LiveIndex::start_when(ready, &store, options, metrics);
                gauges::observe_pool(metrics, &store);
                let reports = StoredUsage::new(store.clone(), index.clone());
                Started {
                    origin: Origin::Database(store),
                    index,
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
                    index,
                    usage,
                    reports,
                } = upstream::follow(upstream, clock, &entropy, options, metrics);
                Started {
                    origin: Origin::Upstream { entropy },
                    index,
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
