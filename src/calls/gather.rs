//! Messages of a request, each held back until it has come whole.

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

/// What is in front of each message: whether it is compressed, and its length.
pub(crate) const PREFIX_BYTES: usize = 5;

/// A request's body that keeps each message back until it has come whole.
///
/// tonic sets aside the memory for a message as soon as it was announced. So an
/// announcement would cost what the message does; here it costs what has come of it, at most
/// twice. What no reader takes goes through as it comes: a message that is larger than
/// `limit`, or compressed, is refused by whoever reads it.
pub(crate) struct Gathered<B> {
    body: B,
    /// The largest message, in bytes.
    limit: usize,
    /// What has come of a message, from its beginning.
    part: Vec<u8>,
    kept: BufferedBytes,
    /// What came after the part of a message that is given away first.
    next: Option<Frame<Bytes>>,
    state: Reading,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// Messages, as they should be.
    Messages,
    /// What is no message, or too large: its reader refuses it.
    Anything,
    /// Nothing more.
    Over,
}

/// What some bytes are that begin with a message.
enum Found {
    /// So many are whole messages; the rest is the beginning of one, of that length where it
    /// is known.
    Messages { whole: usize, next: Option<usize> },
    /// What is not taken.
    Refused,
}

impl Found {
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
                return Self::Refused;
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

impl<B> Gathered<B> {
    pub(crate) fn new(body: B, limit: usize, activity: &Arc<Activity>) -> Self {
        Self {
            body,
            limit,
            part: Vec::new(),
            kept: BufferedBytes::on(activity, PREFIX_BYTES + limit),
            next: None,
            state: Reading::Messages,
        }
    }

    /// Takes what came, and gives what can be read by now.
    fn add(&mut self, mut data: Bytes) -> Result<Option<Bytes>, Status> {
        if self.state == Reading::Anything {
            return Ok(Some(data));
        }
        if self.part.is_empty() {
            match Found::in_bytes(&data, self.limit) {
                Found::Refused => {
                    self.state = Reading::Anything;
                    return Ok(Some(data));
                }
                Found::Messages { whole, next } => {
                    let ready = data.split_to(whole);
                    self.keep(&data, next)?;
                    return Ok(Some(ready).filter(|ready| !ready.is_empty()));
                }
            }
        }
        let known = match Found::in_bytes(&self.part, self.limit) {
            Found::Messages { next, .. } => next,
            Found::Refused => None,
        };
        self.grow(data.len(), known);
        self.part.extend_from_slice(&data);
        match Found::in_bytes(&self.part, self.limit) {
            Found::Refused => {
                self.state = Reading::Anything;
                self.kept.record(0).map_err(ApiError::from)?;
                Ok(Some(std::mem::take(&mut self.part).into()))
            }
            Found::Messages { whole: 0, .. } => {
                self.kept
                    .record(self.part.capacity())
                    .map_err(ApiError::from)?;
                Ok(None)
            }
            Found::Messages { whole, next } => {
                let rest = self.part.split_off(whole);
                let ready = std::mem::take(&mut self.part);
                self.keep(&rest, next)?;
                Ok(Some(ready.into()))
            }
        }
    }

    /// Keeps the beginning of a message, in memory of its own: a piece of what was read from
    /// the connection would keep all of that.
    fn keep(&mut self, part: &[u8], length: Option<usize>) -> Result<(), Status> {
        self.part = Vec::new();
        if !part.is_empty() {
            self.grow(part.len(), length);
            self.part.extend_from_slice(part);
        }
        let kept = self.kept.record(self.part.capacity());
        Ok(kept.map_err(ApiError::from)?)
    }

    /// Makes room for so many bytes more, of a message of that length.
    fn grow(&mut self, more: usize, length: Option<usize>) {
        let needed = self.part.len() + more;
        if needed <= self.part.capacity() {
            return;
        }
        // Twice as much only once more has come than the first piece.
        let ahead = if self.part.is_empty() {
            needed
        } else {
            2 * needed
        };
        let room = length.map_or(needed, |length| length.min(ahead).max(needed));
        self.part.reserve_exact(room - self.part.len());
    }
}

impl<B> Body for Gathered<B>
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
            if this.state == Reading::Over {
                return Poll::Ready(None);
            }
            let end = match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => match this.add(data) {
                        Ok(None) => continue,
                        Ok(Some(ready)) => return Poll::Ready(Some(Ok(Frame::data(ready)))),
                        Err(refused) => {
                            this.state = Reading::Over;
                            this.part = Vec::new();
                            return Poll::Ready(Some(Err(refused.into())));
                        }
                    },
                    Err(trailers) => Some(trailers),
                },
                Some(Err(error)) => {
                    this.state = Reading::Over;
                    return Poll::Ready(Some(Err(error.into())));
                }
                None => None,
            };
            // Half a message is given away as it is: its reader says what it thinks of it.
            this.state = Reading::Over;
            this.next = end;
            let part = std::mem::take(&mut this.part);
            if !part.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(part.into()))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.next.is_none()
            && self.part.is_empty()
            && (self.state == Reading::Over || self.body.is_end_stream())
    }
}
