//! What Introspect is compared with: servers that do less and less.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hitkeep_auth::{
    domain::token::Token,
    pb::{IntrospectRequest, IntrospectResponse},
};
use http_body_util::BodyExt;
use hyper::{
    body::{Frame, Incoming},
    server::conn::http2,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::{net::TcpListener, runtime};
use tokio_stream::{Stream, StreamExt};
use tonic::{
    Status, Streaming,
    codegen::{BoxFuture, Service, http},
    server::{Grpc, NamedService, StreamingService, UnaryService},
    transport::Server,
};
use tonic_prost::ProstCodec;

use crate::support::comparison::{announce, serve};

/// A server to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An echo made with tonic, as everybody writes it.
    Tonic,
    /// The same on a runtime of one thread.
    Tuned,
    /// hyper alone, which reads the request, hashes the token, and answers with
    /// a fixed frame.
    Bare,
}

impl Kind {
    /// All of them, those that do most first.
    pub const ALL: [Self; 3] = [Self::Tonic, Self::Tuned, Self::Bare];

    /// What it is, in a table.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Tonic => "tonic echo",
            Self::Tuned => "tonic echo, one thread",
            Self::Bare => "hyper, fixed answer",
        }
    }

    /// What it is called on a command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tonic => "echo",
            Self::Tuned => "tuned-echo",
            Self::Bare => "fixed-answer",
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether it has one thread, however many cores there are.
    pub const fn is_on_one_thread(self) -> bool {
        !matches!(self, Self::Tonic)
    }

    /// Whether it answers on streams too.
    pub const fn has_streams(self) -> bool {
        !matches!(self, Self::Bare)
    }

    /// Is that server, until the one that started it is gone.
    pub fn be(self) {
        let mut builder = if self.is_on_one_thread() {
            runtime::Builder::new_current_thread()
        } else {
            // As many threads as it has cores, which is what everybody gets.
            runtime::Builder::new_multi_thread()
        };
        let runtime = builder.enable_all().build();
        let runtime = runtime.expect("a runtime starts");
        match self {
            Self::Tonic | Self::Tuned => {
                runtime.block_on(serve(Server::builder().add_service(Echo)));
            }
            Self::Bare => runtime.block_on(bare()),
        }
    }
}

/// The service as the generator of tonic would write it, with the messages of
/// Introspect, which it does not look into.
#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "hitkeep.auth.v1.IntrospectionService";
}

fn answer(token: String) -> IntrospectResponse {
    IntrospectResponse {
        active: true,
        client_name: token,
        ..IntrospectResponse::default()
    }
}

impl<B> Service<http::Request<B>> for Echo
where
    B: tonic::codegen::Body + Send + 'static,
    B::Error: Into<tonic::codegen::StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let is_stream = request.uri().path() == super::support::load::Style::Stream.path();
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::default());
            Ok(if is_stream {
                grpc.streaming(EchoStream, request).await
            } else {
                grpc.unary(EchoOne, request).await
            })
        })
    }
}

struct EchoOne;

impl UnaryService<IntrospectRequest> for EchoOne {
    type Response = IntrospectResponse;
    type Future = BoxFuture<tonic::Response<IntrospectResponse>, Status>;

    fn call(&mut self, request: tonic::Request<IntrospectRequest>) -> Self::Future {
        Box::pin(async move { Ok(tonic::Response::new(answer(request.into_inner().token))) })
    }
}

struct EchoStream;

impl StreamingService<IntrospectRequest> for EchoStream {
    type Response = IntrospectResponse;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<IntrospectResponse, Status>> + Send>>;
    type Future = BoxFuture<tonic::Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: tonic::Request<Streaming<IntrospectRequest>>) -> Self::Future {
        let requests = request.into_inner();
        let answers = requests.map(|request| request.map(|request| answer(request.token)));
        let answers: Self::ResponseStream = Box::pin(answers);
        Box::pin(async move { Ok(tonic::Response::new(answers)) })
    }
}

async fn bare() {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("there is a port");
    announce(listener.local_addr().expect("it is bound"));
    while let Ok((connection, _)) = listener.accept().await {
        connection.set_nodelay(true).expect("a socket");
        let service = hyper::service::service_fn(fixed);
        let served = http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(connection), service);
        // It ends with an error where the peer just goes.
        tokio::spawn(async move { drop(served.await) });
    }
}

/// The gRPC frame that is always answered: as long as the echo's.
static FIXED: std::sync::LazyLock<Bytes> = std::sync::LazyLock::new(|| {
    let message = answer("x".repeat(hitkeep_auth::domain::token::TOKEN_LENGTH));
    Bytes::from(super::support::calls::framed(&message))
});

async fn fixed(request: hyper::Request<Incoming>) -> hyper::Result<hyper::Response<Fixed>> {
    let message = request.into_body().collect().await?.to_bytes();
    let request = IntrospectRequest::decode(message.slice(5..)).unwrap_or_default();
    let hash = Token::parse(&request.token).map(|token| token.hash());
    let _hash = std::hint::black_box(hash);
    let mut response = hyper::Response::new(Fixed::Message);
    let content_type = hyper::header::HeaderValue::from_static("application/grpc");
    let headers = response.headers_mut();
    headers.insert(hyper::header::CONTENT_TYPE, content_type);
    Ok(response)
}

/// The body of a fixed answer: what comes next.
enum Fixed {
    Message,
    Trailers,
    End,
}

impl hyper::body::Body for Fixed {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let (next, frame) = match *self {
            Self::Message => (Self::Trailers, Frame::data(FIXED.clone())),
            Self::Trailers => {
                let mut trailers = hyper::HeaderMap::with_capacity(1);
                let ok = hyper::header::HeaderValue::from_static("0");
                trailers.insert("grpc-status", ok);
                (Self::End, Frame::trailers(trailers))
            }
            Self::End => return Poll::Ready(None),
        };
        *self = next;
        Poll::Ready(Some(Ok(frame)))
    }
}
