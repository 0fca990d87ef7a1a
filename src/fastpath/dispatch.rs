//! The short way for `Introspect` and Envoy's `Check`: below the router and its layers,
//! for calls that can be answered at once and with success. Others put these calls in
//! front of every request they serve, so they pay for nothing that they do not need.
//!
//! Whatever is out of the ordinary goes the usual way, as if this one did not
//! exist: a caller that is unknown or may not ask, a compressed or malformed
//! message, a token that the index does not know, anything that has to wait. So
//! there is one place for each refusal, and limits and deadlines, which an answer
//! given at once cannot run into, are kept there. Only the time that a message takes
//! to come is kept here as well.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{
    HeaderValue, Request, Response,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use hyper::{
    body::{Body, Incoming},
    service::Service,
};
use tokio::{runtime::Handle, task::JoinHandle, time::Instant};
use tonic::Status;
use tower::Service as _;
use tracing::info_span;

use super::{
    body::{ReplyBody, response},
    stream::IntrospectionStream,
    unary::UnaryCall,
};
use crate::{
    calls::{
        credentials,
        deadline::time_limit,
        message_buffer::MessageBuffer,
        method::{CHECK, INTROSPECT, INTROSPECT_STREAM, Method, max_message},
        record::{self, ACTIVITY, CallRecord, RecordedBody, id_header},
    },
    domain::caller::CallerPermission,
    grpc::{
        Services,
        context::{Caller, CallerSlot, REQUEST_ID, RequestId},
        error::ApiError,
    },
    replica::index::Callers,
    telemetry::metrics::FastMethod,
    transport::activity::{ActiveCall, Activity, TrackedBody},
};

pub(super) const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
pub(super) const GRPC_ENCODING: &str = "grpc-encoding";
pub(super) const OK: HeaderValue = HeaderValue::from_static("0");

/// The call at that path, if it may go the short way.
fn call_at(path: &str) -> Option<FastMethod> {
    match path {
        INTROSPECT => Some(FastMethod::Introspect),
        CHECK => Some(FastMethod::Check),
        _ => None,
    }
}

/// The longest message that is looked at here: whatever an introspection may need,
/// and as many headers as Envoy lets through where nobody tells it otherwise.
pub(super) const fn max_body(call: FastMethod) -> usize {
    match call {
        FastMethod::Introspect => 1024,
        FastMethod::Check => 64 * 1024,
    }
}

/// What a reply takes: with three grants and a short name, or with a site.
pub(super) const fn usual_reply(call: FastMethod) -> usize {
    match call {
        FastMethod::Introspect => 320,
        FastMethod::Check => 768,
    }
}

/// What all connections share.
pub(crate) struct FastPath {
    pub(crate) services: Arc<Services>,
    pub(crate) router: axum::Router,
    /// Where the usual way is gone, so that what takes longer keeps no thread from
    /// its callers.
    pub(crate) runtime: Handle,
}

impl FastPath {
    /// A stream that goes the short way.
    fn converse(
        &self,
        caller: Caller,
        request: Request<Incoming>,
        under_way: ActiveCall,
    ) -> Response<ReplyBody> {
        let headers = request.headers();
        let RequestId(request_id) = RequestId::of(headers, self.services.store());
        let method = Method::of(INTROSPECT_STREAM);
        let is_traced = self.services.sampling().traces(headers);
        let traced = record::span(self.services.sampling(), method, headers, is_traced);
        let proven = CallerSlot::from(Arc::clone(&caller.account));
        let begun = Instant::now();
        let record = CallRecord {
            metrics: self.services.metrics().clone(),
            method,
            path: INTROSPECT_STREAM.to_owned(),
            request_id: Arc::clone(&request_id),
            span: info_span!(
                "request",
                rpc.method = INTROSPECT_STREAM,
                request.id = &*request_id,
                caller.name = proven.name(),
            ),
            caller: proven,
            traced,
            begun,
            is_timed: false,
            has_ended: false,
        };
        let activity = Arc::clone(under_way.activity());
        let deadline = time_limit(headers, None).map(|limit| begun + limit);
        let span = record.span.clone();
        let services = Arc::clone(&self.services);
        let requests = request.into_body();
        let answers =
            IntrospectionStream::new(services, caller, requests, &activity, deadline, span);
        let answers = RecordedBody::new(answers, record, Some(activity));
        let answers = TrackedBody::streaming(answers, under_way);
        response(ReplyBody::Stream(Box::new(answers)), id_header(&request_id))
    }

    pub(super) fn route<B>(&self, request: Request<B>, call: ActiveCall) -> SlowCall
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let mut router = self.router.clone();
        let path = request.uri().path();
        let (streams, limit) = (Method::of(path).streams, max_message(path));
        let request = request.map(|body| MessageBuffer::new(body, limit, call.activity()));
        let routed = async move { router.call(request.map(axum::body::Body::new)).await };
        let routed = ACTIVITY.scope(Arc::clone(call.activity()), routed);
        SlowCall {
            task: self.runtime.spawn(routed),
            call: Some(call),
            streams,
        }
    }
}

/// A call that goes the usual way. Dropped, it ends: it was cut off.
pub(crate) struct SlowCall {
    task: JoinHandle<Result<Response<axum::body::Body>, Infallible>>,
    /// Until there is an answer, which has it then.
    call: Option<ActiveCall>,
    streams: bool,
}

