//! A unary call on the fast path: its message is read and answered in place. If that is not
//! possible, the call is handed to the slow path.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::SystemTime,
};

use bytes::{Bytes, BytesMut};
use http::Request;
use hyper::body::Body;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::Span;

use super::{
    body::{PrefixedBody, whole_reply},
    introspect::FastIntrospector,
    slow::{Connection, SlowCall},
};
use crate::{
    calls::{
        credentials,
        deadline::time_limit,
        message_buffer::PREFIX_BYTES,
        method::{Method, path_of},
        record::{self, CallStart},
    },
    domain::caller::ServiceAccount,
    grpc::context::REQUEST_ID,
    telemetry::{
        metrics::{FastMethod, Metrics},
        traces::{self, Answered},
    },
    transport::{
        activity::BufferedBytes,
        http2::{RequestBody, WholeReply},
    },
};

/// The largest message that the fast path reads: any introspection, and for Envoy as many
/// headers as it accepts by default.
const fn max_message_bytes(call: FastMethod) -> usize {
    match call {
        FastMethod::Introspect => 1024,
        FastMethod::Check => 64 * 1024,
    }
}

/// The capacity of a response: with three grants and a short name, or with a site.
const fn reply_capacity(call: FastMethod) -> usize {
    match call {
        FastMethod::Introspect => 320,
        FastMethod::Check => 768,
    }
}

/// A call whose message is being read.
pub(crate) struct UnaryCall {
    call: FastMethod,
    traced: Option<Tracing>,
    /// When it began, if it is in the sample of timed calls.
    timed: Option<Instant>,
    connection: Arc<Connection>,
    request: Request<RequestBody>,
    read: Message,
    /// The timeout of an incomplete message, once the first read was pending.
    timeout: Option<MessageTimeout>,
    /// The size of the incomplete message. Boxed, since most calls buffer nothing.
    buffered: Option<Box<BufferedBytes>>,
}

/// What was read of a message: nearly always all of it in one piece, which is not copied.
#[derive(Default)]
enum Message {
    #[default]
    Empty,
    Single(Bytes),
    Parts(BytesMut),
}

impl Message {
    fn add(&mut self, part: Bytes) {
        *self = match std::mem::take(self) {
            Self::Empty => Self::Single(part),
            Self::Single(first) => {
                let mut parts = BytesMut::from(first);
                parts.extend_from_slice(&part);
                Self::Parts(parts)
            }
            Self::Parts(mut parts) => {
                parts.extend_from_slice(&part);
                Self::Parts(parts)
            }
        };
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Empty => &[],
            Self::Single(bytes) => bytes,
            Self::Parts(parts) => parts,
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Empty => Bytes::new(),
            Self::Single(bytes) => bytes,
            Self::Parts(parts) => parts.freeze(),
        }
    }
}

/// The timeout of an incomplete message.
struct MessageTimeout {
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

enum Tracing {
    /// Began at that time, without a span for as long as the call may be answered
    /// immediately.
    Deferred(SystemTime),
    /// With a span, since the call takes longer.
    Open(Box<Span>),
}

impl UnaryCall {
    pub(super) fn begin(
        call: FastMethod,
        connection: Arc<Connection>,
        request: Request<RequestBody>,
    ) -> Self {
        let is_traced = connection
            .fast_path
            .services
            .sampling()
            .traces(request.headers());
        Self {
            call,
            traced: is_traced.then(|| Tracing::Deferred(traces::now())),
            timed: Metrics::is_timed().then(Instant::now),
            connection,
            request,
            read: Message::default(),
            timeout: None,
            buffered: None,
        }
    }

    /// Reads the message. False if it is too large or broken off; what was read so far is
    /// kept for the slow path.
    pub(super) fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        loop {
            let body = Pin::new(self.request.body_mut());
            let frame = match ready!(body.poll_frame(context)) {
                None => return Poll::Ready(true),
                Some(Ok(frame)) => frame,
                Some(Err(_)) => return Poll::Ready(false),
            };
            // Trailers of a request have no meaning in gRPC.
            let Ok(data) = frame.into_data() else {
                continue;
            };
            self.read.add(data);
            if self.read.bytes().len() > max_message_bytes(self.call) {
                return Poll::Ready(false);
            }
            if self.request.body().is_end_stream() {
                return Poll::Ready(true);
            }
        }
    }

    /// Whether the connection may buffer the incomplete message. It is copied into memory
    /// of its own: a slice of the connection's read buffer would keep the whole buffer
    /// alive.
    pub(super) fn may_buffer(&mut self) -> bool {
        let bytes = self.read.bytes().len();
        if bytes == 0 {
            return true;
        }
        if let Message::Single(part) = &self.read {
            self.read = Message::Parts(BytesMut::from(&part[..]));
        }
        let activity = &self.connection.activity;
        let buffered = self
            .buffered
            .get_or_insert_with(|| Box::new(BufferedBytes::on(activity)));
        buffered.record(bytes).is_ok()
    }

