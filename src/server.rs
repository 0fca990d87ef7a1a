//! The server: the services behind their layers, with health and reflection, from the first
//! connection until the last one is drained.

use std::{sync::Arc, time::Duration};

use axum::{
    middleware::{from_fn, from_fn_with_state},
    routing::{post, post_service},
};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc, watch},
};
use tokio_stream::{Stream, StreamExt};
use tonic::service::Routes;

mod auth;
mod bodies;
#[cfg(test)]
mod connection_tests;
mod gauges;
pub mod health;
mod layers;
pub mod lifecycle;

use crate::{
    calls::{
        admission::{Admission, Burst, Capacity},
        method::{
            BATCH_INTROSPECT, INTROSPECT_STREAM, MAX_BATCH_BYTES, MAX_CHECK_BYTES,
            MAX_INTROSPECTION_BYTES, MAX_MESSAGE_BYTES, MAX_OPEN_MESSAGE_BYTES,
        },
    },
    fastpath::{self, FastPath, dispatch::Dispatch},
    grpc::{self, Services},
    http,
    pb::{
        self, api_client_service_server::ApiClientServiceServer,
        audit_service_server::AuditServiceServer, directory_service_server::DirectoryServiceServer,
        envoy::service::auth::v3::authorization_server::AuthorizationServer,
        introspection_service_server::IntrospectionServiceServer,
    },
    replica::{self, Replica},
    store::Store,
    telemetry::{metrics::Metrics, traces::Sampling},
    transport::{
        activity::IdleTimeouts,
        age::Ages,
        auto, http2, io,
        workers::{Unregistered, Workers},
    },
};

/// Concurrent replacements of the directory: each may be large, and holds the write lock
/// while it is applied.
const MAX_REPLACEMENTS: usize = 2;

/// The options of the server.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The options of the services.
    pub grpc: grpc::Options,
    /// The options of the index.
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
}

impl Default for Options {
    fn default() -> Self {
        Self {
            grpc: grpc::Options::default(),
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
        }
    }
}

/// How the server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All calls in flight were finished.
    Drained,
    /// Calls were cut off: the drain timed out, or another stop signal came.
    CutOff,
}

/// A server with its sources of connections.
pub struct Server<G, H> {
    /// The database.
    pub store: Store,
    /// The options of the server.
    pub options: Options,
    /// The instruments that calls and connections are counted in.
    pub metrics: Metrics,
    /// Which calls are traced.
    pub sampling: Sampling,
    /// The gRPC connections. The server ends with this stream.
    pub grpc: G,
    /// The HTTP connections.
    pub http: H,
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
        store,
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
    pub async fn run(self, stop: mpsc::Receiver<()>) -> Ended {
        self.run_when(std::future::ready(()), stop).await
    }

