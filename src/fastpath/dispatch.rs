//! Decides for each call whether it takes the fast path.
//!
//! The slow path gets everything out of the ordinary: a caller that is unknown or lacks the
//! permission, a compressed or malformed message, a token that the index does not have,
//! anything that has to wait. Limits and deadlines are enforced there as well, since an
//! immediate answer cannot run into them. Only the timeout of an incomplete message is
//! enforced on both paths.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{
    HeaderValue, Request, Response,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use tokio::time::Instant;
use tracing::info_span;

use super::{
    body::{ReplyBody, response},
    headers::{GRPC, GRPC_ENCODING},
    slow::{Connection, FastPath, SlowCall},
    stream::IntrospectionStream,
    unary::UnaryCall,
};
use crate::{
    calls::{
        credentials,
        deadline::time_limit,
        method::{CHECK, INTROSPECT, INTROSPECT_STREAM, Method},
        record::{self, CallRecord, RecordedBody, id_header},
    },
    domain::{caller::CallerPermission, index::Callers},
    grpc::context::{Caller, CallerSlot, REQUEST_ID, RequestId},
    telemetry::metrics::FastMethod,
    transport::{
        activity::{ActiveCall, Activity, TrackedBody},
        http2::{Begun, Calls, Reply, RequestBody},
    },
};

/// The method at that path, if it has a fast path.
fn fast_method(path: &str) -> Option<FastMethod> {
    match path {
        INTROSPECT => Some(FastMethod::Introspect),
        CHECK => Some(FastMethod::Check),
        _ => None,
    }
}

impl FastPath {
    /// Serves a stream on the fast path.
    fn stream(
        &self,
        caller: Caller,
        request: Request<RequestBody>,
        active_call: ActiveCall,
    ) -> Response<ReplyBody> {
        let headers = request.headers();
        let RequestId(request_id) = RequestId::of(headers, &self.services);
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
                url.path = INTROSPECT_STREAM,
                request.id = &*request_id,
                caller.name = proven.name(),
            ),
            caller: proven,
            traced,
            begun,
            is_timed: false,
            has_ended: false,
        };
        let activity = Arc::clone(active_call.activity());
        let deadline = time_limit(headers, None).map(|limit| begun + limit);
        let span = record.span.clone();
        let services = Arc::clone(&self.services);
        let requests = request.into_body();
        let body = IntrospectionStream::new(services, caller, requests, &activity, deadline, span);
        let body = RecordedBody::new(body, record, Some(activity));
        let body = TrackedBody::streaming(body, active_call);
        response(ReplyBody::Stream(Box::new(body)), id_header(&request_id))
    }
}

enum CallPath {
    Fast(FastMethod),
    /// On the fast path, for a stream of that caller.
    Stream(Caller),
    Slow,
}

/// The service of one connection.
pub(crate) struct Dispatch {
    connection: Arc<Connection>,
    /// The caller of the last call: a connection nearly always has only one.
    cached: Option<CachedCaller>,
}

/// A caller that was authenticated before.
struct CachedCaller {
    /// None for a caller with a client certificate, which belongs to the connection.
    authorization: Option<HeaderValue>,
    caller: Caller,
    /// The callers in which it was found. If the index has others, it is looked up again.
    callers: Arc<Callers>,
}

impl Dispatch {
    pub(crate) fn new(fast_path: Arc<FastPath>, activity: Arc<Activity>) -> Self {
        Self {
            connection: Arc::new(Connection {
                fast_path,
                activity,
            }),
            cached: None,
        }
    }

    /// Which path a call takes, judged by its headers.
    fn choose_path(&mut self, request: &Request<RequestBody>) -> CallPath {
        let headers = request.headers();
        let path = request.uri().path();
        let call = fast_method(path);
        if call.is_none() && path != INTROSPECT_STREAM {
            return CallPath::Slow;
        }
        let id = headers.get(REQUEST_ID);
        let is_eligible = request.method() == http::Method::POST
            && headers.get(CONTENT_TYPE) == Some(&GRPC)
            && !headers.contains_key(GRPC_ENCODING)
            && id.is_none_or(|id| id.to_str().is_ok_and(RequestId::is_usable));
        if !is_eligible {
            return CallPath::Slow;
        }
        match call {
            Some(call) if self.introspecting_caller(request, |_| ()).is_some() => {
                CallPath::Fast(call)
            }
            Some(_) => CallPath::Slow,
            None => self
                .introspecting_caller(request, Caller::clone)
                .map_or(CallPath::Slow, CallPath::Stream),
        }
    }