    /// Ready when the message has timed out.
    pub(super) fn poll_timeout(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Self {
            connection,
            request,
            timeout,
            ..
        } = self;
        let timeout = timeout.get_or_insert_with(|| {
            let since = Instant::now();
            let limit = time_limit(
                request.headers(),
                Some(connection.fast_path.services.request_timeout()),
            );
            let at = since + limit.unwrap_or(connection.fast_path.services.request_timeout());
            MessageTimeout {
                since,
                timer: Box::pin(sleep_until(at)),
            }
        });
        timeout.timer.as_mut().poll(context)
    }

    /// Answers the call if its message is complete and nothing is out of the ordinary.
    pub(super) fn try_answer(&self, is_complete: bool) -> Option<WholeReply> {
        if !is_complete {
            return None;
        }
        let (prefix, message) = self.read.bytes().split_at_checked(PREFIX_BYTES)?;
        let (compressed, length) = prefix.split_first()?;
        let length = u32::from_be_bytes(length.try_into().ok()?);
        if *compressed != 0 || usize::try_from(length) != Ok(message.len()) {
            return None;
        }
        let mut reply = Vec::with_capacity(reply_capacity(self.call));
        let introspector = FastIntrospector::snapshot(&self.connection.fast_path.services)?;
        let is_answered = match self.call {
            FastMethod::Introspect => introspector.try_introspect(message, &mut reply),
            FastMethod::Check => introspector.try_check(message, &mut reply),
        };
        if !is_answered {
            return None;
        }
        self.record_success();
        let id = self.request.headers().get(REQUEST_ID).cloned();
        Some(whole_reply(reply.into(), id))
    }

    fn record_success(&self) {
        let metrics = self.connection.fast_path.services.metrics();
        metrics.fast_call(self.call);
        if let Some(begun) = self.timed {
            metrics.introspection(Method::of(path_of(self.call)).name, begun.elapsed());
        }
        match &self.traced {
            None => {}
            Some(Tracing::Deferred(begun)) => self.record_span(*begun),
            Some(Tracing::Open(span)) => self.record_end(span),
        }
    }

    fn record_span(&self, begun: SystemTime) {
        let path = path_of(self.call);
        let Method { service, name, .. } = Method::of(path);
        let caller = self.caller();
        let call = Answered {
            name: &path[1..],
            service,
            method: name,
            begun,
            request_id: self.request_id(),
            caller: caller.as_ref().map(|caller| caller.name.as_str()),
        };
        let sampling = self.connection.fast_path.services.sampling();
        sampling.record(self.request.headers(), call);
    }

    /// Records in the span of a call how it ended.
    fn record_end(&self, span: &Span) {
        span.record("rpc.grpc.status_code", 0);
        if let Some(id) = self.request_id() {
            span.record("request.id", id);
        }
        if let Some(caller) = self.caller() {
            span.record("caller.name", caller.name.as_str());
        }
    }

    /// The request id that the caller sent.
    fn request_id(&self) -> Option<&str> {
        self.request.headers().get(REQUEST_ID)?.to_str().ok()
    }

    /// The caller's account. Looked up for traced calls only, since this costs more than
    /// the check of the permission.
    fn caller(&self) -> Option<Arc<ServiceAccount>> {
        let services = &self.connection.fast_path.services;
        let index = services.index().latest();
        let callers = index.as_ref()?.callers();
        let proof = credentials::proof(&self.request)?;
        proof.account(callers, || services.clock().now()).cloned()
    }

    /// Opens the span of a traced call that is not answered immediately.
    pub(super) fn open_span(&mut self) {
        if let Some(Tracing::Deferred(_)) = self.traced {
            let method = Method::of(path_of(self.call));
            let headers = self.request.headers();
            let span = record::span(
                self.connection.fast_path.services.sampling(),
                method,
                headers,
                true,
            );
            self.traced = Some(Tracing::Open(Box::new(span)));
        }
    }

    /// Hands the call to the slow path, with what was read of it.
    pub(super) fn into_slow_call(mut self) -> SlowCall {
        self.open_span();
        let Self {
            traced,
            timed,
            connection,
            mut request,
            read,
            timeout,
            ..
        } = self;
        let span = match traced {
            Some(Tracing::Open(span)) => Some(*span),
            Some(Tracing::Deferred(_)) | None => None,
        };
        request.extensions_mut().insert(CallStart {
            span,
            begun: timed.or(timeout.map(|timeout| timeout.since)),
            is_timed: timed.is_some(),
        });
        let request = request.map(|rest| PrefixedBody {
            first: Some(read.into_bytes()).filter(|read| !read.is_empty()),
            rest,
        });
        connection
            .fast_path
            .route(request, connection.activity.call())
    }
}
