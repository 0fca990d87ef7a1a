//! The bodies of the fast path: requests that were partly read, and responses.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header::CONTENT_TYPE};
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::{
    headers::{GRPC, OK},
    stream::IntrospectionStream,
};
use crate::{
    calls::record::{GRPC_STATUS, RecordedBody},
    grpc::context::REQUEST_ID,
    transport::activity::TrackedBody,
};

/// A gRPC response with that body.
pub(crate) fn response(body: ReplyBody, request_id: Option<HeaderValue>) -> Response<ReplyBody> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, GRPC);
    if let Some(id) = request_id {
        headers.insert(REQUEST_ID, id);
    }
    response
}

/// A body of which a part was read already.
pub(super) struct PrefixedBody {
    pub(super) first: Option<Bytes>,
    pub(super) rest: Incoming,
}

impl Body for PrefixedBody {
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

/// The body of a response.
pub(crate) enum ReplyBody {
    /// One message, or None once it was sent, and then the status.
    Unary(Option<Bytes>),
    /// The status was sent as well.
    Ended,
    /// The responses of a stream.
    Stream(Box<TrackedBody<RecordedBody<IntrospectionStream<Incoming>>>>),
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
            Self::Unary(message) => {
                if let Some(message) = message.take() {
                    return Poll::Ready(Some(Ok(Frame::data(message))));
                }
                *self = Self::Ended;
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(GRPC_STATUS, OK);
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Self::Ended => Poll::Ready(None),
            Self::Stream(answers) => Pin::new(answers)
                .poll_frame(context)
                .map_err(axum::Error::new),
            Self::Slow(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Unary(_) | Self::Stream(_) => false,
            Self::Ended => true,
            Self::Slow(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Unary(_) | Self::Ended | Self::Stream(_) => SizeHint::default(),
            Self::Slow(body) => Body::size_hint(body),
        }
    }
}