    /// Selects something from the caller, if its credentials are valid and it has the
    /// permission to introspect.
    fn introspecting_caller<T>(
        &mut self,
        request: &Request<RequestBody>,
        select: impl FnOnce(&Caller) -> T,
    ) -> Option<T> {
        let mut values = request.headers().get_all(AUTHORIZATION).iter();
        let (authorization, None) = (values.next(), values.next()) else {
            return None;
        };
        let index = self.connection.fast_path.services.index().latest();
        let callers = index.as_ref()?.callers();
        if let Some(entry) = &self.cached
            && entry.authorization.as_ref() == authorization
            && Arc::ptr_eq(&entry.callers, callers)
        {
            return Some(select(&entry.caller));
        }
        let proof = credentials::proof(request)?;
        let clock = self.connection.fast_path.services.clock();
        let account = Arc::clone(proof.account(callers, || clock.now())?);
        if !account.may(CallerPermission::Introspect) {
            return None;
        }
        if proof.may_end(callers) {
            return Some(select(&Caller { account, proof }));
        }
        let entry = self.cached.insert(CachedCaller {
            authorization: authorization.cloned(),
            caller: Caller { account, proof },
            callers: Arc::clone(callers),
        });
        Some(select(&entry.caller))
    }
}

impl Calls for Dispatch {
    type Body = ReplyBody;
    type Call = GoingCall;

    fn begin(
        &mut self,
        request: Request<RequestBody>,
        context: &mut Context<'_>,
    ) -> Begun<GoingCall> {
        self.connection.activity.record_call();
        let path = self.choose_path(&request);
        let Connection {
            fast_path,
            activity,
        } = &*self.connection;
        Begun::Going(match path {
            CallPath::Fast(method) => {
                let mut call = UnaryCall::begin(method, Arc::clone(&self.connection), request);
                match call.poll_message(context) {
                    Poll::Pending => GoingCall::Unary(Some(Box::new(call))),
                    Poll::Ready(is_complete) => match call.try_answer(is_complete) {
                        Some(answer) => return Begun::Answered(answer),
                        None => GoingCall::Slow(call.into_slow_call()),
                    },
                }
            }
            CallPath::Stream(caller) => {
                let response = fast_path.stream(caller, request, activity.call());
                GoingCall::Ready(Some(Box::new(response)))
            }
            CallPath::Slow => GoingCall::Slow(fast_path.route(request, activity.call())),
        })
    }
}

/// A call that could not be answered at once.
pub(crate) enum GoingCall {
    /// Its message is incomplete.
    Unary(Option<Box<UnaryCall>>),
    /// Ready immediately: only its body takes time.
    Ready(Option<Box<Response<ReplyBody>>>),
    Slow(SlowCall),
}

impl Future for GoingCall {
    type Output = Reply<ReplyBody>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Self::Unary(reading) = &mut *self {
            let call = reading.as_mut().expect("it is not polled after its end");
            let is_complete = match call.poll_message(context) {
                Poll::Ready(is_complete) => is_complete,
                Poll::Pending => {
                    call.open_span();
                    // The slow path reports the expired deadline, like that of any other
                    // call, and that the connection buffers too much.
                    if call.may_buffer() {
                        ready!(call.poll_timeout(context));
                    }
                    false
                }
            };
            if let Some(answer) = call.try_answer(is_complete) {
                return Poll::Ready(Reply::Whole(answer));
            }
            let call = reading.take().expect("it was there a moment ago");
            *self = Self::Slow(call.into_slow_call());
        }
        match &mut *self {
            Self::Slow(routed) => routed.poll(context).map(Reply::Body),
            Self::Ready(response) => {
                let response = response.take().expect("it is not polled after its end");
                Poll::Ready(Reply::Body(*response))
            }
            Self::Unary(_) => unreachable!("it was replaced above"),
        }
    }
}
