//! The short way for `Introspect`: below the router and its layers, for calls that
//! can be answered at once and with success. Other services put this call in front
//! of every request they serve, so it pays for nothing that it does not need.
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
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    service::Service,
};
use tokio::{runtime::Handle, task::JoinHandle};
use tonic::Status;
use tower::Service as _;

use super::{
    auth,
    layers::{REQUEST_ID, is_usable_id},
};
use crate::{
    domain::{
        caller::CallerPermission,
        token::{Token, TokenKind},
    },
    grpc::{Services, error::ApiError, fast::PREFIX_BYTES},
    replica::{Replica, index::Callers},
};

/// The path of the call.
pub(super) const INTROSPECT: &str = "/hitkeep.auth.v1.IntrospectionService/Introspect";
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_ENCODING: &str = "grpc-encoding";
const GRPC_STATUS: &str = "grpc-status";
const OK: HeaderValue = HeaderValue::from_static("0");
/// What a reply takes with three grants and a short name.
const USUAL_REPLY: usize = 320;
/// The longest message that is looked at here.
const MAX_BODY: usize = 1024;

/// What all connections share.
#[derive(Clone)]
pub(super) struct Ways {
    pub(super) services: Services,
    pub(super) replica: Replica,
    pub(super) router: axum::Router,
    /// Where the usual way is gone, so that what takes longer keeps no thread from
    /// its callers.
    pub(super) runtime: Handle,
}

impl Ways {
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

/// What answers the calls of one connection.
pub(super) struct Dispatch {
    ways: Ways,
    /// The caller that showed itself last: nearly always the only one.
    remembered: Mutex<Option<Remembered>>,
}

/// A caller that may introspect.
struct Remembered {
    authorization: HeaderValue,
    /// The callers among which it was found. Others, and it is looked for again.
    among: Arc<Callers>,
}

impl Dispatch {
    pub(super) fn new(ways: Ways) -> Self {
        Self {
            ways,
            remembered: Mutex::default(),
        }
    }

    /// Whether a call may be answered here, its message apart.
    fn is_ordinary(&self, request: &Request<Incoming>) -> bool {
        let headers = request.headers();
        let id = headers.get(REQUEST_ID);
        request.uri().path() == INTROSPECT
            && request.method() == Method::POST
            && headers.get(CONTENT_TYPE) == Some(&GRPC)
            && !headers.contains_key(GRPC_ENCODING)
            && id.is_none_or(|id| id.to_str().is_ok_and(is_usable_id))
            && self.may_introspect(headers)
    }

    fn may_introspect(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (Some(shown), None) = (values.next(), values.next()) else {
            return false;
        };
        let Ok(view) = self.ways.replica.view() else {
            return false;
        };
        let callers = view.index().callers();
        let mut remembered = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*remembered
            && known.authorization == shown
            && Arc::ptr_eq(&known.among, callers)
        {
            return true;
        }
        let token = auth::bearer(headers).and_then(|text| Token::parse(text).ok());
        let token = token.filter(|token| token.kind() == TokenKind::ServiceAccount);
        let account = token.and_then(|token| callers.find(&token.hash()));
        let may = account.is_some_and(|account| account.may(CallerPermission::Introspect));
        if may {
            *remembered = Some(Remembered {
                authorization: shown.clone(),
                among: Arc::clone(callers),
            });
        }
        may
    }
}

impl Service<Request<Incoming>> for Dispatch {
    type Response = Response<Reply>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        if self.is_ordinary(&request) {
            return Answer::Reading(Some(Reading {
                ways: self.ways.clone(),
                request,
                read: Bytes::new(),
            }));
        }
        Answer::Routed(self.ways.route(request))
    }
}

/// A call whose message is being read.
pub(super) struct Reading {
    ways: Ways,
    request: Request<Incoming>,
    read: Bytes,
}

/// The answer to a call, as it comes.
#[expect(clippy::large_enum_variant, reason = "nearly all are of the large one")]
pub(super) enum Answer {
    Reading(Option<Reading>),
    Routed(Routed),
}

impl Future for Answer {
    type Output = Result<Response<Reply>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Self::Reading(reading) = &mut *self {
            let call = reading.as_mut().expect("it is not polled after its end");
            let is_whole = ready!(call.poll_message(context));
            let answer = if is_whole { call.answer() } else { None };
            if let Some(answer) = answer {
                return Poll::Ready(Ok(answer));
            }
            let call = reading.take().expect("it was there a moment ago");
            *self = Self::Routed(call.route());
        }
        match &mut *self {
            Self::Routed(routed) => routed.poll(context).map(Ok),
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
            if self.read.len() > MAX_BODY {
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
        let mut reply = Vec::with_capacity(USUAL_REPLY);
        if !self.ways.services.answer_at_once(message, &mut reply) {
            return None;
        }
        let mut response = Response::new(Reply::Hot(Some(reply.into())));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, GRPC);
        if let Some(id) = self.request.headers().get(REQUEST_ID) {
            headers.insert(REQUEST_ID, id.clone());
        }
        Some(response)
    }

    /// Hands the call over, with what was read of it.
    fn route(self) -> Routed {
        let Self {
            ways,
            request,
            read,
        } = self;
        ways.route(request.map(|rest| Replayed {
            first: Some(read).filter(|read| !read.is_empty()),
            rest,
        }))
    }
}

/// A body of which a part was read already.
struct Replayed {
    first: Option<Bytes>,
    rest: Incoming,
}

impl Body for Replayed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(Frame::data(first)))),
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }
}

/// A reply's body.
pub(super) enum Reply {
    /// One message, or none where it was taken already, and then the status.
    Hot(Option<Bytes>),
    /// The status was taken as well.
    Done,
    /// What the router replied.
    Routed(axum::body::Body),
}

impl Body for Reply {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match &mut *self {
            Self::Hot(message) => {
                if let Some(message) = message.take() {
                    return Poll::Ready(Some(Ok(Frame::data(message))));
                }
                *self = Self::Done;
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(GRPC_STATUS, OK);
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Self::Done => Poll::Ready(None),
            Self::Routed(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Hot(_) => false,
            Self::Done => true,
            Self::Routed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Hot(_) | Self::Done => SizeHint::default(),
            Self::Routed(body) => body.size_hint(),
        }
    }
}
