//! Connections: HTTP/2 on each, spoken by hyper directly. tonic's own server has
//! a timeout outside of everything that can be put before the services, which
//! reads the caller's deadline too and answers it in its own way.

use std::{
    future::{pending, poll_fn},
    io,
    sync::Arc,
    time::Duration,
};

use http::Request;
use hyper::{body::Incoming, server::conn::http2, service::Service};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_stream::{Stream, StreamExt};

use super::{
    hot::{Dispatch, Ways},
    pulse::{EndsServer, Patience, Pulse, Useless},
    wire::{Bytes, Wire},
    workers::{Handed, Workers},
};
use crate::{
    grpc::context::Peer,
    http::{Ages, MAX_PENDING_RESETS, Paced, Room, Turn},
    telemetry::metrics::Listener,
};

/// How often an idle connection is asked whether it is still there.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long it has to answer.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection on which nothing was ever called has to end at the end.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
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
pub(super) struct Connections {
    /// First, so that it is dropped before the calls that end with it.
    end: EndsServer,
    ways: Arc<Ways>,
    http: http2::Builder<TokioExecutor>,
    /// True once no call may be begun any more.
    closing: watch::Sender<bool>,
    room: Room,
    workers: Workers,
    patience: Patience,
    ages: Ages,
}

impl Connections {
    /// No more than `max` at once.
    pub(super) fn new(
        ways: Ways,
        workers: Workers,
        max: usize,
        patience: Patience,
        ages: Ages,
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
            end: EndsServer::default(),
            ways: Arc::new(ways),
            http,
            closing: watch::Sender::new(false),
            room: Room::new("grpc", max),
            workers,
            patience,
            ages,
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
                    Some(Ok(connection)) if self.room.has_place() => self.serve(connection),
                    // Closed at once: its caller tries another server.
                    Some(Ok(_)) => {}
                    Some(Err(error)) => tracing::debug!(%error, "a connection was lost at once"),
                    None => return,
                },
                // Only to forget those that have ended.
                Some(_) = self.room.tasks.join_next() => {}
            }
        }
    }

    /// Tells every connection that no call may be begun on it, and waits for
    /// those under way.
    ///
    /// Given up before it comes back, it cuts them off.
    pub(super) async fn drain(mut self) {
        self.closing.send_replace(true);
        while self.room.tasks.join_next().await.is_some() {}
    }

    fn serve<C: Handed>(&mut self, connection: C) {
        let place = self.workers.place();
        let runtime = place.runtime.clone();
        let pulse = Arc::new(Pulse::of(&self.end.0));
        let dispatch = Dispatch::new(Arc::clone(&self.ways), Arc::clone(&pulse));
        let (http, patience, age) = (self.http.clone(), self.patience, self.ages.draw());
        let mut closing = self.closing.subscribe();
        let connected = self.ways.metrics.connected(Listener::Grpc);
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
            let service = Known { dispatch, peer };
            let turn = Turn::default();
            let wire = Paced::new(Wire::new(bytes), turn.clone());
            let served = http.serve_connection(TokioIo::new(wire), service);
            let useless = pulse.useless(patience);
            let leave = sleep(LEAVE_TIMEOUT);
            let old = async {
                match age {
                    Some(age) => sleep(age).await,
                    None => pending().await,
                }
            };
            let grace = sleep(patience.grace);
            tokio::pin!(served, useless, leave, old, grace);
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
                        grace.as_mut().reset(Instant::now() + patience.grace);
                        has_grace = true;
                    }
                    () = grace.as_mut(), if has_grace => {
                        has_grace = false;
                        pulse.retire();
                    }
                    // Whoever has called nothing so far need not even have greeted.
                    () = leave.as_mut(), if is_ending && pulse.is_unused() => {
                        // Something may have been called since this was asked.
                        if pulse.is_unused() {
                            return;
                        }
                    }
                    why = useless.as_mut(), if is_watched => {
                        is_watched = false;
                        tracing::debug!(?why, "a connection is ended that is of no use");
                        if why == Useless::Stalled {
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
        self.room.tasks.spawn_on(served, &runtime);
    }
}

/// Makes a connection one of this runtime, and encrypts it where it is to be.
pub(super) async fn open<C: Handed>(connection: C) -> io::Result<(Bytes<C::Io>, Option<Peer>)> {
    let tls = connection.tls().cloned();
    let io = connection.here()?;
    let Some(tls) = tls else {
        return Ok((Bytes::Plain(io), None));
    };
    let (stream, peer) = tls.accept(io).await?;
    Ok((Bytes::Encrypted(Box::new(stream)), peer))
}

/// Answers the calls of a connection, whose certificate says who calls.
struct Known {
    dispatch: Dispatch,
    /// None where no certificate was shown.
    peer: Option<Peer>,
}

impl Service<Request<Incoming>> for Known {
    type Response = <Dispatch as Service<Request<Incoming>>>::Response;
    type Error = <Dispatch as Service<Request<Incoming>>>::Error;
    type Future = <Dispatch as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        if let Some(peer) = &self.peer {
            request.extensions_mut().insert(peer.clone());
        }
        self.dispatch.call(request)
    }
}

#[cfg(test)]
mod ages;
#[cfg(test)]
mod floods;
#[cfg(test)]
mod tests;
