//! `IntrospectStream`: requests are answered where they lie, as many at once as came in,
//! and their answers leave together. A stream that begins on the slow path is answered here
//! too, once the layers have let it in.
//!
//! It reads no more than it can answer: when the caller does not take its answers,
//! HTTP/2 asks for none, and nothing is read. A request that has to wait holds up
//! those after it, as the order of the answers demands.

use std::{
    future::pending,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::extract::{Request, State};
use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response, header::CONTENT_TYPE};
use hyper::body::{Body, Frame};
use prost::Message;
use tokio::time::{Instant, sleep_until};
use tonic::Status;
use tracing::{Instrument, Span};

use super::{
    body::append,
    dispatch::{GRPC, GRPC_ENCODING, OK},
    introspect::AtOnce,
};
use crate::{
    calls::{
        message_buffer::PREFIX_BYTES,
        method::MAX_INTROSPECTION_BYTES,
        record::{ACTIVITY, GRPC_STATUS, trailers},
    },
    grpc::{
        Services,
        context::{Caller, Deadline},
        error::ApiError,
    },
    pb,
    transport::activity::{Activity, BufferedBytes},
};

/// How much is answered until it is sent: a frame of HTTP/2, about.
const ENOUGH: usize = 16 * 1024;

/// How much memory a stream keeps for what comes next, in bytes.
const QUIET: usize = 4 * 1024;

const GRPC_ACCEPT_ENCODING: &str = "grpc-accept-encoding";
/// The encoding that is none.
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");