impl Drop for SlowCall {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl SlowCall {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Response<ReplyBody>> {
        let response = match ready!(Pin::new(&mut self.task).poll(context)) {
            Ok(Ok(response)) => response,
            // Panics are caught in there: its runtime has ended.
            Err(_) => Status::from(ApiError::ShuttingDown).into_http(),
        };
        let call = self.call.take().expect("it is not polled after its end");
        let streams = self.streams;
        Poll::Ready(response.map(|body| {
            ReplyBody::SlowCall(if streams {
                TrackedBody::streaming(body, call)
            } else {
                TrackedBody::unary(body, call)
            })
        }))
    }
}

/// Which way a call goes.
enum Path {
    Fast(FastMethod),
    /// The short one, for a stream of that caller's.
    Stream(Caller),
    Slow,
}

/// What the calls of one connection share.
pub(super) struct Connection {
    pub(super) fast_path: Arc<FastPath>,
    pub(super) activity: Arc<Activity>,
}

/// What answers the calls of one connection.
pub(crate) struct Dispatch {
    connection: Arc<Connection>,
    /// The caller that showed itself last: nearly always the only one.
    remembered: Mutex<Option<Remembered>>,
}

/// The caller that was known last.
struct Remembered {
    /// None of a caller that is known by its certificate, which is the connection's.
    authorization: Option<HeaderValue>,
    caller: Caller,
    /// The callers among which it was found. Others, and it is looked for again.
    among: Arc<Callers>,
}

impl Dispatch {
    pub(crate) fn new(fast_path: Arc<FastPath>, activity: Arc<Activity>) -> Self {
        Self {
            connection: Arc::new(Connection {
                fast_path,
                activity,
            }),
            remembered: Mutex::default(),
        }
    }

    /// Whether a call may be answered here, its message apart.
    fn path_of(&self, request: &Request<Incoming>) -> Path {
        let headers = request.headers();
        let path = request.uri().path();
        let call = call_at(path);
        if call.is_none() && path != INTROSPECT_STREAM {
            return Path::Slow;
        }
        let id = headers.get(REQUEST_ID);
        let is_ordinary = request.method() == http::Method::POST
            && headers.get(CONTENT_TYPE) == Some(&GRPC)
            && !headers.contains_key(GRPC_ENCODING)
            && id.is_none_or(|id| id.to_str().is_ok_and(RequestId::is_usable));
        if !is_ordinary {
            return Path::Slow;
        }
        match call {
            Some(call) if self.introspecting_caller(request, |_| ()).is_some() => Path::Fast(call),
            Some(_) => Path::Slow,
            None => self
                .introspecting_caller(request, Caller::clone)
                .map_or(Path::Slow, Path::Stream),
        }
    }

    /// What is wanted of the caller, where it is known by what it shows of itself, and may
    /// introspect.
    fn introspecting_caller<T>(
        &self,
        request: &Request<Incoming>,
        wanted: impl FnOnce(&Caller) -> T,
    ) -> Option<T> {
        let mut values = request.headers().get_all(AUTHORIZATION).iter();
        let (shown, None) = (values.next(), values.next()) else {
            return None;
        };
        let index = self.connection.fast_path.services.replica().index();
        let callers = index.as_ref()?.callers();
        let mut remembered = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*remembered
            && known.authorization.as_ref() == shown
            && Arc::ptr_eq(&known.among, callers)
        {
            return Some(wanted(&known.caller));
        }
        let proof = credentials::proof(request)?;
        let account = Arc::clone(proof.account(callers)?);
        if !account.may(CallerPermission::Introspect) {
            return None;
        }
        let known = remembered.insert(Remembered {
            authorization: shown.cloned(),
            caller: Caller { account, proof },
            among: Arc::clone(callers),
        });
        Some(wanted(&known.caller))
    }
}

impl Service<Request<Incoming>> for Dispatch {
    type Response = Response<ReplyBody>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn call(&self, request: Request<Incoming>) -> ResponseFuture {
        let Connection {
            fast_path,
            activity,
        } = &*self.connection;
        activity.record_call();
        match self.path_of(&request) {
            Path::Fast(call) => ResponseFuture::UnaryCall(Some(UnaryCall::begin(
                call,
                Arc::clone(&self.connection),
                request,
            ))),
            Path::Stream(caller) => {
                ResponseFuture::Begun(Some(fast_path.converse(caller, request, activity.call())))
            }
            Path::Slow => ResponseFuture::SlowCall(fast_path.route(request, activity.call())),
        }
    }
}

/// The answer to a call, as it comes.
pub(crate) enum ResponseFuture {
    UnaryCall(Option<UnaryCall>),
    /// There already, because its body is what takes time.
    Begun(Option<Response<ReplyBody>>),
    SlowCall(SlowCall),
}

impl Future for ResponseFuture {
    type Output = Result<Response<ReplyBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Self::UnaryCall(reading) = &mut *self {
            let call = reading.as_mut().expect("it is not polled after its end");
            let is_whole = match call.poll_message(context) {
                Poll::Ready(is_whole) => is_whole,
                Poll::Pending => {
                    call.open_span();
                    // The usual way says that its time is up, as of every other call, and
                    // that its connection keeps too much already.
                    if call.may_wait() {
                        ready!(call.poll_late(context));
                    }
                    false
                }
            };
            let answer = if is_whole { call.answer() } else { None };
            if let Some(answer) = answer {
                return Poll::Ready(Ok(answer));
            }
            let call = reading.take().expect("it was there a moment ago");
            *self = Self::SlowCall(call.route());
        }
        match &mut *self {
            Self::SlowCall(routed) => routed.poll(context).map(Ok),
            Self::Begun(response) => {
                let response = response.take().expect("it is not polled after its end");
                Poll::Ready(Ok(response))
            }
            Self::UnaryCall(_) => unreachable!("it was replaced above"),
        }
    }
}
