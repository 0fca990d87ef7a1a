//! `IntrospectStream`: requests are parsed in the read buffer, and all that have arrived
//! are answered in one batch. A stream that came through the router's layers is served here
//! too.
//!
//! Flow control: if the caller does not read its responses, HTTP/2 polls for none, and no
//! request is read. A request that has to wait blocks those after it, since the responses
//! keep the order; all that have arrived by then wait together, for one refresh of the index.
//! Otherwise invented tokens would delay all who share a stream with their sender.

use std::{
    future::pending,
    ops::Range,
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
    headers::{GRPC, GRPC_ENCODING, OK},
    introspect::FastIntrospector,
    wire::append_framed,
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

/// The size of a batch of responses: about one HTTP/2 frame.
const BATCH_BYTES: usize = 16 * 1024;

/// How much buffer capacity an idle stream keeps, in bytes.
const MAX_IDLE_CAPACITY: usize = 4 * 1024;

/// How many bytes of requests, and how many requests, wait together.
const READ_AHEAD_BYTES: usize = 8 * 1024;
const MOST_TOGETHER: usize = 128;

const GRPC_ACCEPT_ENCODING: &str = "grpc-accept-encoding";
/// No compression.
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");

/// Serves a stream that came through the layers.
pub(crate) async fn introspect_stream(
    State(services): State<Arc<Services>>,
    request: Request,
) -> axum::response::Response {
    let encoding = request.headers().get(GRPC_ENCODING);
    if encoding.is_some_and(|encoding| encoding != IDENTITY) {
        // tonic's own message for every other method.
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

/// The response body of a stream, which reads the requests.
pub(crate) struct IntrospectionStream<B> {
    services: Arc<Services>,
    /// Checked again with each read: a stream may outlive its caller's account.
    caller: Caller,
    requests: B,
    read: BytesMut,
    /// No more requests come.
    has_read_all: bool,
    /// The responses to requests of which the first could not be answered immediately.
    pending_responses: Option<Pin<Box<dyn Future<Output = Vec<pb::IntrospectResponse>> + Send>>>,
    /// Ready when the server drains, or when the connection has reached its maximum age.
    draining: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// While draining, requests that were read already are answered, unless one has to
    /// wait, and no more are read.
    is_draining: bool,
    /// Ready at the caller's deadline. The server's own timeout does not apply to streams.
    deadline: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// The final status, once it is known.
    end: Option<Result<(), ApiError>>,
    has_ended: bool,
    /// The size of the requests that were read and not answered yet.
    buffered: BufferedBytes,
    /// The call's span, in which waiting requests run.
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
            has_read_all: false,
            pending_responses: None,
            draining: Box::pin(async move {
                let retired = async {
                    // The connection is gone, and with it the sender.
                    if retired.wait_for(|retired| *retired).await.is_err() {
                        pending::<()>().await;
                    }
                };
                tokio::select! {
                    // Also if the sender is gone.
                    _ = draining.wait_for(|draining| *draining) => {}
                    () = retired => {}
                }
            }),
            is_draining: false,
            deadline: deadline.map(|at| Box::pin(sleep_until(at)) as _),
            end: None,
            has_ended: false,
            buffered: BufferedBytes::on(activity),
            span,
        }
    }

    /// Answers requests that were read, and returns the batch to send; None at the end.
    fn poll_batch(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut answers = Vec::new();
        loop {
            if let Some(pending_responses) = &mut self.pending_responses {
                match pending_responses.as_mut().poll(context) {
                    Poll::Ready(responses) => {
                        self.pending_responses = None;
                        for response in responses {
                            append_framed(&response, &mut answers);
                        }
                    }
                    Poll::Pending if answers.is_empty() => return Poll::Pending,
                    Poll::Pending => break,
                }
            }
            if self.answer_buffered(&mut answers) {
                self.read_ahead(context);
                self.begin_to_wait();
            }
            if self.is_draining
                && (self.pending_responses.take().is_some() || answers.len() < BATCH_BYTES)
            {
                self.end.get_or_insert(Err(ApiError::ShuttingDown));
            }
            if answers.len() >= BATCH_BYTES || self.end.is_some() {
                break;
            }
            if self.pending_responses.is_some() {
                continue;
            }
            if self.has_read_all {
                // Or else it ended within a message.
                let is_whole = self.read.is_empty();
                self.end = Some(is_whole.then_some(()).ok_or(ApiError::unreadable_message()));
                break;
            }
            match self.poll_read(context) {
                Poll::Ready(()) => {}
                Poll::Pending if answers.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready((!answers.is_empty()).then(|| answers.into()))
    }

    /// Answers the complete requests in order, up to one that has to wait. Whether there is
    /// one.
    fn answer_buffered(&mut self, answers: &mut Vec<u8>) -> bool {
        // All of them arrived before this moment, so one time and one snapshot of the index
        // serve all.
        let introspector = FastIntrospector::snapshot(&self.services);
        let mut rest = &self.read[..];
        let mut has_to_wait = false;
        while answers.len() < BATCH_BYTES && self.end.is_none() {
            let message = match next_message(rest) {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(unreadable) => {
                    self.end = Some(Err(unreadable));
                    break;
                }
            };
            if answers.is_empty() {
                answers.reserve(BATCH_BYTES + BATCH_BYTES / 4);
            }
            let end = message.end;
            let answered = introspector
                .as_ref()
                .is_some_and(|introspector| introspector.try_introspect(&rest[message], answers));
            if !answered {
                has_to_wait = true;
                break;
            }
            rest = &rest[end..];
        }
        let answered = self.read.len() - rest.len();
        self.read.advance(answered);
        has_to_wait
    }

    /// Reads what has arrived, up to a limit: it waits together with what was read before.
    fn read_ahead(&mut self, context: &mut Context<'_>) {
        while self.read.len() < READ_AHEAD_BYTES
            && !(self.is_draining || self.has_read_all || self.end.is_some())
            && self.poll_read(context).is_ready()
        {}
    }

    /// Begins to answer the request that has to wait, and those after it with it: up to one that
    /// waits for something else, or cannot be read.
    fn begin_to_wait(&mut self) {
        let mut requests: Vec<pb::IntrospectRequest> = Vec::new();
        while requests.len() < MOST_TOGETHER
            && let Ok(Some(message)) = next_message(&self.read)
        {
            let end = message.end;
            let Ok(request) = pb::IntrospectRequest::decode(&self.read[message]) else {
                if requests.is_empty() {
                    self.end = Some(Err(ApiError::unreadable_message()));
                    return;
                }
                break;
            };
            let waits_for_revision = request.at_least_revision.is_some();
            if waits_for_revision && !requests.is_empty() {
                break;
            }
            requests.push(request);
            self.read.advance(end);
            if waits_for_revision {
                break;
            }
        }
        let services = Arc::clone(&self.services);
        let answers = async move { services.answer_streamed(&requests).await };
        self.pending_responses = Some(Box::pin(answers.instrument(self.span.clone())));
    }

    /// Reads more, or notices the end.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match ready!(Pin::new(&mut self.requests).poll_frame(context)) {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    self.read.extend_from_slice(&data);
                }
                let Caller { account, proof } = &self.caller;
                let index = self.services.index().latest();
                let index = index.as_ref();
                if !index.is_some_and(|index| {
                    proof.is_still(account, index.callers(), || self.services.clock().now())
                }) {
                    self.end = Some(Err(ApiError::CallerUnknown));
                }
            }
            None => self.has_read_all = true,
            Some(Err(_)) => self.end = Some(Err(ApiError::unreadable_message())),
        }
        Poll::Ready(())
    }

    /// Records the size of the buffer, and ends the stream if its connection buffers too
    /// much. An idle stream gives up a large buffer.
    fn record_buffered(&mut self) {
        if self.read.is_empty() && self.read.capacity() > MAX_IDLE_CAPACITY {
            self.read = BytesMut::new();
        }
        if let Err(refused) = self.buffered.record(self.read.len()) {
            self.end = Some(Err(refused.into()));
        }
    }

    fn final_trailers(&mut self) -> HeaderMap {
        if let Some(Err(error)) = self.end.take() {
            return trailers(&Status::from(error));
        }
        HeaderMap::from_iter([(GRPC_STATUS, OK)])
    }
}