/// Answers a stream that came through the layers.
pub(crate) async fn introspect_stream(
    State(services): State<Arc<Services>>,
    request: Request,
) -> axum::response::Response {
    let encoding = request.headers().get(GRPC_ENCODING);
    if encoding.is_some_and(|encoding| encoding != IDENTITY) {
        // As tonic says it of every other method.
        let mut refused = Status::unimplemented("the encoding is not supported").into_http();
        refused.headers_mut().insert(GRPC_ACCEPT_ENCODING, IDENTITY);
        return refused;
    }
    let (head, requests) = request.into_parts();
    let (Some(caller), Ok(activity)) = (
        head.extensions.get::<Caller>(),
        ACTIVITY.try_with(Arc::clone),
    ) else {
        return Status::from(ApiError::Defect("no caller was established")).into_http();
    };
    let answers = IntrospectionStream::new(
        services,
        caller.clone(),
        requests,
        &activity,
        head.extensions.get::<Deadline>().map(|deadline| deadline.0),
        Span::current(),
    );
    let mut response = Response::new(axum::body::Body::new(answers));
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

/// A stream of requests, and its answers as a body.
pub(crate) struct IntrospectionStream<B> {
    services: Arc<Services>,
    /// The caller's: a stream may outlive it.
    caller: Caller,
    requests: B,
    read: BytesMut,
    /// The answer to a request that could not be answered at once.
    waiting: Option<Pin<Box<dyn Future<Output = pb::IntrospectResponse> + Send>>>,
    /// Ready when the server ends, or the connection, since it is old.
    draining: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Whether it does: what was read is answered then, as far as no more waiting has to be
    /// begun for that, and no more is read.
    is_draining: bool,
    /// Ready at the caller's own deadline; none of ours ends a stream.
    deadline: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// What there is to say at the end, once that has come.
    end: Option<Result<(), ApiError>>,
    is_over: bool,
    /// What was read and not answered yet.
    kept: BufferedBytes,
    /// The span of the call, in which requests wait.
    span: Span,
}

impl<B> IntrospectionStream<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    pub(super) fn new(
        services: Arc<Services>,
        caller: Caller,
        requests: B,
        activity: &Arc<Activity>,
        deadline: Option<Instant>,
        span: Span,
    ) -> Self {
        let (mut draining, mut retired) = (services.draining(), activity.retired());
        Self {
            services,
            caller,
            requests,
            read: BytesMut::new(),
            waiting: None,
            draining: Box::pin(async move {
                let retired = async {
                    // The connection is gone: nobody retires it any more.
                    if retired.wait_for(|retired| *retired).await.is_err() {
                        pending::<()>().await;
                    }
                };
                tokio::select! {
                    // Also if whoever could tell is gone.
                    _ = draining.wait_for(|draining| *draining) => {}
                    () = retired => {}
                }
            }),
            is_draining: false,
            deadline: deadline.map(|at| Box::pin(sleep_until(at)) as _),
            end: None,
            is_over: false,
            kept: BufferedBytes::on(activity, MAX_INTROSPECTION_BYTES),
            span,
        }
    }

    /// Answers what was read, and gives what there is to send: nothing where that
    /// needs more to be read, or the end has come.
    fn poll_answers(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut answers = Vec::new();
        loop {
            if let Some(waiting) = &mut self.waiting {
                match waiting.as_mut().poll(context) {
                    Poll::Ready(answer) => {
                        self.waiting = None;
                        append(&answer, &mut answers);
                    }
                    Poll::Pending if answers.is_empty() => return Poll::Pending,
                    Poll::Pending => break,
                }
            }
            self.answer_read(&mut answers);
            if self.is_draining && (self.waiting.take().is_some() || answers.len() < ENOUGH) {
                self.end.get_or_insert(Err(ApiError::ShuttingDown));
            }
            if answers.len() >= ENOUGH || self.end.is_some() {
                break;
            }
            if self.waiting.is_some() {
                continue;
            }
            match self.poll_read(context) {
                Poll::Ready(()) => {}
                Poll::Pending if answers.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready((!answers.is_empty()).then(|| answers.into()))
    }

    /// Answers one whole request after the other, up to one that has to wait.
    fn answer_read(&mut self, answers: &mut Vec<u8>) {
        // All of them came in before this moment, so one look at the time and at the
        // index does for all.
        let at_once = AtOnce::now(&self.services);
        while answers.len() < ENOUGH && self.end.is_none() && self.waiting.is_none() {
            let Some((prefix, rest)) = self.read.split_at_checked(PREFIX_BYTES) else {
                return;
            };
            let (compressed, length) = prefix.split_first().expect("it is five bytes");
            let length = length.try_into().expect("they are four");
            let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
            if *compressed != 0 || length > MAX_INTROSPECTION_BYTES {
                self.end = Some(Err(ApiError::unreadable_message()));
                return;
            }
            let Some(message) = rest.get(..length) else {
                return;
            };
            if answers.is_empty() {
                answers.reserve(ENOUGH + ENOUGH / 4);
            }
            let answered = at_once.as_ref().map(|now| now.answer(message, answers));
            if answered != Some(true) {
                match pb::IntrospectRequest::decode(message) {
                    Ok(request) => {
                        let services = Arc::clone(&self.services);
                        let answer = async move { services.answer_streamed(&request).await };
                        self.waiting = Some(Box::pin(answer.instrument(self.span.clone())));
                    }
                    Err(_) => self.end = Some(Err(ApiError::unreadable_message())),
                }
            }
            self.read.advance(PREFIX_BYTES + length);
        }
    }

    /// Reads more, or sees that there is no more.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match ready!(Pin::new(&mut self.requests).poll_frame(context)) {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    self.read.extend_from_slice(&data);
                }
                let Caller { account, proof } = &self.caller;
                let index = self.services.replica().index();
                let index = index.as_ref();
                if !index.is_some_and(|index| proof.is_still(account, index.callers())) {
                    self.end = Some(Err(ApiError::CallerUnknown));
                }
            }
            None if self.read.is_empty() => self.end = Some(Ok(())),
            // In the middle of a message.
            None | Some(Err(_)) => self.end = Some(Err(ApiError::unreadable_message())),
        }
        Poll::Ready(())
    }

    /// Keeps what was read until there is more, or ends where its connection keeps too much
    /// already. Of a stream that is quiet, nothing much is kept.
    fn keep(&mut self) {
        if self.read.is_empty() && self.read.capacity() > QUIET {
            self.read = BytesMut::new();
        }
        if let Err(refused) = self.kept.record(self.read.len()) {
            self.end = Some(Err(refused.into()));
        }
    }

    fn last_words(&mut self) -> HeaderMap {
        if let Some(Err(error)) = self.end.take() {
            return trailers(&Status::from(error));
        }
        HeaderMap::from_iter([(GRPC_STATUS, OK)])
    }
}

impl<B> Body for IntrospectionStream<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        self.is_draining = self.is_draining || self.draining.as_mut().poll(context).is_ready();
        let deadline = self.deadline.as_mut();
        if deadline.is_some_and(|deadline| deadline.as_mut().poll(context).is_ready()) {
            self.end = Some(Err(ApiError::DeadlineExceeded));
        }
        if self.end.is_none() {
            match self.poll_answers(context) {
                Poll::Ready(Some(answers)) => return Poll::Ready(Some(Ok(Frame::data(answers)))),
                Poll::Ready(None) => {}
                Poll::Pending => {
                    self.keep();
                    if self.end.is_none() {
                        return Poll::Pending;
                    }
                }
            }
        }
        self.is_over = true;
        Poll::Ready(Some(Ok(Frame::trailers(self.last_words()))))
    }
}
