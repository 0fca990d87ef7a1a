//! The server: the services behind their layers, health and reflection beside
//! them, from the first connection to the last one drained.

use std::{sync::Arc, time::Duration};

use axum::{
    middleware::{from_fn, from_fn_with_state},
    routing::post,
};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc, watch},
};
use tokio_stream::{Stream, StreamExt};
use tonic::service::Routes;

mod admission;
mod auth;
mod bodies;
#[cfg(test)]
mod connection_tests;
mod gauges;
pub mod health;
mod layers;
pub mod lifecycle;

use admission::{Admission, Burst};

use crate::{
    calls::method::{
        INTROSPECT_STREAM, MAX_CHECK_BYTES, MAX_INTROSPECTION_BYTES, MAX_MESSAGE_BYTES,
        MAX_OPEN_MESSAGE_BYTES,
    },
    fastpath::{
        self,
        dispatch::{Dispatch, FastPath},
    },
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

/// Replacements of the directory under way at once: each may be large, and each
/// holds the write lock while it is applied.
const MAX_REPLACEMENTS: usize = 2;

/// What the server can be set to.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What the services can be set to.
    pub grpc: grpc::Options,
    /// What the index can be set to.
    pub replica: replica::Options,
    /// How long a call may take where its caller asks for no less. Default 10 s.
    /// The replacement of the directory, a stream, is exempt.
    pub request_timeout: Duration,
    /// How long connections are still accepted once it was told to stop, while health says
    /// that it does not serve: so long, whoever spreads calls over servers may take to
    /// notice. Default 0.
    pub drain_delay: Duration,
    /// How long calls under way have to finish after that. Default 30 s.
    pub drain_timeout: Duration,
    /// Introspections that cannot be answered at once, under way over all
    /// connections. Default 4,096.
    pub max_introspections: usize,
    /// Other calls under way at once, over all connections. Default 256.
    pub max_calls: usize,
    /// How long so many may come. Where calls have been waiting for Postgres for longer,
    /// without an end, only four for each connection to it are let in of those who read,
    /// and as many of those who write. Default 1 s.
    pub max_burst: Duration,
    /// Connections at once, on each of the two listeners; one more is closed. Default
    /// 10,000.
    pub max_connections: usize,
    /// For how long connections of gRPC are kept that are of no use, or old.
    pub idle_timeouts: IdleTimeouts,
    /// How old connections become, on both listeners, a tenth more or less. Default none:
    /// they have no end.
    pub max_connection_age: Option<Duration>,
    /// Threads that speak to callers and do nothing else. Default 0: the runtime
    /// that serves does it.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            grpc: grpc::Options::default(),
            replica: replica::Options::default(),
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
    /// Every call under way was finished.
    Drained,
    /// Calls were cut off: the drain took too long, or was told to stop.
    CutOff,
}

/// A server, and where its connections come from.
pub struct Server<G, H> {
    /// What it keeps everything in.
    pub store: Store,
    /// What it is set to.
    pub options: Options,
    /// Where it counts.
    pub metrics: Metrics,
    /// Which calls it traces.
    pub sampling: Sampling,
    /// Connections that speak gRPC. The server ends with them.
    pub grpc: G,
    /// Connections that speak HTTP.
    pub http: H,
}

