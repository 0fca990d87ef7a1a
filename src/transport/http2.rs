//! HTTP/2 connections for gRPC, on h2 directly. hyper spends a task on each call, which
//! costs more than most answers do; and tonic's own server wraps all layers in a timeout,
//! which reads the caller's deadline too and answers CANCELLED instead of
//! `DEADLINE_EXCEEDED`.

use std::{
    future::{pending, poll_fn},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use h2::server;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_stream::Stream;

mod date;
mod driver;
mod keepalive;
mod replies;
mod requests;

use super::{
    activity::{Activity, CloseReason, IdleTimeouts, ShutdownGuard},
    age::Ages,
    connection_set::ConnectionSet,
    io::{LingeringIo, open},
    pace::{MAX_PENDING_RESETS, PacedIo, ReadBudget},
    workers::{Unregistered, Workers},
};
use crate::telemetry::metrics::{ListenerKind, Metrics};
use driver::Driver;
pub(crate) use driver::{Begun, Calls};
pub(crate) use replies::{Reply, WholeReply};
pub(crate) use requests::RequestBody;

/// How long a connection without any call so far may take to close once it is asked to.
pub(crate) const UNUSED_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a connection without calls in flight may take to close while the server drains. It
/// closes as soon as its peer confirms that no more calls are on their way, so a peer that has
/// not done so until then is gone, and need not hold up the end of the server.
pub(crate) const UNCONFIRMED_CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Concurrent calls on one connection.
const MAX_STREAMS: u32 = 1024;
/// The size limit of a call's headers, in bytes.
const MAX_HEADERS: u32 = 16 * 1024;
/// The flow-control windows of a stream and of a connection.
///
/// Half of the connection's window is also h2's budget for small frames: each costs 256
/// bytes, less its content, until it is read. Beyond that, h2 takes them for a flood and
/// ends the connection with every call on it. Clients put each request of a stream into a
/// frame of its own, of about 60 bytes; with these windows, no stream comes near the budget
/// by itself.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 64 * STREAM_WINDOW;
/// How much room h2 reports for the response of one call, in bytes.
const MAX_SEND_BUFFER: usize = 400 * 1024;

/// The open gRPC connections. Dropping it aborts them all.
pub(crate) struct GrpcConnections<M> {
    /// Before `set`: it must be dropped before the calls that end with it.
    shutdown: ShutdownGuard,
    set: ConnectionSet,
    serving: Serving<M>,
}

/// The service and settings of each connection.
struct Serving<M> {
    /// Makes the service of one connection.
    make_service: M,
    http: server::Builder,
    workers: Workers,
    idle_timeouts: IdleTimeouts,
    ages: Ages,
    metrics: Metrics,
}

impl<M, S> GrpcConnections<M>
where
    M: Fn(&Arc<Activity>) -> S,
    S: Calls,
{
    /// For at most `max` concurrent connections.
    pub(crate) fn new(
        make_service: M,
        workers: Workers,
        max: usize,
        idle_timeouts: IdleTimeouts,
        ages: Ages,
        metrics: Metrics,
    ) -> Self {
        let mut http = server::Builder::new();
        http.max_concurrent_streams(MAX_STREAMS)
            .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
            // Disabled: it would count over the connection's whole life, and counts errors
            // that are not the peer's fault, such as the message of a call that was refused
            // by its headers. What it guards against, reset frames that h2 buffers for a
            // peer that does not read, is bounded by `PacedIo`.
            .max_local_error_reset_streams(None)
            .max_header_list_size(MAX_HEADERS)
            .max_send_buffer_size(MAX_SEND_BUFFER)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        Self {
            shutdown: ShutdownGuard::default(),
            set: ConnectionSet::new("grpc", max),
            serving: Serving {
                make_service,
                http,
                workers,
                idle_timeouts,
                ages,
                metrics,
            },
        }
    }

    /// Serves incoming connections until there are no more.
    pub(crate) async fn accept<C: Unregistered, E: std::fmt::Display>(
        &mut self,
        incoming: Pin<&mut impl Stream<Item = Result<C, E>>>,
    ) {
        let Self {
            shutdown,
            set,
            serving,
        } = self;
        let closing = set.closing();
        set.accept(incoming, |connection, tasks| {
            serving.serve(connection, shutdown, closing.clone(), tasks);
        })
        .await;
    }

    /// Stops new calls on every connection and waits for those in flight.
    ///
    /// Dropping the future aborts them.
    pub(crate) async fn drain(mut self) {
        // Not destructured: the order in which the fields are dropped matters.
        self.set.drain().await;
    }
}

impl<M, S> Serving<M>
where
    M: Fn(&Arc<Activity>) -> S,
    S: Calls,
{
    fn serve<C: Unregistered>(
        &self,
        connection: C,
        shutdown: &ShutdownGuard,
        mut closing: watch::Receiver<bool>,
        tasks: &mut JoinSet<()>,
    ) {
        let slot = self.workers.least_loaded();
        let runtime = slot.runtime.clone();
        let activity = Arc::new(Activity::of(&shutdown.0));
        let service = (self.make_service)(&activity);
        let (http, idle_timeouts, age) = (self.http.clone(), self.idle_timeouts, self.ages.draw());
        let connected = self.metrics.connected(ListenerKind::Grpc);
        let served = async move {
            let _held = (slot, connected);
            let opened = tokio::select! {
                opened = open(connection) => opened,
                // No call was begun on it.
                _ = closing.wait_for(|closing| *closing) => return,
            };
            let (bytes, peer) = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    // Nearly always the peer's fault: it does not speak TLS, or does not
                    // trust our certificate.
                    tracing::debug!(%error, "a connection could not be opened");
                    return;
                }
            };
            let budget = ReadBudget::default();
            let wire = PacedIo::new(LingeringIo::new(bytes), budget.clone());
            let served = Driver::new(&http, wire, service, peer, budget.clone());
            let close_reason = activity.close_reason(idle_timeouts);
            let unused_timeout = sleep(UNUSED_CLOSE_TIMEOUT);
            let unconfirmed_timeout = sleep(UNCONFIRMED_CLOSE_TIMEOUT);
            let old = async {
                match age {
                    Some(age) => sleep(age).await,
                    None => pending().await,
                }
            };
            let grace = sleep(idle_timeouts.grace);
            tokio::pin!(served, close_reason, old, grace);
            tokio::pin!(unused_timeout, unconfirmed_timeout);
            let (mut is_ending, mut is_draining) = (false, false);
            let (mut is_monitored, mut has_grace) = (true, false);
            loop {
                tokio::select! {
                    biased;
                    ended = poll_fn(|context| budget.poll(served.as_mut(), context)) => {
                        if let Err(error) = ended {
                            // The peer's fault: it disconnected, or does not speak HTTP/2.
                            tracing::debug!(%error, "a connection failed");
                        }
                        return;
                    }
                    _ = closing.wait_for(|closing| *closing), if !is_draining => {
                        is_draining = true;
                        let limit = Instant::now() + UNCONFIRMED_CLOSE_TIMEOUT;
                        unconfirmed_timeout.as_mut().reset(limit);
                    }
                    () = old.as_mut(), if !is_ending => {
                        grace.as_mut().reset(Instant::now() + idle_timeouts.grace);
                        has_grace = true;
                    }
                    () = grace.as_mut(), if has_grace => {
                        has_grace = false;
                        activity.retire();
                    }
                    // A peer without any call may not even have sent its preface, so it
                    // cannot be drained.
                    () = unused_timeout.as_mut(), if is_ending && activity.is_unused() => {
                        // A call may have begun since the branch was enabled.
                        if activity.is_unused() {
                            return;
                        }
                    }
                    () = unconfirmed_timeout.as_mut(), if is_draining => {
                        if !activity.has_calls() {
                            return;
                        }
                        let limit = Instant::now() + UNCONFIRMED_CLOSE_TIMEOUT;
                        unconfirmed_timeout.as_mut().reset(limit);
                        continue;
                    }
                    reason = close_reason.as_mut(), if is_monitored => {
                        is_monitored = false;
                        tracing::debug!(?reason, "an idle or stalled connection is closed");
                        if reason == CloseReason::Stalled {
                            return;
                        }
                    }
                }
                // Calls in flight go on; new ones are refused.
                is_ending = true;
                served.as_mut().graceful_shutdown();
                unused_timeout
                    .as_mut()
                    .reset(Instant::now() + UNUSED_CLOSE_TIMEOUT);
            }
        };
        tasks.spawn_on(served, &runtime);
    }
}
