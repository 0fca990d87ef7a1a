//! Connections of HTTP/2 alone, as gRPC needs them, driven by hyper directly. tonic's own
//! server has a timeout outside of everything that can be put before the services, which
//! reads the caller's deadline too and answers it in its own way.

use std::{
    convert::Infallible,
    error::Error,
    future::{pending, poll_fn},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::{Body, Incoming},
    server::conn::http2,
    service::Service,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_stream::Stream;

use super::{
    activity::{Activity, CloseReason, IdleTimeouts, ServerEndGuard},
    age::Ages,
    connection_set::ConnectionSet,
    io::{LingeringIo, open},
    pace::{MAX_PENDING_RESETS, Paced, ReadBudget},
    tls::Peer,
    workers::{Unregistered, Workers},
};
use crate::telemetry::metrics::{ListenerKind, Metrics};

/// How often an idle connection is asked whether it is still there.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long it has to answer.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection on which nothing was ever called has to end at the end.
pub(crate) const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// Calls under way on one connection.
const MAX_STREAMS: u32 = 1024;
/// The largest headers of a call that are read, in bytes.
const MAX_HEADERS: u32 = 16 * 1024;
/// How much may come in on one stream, and on a connection, that was not read yet.
///
/// Half of the latter is also what h2 lets small frames cost: 256 bytes each, less what
/// is in them, until they are read. Beyond that it takes them for a flood and ends the
/// connection, with every call on it. Clients put each request of a stream into a frame
/// of its own, of 60 bytes or so; these two let no stream come near that by itself.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 64 * STREAM_WINDOW;

/// The connections that there are. Dropped, all of them end at once.
pub(crate) struct Connections<M> {
    /// First, so that it is dropped before the calls that end with it.
    end: ServerEndGuard,
    set: ConnectionSet,
    serving: Serving<M>,
}

/// What each connection is served with.
struct Serving<M> {
    /// Makes what answers the calls of one connection.
    make_service: M,
    http: http2::Builder<TokioExecutor>,
    workers: Workers,
    idle_timeouts: IdleTimeouts,
    ages: Ages,
    metrics: Metrics,
}

impl<M, S, B> Connections<M>
where
    M: Fn(&Arc<Activity>) -> S,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// At most `max` at once.
    pub(crate) fn new(
        make_service: M,
        workers: Workers,
        max: usize,
        idle_timeouts: IdleTimeouts,
        ages: Ages,
        metrics: Metrics,
    ) -> Self {
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .max_concurrent_streams(MAX_STREAMS)
            .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
            // It would count for as long as the connection lives, and counts what its
            // peer is not to blame for: the message of a call that was refused by its
            // headers. What it is there for, the notes that h2 keeps for a peer that
            // does not take them, is bounded by `Paced`.
            .max_local_error_reset_streams(None)
            .max_header_list_size(MAX_HEADERS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        Self {
            end: ServerEndGuard::default(),
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

    /// Serves what comes in, for as long as something does.
    pub(crate) async fn accept<C: Unregistered, E: std::fmt::Display>(
        &mut self,
        incoming: Pin<&mut impl Stream<Item = Result<C, E>>>,
    ) {
        let Self { end, set, serving } = self;
        let closing = set.closing();
        set.accept(incoming, |connection, tasks| {
            serving.serve(connection, end, closing.clone(), tasks);
        })
        .await;
    }

    /// Tells every connection that no call may be begun on it, and waits for those under
    /// way.
    ///
    /// Dropped before it returns, it cuts them off.
    pub(crate) async fn drain(mut self) {
        // Not taken apart: its fields are dropped in their order.
        self.set.drain().await;
    }
}

impl<M, S, B> Serving<M>
where
    M: Fn(&Arc<Activity>) -> S,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    fn serve<C: Unregistered>(
        &self,
        connection: C,
        end: &ServerEndGuard,
        mut closing: watch::Receiver<bool>,
        tasks: &mut JoinSet<()>,
    ) {
        let place = self.workers.place();
        let runtime = place.runtime.clone();
        let activity = Arc::new(Activity::of(&end.0));
        let service = (self.make_service)(&activity);
        let (http, idle_timeouts, age) = (self.http.clone(), self.idle_timeouts, self.ages.draw());
        let connected = self.metrics.connected(ListenerKind::Grpc);
        let served = async move {
            let _held = (place, connected);
            let opened = tokio::select! {
                opened = open(connection) => opened,
                // No call was begun on it.
                _ = closing.wait_for(|closing| *closing) => return,
            };
            let (bytes, peer) = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    // The peer's doing, nearly always: it will not speak TLS, or takes
                    // nobody's word for who we are.
                    tracing::debug!(%error, "a connection could not be opened");
                    return;
                }
            };
            let service = WithPeer { service, peer };
            let turn = ReadBudget::default();
            let wire = Paced::new(LingeringIo::new(bytes), turn.clone());
            let served = http.serve_connection(TokioIo::new(wire), service);
            let closable = activity.close_reason(idle_timeouts);
            let leave = sleep(LEAVE_TIMEOUT);
            let old = async {
                match age {
                    Some(age) => sleep(age).await,
                    None => pending().await,
                }
            };
            let grace = sleep(idle_timeouts.grace);
            tokio::pin!(served, closable, leave, old, grace);
            let (mut is_ending, mut is_watched, mut has_grace) = (false, true, false);
            loop {
                tokio::select! {
                    biased;
                    ended = poll_fn(|context| turn.poll(served.as_mut(), context)) => {
                        if let Err(error) = ended {
                            // The peer's doing: it broke off, or speaks no HTTP/2.
                            tracing::debug!(%error, "a connection ended before its time");
                        }
                        return;
                    }
                    _ = closing.wait_for(|closing| *closing), if !is_ending => {}
                    () = old.as_mut(), if !is_ending => {
                        grace.as_mut().reset(Instant::now() + idle_timeouts.grace);
                        has_grace = true;
                    }
                    () = grace.as_mut(), if has_grace => {
                        has_grace = false;
                        activity.retire();
                    }
                    // Whoever has called nothing so far need not even have greeted.
                    () = leave.as_mut(), if is_ending && activity.is_unused() => {
                        // Something may have been called since this was asked.
                        if activity.is_unused() {
                            return;
                        }
                    }
                    why = closable.as_mut(), if is_watched => {
                        is_watched = false;
                        tracing::debug!(?why, "a connection is ended that is of no use");
                        if why == CloseReason::Stalled {
                            return;
                        }
                    }
                }
                // Calls that are under way go on, and no more may be begun.
                is_ending = true;
                served.as_mut().graceful_shutdown();
                leave.as_mut().reset(Instant::now() + LEAVE_TIMEOUT);
            }
        };
        tasks.spawn_on(served, &runtime);
    }
}

/// Answers the calls of a connection, whose certificate says who calls.
struct WithPeer<S> {
    service: S,
    /// None if no certificate was shown.
    peer: Option<Peer>,
}

impl<S: Service<Request<Incoming>>> Service<Request<Incoming>> for WithPeer<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        if let Some(peer) = &self.peer {
            request.extensions_mut().insert(peer.clone());
        }
        self.service.call(request)
    }
}
