//! Bodies that a signal ends, for streams that otherwise last as long as their callers
//! like.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::Body as Inner;
use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame};
use tokio::sync::OwnedSemaphorePermit;

/// Ready when the body must end.
pub(super) type CancelSignal = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A body that ends at a signal, unless it ends before.
pub(super) struct CancellableBody {
    body: Inner,
    cancelled: CancelSignal,
    /// The trailers that are sent if the signal ends it.
    cancel_trailers: Option<HeaderMap>,
    has_ended: bool,
    /// The stream's permit, released with the body.
    _permit: Option<OwnedSemaphorePermit>,
}

impl CancellableBody {
    /// A request body, which ends without trailers.
    pub(super) const fn request(body: Inner, cancelled: CancelSignal) -> Self {
        Self {
            body,
            cancelled,
            cancel_trailers: None,
            has_ended: false,
            _permit: None,
        }
    }

    /// A response body, with the trailers for an end by signal.
    pub(super) const fn response(
        body: Inner,
        cancelled: CancelSignal,
        cancel_trailers: HeaderMap,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            body,
            cancelled,
            cancel_trailers: Some(cancel_trailers),
            has_ended: false,
            _permit: Some(permit),
        }
    }
}

impl Body for CancellableBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        if self.cancelled.as_mut().poll(context).is_ready() {
            self.has_ended = true;
            let cancel_trailers = self.cancel_trailers.take();
            return Poll::Ready(cancel_trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended || self.body.is_end_stream()
    }
}
