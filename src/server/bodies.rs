//! Bodies that would go on for as long as their callers like, and end when they are told to.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::Body as Inner;
use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame};
use tokio::sync::OwnedSemaphorePermit;

/// What ends a body.
pub(super) type End = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A body that ends when it is told to, at the latest.
pub(super) struct EndableBody {
    body: Inner,
    end: End,
    /// What is said at that end.
    trailers_at_end: Option<HeaderMap>,
    is_over: bool,
    /// What there may be only so many of.
    _permit: Option<OwnedSemaphorePermit>,
}

impl EndableBody {
    /// What a caller says.
    pub(super) const fn request(body: Inner, end: End) -> Self {
        Self {
            body,
            end,
            trailers_at_end: None,
            is_over: false,
            _permit: None,
        }
    }

    /// What it is answered, with what is said where it is told to end.
    pub(super) const fn response(
        body: Inner,
        end: End,
        trailers_at_end: HeaderMap,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            body,
            end,
            trailers_at_end: Some(trailers_at_end),
            is_over: false,
            _permit: Some(permit),
        }
    }
}

impl Body for EndableBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if self.end.as_mut().poll(context).is_ready() {
            self.is_over = true;
            let trailers_at_end = self.trailers_at_end.take();
            return Poll::Ready(trailers_at_end.map(|words| Ok(Frame::trailers(words))));
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.body.is_end_stream()
    }
}