/// Where the next message is; `None` if it is not complete.
///
/// # Errors
/// If it is too large, or compressed.
fn next_message(read: &[u8]) -> Result<Option<Range<usize>>, ApiError> {
    let Some((prefix, rest)) = read.split_at_checked(PREFIX_BYTES) else {
        return Ok(None);
    };
    let (compressed, length) = prefix.split_first().expect("it is five bytes");
    let length = length.try_into().expect("they are four");
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if *compressed != 0 || length > MAX_INTROSPECTION_BYTES {
        return Err(ApiError::unreadable_message());
    }
    Ok((rest.len() >= length).then(|| PREFIX_BYTES..PREFIX_BYTES + length))
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
        if self.has_ended {
            return Poll::Ready(None);
        }
        self.is_draining = self.is_draining || self.draining.as_mut().poll(context).is_ready();
        let deadline = self.deadline.as_mut();
        if deadline.is_some_and(|deadline| deadline.as_mut().poll(context).is_ready()) {
            self.end = Some(Err(ApiError::DeadlineExceeded));
        }
        if self.end.is_none() {
            match self.poll_batch(context) {
                Poll::Ready(Some(answers)) => return Poll::Ready(Some(Ok(Frame::data(answers)))),
                Poll::Ready(None) => {}
                Poll::Pending => {
                    self.record_buffered();
                    if self.end.is_none() {
                        return Poll::Pending;
                    }
                }
            }
        }
        self.has_ended = true;
        Poll::Ready(Some(Ok(Frame::trailers(self.final_trailers()))))
    }
}
