//! Connections of the HTTP listener: HTTP/1.1, and HTTP/2 with prior knowledge. Connections
//! of silent and stalled peers are closed.

use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderValue, Request, Response, Version, header::CONNECTION};
use hyper::{body::Incoming, service::Service};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Notify, watch},
    time::{Instant, Sleep, sleep},
};
use tokio_stream::Stream;

use super::{
    activity::{ActiveCall, Activity, TrackedBody},
    age::Ages,
    connection_set::ConnectionSet,
    pace::{MAX_PENDING_RESETS, PacedIo, ReadBudget},
};
use crate::telemetry::metrics::{ListenerKind, Metrics};

/// How long a connection may stay silent, and how long a request's head may take to arrive.
/// This is longer than proxies keep an idle connection (nginx 60 s, Traefik 90 s, Caddy 2
/// min), so the proxy closes it, and no request is lost because this end closes at the same
/// moment.
const READ_TIMEOUT: Duration = Duration::from_mins(3);
/// How long a connection without a request in flight may take to close while the server drains:
/// one on which the head of a request has begun to arrive, or the end of a response is not read.
const UNFINISHED_CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a peer may read nothing of a response.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often an idle HTTP/2 connection gets a ping.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long the peer has to answer a ping.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Concurrent requests on one HTTP/2 connection.
const MAX_STREAMS: u32 = 256;
/// The size limit of a request's head, in bytes: more than any of the proxies accepts from
/// its own clients by default.
pub(crate) const MAX_HEAD: usize = 64 * 1024;

/// The open HTTP connections. Dropping it aborts them all.
pub(crate) struct HttpConnections {
    set: ConnectionSet,
    serving: Serving,
}

/// The service and settings of each connection.
struct Serving {
    router: axum::Router,
    metrics: Metrics,
    http: auto::Builder<TokioExecutor>,
    ages: Ages,
}

impl HttpConnections {
    /// For at most `max` concurrent connections.
    pub(crate) fn new(router: axum::Router, metrics: Metrics, max: usize, ages: Ages) -> Self {
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1()
            .timer(TokioTimer::new())
            .header_read_timeout(READ_TIMEOUT)
            .max_buf_size(MAX_HEAD);
        http.http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .max_concurrent_streams(MAX_STREAMS)
            .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
            // As for gRPC: `PacedIo` bounds what this would count.
            .max_local_error_reset_streams(None)
            .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX));
        Self {
            set: ConnectionSet::new("http", max),
            serving: Serving {
                router,
                metrics,
                http,
                ages,
            },
        }
    }

    /// Serves incoming connections until dropped. A connection is a future, since it may
    /// need a TLS handshake first.
    pub(crate) async fn accept<I, C, IO, E>(&mut self, incoming: Pin<&mut I>)
    where
        I: Stream<Item = Result<C, E>>,
        C: Future<Output = io::Result<IO>> + Send + 'static,
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        E: std::fmt::Display,
    {
        let Self { set, serving } = self;
        let closing = set.closing();
        set.accept(incoming, |connection, tasks| {
            tasks.spawn(serving.serve(connection, closing.clone()));
        })
        .await;
        // The listener has ended, but its connections have not.
        pending::<()>().await;
    }

    /// Stops new requests on every connection and waits for those in flight.
    pub(crate) async fn drain(mut self) {
        self.set.drain().await;
    }
}

