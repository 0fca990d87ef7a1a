//! The short way for `Introspect` and Envoy's `Check`: below the router and its layers,
//! for calls that can be answered at once and with success. Others put these calls in
//! front of every request they serve, so they pay for nothing that they do not need.
//!
//! Whatever is out of the ordinary goes the usual way, as if this one did not
//! exist: a caller that is unknown or may not ask, a compressed or malformed
//! message, a token that the index does not know, anything that has to wait. So
//! there is one place for each refusal, and limits and deadlines, which an answer
//! given at once cannot run into, are kept there.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::SystemTime,
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use hyper::{
    body::{Body, Incoming},
    service::Service,
};
use tokio::{runtime::Handle, task::JoinHandle, time::Instant};
use tonic::Status;
use tower::Service as _;
use tracing::{Span, info_span};

mod reply;
mod stream;

use super::{
    auth,
    calls::{self, Head, UnderWay, id_header},
    layers::{GRPC_TIMEOUT, INTROSPECT_STREAM, REQUEST_ID},
    measured,
};
use crate::{
    domain::{
        caller::{CallerPermission, ServiceAccount},
        id,
    },
    grpc::{
        Services,
        context::{Proof, Proven, RequestId},
        error::ApiError,
        fast::PREFIX_BYTES,
    },
    replica::{Replica, index::Callers},
    store::Store,
    telemetry::{
        metrics::{Hot, Metrics},
        traces::{self, Answered, Sampling},
    },
};
pub(super) use reply::Reply;
use reply::{Replayed, response};
use stream::Conversation;

/// The paths of the calls.
const INTROSPECT: &str = "/hitkeep.auth.v1.IntrospectionService/Introspect";
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_ENCODING: &str = "grpc-encoding";
const OK: HeaderValue = HeaderValue::from_static("0");

/// The call at that path, if it may go the short way.
fn call_at(path: &str) -> Option<Hot> {
    match path {
        INTROSPECT => Some(Hot::Introspect),
        CHECK => Some(Hot::Check),
        _ => None,
    }
}

/// The path of a call.
pub(super) const fn path(call: Hot) -> &'static str {
    match call {
        Hot::Introspect => INTROSPECT,
        Hot::Check => CHECK,
    }
}

/// The longest message that is looked at here: whatever an introspection may need,
/// and as many headers as Envoy lets through where nobody tells it otherwise.
const fn max_body(call: Hot) -> usize {
    match call {
        Hot::Introspect => 1024,
        Hot::Check => 64 * 1024,
    }
}

/// What a reply takes: with three grants and a short name, or with a site.
const fn usual_reply(call: Hot) -> usize {
    match call {
        Hot::Introspect => 320,
        Hot::Check => 768,
    }
}

/// Whether a call that goes well is answered without a request id that nobody asked
/// for: making one takes longer than the answer.
pub(super) fn makes_no_id(path: &str) -> bool {
    call_at(path).is_some()
}

/// What all connections share.
pub(super) struct Ways {
    pub(super) services: Services,
    pub(super) replica: Replica,
    pub(super) store: Store,
    pub(super) metrics: Metrics,
    pub(super) sampling: Sampling,
    pub(super) router: axum::Router,
    /// Where the usual way is gone, so that what takes longer keeps no thread from
    /// its callers.
    pub(super) runtime: Handle,
}

impl Ways {
    /// A stream that goes the short way.
    fn converse(&self, caller: Proof, request: Request<Incoming>) -> Response<Reply> {
        let headers = request.headers();
        let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
        let request_id: Arc<str> = if let Some(id) = given {
            id.into()
        } else {
            let store = &self.store;
            let id = id::RequestId::mint(store.clock().now(), store.entropy());
            id.to_string().into()
        };
        let method = measured::Method::of(INTROSPECT_STREAM);
        let is_traced = self.sampling.traces(headers);
        let traced = calls::span(&self.sampling, method, headers, is_traced);
        let index = self.replica.index();
        let account = index
            .as_ref()
            .and_then(|index| caller.account(index.callers()));
        let proven = account.map_or_else(Proven::default, |account| Arc::clone(account).into());
        let call = UnderWay {
            metrics: self.metrics.clone(),
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
            begun: Instant::now(),
            is_timed: false,
            has_ended: false,
        };
        let (services, replica) = (self.services.clone(), self.replica.clone());
        let requests = request.into_body();
        let answers = Conversation::new(services, replica, caller, requests, call);
        response(Reply::Stream(Box::new(answers)), id_header(&request_id))
    }

