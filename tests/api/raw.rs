//! A client that takes no more of an answer than the test lets it, and sees how its
//! connection ends.

use std::{
    any::Any,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::BytesMut;
use hitkeep_auth::{
    domain::caller::CallerPermission::{self, Introspect, Manage},
    pb,
};
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    body::{Bytes, Frame, Incoming},
    client::conn::http2,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
};
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use crate::{fixtures::*, harness::TestApp, layers::framed};

pub const STREAM: &str = "/hitkeep.auth.v1.IntrospectionService/IntrospectStream";
const STATUS: &str = "/hitkeep.auth.v1.IntrospectionService/GetIndexStatus";

/// What is answered on a connection that nothing else uses.
pub struct Answers {
    pub answers: hyper::Response<Incoming>,
    /// Comes once the server has ended the connection.
    pub end: oneshot::Receiver<()>,
    /// Dropped, we would end it.
    _sender: Box<dyn Any>,
}

/// A client's end of a connection.
struct Tap<C> {
    io: C,
    end: Option<oneshot::Sender<()>>,
}

impl<C: AsyncRead + Unpin> AsyncRead for Tap<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(context, buffer);
        if polled.is_ready()
            && buffer.filled().len() == before
            && let Some(end) = self.end.take()
        {
            end.send(()).ok();
        }
        polled
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Tap<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// Begins a call of one who takes so many bytes of an answer before it reads any.
pub async fn ask<S>(
    app: &TestApp,
    permission: CallerPermission,
    path: &str,
    frames: S,
    window: u32,
) -> Answers
where
    S: Stream<Item = Frame<Bytes>> + Send + Unpin + 'static,
{
    let (io, theirs) = tokio::io::duplex(64 * 1024);
    app.connect(theirs);
    ask_on(
        io,
        &[("authorization", &bearer(app.token(permission)))],
        path,
        frames,
        window,
    )
    .await
}

/// What shows a token.
pub fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// The same on that connection, with more headers.
pub async fn ask_on<C, S>(
    io: C,
    headers: &[(&str, &str)],
    path: &str,
    frames: S,
    window: u32,
) -> Answers
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Stream<Item = Frame<Bytes>> + Send + Unpin + 'static,
{
    let (ended, end) = oneshot::channel();
    let io = Tap {
        io,
        end: Some(ended),
    };
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(window)
        .handshake(TokioIo::new(io))
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut request = http::Request::post(format!("http://test.invalid{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request
        .body(StreamBody::new(frames.map(Ok::<_, Infallible>)))
        .unwrap();
    Answers {
        answers: sender.send_request(request).await.unwrap(),
        end,
        _sender: Box::new(sender),
    }
}

pub fn data(bytes: &[u8]) -> Frame<Bytes> {
    Frame::data(Bytes::copy_from_slice(bytes))
}

/// Asks for the status of the index.
pub async fn ask_status(app: &TestApp, window: u32) -> Answers {
    let message = framed(&pb::GetIndexStatusRequest::default());
    ask(
        app,
        Introspect,
        STATUS,
        tokio_stream::once(data(&message)),
        window,
    )
    .await
}

/// Asks for more than is given away at once.
pub async fn ask_much(app: &TestApp, window: u32) -> Answers {
    app.change(world()).await;
    let dashboard = app.dashboard().await;
    for _ in 0..30 {
        let mut large = personal(VERA);
        large.api_client.as_mut().unwrap().description = "\u{1f36a}".repeat(500);
        dashboard.created(large).await;
    }
    let message = framed(&list(VERA, of_user(VERA)));
    let path = "/hitkeep.auth.v1.ApiClientService/ListApiClients";
    ask(
        app,
        Manage,
        path,
        tokio_stream::once(data(&message)),
        window,
    )
    .await
}

/// Those requests in one piece, after which nothing more comes, and no end.
pub fn unended(
    requests: &[pb::IntrospectRequest],
) -> impl Stream<Item = Frame<Bytes>> + Send + Unpin + 'static {
    let requests: Vec<_> = requests.iter().flat_map(framed).collect();
    tokio_stream::once(data(&requests)).chain(tokio_stream::pending())
}

/// Sends those requests on a stream, in one piece, and says no more.
pub async fn open_stream(
    app: &TestApp,
    requests: &[pb::IntrospectRequest],
    window: u32,
) -> Answers {
    ask(app, Introspect, STREAM, unended(requests), window).await
}

impl Answers {
    /// The next whole answer; the status that the stream ends with.
    pub async fn answer(&mut self, read: &mut BytesMut) -> Result<pb::IntrospectResponse, Status> {
        loop {
            if let Some((head, rest)) = read.split_at_checked(5) {
                let length = u32::from_be_bytes(head[1..].try_into().unwrap());
                let length = usize::try_from(length).unwrap();
                if rest.len() >= length {
                    let whole = read.split_to(5 + length);
                    return Ok(pb::IntrospectResponse::decode(&whole[5..]).unwrap());
                }
            }
            let frame = self.answers.frame().await.unwrap().unwrap();
            match frame.into_data() {
                Ok(data) => read.extend_from_slice(&data),
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap();
                    return Err(Status::from_header_map(&trailers).unwrap());
                }
            }
        }
    }
}
