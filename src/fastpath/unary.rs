//! A call on the short way, from its headers to its answer: its message is read, and
//! answered where it lies. Where that cannot be done, the call is handed over.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::SystemTime,
};

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::Span;

use super::{
    body::{PrefixedBody, ReplyBody, response},
    dispatch::{Connection, SlowCall, max_body, usual_reply},
    introspect::AtOnce,
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
    transport::activity::BufferedBytes,
};

/// A call whose message is being read.
pub(crate) struct UnaryCall {
    call: FastMethod,
    traced: Option<Traced>,
    /// When it began, where its time is taken.
    timed: Option<Instant>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
    read: Message,
    /// How long its message may take to come, once it has to be waited for.
    late: Option<Late>,
    /// What is kept of it meanwhile. Boxed, since most calls keep nothing.
    kept: Option<Box<BufferedBytes>>,
}

/// What was read of a message: nearly always all of it at once, where it lies.
#[derive(Default)]
enum Message {
    #[default]
    Nothing,
    Whole(Bytes),
    Parts(BytesMut),
}

impl Message {
    fn add(&mut self, part: Bytes) {
        *self = match std::mem::take(self) {
            Self::Nothing => Self::Whole(part),
            Self::Whole(first) => {
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
            Self::Nothing => &[],
            Self::Whole(bytes) => bytes,
            Self::Parts(parts) => parts,
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Nothing => Bytes::new(),
            Self::Whole(bytes) => bytes,
            Self::Parts(parts) => parts.freeze(),
        }
    }
}

/// The wait for a message.
struct Late {
    since: Instant,
    alarm: Pin<Box<Sleep>>,
}

/// How a call is traced.
enum Traced {
    /// Begun then, and with no span as long as it may be answered at once.
    Since(SystemTime),
    /// As it takes longer.
    Open(Box<Span>),
}

impl UnaryCall {
    pub(super) fn begin(
        call: FastMethod,
        connection: Arc<Connection>,
        request: Request<Incoming>,
    ) -> Self {
        let is_traced = connection
            .fast_path
            .services
            .sampling()
            .traces(request.headers());
        Self {
            call,
            traced: is_traced.then(|| Traced::Since(traces::now())),
            timed: Metrics::is_timed().then(Instant::now),
            connection,
            request,
            read: Message::default(),
            late: None,
            kept: None,
        }
    }

    /// Reads the message. False where it does not come as messages do: what was
    /// read so far is kept.
    pub(super) fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        loop {
            let body = Pin::new(self.request.body_mut());
            let frame = match ready!(body.poll_frame(context)) {
                None => return Poll::Ready(true),
                Some(Ok(frame)) => frame,
                Some(Err(_)) => return Poll::Ready(false),
            };
            // Trailers of a request mean nothing.
            let Ok(data) = frame.into_data() else {
                continue;
            };
            self.read.add(data);
            if self.read.bytes().len() > max_body(self.call) {
                return Poll::Ready(false);
            }
            if self.request.body().is_end_stream() {
                return Poll::Ready(true);
            }
        }
    }

    /// Whether what has come of the message may be kept until the rest has. It is, in memory
    /// of its own: a piece of what was read from the connection would keep all of that.
    pub(super) fn may_wait(&mut self) -> bool {
        let bytes = self.read.bytes().len();
        if bytes == 0 {
            return true;
        }
        if let Message::Whole(part) = &self.read {
            self.read = Message::Parts(BytesMut::from(&part[..]));
        }
        let kept = self.kept.get_or_insert_with(|| {
            Box::new(BufferedBytes::on(
                &self.connection.activity,
                max_body(self.call),
            ))
        });
        kept.record(bytes).is_ok()
    }

    /// Comes back when the message is too late.
    pub(super) fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Self {
            connection,
            request,
            late,
            ..
        } = self;
        let late = late.get_or_insert_with(|| {
            let since = Instant::now();
            let limit = time_limit(
                request.headers(),
                Some(connection.fast_path.services.request_timeout()),
            );
            let at = since + limit.unwrap_or(connection.fast_path.services.request_timeout());
            Late {
                since,
                alarm: Box::pin(sleep_until(at)),
            }
        });
        late.alarm.as_mut().poll(context)
    }

    pub(super) fn answer(&self) -> Option<Response<ReplyBody>> {
        let (prefix, message) = self.read.bytes().split_at_checked(PREFIX_BYTES)?;
        let (compressed, length) = prefix.split_first()?;
        let length = u32::from_be_bytes(length.try_into().ok()?);
        if *compressed != 0 || usize::try_from(length) != Ok(message.len()) {
            return None;
        }
        let mut reply = Vec::with_capacity(usual_reply(self.call));
        let at_once = AtOnce::now(&self.connection.fast_path.services)?;
        let is_answered = match self.call {
            FastMethod::Introspect => at_once.answer(message, &mut reply),
            FastMethod::Check => at_once.check(message, &mut reply),
        };
        if !is_answered {
            return None;
        }
        self.note_success();
        let id = self.request.headers().get(REQUEST_ID).cloned();
        Some(response(ReplyBody::FastMethod(Some(reply.into())), id))
    }

    fn note_success(&self) {
        let metrics = self.connection.fast_path.services.metrics();
        metrics.fast_call(self.call);
        if let Some(begun) = self.timed {
            metrics.introspection(Method::of(path_of(self.call)).name, begun.elapsed());
        }
        match &self.traced {
            None => {}
            Some(Traced::Since(begun)) => self.record(*begun),
            Some(Traced::Open(span)) => self.complete(span),
        }
    }

    fn record(&self, begun: SystemTime) {
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

    /// Says in the span of a call how it ended.
    fn complete(&self, span: &Span) {
        span.record("rpc.grpc.status_code", 0);
        if let Some(id) = self.request_id() {
            span.record("request.id", id);
        }
        if let Some(caller) = self.caller() {
            span.record("caller.name", caller.name.as_str());
        }
    }

    /// The id that the call came with.
    fn request_id(&self) -> Option<&str> {
        self.request.headers().get(REQUEST_ID)?.to_str().ok()
    }

    /// Whose call it is. Only asked of one that is traced, since that takes longer than
    /// to know that it may.
    fn caller(&self) -> Option<Arc<ServiceAccount>> {
        let index = self.connection.fast_path.services.replica().index();
        let callers = index.as_ref()?.callers();
        credentials::proof(&self.request)?.account(callers).cloned()
    }

    /// Opens the span of a call that is traced and is not answered at once.
    pub(super) fn open_span(&mut self) {
        if let Some(Traced::Since(_)) = self.traced {
            let method = Method::of(path_of(self.call));
            let headers = self.request.headers();
            let span = record::span(
                self.connection.fast_path.services.sampling(),
                method,
                headers,
                true,
            );
            self.traced = Some(Traced::Open(Box::new(span)));
        }
    }

    /// Hands the call over, with what was read of it.
    pub(super) fn route(mut self) -> SlowCall {
        self.open_span();
        let Self {
            traced,
            timed,
            connection,
            mut request,
            read,
            late,
            ..
        } = self;
        let span = match traced {
            Some(Traced::Open(span)) => Some(*span),
            Some(Traced::Since(_)) | None => None,
        };
        request.extensions_mut().insert(CallStart {
            span,
            begun: timed.or(late.map(|late| late.since)),
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
