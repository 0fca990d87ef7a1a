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
pub(super) struct Until {
    body: Inner,
    end: End,
    /// What is said at that end.
    last_words: Option<HeaderMap>,
    is_over: bool,
    /// What there may be only so many of.
    _permit: Option<OwnedSemaphorePermit>,
}

impl Until {
    /// What a caller says.
    pub(super) const fn request(body: Inner, end: End) -> Self {
        Self {
            body,
            end,
            last_words: None,
            is_over: false,
            _permit: None,
        }
    }

    /// What it is answered, with what is said where it is told to end.
    pub(super) const fn response(
        body: Inner,
        end: End,
        last_words: HeaderMap,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            body,
            end,
            last_words: Some(last_words),
            is_over: false,
            _permit: Some(permit),
        }
    }
}

impl Body for Until {
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
            let last_words = self.last_words.take();
            return Poll::Ready(last_words.map(|words| Ok(Frame::trailers(words))));
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.body.is_end_stream()
    }
}
