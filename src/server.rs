//! The server: the services behind their layers, with health and reflection, from the first
//! connection until the last one is drained.

use std::{ffi::OsStr, pin::Pin, sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt};

mod assembly;
mod auth;
mod bodies;
mod census;
#[cfg(test)]
mod connection_tests;
mod directory;
mod gauges;
pub mod health;
mod layers;
mod readiness;
mod routes;
pub mod signals;
mod supervisor;

use assembly::{Assembled, assemble};

use crate::{
    domain::clock::{Clock, Entropy},
    fastpath::dispatch::Dispatch,
    grpc, live_index,
    store::Store,
    telemetry::{metrics::Metrics, traces::Sampling},
    transport::{
        activity::IdleTimeouts,
        age::Ages,
        auto, http2, io,
        workers::{Unregistered, Workers},
    },
    upstream::Upstream,
};

#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub grpc: grpc::ServiceOptions,
    pub index: live_index::IndexOptions,
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
            index: live_index::IndexOptions::default(),
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
    /// The drain timed out, and calls were cut off.
    TimedOut,
    /// Another stop signal came during the drain, and calls were cut off.
    Interrupted,
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

/// What a server makes its index from; its services keep the [`Origin`](grpc::Origin).
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

/// Serves gRPC on `incoming` as [`Server::run`] does.
pub async fn serve<I, C, E>(
    store: Store,
    options: Options,
    incoming: I,
    mut stop: mpsc::Receiver<()>,
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
    server.run(&mut stop).await
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
    /// Serves until a message on `stop`, which begins the shutdown. Each further message ends
    /// what the server waits for then: first the drain delay, if there is one, then the calls
    /// in flight, then the last uses.
    pub async fn run(self, stop: &mut mpsc::Receiver<()>) -> Ended {
        let options = self.options;
        let workers = Workers::start(options.threads).unwrap_or_else(|error| {
            tracing::warn!(%error, "could not start I/O threads: using the shared runtime");
            Workers::current()
        });
        let Assembled {
            fast_path,
            http_router,
            usage,
            reporting,
            census,
            shut_down,
            drain,
        } = assemble(self.backend, options, &self.metrics, self.sampling);
        let ages = || Ages::new(options.max_connection_age, fast_path.services.entropy());
        let (ages, http_ages) = (ages(), ages());
        let dispatch =
            move |activity: &_| Dispatch::new(Arc::clone(&fast_path), Arc::clone(activity));
        let max = options.max_connections;
        let mut connections = http2::GrpcConnections::new(
            dispatch,
            workers,
            max,
            options.idle_timeouts,
            ages,
            self.metrics.clone(),
        );
        let mut http_connections =
            auto::HttpConnections::new(http_router, self.metrics, max, http_ages);
        let http = self.http.map(|connection| match connection {
            // Client certificates authenticate callers over gRPC only.
            Ok(connection) => Ok(async { Ok(io::open(connection).await?.0) }),
            Err(error) => Err(error.to_string()),
        });
        // Both are dropped with their listeners: HTTP's at the end of the drain, gRPC's before.
        let mut http = Box::pin(http);
        let mut incoming = Box::pin(self.grpc);
        let is_stop_signal = tokio::select! {
            () = connections.accept(incoming.as_mut()) => false,
            () = http_connections.accept(http.as_mut()) => false,
            signal = stop.recv() => signal.is_some(),
        };
        if let Some(census) = census {
            census.abort();
        }
        let health = reporting.stop().await;
        shut_down.send_replace(true);
        if is_stop_signal && !options.drain_delay.is_zero() {
            let seconds = options.drain_delay.as_secs_f64();
            tracing::info!("stop signal received: accepting connections for another {seconds} s");
            tokio::select! {
                () = connections.accept(incoming.as_mut()) => {}
                () = http_connections.accept(http.as_mut()) => {}
                () = tokio::time::sleep(options.drain_delay) => {}
                Some(()) = stop.recv() => tracing::info!("another stop signal: the drain begins"),
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
                () = http_connections.accept(http.as_mut()) => {}
            }
            drop(http);
            http_connections.drain().await;
        };
        let ended = tokio::select! {
            () = drained => Ended::Drained,
            () = tokio::time::sleep(options.drain_timeout) => Ended::TimedOut,
            Some(()) = stop.recv() => Ended::Interrupted,
        };
        tokio::select! {
            // After the last response, so that all uses are included.
            () = usage.finish() => {}
            Some(()) = stop.recv() => {
                tracing::warn!("another stop signal: the last uses may not be written");
            }
        }
        ended
    }
}
