//! The body of a request, as h2 receives it.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use hyper::body::{Body, Frame, SizeHint};

/// The body of a request. Reading it gives the peer room to send more.
#[derive(Debug)]
pub(crate) struct RequestBody {
    stream: RecvStream,
    /// Whether only trailers may follow.
    has_all_data: bool,
}

impl RequestBody {
    pub(super) const fn new(stream: RecvStream) -> Self {
        Self {
            stream,
            has_all_data: false,
        }
    }
}

/// A peer that resets a stream with `NO_ERROR` wants no more of the response, which is not
/// an error of the request.
fn unless_early(error: h2::Error) -> Option<Result<Frame<Bytes>, h2::Error>> {
    (error.reason() != Some(Reason::NO_ERROR)).then_some(Err(error))
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.has_all_data {
            match ready!(self.stream.poll_data(context)) {
                Some(Ok(data)) => {
                    // It fails only if more is released than was received.
                    drop(self.stream.flow_control().release_capacity(data.len()));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(unless_early(error)),
                None => self.has_all_data = true,
            }
        }
        Poll::Ready(match ready!(self.stream.poll_trailers(context)) {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => unless_early(error),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() {
            SizeHint::with_exact(0)
        } else {
            SizeHint::default()
        }
    }
}
