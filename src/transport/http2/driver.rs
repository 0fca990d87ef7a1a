//! Drives one HTTP/2 connection. The calls that can be answered at once are answered by the
//! connection's own task, all that have arrived before anything is written. Each other call
//! gets a task of its own.

use std::{
    error::Error,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{
    Reason,
    server::{Builder, Connection, Handshake, SendResponse},
};
use http::Request;
use hyper::body::Body;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    date::date,
    keepalive::{KeepAlive, KeepAliveTimedOut},
    replies::{Reply, WholeReply, respond},
    requests::RequestBody,
};
use crate::transport::{pace::ReadBudget, tls::Peer};

/// For how many answers an idle connection keeps memory, of about 250 bytes each.
const MAX_IDLE_ANSWERS: usize = 64;

/// Serves the calls of one connection.
pub(crate) trait Calls: Send + Unpin + 'static {
    type Body: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static;
    type Call: Future<Output = Reply<Self::Body>> + Send + 'static;

    /// Begins a call. This is called by the connection's task, so it must not take long. The
    /// context is that task's: it may be woken for a call that is not begun yet.
    fn begin(
        &mut self,
        request: Request<RequestBody>,
        context: &mut Context<'_>,
    ) -> Begun<Self::Call>;
}

/// A call that was begun.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are answered, and a box would cost each of them an allocation"
)]
pub(crate) enum Begun<C> {
    Answered(WholeReply),
    /// It takes longer. Dropping it cancels it.
    Going(C),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error(transparent)]
    Http2(#[from] h2::Error),
    #[error(transparent)]
    KeepAlive(#[from] KeepAliveTimedOut),
}

/// A connection that is served; it ends with the connection.
pub(super) struct Driver<IO, S> {
    state: State<IO>,
    calling: Calling<S>,
    budget: ReadBudget,
    is_ending: bool,
}

enum State<IO> {
    Opening(Box<Handshake<IO, Bytes>>),
    Open(Box<Open<IO>>),
}

struct Open<IO> {
    connection: Connection<IO, Bytes>,
    /// None once the peer is gone.
    keepalive: Option<KeepAlive>,
}

/// The calls of one connection.
struct Calling<S> {
    service: S,
    /// The names in the client certificate, attached to each request. None if the client
    /// sent no certificate.
    peer: Option<Peer>,
    /// The answers of this poll.
    answers: Vec<(SendResponse<Bytes>, WholeReply)>,
}

impl<IO, S> Driver<IO, S>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    S: Calls,
{
    pub(super) fn new(
        http: &Builder,
        io: IO,
        service: S,
        peer: Option<Peer>,
        budget: ReadBudget,
    ) -> Self {
        Self {
            state: State::Opening(Box::new(http.handshake(io))),
            calling: Calling {
                service,
                peer,
                answers: Vec::new(),
            },
            budget,
            is_ending: false,
        }
    }

    /// Refuses new calls, and ends the connection once those in flight have ended.
    pub(super) fn graceful_shutdown(&mut self) {
        self.is_ending = true;
        if let State::Open(open) = &mut self.state {
            open.connection.graceful_shutdown();
        }
    }
}

impl<IO, S> Future for Driver<IO, S>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    S: Calls,
{
    type Output = Result<(), ConnectionError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self {
            state,
            calling,
            budget,
            is_ending,
        } = &mut *self;
        loop {
            match state {
                State::Opening(handshake) => {
                    let mut connection = ready!(Pin::new(&mut **handshake).poll(context))?;
                    if *is_ending {
                        connection.graceful_shutdown();
                    }
                    let pings = connection.ping_pong().expect("it is taken once");
                    *state = State::Open(Box::new(Open {
                        connection,
                        keepalive: Some(KeepAlive::new(pings)),
                    }));
                }
                State::Open(open) => {
                    let polled = open.poll(context, calling, budget);
                    // h2 wakes this task to write them.
                    calling.answer();
                    return polled;
                }
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Open<IO> {
    /// Begins the calls that have arrived.
    fn poll<S: Calls>(
        &mut self,
        context: &mut Context<'_>,
        calling: &mut Calling<S>,
        budget: &ReadBudget,
    ) -> Poll<Result<(), ConnectionError>> {
        loop {
            match self.connection.poll_accept(context) {
                Poll::Ready(Some(Ok((request, response)))) => {
                    calling.begin(request.map(RequestBody::new), response, context);
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error.into())),
                Poll::Ready(None) if self.keepalive.is_none() => {
                    return Poll::Ready(Err(KeepAliveTimedOut.into()));
                }
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    let Some(keepalive) = &mut self.keepalive else {
                        return Poll::Pending;
                    };
                    if budget.has_read() {
                        keepalive.record_read();
                    }
                    let KeepAliveTimedOut = ready!(keepalive.poll(context));
                    self.keepalive = None;
                    self.connection.abrupt_shutdown(Reason::NO_ERROR);
                }
            }
        }
    }
}

impl<S: Calls> Calling<S> {
    fn begin(
        &mut self,
        mut request: Request<RequestBody>,
        mut response: SendResponse<Bytes>,
        context: &mut Context<'_>,
    ) {
        if let Some(peer) = &self.peer {
            request.extensions_mut().insert(peer.clone());
        }
        // A panic ends its own call alone.
        let begin = AssertUnwindSafe(|| self.service.begin(request, context));
        match catch_unwind(begin) {
            Ok(Begun::Answered(reply)) => self.answers.push((response, reply)),
            Ok(Begun::Going(call)) => {
                tokio::spawn(async move {
                    if let Err(error) = respond(call, response, date).await {
                        tracing::debug!(%error, "a response was not sent");
                    }
                });
            }
            // The panic hook has reported it.
            Err(_) => response.send_reset(Reason::INTERNAL_ERROR),
        }
    }

    /// Hands the answers to h2.
    fn answer(&mut self) {
        if self.answers.is_empty() {
            return;
        }
        let date = date();
        for (mut response, reply) in self.answers.drain(..) {
            if let Err(error) = reply.send(&mut response, date.clone()) {
                tracing::debug!(%error, "a response was not sent");
            }
        }
        self.answers.shrink_to(MAX_IDLE_ANSWERS);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        io,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
        time::Duration,
    };

    use http::{HeaderMap, Response};
    use http_body_util::{BodyExt, Full};
    use tokio::{
        io::{AsyncWriteExt, DuplexStream, ReadBuf, duplex},
        time::{Instant, timeout},
    };

    use super::*;
    use crate::transport::pace::PacedIo;

    const PANICS: &str = "/panics";
    const WITH_BODY: &str = "/body";
    const READS: &str = "/reads";
    /// More than the windows of both sides, of 64 KiB.
    const BODY_BYTES: usize = 200_000;

    /// Answers each call at once with its path, except those three.
    struct Echo;

    impl Calls for Echo {
        type Body = Full<Bytes>;
        type Call = Pin<Box<dyn Future<Output = Reply<Full<Bytes>>> + Send>>;

        fn begin(
            &mut self,
            request: Request<RequestBody>,
            _: &mut Context<'_>,
        ) -> Begun<Self::Call> {
            match request.uri().path() {
                PANICS => panic!("it is to"),
                WITH_BODY => {
                    let body = Full::new(Bytes::from(vec![7; BODY_BYTES]));
                    Begun::Going(Box::pin(async { Reply::Body(Response::new(body)) }))
                }
                READS => Begun::Going(Box::pin(async {
                    let body = request.into_body().collect().await.unwrap();
                    let length = body.to_bytes().len().to_string();
                    Reply::Body(Response::new(Full::new(length.into())))
                })),
                path => {
                    let mut trailers = HeaderMap::new();
                    trailers.insert("ended", "yes".parse().unwrap());
                    Begun::Answered(WholeReply {
                        headers: HeaderMap::new(),
                        message: Bytes::copy_from_slice(path.as_bytes()),
                        trailers,
                    })
                }
            }
        }
    }

    /// Counts writes.
    struct Counted {
        io: DuplexStream,
        writes: Arc<AtomicUsize>,
    }

    impl AsyncRead for Counted {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for Counted {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.writes.fetch_add(1, Relaxed);
            Pin::new(&mut self.io).poll_write(context, bytes)
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            slices: &[io::IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.writes.fetch_add(1, Relaxed);
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            Pin::new(&mut self.io).poll_write(context, &all)
        }

        /// Like a TCP connection.
        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_flush(context)
        }

        fn poll_shutdown(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_shutdown(context)
        }
    }

    async fn serve(io: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), ConnectionError> {
        let budget = ReadBudget::default();
        let io = PacedIo::new(io, budget.clone());
        let mut driver = Driver::new(&Builder::new(), io, Echo, None, budget.clone());
        poll_fn(|context| budget.poll(Pin::new(&mut driver), context)).await
    }

    /// A client of a server, and the number of writes by the server.
    async fn client() -> (h2::client::SendRequest<Bytes>, Arc<AtomicUsize>) {
        let (ours, theirs) = duplex(1024 * 1024);
        let writes = Arc::new(AtomicUsize::new(0));
        let counted = Counted {
            io: theirs,
            writes: Arc::clone(&writes),
        };
        tokio::spawn(serve(counted));
        let (requests, connection) = h2::client::handshake(ours).await.unwrap();
        tokio::spawn(connection);
        (requests.ready().await.unwrap(), writes)
    }

    /// Begins a call without a message.
    fn call(
        client: &h2::client::SendRequest<Bytes>,
        path: &str,
    ) -> impl Future<Output = Result<(Bytes, Option<HeaderMap>), h2::Error>> + use<> {
        let uri = format!("http://test{path}");
        let request = Request::post(uri).body(()).unwrap();
        // A clone need not wait for the calls that were begun before.
        let (response, _) = client.clone().send_request(request, true).unwrap();
        async move {
            let response = response.await?;
            assert!(response.headers().contains_key(http::header::DATE));
            let mut body = response.into_body();
            let mut received = Vec::new();
            while let Some(data) = body.data().await {
                let data = data?;
                body.flow_control().release_capacity(data.len())?;
                received.extend_from_slice(&data);
            }
            Ok((received.into(), body.trailers().await?))
        }
    }

    #[tokio::test]
    async fn calls_that_arrive_together_are_answered_with_one_write() {
        let (client, writes) = client().await;
        // Both sides have acknowledged the settings by then.
        call(&client, "/first").await.unwrap();
        call(&client, "/second").await.unwrap();
        let before = writes.load(Relaxed);
        // Like answers to Envoy, of which h2 writes each by itself if it may.
        let paths = (0..20).map(|number| format!("/{number}/{}", "x".repeat(600)));
        let paths: Vec<_> = paths.collect();
        let calls: Vec<_> = paths.iter().map(|path| call(&client, path)).collect();
        for (path, call) in paths.iter().zip(calls) {
            let (message, trailers) = call.await.unwrap();
            assert_eq!(message, path.as_bytes());
            assert_eq!(trailers.unwrap()["ended"], "yes");
        }
        assert_eq!(writes.load(Relaxed) - before, 1);
    }

    #[tokio::test]
    async fn a_call_that_panics_fails_alone() {
        let (client, _) = client().await;
        let (panics, other) = (call(&client, PANICS), call(&client, "/other"));
        let error = panics.await.unwrap_err();
        assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
        assert_eq!(other.await.unwrap().0, "/other");
        assert_eq!(call(&client, "/later").await.unwrap().0, "/later");
    }

    #[tokio::test]
    async fn a_body_is_sent_as_the_peer_has_room() {
        let (client, _) = client().await;
        let (received, trailers) = call(&client, WITH_BODY).await.unwrap();
        assert_eq!(received, vec![7; BODY_BYTES]);
        assert_eq!(trailers, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_may_send_more_than_its_window() {
        let (client, _) = client().await;
        // Of the call, and then of the connection.
        for _ in 0..3 {
            let request = Request::post(format!("http://test{READS}"));
            let (response, mut body) = client
                .clone()
                .send_request(request.body(()).unwrap(), false)
                .unwrap();
            body.send_data(vec![7; BODY_BYTES].into(), true).unwrap();
            // The clock only moves on where nothing else does.
            let response = timeout(Duration::from_mins(1), response).await;
            let mut answer = response.expect("it is read").unwrap().into_body();
            let length = answer.data().await.unwrap().unwrap();
            assert_eq!(length, BODY_BYTES.to_string());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_answers_no_ping_is_gone() {
        let (mut ours, theirs) = duplex(1024);
        ours.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            .await
            .unwrap();
        let begun = Instant::now();
        let ended = serve(theirs).await;
        assert!(
            matches!(ended, Err(ConnectionError::KeepAlive(_))),
            "{ended:?}"
        );
        assert_eq!(begun.elapsed().as_secs(), 40);
    }
}