/// Serves gRPC on `incoming` until told to stop: a first message drains, a second one
/// ends it at once, or the delay of the drain where that is not over.
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
    /// Serves until told to stop: a first message drains, a second one ends it at once, or
    /// the delay of the drain where that is not over.
    pub async fn run(self, stop: mpsc::Receiver<()>) -> Ended {
        self.run_when(std::future::ready(()), stop).await
    }

    /// The same; asks the database for nothing until it is `ready`, and health says
    /// `NOT_SERVING` meanwhile.
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
            tracing::warn!(%error, "no threads of their own for callers: slower, and nothing else");
            Workers::current()
        });
        let (replica, usage) = Replica::start_when(ready, &store, options.replica, &metrics);
        gauges::observe(&metrics, &replica, &store);
        gauges::name_fast_methods(&metrics);
        let (health, health_service) = health::service();
        let health = Arc::new(health);
        let ability = lifecycle::report_health(&replica, &health);
        let watch = lifecycle::watch_health(replica.clone(), Arc::clone(&health), ability);
        let watch = tokio::spawn(watch);
        let (leave, leaving) = watch::channel(false);
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
        let limits = Arc::new(layers::Limits::new(
            Arc::clone(&introspections),
            MAX_REPLACEMENTS,
            Admission::new(burst, store.places()),
            draining,
        ));
        let http_state = http::HttpState {
            services: Arc::clone(&services),
            limit: introspections,
            shutting_down: leaving,
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
            // Whoever is known by a certificate is so over gRPC alone.
            Ok(connection) => Ok(async { Ok(io::open(connection).await?.0) }),
            Err(error) => Err(error.to_string()),
        });
        tokio::pin!(http);
        // Dropped with its listeners at the end of the delay.
        let mut incoming = Box::pin(incoming);
        let is_told = tokio::select! {
            () = connections.accept(incoming.as_mut()) => false,
            () = http_connections.accept(http.as_mut()) => false,
            told = stop.recv() => told.is_some(),
        };
        watch.abort();
        // Gone before the last report, which it would overwrite otherwise.
        watch.await.ok();
        health.report(health::Ability::NONE);
        leave.send_replace(true);
        if is_told && !options.drain_delay.is_zero() {
            let seconds = options.drain_delay.as_secs_f64();
            tracing::info!("told to stop: connections are accepted for another {seconds} s");
            tokio::select! {
                () = connections.accept(incoming.as_mut()) => {}
                () = http_connections.accept(http.as_mut()) => {}
                () = tokio::time::sleep(options.drain_delay) => {}
                Some(()) = stop.recv() => tracing::info!("told again to stop: the drain begins"),
            }
        }
        drop(incoming);
        // Ends the streams of those who watch.
        drop(health);
        // Streams would go on for as long as their callers like.
        drain.send_replace(true);
        let drained = async {
            tokio::select! {
                () = connections.drain() => {}
                // Whoever asks meanwhile whether this server is ready is told that it
                // is not, and metrics can be read up to the end.
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
            // After the last answer, so that every use is in it.
            () = usage.finish() => ended,
            Some(()) = stop.recv() => {
                tracing::warn!("told again to stop: the last uses may not be written");
                ended
            }
        }
    }
}

/// The services behind their layers. A layer that is added later is outside of
/// those before it.
fn router(
    services: &Arc<Services>,
    limits: Arc<layers::Limits>,
    health: tonic_health::pb::health_server::HealthServer<
        impl tonic_health::pb::health_server::Health,
    >,
) -> axum::Router {
    // grpcurl and Python's grpcio still ask for the older version.
    let sound = "the descriptors were made by the build";
    let v1 = reflection(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET);
    let v1 = v1.build_v1().expect(sound);
    let v1alpha = reflection(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET);
    let v1alpha = v1alpha.build_v1alpha().expect(sound);
    let (v1, v1alpha) = (
        v1.max_decoding_message_size(MAX_OPEN_MESSAGE_BYTES),
        v1alpha.max_decoding_message_size(MAX_OPEN_MESSAGE_BYTES),
    );
    let api_clients = ApiClientServiceServer::from_arc(Arc::clone(services));
    let introspect_stream = post(fastpath::introspect_stream).with_state(Arc::clone(services));
    let introspection = IntrospectionServiceServer::from_arc(Arc::clone(services));
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
        // Completes what tonic itself refuses, so it is next to it.
        .layer(from_fn(layers::complete_errors))
        .layer(from_fn_with_state(Arc::clone(services), auth::authenticate))
        // Above authentication, which may have to wait too.
        .layer(from_fn_with_state(services.request_timeout(), layers::deadline))
        // Above the deadline: what is shed has not begun.
        .layer(from_fn_with_state(limits, layers::shed))
        .layer(from_fn(layers::catch_panic))
        // Before anything else is asked of a request: it may be of another protocol.
        .layer(from_fn(layers::require_grpc))
        // Around all that may fail, so that every answer has a request id, and every
        // failure a line in the log, and is counted, and traced.
        .layer(from_fn_with_state(Arc::clone(services), layers::trace))
        .layer(from_fn(layers::answer_envoy))
}

/// Reflection in one version, that lists the other as well: by itself it lists
/// only its own.
fn reflection(other_version: &'static [u8]) -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(other_version)
        .register_encoded_file_descriptor_set(pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // With these a client can print the details of an error.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}
