//! Connections: HTTP/2 on each, spoken by hyper directly. tonic's own server has
//! a timeout outside of everything that can be put before the services, which
//! reads the caller's deadline too and answers it in its own way.

use std::{sync::Arc, time::Duration};

use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::task::JoinSet;
use tokio_stream::{Stream, StreamExt};

use super::{
    hot::{Dispatch, Ways},
    workers::{Handed, Workers},
};

/// How often an idle connection is asked whether it is still there.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long it has to answer.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
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
const CONNECTION_WINDOW: u32 = 128 * STREAM_WINDOW;

/// The connections that there are. Dropped, all of them end at once.
pub(super) struct Connections {
    ways: Arc<Ways>,
    http: http2::Builder<TokioExecutor>,
    draining: GracefulShutdown,
    tasks: JoinSet<()>,
    workers: Workers,
}

impl Connections {
    pub(super) fn new(ways: Ways, workers: Workers) -> Self {
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADERS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        Self {
            ways: Arc::new(ways),
            http,
            draining: GracefulShutdown::new(),
            tasks: JoinSet::new(),
            workers,
        }
    }

    /// Serves what comes in, for as long as something does.
    pub(super) async fn accept<I, C, E>(&mut self, incoming: I)
    where
        I: Stream<Item = Result<C, E>>,
        C: Handed,
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
            // They have to live until the last one is done.
            workers: _workers,
            ..
        } = self;
        draining.shutdown().await;
        while tasks.join_next().await.is_some() {}
    }

    fn serve<C: Handed>(&mut self, connection: C) {
        let place = self.workers.place();
        let runtime = place.runtime.clone();
        let service = Dispatch::new(Arc::clone(&self.ways));
        let (http, watcher) = (self.http.clone(), self.draining.watcher());
        let served = async move {
            let _place = place;
            let connection = match connection.here() {
                Ok(connection) => TokioIo::new(connection),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be served");
                    return;
                }
            };
            let served = watcher.watch(http.serve_connection(connection, service));
            if let Err(error) = served.await {
                // The peer's doing: it broke off, or speaks no HTTP/2.
                tracing::debug!(%error, "a connection ended before its time");
            }
        };
        self.tasks.spawn_on(served, &runtime);
    }
}