impl Serving {
    fn serve<C, IO>(
        &self,
        connection: C,
        mut closing: watch::Receiver<bool>,
    ) -> impl Future<Output = ()> + Send + use<C, IO>
    where
        C: Future<Output = io::Result<IO>> + Send + 'static,
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = TowerToHyperService::new(self.router.clone());
        let (http, age) = (self.http.clone(), self.ages.draw());
        let connected = self.metrics.connected(ListenerKind::Http);
        async move {
            let _connected = connected;
            let opened = tokio::select! {
                opened = connection => opened,
                // No request was begun on it.
                _ = closing.wait_for(|closing| *closing) => return,
            };
            let budget = ReadBudget::default();
            let connection = match opened {
                Ok(opened) => TokioIo::new(PacedIo::new(TimeoutIo::new(opened), budget.clone())),
                Err(error) => {
                    tracing::debug!(%error, "a connection could not be opened");
                    return;
                }
            };
            let expired = Arc::new(Notify::new());
            let activity = Arc::new(Activity::default());
            let service = MaxAgeService {
                service,
                activity: Arc::clone(&activity),
                expires_at: age.map(|age| Instant::now() + age),
                expired: Arc::clone(&expired),
            };
            let mut served = pin!(http.serve_connection(connection, service));
            let mut unfinished_timeout = pin!(sleep(UNFINISHED_CLOSE_TIMEOUT));
            let mut is_ending = false;
            loop {
                tokio::select! {
                    biased;
                    ended = poll_fn(|context| budget.poll(served.as_mut(), context)) => {
                        if let Err(error) = ended {
                            // The peer's fault: it disconnected, was too slow, or does not
                            // speak HTTP.
                            tracing::debug!(%error, "a connection failed");
                        }
                        return;
                    }
                    _ = closing.wait_for(|closing| *closing), if !is_ending => {
                        is_ending = true;
                        let limit = Instant::now() + UNFINISHED_CLOSE_TIMEOUT;
                        unfinished_timeout.as_mut().reset(limit);
                    }
                    () = unfinished_timeout.as_mut(), if is_ending => {
                        if !activity.has_calls() {
                            return;
                        }
                        let limit = Instant::now() + UNFINISHED_CLOSE_TIMEOUT;
                        unfinished_timeout.as_mut().reset(limit);
                        continue;
                    }
                    () = expired.notified() => {}
                }
                // Requests in flight go on; new ones are refused.
                served.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Serves the requests of one connection, and closes it with the first request past its
/// maximum age. An idle connection is left open: with HTTP/1.1, a request could already be
/// on its way.
struct MaxAgeService {
    service: TowerToHyperService<axum::Router>,
    /// Has the requests in flight.
    activity: Arc<Activity>,
    /// None if the connection has no maximum age.
    expires_at: Option<Instant>,
    /// Notified by an HTTP/2 request past that moment.
    expired: Arc<Notify>,
}

impl Service<Request<Incoming>> for MaxAgeService {
    type Response = Response<axum::body::Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn call(&self, request: Request<Incoming>) -> ResponseFuture {
        let is_old = self.expires_at.is_some_and(|at| Instant::now() >= at);
        let is_last = is_old && request.version() < Version::HTTP_2;
        if is_old && !is_last {
            self.expired.notify_one();
        }
        ResponseFuture {
            response: Box::pin(self.service.call(request)),
            in_flight: Some(self.activity.call()),
            is_last,
        }
    }
}

struct ResponseFuture {
    response: Pin<Box<<TowerToHyperService<axum::Router> as Service<Request<Incoming>>>::Future>>,
    /// Until the response is there, whose body has it from then on.
    in_flight: Option<ActiveCall>,
    /// Whether the response carries `connection: close`.
    is_last: bool,
}

impl Future for ResponseFuture {
    type Output = Result<Response<axum::body::Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut response = ready!(self.response.as_mut().poll(context));
        if let Ok(response) = &mut response
            && self.is_last
        {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        let in_flight = self.in_flight.take().expect("it is ready once");
        let held = |body| axum::body::Body::new(TrackedBody::streaming(body, in_flight));
        Poll::Ready(response.map(|response| response.map(held)))
    }
}

/// A connection whose reads and writes time out.
struct TimeoutIo<C> {
    inner: C,
    reading: StallTimer,
    writing: StallTimer,
}

/// A timeout for consecutive pending polls.
struct StallTimer {
    length: Duration,
    timer: Pin<Box<Sleep>>,
    is_waiting: bool,
}

impl StallTimer {
    fn new(length: Duration) -> Self {
        Self {
            length,
            timer: Box::pin(sleep(length)),
            is_waiting: false,
        }
    }

    /// Returns the result of a poll, or an error if all polls have been pending for the
    /// length of the timeout.
    fn guard<T>(
        &mut self,
        context: &mut Context<'_>,
        attempt: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if attempt.is_ready() {
            self.is_waiting = false;
            return attempt;
        }
        if !self.is_waiting {
            self.is_waiting = true;
            self.timer.as_mut().reset(Instant::now() + self.length);
        }
        ready!(self.timer.as_mut().poll(context));
        self.is_waiting = false;
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<C> TimeoutIo<C> {
    fn new(inner: C) -> Self {
        Self {
            inner,
            reading: StallTimer::new(READ_TIMEOUT),
            writing: StallTimer::new(WRITE_TIMEOUT),
        }
    }

    /// A peer that reads a response is alive, and need not send anything meanwhile.
    fn on_write(
        &mut self,
        context: &mut Context<'_>,
        attempt: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if attempt.is_ready() {
            self.reading.is_waiting = false;
        }
        self.writing.guard(context, attempt)
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for TimeoutIo<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.inner).poll_read(context, buffer);
        self.reading.guard(context, read)
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for TimeoutIo<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, buffer);
        self.on_write(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, buffers);
        self.on_write(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        self.writing.guard(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.inner).poll_shutdown(context);
        self.writing.guard(context, shut)
    }
}

#[cfg(test)]
mod tests;