    /// The same, but does not use the database until `ready` completes; until then, health
    /// reports `NOT_SERVING`.
    pub async fn run_when(
        self,
        ready: impl Future<Output = ()> + Send + 'static,
        mut stop: mpsc::Receiver<()>,
    ) -> Ended {
        let Self {
            store,
            options,
            metrics,
            sampling,
            grpc: incoming,
            http,
        } = self;
        let workers = Workers::start(options.threads).unwrap_or_else(|error| {
            tracing::warn!(%error, "could not start I/O threads: using the shared runtime");
            Workers::current()
        });
        let (replica, usage) = Replica::start_when(ready, &store, options.replica, &metrics);
        gauges::observe(&metrics, &replica, &store, options.grpc.legacy_tokens_until);
        gauges::name_fast_methods(&metrics);
        let (health, health_service) = health::service();
        let health = Arc::new(health);
        let readiness = lifecycle::report_health(&replica, &health);
        let watch = lifecycle::watch_health(replica.clone(), Arc::clone(&health), readiness);
        let watch = tokio::spawn(watch);
        let (shut_down, shutting_down) = watch::channel(false);
        let (drain, draining) = watch::channel(false);
        let services = Arc::new(Services::new(
            store.clone(),
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
        let permits = store.permits();
        let capacity = Capacity {
            reads: permits.reads,
            writes: permits.writes,
        };
        let database_calls = Arc::new(Admission::new(burst, capacity));
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
        let ages = || Ages::new(options.max_connection_age, store.entropy());
        let (ages, http_ages) = (ages(), ages());
        let fast_path = Arc::new(FastPath {
            router: router(&services, limits, health_service),
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
        let mut http_connections =
            auto::HttpConnections::new(http::router(http_state), metrics, max, http_ages);
        let http = http.map(|connection| match connection {
            // Client certificates authenticate callers over gRPC only.
            Ok(connection) => Ok(async { Ok(io::open(connection).await?.0) }),
            Err(error) => Err(error.to_string()),
        });
        tokio::pin!(http);
        // Dropped, with its listeners, at the end of the drain delay.
        let mut incoming = Box::pin(incoming);
        let is_stop_signal = tokio::select! {
            () = connections.accept(incoming.as_mut()) => false,
            () = http_connections.accept(http.as_mut()) => false,
            signal = stop.recv() => signal.is_some(),
        };
        watch.abort();
        // The task must have ended, or it could overwrite the last report.
        watch.await.ok();
        health.report(health::Readiness::NONE);
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

/// The services behind their layers. A layer that is added later wraps those before it.
fn router(
    services: &Arc<Services>,
    limits: Arc<layers::Limits>,
    health: tonic_health::pb::health_server::HealthServer<
        impl tonic_health::pb::health_server::Health,
    >,
) -> axum::Router {
    // grpcurl and Python's grpcio still use v1alpha.
    let valid = "the descriptors were made by the build";
    let v1 = reflection(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET);
    let v1 = v1.build_v1().expect(valid);
    let v1alpha = reflection(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET);
    let v1alpha = v1alpha.build_v1alpha().expect(valid);
    let (v1, v1alpha) = (
        v1.max_decoding_message_size(MAX_OPEN_MESSAGE_BYTES),
        v1alpha.max_decoding_message_size(MAX_OPEN_MESSAGE_BYTES),
    );
    let api_clients = ApiClientServiceServer::from_arc(Arc::clone(services));
    let introspect_stream = post(fastpath::introspect_stream).with_state(Arc::clone(services));
    let introspection = IntrospectionServiceServer::from_arc(Arc::clone(services));
    // The same service, with another limit, which is not one of a method in tonic.
    let batches = introspection
        .clone()
        .max_decoding_message_size(MAX_BATCH_BYTES);
    let authorization = AuthorizationServer::from_arc(Arc::clone(services));
    let directory = DirectoryServiceServer::from_arc(Arc::clone(services));
    let audit = AuditServiceServer::from_arc(Arc::clone(services));
    Routes::builder()
        .routes()
        .add_service(api_clients.max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(introspection.max_decoding_message_size(MAX_INTROSPECTION_BYTES))
        .add_service(authorization.max_decoding_message_size(MAX_CHECK_BYTES))
        .add_service(directory.max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(audit.max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(health.max_decoding_message_size(MAX_OPEN_MESSAGE_BYTES))
        .add_service(v1)
        .add_service(v1alpha)
        .into_axum_router()
        .route(INTROSPECT_STREAM, introspect_stream)
        .route(BATCH_INTROSPECT, post_service(batches))
        // Next to the services, since it completes errors of tonic itself.
        .layer(from_fn(layers::complete_errors))
        .layer(from_fn_with_state(Arc::clone(services), auth::authenticate))
        // Outside of authentication, which may have to wait too.
        .layer(from_fn_with_state(services.request_timeout(), layers::deadline))
        // Outside of the deadline: a call that is shed has not begun.
        .layer(from_fn_with_state(limits, layers::shed))
        .layer(from_fn(layers::catch_panic))
        // Before any other check, since the request may not be gRPC at all.
        .layer(from_fn(layers::require_grpc))
        // Around everything that may fail, so that every response has a request id, and
        // every failure is logged, counted and traced.
        .layer(from_fn_with_state(Arc::clone(services), layers::trace))
        .layer(from_fn(layers::answer_envoy))
}

/// One version of the reflection service, which also lists the other version; by default it
/// lists only itself.
fn reflection(other_version: &'static [u8]) -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(other_version)
        .register_encoded_file_descriptor_set(pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // With these, a client can print the details of an error.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}