    fn route<B>(&self, request: Request<B>) -> Routed
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let mut router = self.router.clone();
        Routed(
            self.runtime
                .spawn(async move { router.call(request.map(axum::body::Body::new)).await }),
        )
    }
}

/// A call that goes the usual way. Dropped, it ends: its caller went away.
pub(super) struct Routed(JoinHandle<Result<Response<axum::body::Body>, Infallible>>);

impl Drop for Routed {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Routed {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Response<Reply>> {
        let response = match ready!(Pin::new(&mut self.0).poll(context)) {
            Ok(Ok(response)) => response,
            // Panics are caught in there: its runtime has ended.
            Err(_) => Status::from(ApiError::ShuttingDown).into_http(),
        };
        Poll::Ready(response.map(Reply::Routed))
    }
}

/// Which way a call goes.
enum Way {
    Short(Hot),
    /// The short one, for a stream of that caller's.
    Stream(Proof),
    Usual,
}

/// What answers the calls of one connection.
pub(super) struct Dispatch {
    ways: Arc<Ways>,
    /// The caller that showed itself last: nearly always the only one.
    remembered: Mutex<Option<Remembered>>,
}

/// A caller that may introspect.
struct Remembered {
    /// None of a caller that is known by its certificate, which is the connection's.
    authorization: Option<HeaderValue>,
    proof: Proof,
    /// The callers among which it was found. Others, and it is looked for again.
    among: Arc<Callers>,
}

impl Dispatch {
    pub(super) fn new(ways: Arc<Ways>) -> Self {
        Self {
            ways,
            remembered: Mutex::default(),
        }
    }

    /// Whether a call may be answered here, its message apart.
    fn way_of(&self, request: &Request<Incoming>) -> Way {
        let headers = request.headers();
        let path = request.uri().path();
        let call = call_at(path);
        // Nothing here ends a stream at its caller's own deadline.
        let is_stream = path == INTROSPECT_STREAM && !headers.contains_key(GRPC_TIMEOUT);
        if call.is_none() && !is_stream {
            return Way::Usual;
        }
        let id = headers.get(REQUEST_ID);
        let is_ordinary = request.method() == Method::POST
            && headers.get(CONTENT_TYPE) == Some(&GRPC)
            && !headers.contains_key(GRPC_ENCODING)
            && id.is_none_or(|id| id.to_str().is_ok_and(RequestId::is_usable));
        match self.introspecting_caller(request) {
            Some(caller) if is_ordinary => call.map_or(Way::Stream(caller), Way::Short),
            _ => Way::Usual,
        }
    }

    /// What the caller shows of itself, where it is known by that and may introspect.
    fn introspecting_caller(&self, request: &Request<Incoming>) -> Option<Proof> {
        let mut values = request.headers().get_all(AUTHORIZATION).iter();
        let (shown, None) = (values.next(), values.next()) else {
            return None;
        };
        let index = self.ways.replica.index();
        let callers = index.as_ref()?.callers();
        let mut remembered = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*remembered
            && known.authorization.as_ref() == shown
            && Arc::ptr_eq(&known.among, callers)
        {
            return Some(known.proof.clone());
        }
        let proof = auth::shown(request)?;
        let account = proof.account(callers)?;
        if !account.may(CallerPermission::Introspect) {
            return None;
        }
        *remembered = Some(Remembered {
            authorization: shown.cloned(),
            proof: proof.clone(),
            among: Arc::clone(callers),
        });
        Some(proof)
    }
}

impl Service<Request<Incoming>> for Dispatch {
    type Response = Response<Reply>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        match self.way_of(&request) {
            Way::Short(call) => {
                let ways = Arc::clone(&self.ways);
                let is_traced = ways.sampling.traces(request.headers());
                Answer::Reading(Some(Reading {
                    call,
                    traced: is_traced.then(|| Traced::Since(traces::now())),
                    timed: Metrics::is_timed().then(Instant::now),
                    ways,
                    request,
                    read: Bytes::new(),
                }))
            }
            Way::Stream(caller) => Answer::Begun(Some(self.ways.converse(caller, request))),
            Way::Usual => Answer::Routed(self.ways.route(request)),
        }
    }
}

/// A call whose message is being read.
pub(super) struct Reading {
    call: Hot,
    traced: Option<Traced>,
    /// When it began, where its time is taken.
    timed: Option<Instant>,
    ways: Arc<Ways>,
    request: Request<Incoming>,
    read: Bytes,
}

