//! The bodies of the fast path: requests that were partly read, and responses.

use std::{
    future::ready,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, SizeHint};

use super::{
    headers::{GRPC, OK},
    stream::IntrospectionStream,
};
use crate::{
    calls::record::{GRPC_STATUS, RecordedBody},
    grpc::context::REQUEST_ID,
    transport::{
        activity::TrackedBody,
        http2::{RequestBody, WholeReply},
    },
};

/// A message with the status OK.
pub(super) fn whole_reply(message: Bytes, request_id: Option<HeaderValue>) -> WholeReply {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS, OK);
    WholeReply {
        headers: headers(request_id),
        message,
        trailers,
    }
}

/// The same as a response of the router.
pub(crate) fn routed_reply(
    message: Bytes,
    request_id: Option<HeaderValue>,
) -> Response<axum::body::Body> {
    let WholeReply {
        headers,
        message,
        trailers,
    } = whole_reply(message, request_id);
    let body = Full::new(message).with_trailers(ready(Some(Ok(trailers))));
    let mut response = Response::new(axum::body::Body::new(body));
    *response.headers_mut() = headers;
    response
}

/// A gRPC response with that body.
pub(super) fn response(body: ReplyBody, request_id: Option<HeaderValue>) -> Response<ReplyBody> {
    let mut response = Response::new(body);
    *response.headers_mut() = headers(request_id);
    response
}

fn headers(request_id: Option<HeaderValue>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, GRPC);
    if let Some(id) = request_id {
        headers.insert(REQUEST_ID, id);
    }
    headers
}

/// A body of which a part was read already.
pub(super) struct PrefixedBody {
    pub(super) first: Option<Bytes>,
    pub(super) rest: RequestBody,
}

impl Body for PrefixedBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(Frame::data(first)))),
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }
}

/// The body of a response that is not sent as a whole.
pub(crate) enum ReplyBody {
    /// The responses of a stream.
    Stream(Box<TrackedBody<RecordedBody<IntrospectionStream<RequestBody>>>>),
    /// A response of the router.
    Slow(TrackedBody<axum::body::Body>),
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match &mut *self {
            Self::Stream(answers) => Pin::new(answers)
                .poll_frame(context)
                .map_err(axum::Error::new),
            Self::Slow(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Stream(_) => false,
            Self::Slow(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Stream(_) => SizeHint::default(),
            Self::Slow(body) => Body::size_hint(body),
        }
    }
}
