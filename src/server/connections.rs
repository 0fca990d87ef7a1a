//! Connections: HTTP/2 on each, spoken by hyper directly. tonic's own server has
//! a timeout outside of everything that can be put before the services, which
//! reads the caller's deadline too and answers it in its own way.

use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
};
use tokio_stream::{Stream, StreamExt};

use super::hot::{Dispatch, Ways};

/// How often an idle connection is asked whether it is still there.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long it has to answer.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls under way on one connection.
const MAX_STREAMS: u32 = 1024;
/// The largest headers that are read, in bytes.
const MAX_HEADERS: u32 = 64 * 1024;

/// The connections that there are. Dropped, all of them end at once.
pub(super) struct Connections {
    ways: Ways,
    http: http2::Builder<TokioExecutor>,
    draining: GracefulShutdown,
    tasks: JoinSet<()>,
}

impl Connections {
    pub(super) fn new(ways: Ways) -> Self {
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADERS);
        Self {
            ways,
            http,
            draining: GracefulShutdown::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Serves what comes in, for as long as something does.
    pub(super) async fn accept<I, IO, E>(&mut self, incoming: I)
    where
        I: Stream<Item = Result<IO, E>>,
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        E: std::fmt::Display,
    {
        tokio::pin!(incoming);
        loop {
            tokio::select! {
                connection = incoming.next() => match connection {
                    Some(Ok(connection)) => self.serve(connection),
                    Some(Err(error)) => tracing::debug!(%error, "a connection was lost at once"),
                    None => return,
                },
                // Only to forget those that have ended.
                Some(_) = self.tasks.join_next() => {}
            }
        }
    }

    /// Tells every connection that no call may be begun on it, and waits for
    /// those under way.
    pub(super) async fn drain(self) {
        let Self {
            draining,
            mut tasks,
            ..
        } = self;
        draining.shutdown().await;
        while tasks.join_next().await.is_some() {}
    }

    fn serve<IO>(&mut self, connection: IO)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = Dispatch::new(self.ways.clone());
        let served = self
            .http
            .serve_connection(TokioIo::new(connection), service);
        let served = self.draining.watch(served);
        self.tasks.spawn(async move {
            if let Err(error) = served.await {
                // The peer's doing: it broke off, or speaks no HTTP/2.
                tracing::debug!(%error, "a connection ended before its time");
            }
        });
    }
}
