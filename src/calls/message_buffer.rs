//! Buffers each message of a request until it is complete.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tonic::Status;

use crate::{
    grpc::error::ApiError,
    transport::activity::{Activity, BufferedBytes},
};

/// gRPC's message prefix: the compressed flag and the length.
pub(crate) const PREFIX_BYTES: usize = 5;

/// A request body that yields a message only once it is complete.
///
/// tonic allocates the memory for a message as soon as it reads the prefix, so a peer could
/// reserve memory by announcing messages. Here, memory is at most twice what has arrived. A
/// message that is compressed, or larger than `limit`, passes through as it arrives, and
/// its reader refuses it.
pub(crate) struct MessageBuffer<B> {
    body: B,
    /// The largest message, in bytes.
    limit: usize,
    /// The beginning of an incomplete message.
    partial: Vec<u8>,
    buffered: BufferedBytes,
    /// A frame that follows the incomplete message that is yielded first.
    next: Option<Frame<Bytes>>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Well-formed messages so far.
    Messages,
    /// A compressed or oversized message came; its reader refuses it.
    Passthrough,
    Ended,
}

/// What bytes that begin with a message prefix hold.
enum Framing {
    /// The first `whole` bytes are complete messages. The rest is the beginning of one,
    /// whose length is `next` if it is known.
    Messages { whole: usize, next: Option<usize> },
    /// A compressed or oversized message.
    Passthrough,
}

impl Framing {
    fn in_bytes(bytes: &[u8], limit: usize) -> Self {
        let mut whole = 0;
        loop {
            let rest = &bytes[whole..];
            let Some((&[compressed, a, b, c, d], _)) = rest.split_first_chunk::<PREFIX_BYTES>()
            else {
                return Self::Messages { whole, next: None };
            };
            let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
            if compressed != 0 || length > limit {
                return Self::Passthrough;
            }
            let length = PREFIX_BYTES + length;
            if rest.len() < length {
                let next = Some(length);
                return Self::Messages { whole, next };
            }
            whole += length;
        }
    }
}

impl<B> MessageBuffer<B> {
    pub(crate) fn new(body: B, limit: usize, activity: &Arc<Activity>) -> Self {
        Self {
            body,
            limit,
            partial: Vec::new(),
            buffered: BufferedBytes::on(activity),
            next: None,
            state: State::Messages,
        }
    }

    /// For a listener that does not count what the calls of a connection buffer.
    pub(crate) fn uncounted(body: B, limit: usize) -> Self {
        Self::new(body, limit, &Arc::default())
    }

    /// Adds bytes, and returns those that are ready to be read.
    fn add(&mut self, mut data: Bytes) -> Result<Option<Bytes>, Status> {
        if self.state == State::Passthrough {
            return Ok(Some(data));
        }
        if self.partial.is_empty() {
            match Framing::in_bytes(&data, self.limit) {
                Framing::Passthrough => {
                    self.state = State::Passthrough;
                    return Ok(Some(data));
                }
                Framing::Messages { whole, next } => {
                    let ready = data.split_to(whole);
                    self.buffer(&data, next)?;
                    return Ok(Some(ready).filter(|ready| !ready.is_empty()));
                }
            }
        }
        let known = match Framing::in_bytes(&self.partial, self.limit) {
            Framing::Messages { next, .. } => next,
            Framing::Passthrough => None,
        };
        self.grow(data.len(), known);
        self.partial.extend_from_slice(&data);
        match Framing::in_bytes(&self.partial, self.limit) {
            Framing::Passthrough => {
                self.state = State::Passthrough;
                self.buffered.record(0).map_err(ApiError::from)?;
                Ok(Some(std::mem::take(&mut self.partial).into()))
            }
            Framing::Messages { whole: 0, .. } => {
                self.buffered
                    .record(self.partial.capacity())
                    .map_err(ApiError::from)?;
                Ok(None)
            }
            Framing::Messages { whole, next } => {
                let rest = self.partial.split_off(whole);
                let ready = std::mem::take(&mut self.partial);
                self.buffer(&rest, next)?;
                Ok(Some(ready.into()))
            }
        }
    }

    /// Buffers the beginning of a message in memory of its own: a slice of the connection's
    /// read buffer would keep the whole buffer alive.
    fn buffer(&mut self, partial: &[u8], length: Option<usize>) -> Result<(), Status> {
        self.partial = Vec::new();
        if !partial.is_empty() {
            self.grow(partial.len(), length);
            self.partial.extend_from_slice(partial);
        }
        let buffered = self.buffered.record(self.partial.capacity());
        Ok(buffered.map_err(ApiError::from)?)
    }

    /// Reserves capacity for `more` bytes of a message of that length.
    fn grow(&mut self, more: usize, length: Option<usize>) {
        let needed = self.partial.len() + more;
        if needed <= self.partial.capacity() {
            return;
        }
        // Doubles the capacity only once more than the first piece has come.
        let doubled = if self.partial.is_empty() {
            needed
        } else {
            2 * needed
        };
        let capacity = length.map_or(needed, |length| length.min(doubled).max(needed));
        self.partial.reserve_exact(capacity - self.partial.len());
    }
}

impl<B> Body for MessageBuffer<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<axum::BoxError>,
{
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let this = self.get_mut();
        loop {
            if let Some(next) = this.next.take() {
                return Poll::Ready(Some(Ok(next)));
            }
            if this.state == State::Ended {
                return Poll::Ready(None);
            }
            let end = match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => match this.add(data) {
                        Ok(None) => continue,
                        Ok(Some(ready)) => return Poll::Ready(Some(Ok(Frame::data(ready)))),
                        Err(refused) => {
                            this.state = State::Ended;
                            this.partial = Vec::new();
                            return Poll::Ready(Some(Err(refused.into())));
                        }
                    },
                    Err(trailers) => Some(trailers),
                },
                Some(Err(error)) => {
                    this.state = State::Ended;
                    return Poll::Ready(Some(Err(error.into())));
                }
                None => None,
            };
            // An incomplete message is passed on; its reader reports the error.
            this.state = State::Ended;
            this.next = end;
            let partial = std::mem::take(&mut this.partial);
            if !partial.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(partial.into()))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.next.is_none()
            && self.partial.is_empty()
            && (self.state == State::Ended || self.body.is_end_stream())
    }
}