/// How a call is traced.
enum Traced {
    /// Begun then, and with no span as long as it may be answered at once.
    Since(SystemTime),
    /// As it takes longer.
    Open(Box<Span>),
}

/// The answer to a call, as it comes.
pub(super) enum Answer {
    Reading(Option<Reading>),
    /// There already, because its body is what takes time.
    Begun(Option<Response<Reply>>),
    Routed(Routed),
}

impl Future for Answer {
    type Output = Result<Response<Reply>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Self::Reading(reading) = &mut *self {
            let call = reading.as_mut().expect("it is not polled after its end");
            let polled = call.poll_message(context);
            if polled.is_pending() {
                call.open_span();
            }
            let is_whole = ready!(polled);
            let answer = if is_whole { call.answer() } else { None };
            if let Some(answer) = answer {
                return Poll::Ready(Ok(answer));
            }
            let call = reading.take().expect("it was there a moment ago");
            *self = Self::Routed(call.route());
        }
        match &mut *self {
            Self::Routed(routed) => routed.poll(context).map(Ok),
            Self::Begun(response) => {
                let response = response.take().expect("it is not polled after its end");
                Poll::Ready(Ok(response))
            }
            Self::Reading(_) => unreachable!("it was replaced above"),
        }
    }
}

impl Reading {
    /// Reads the message. False where it does not come as messages do: what was
    /// read so far is kept.
    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<bool> {
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
            if self.read.is_empty() {
                self.read = data;
            } else {
                self.read = [&self.read[..], &data[..]].concat().into();
            }
            if self.read.len() > max_body(self.call) {
                return Poll::Ready(false);
            }
            if self.request.body().is_end_stream() {
                return Poll::Ready(true);
            }
        }
    }

    fn answer(&self) -> Option<Response<Reply>> {
        let (prefix, message) = self.read.split_at_checked(PREFIX_BYTES)?;
        let (compressed, length) = prefix.split_first()?;
        let length = u32::from_be_bytes(length.try_into().ok()?);
        if *compressed != 0 || usize::try_from(length) != Ok(message.len()) {
            return None;
        }
        let mut reply = Vec::with_capacity(usual_reply(self.call));
        let at_once = self.ways.services.at_once()?;
        let is_answered = match self.call {
            Hot::Introspect => at_once.answer(message, &mut reply),
            Hot::Check => at_once.check(message, &mut reply),
        };
        if !is_answered {
            return None;
        }
        self.note_success();
        let id = self.request.headers().get(REQUEST_ID).cloned();
        Some(response(Reply::Hot(Some(reply.into())), id))
    }

    fn note_success(&self) {
        let metrics = &self.ways.metrics;
        metrics.hot(self.call);
        if let Some(begun) = self.timed {
            metrics.introspection(measured::Method::of(path(self.call)).name, begun.elapsed());
        }
        match &self.traced {
            None => {}
            Some(Traced::Since(begun)) => self.record(*begun),
            Some(Traced::Open(span)) => self.complete(span),
        }
    }

    fn record(&self, begun: SystemTime) {
        let path = path(self.call);
        let measured::Method { service, name, .. } = measured::Method::of(path);
        let caller = self.caller();
        let call = Answered {
            name: &path[1..],
            service,
            method: name,
            begun,
            request_id: self.request_id(),
            caller: caller.as_ref().map(|caller| caller.name.as_str()),
        };
        self.ways.sampling.record(self.request.headers(), call);
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
        let index = self.ways.replica.index();
        let callers = index.as_ref()?.callers();
        auth::shown(&self.request)?.account(callers).cloned()
    }

    /// Opens the span of a call that is traced and is not answered at once.
    fn open_span(&mut self) {
        if let Some(Traced::Since(_)) = self.traced {
            let method = measured::Method::of(path(self.call));
            let headers = self.request.headers();
            let span = calls::span(&self.ways.sampling, method, headers, true);
            self.traced = Some(Traced::Open(Box::new(span)));
        }
    }

    /// Hands the call over, with what was read of it.
    fn route(mut self) -> Routed {
        self.open_span();
        let Self {
            traced,
            timed,
            ways,
            mut request,
            read,
            ..
        } = self;
        let span = match traced {
            Some(Traced::Open(span)) => Some(*span),
            Some(Traced::Since(_)) | None => None,
        };
        request.extensions_mut().insert(Head { span, timed });
        ways.route(request.map(|rest| Replayed {
            first: Some(read).filter(|read| !read.is_empty()),
            rest,
        }))
    }
}
