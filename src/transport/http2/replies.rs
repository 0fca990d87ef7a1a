//! Sends the responses of calls: one that is complete as a whole, any other as its body
//! comes and as the peer has room for it.

use std::{
    error::Error,
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, SendStream, server::SendResponse};
use http::{
    HeaderMap, HeaderValue, Response,
    header::{CONTENT_LENGTH, DATE},
};
use hyper::body::Body;

/// A complete response: its headers, one message, and the trailers.
#[derive(Debug)]
pub(crate) struct WholeReply {
    pub(crate) headers: HeaderMap,
    pub(crate) message: Bytes,
    pub(crate) trailers: HeaderMap,
}

#[derive(Debug)]
pub(crate) enum Reply<B> {
    Whole(WholeReply),
    Body(Response<B>),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("HTTP/2: {0}")]
    Http2(#[from] h2::Error),
    #[error("the peer reset the call: {0}")]
    Reset(Reason),
    #[error("the body failed: {0}")]
    Body(Box<dyn Error + Send + Sync>),
    #[error("the call has ended")]
    Ended,
}

impl WholeReply {
    /// Hands it to h2, which sends it as far as the peer has room, and keeps the rest: what
    /// all calls of a connection leave there is bounded by their number.
    pub(super) fn send(
        self,
        respond: &mut SendResponse<Bytes>,
        date: HeaderValue,
    ) -> Result<(), SendError> {
        let mut head = Response::new(());
        *head.headers_mut() = self.headers;
        head.headers_mut().insert(DATE, date);
        let mut stream = begin(respond, head, false)?;
        stream.send_data(self.message, false)?;
        stream.send_trailers(self.trailers)?;
        Ok(())
    }
}

/// Sends the headers. A call whose headers cannot be sent is reset.
fn begin(
    respond: &mut SendResponse<Bytes>,
    head: Response<()>,
    is_all: bool,
) -> Result<SendStream<Bytes>, SendError> {
    respond.send_response(head, is_all).map_err(|error| {
        respond.send_reset(Reason::INTERNAL_ERROR);
        error.into()
    })
}

/// Awaits the response to a call and sends it. Dropping the call cancels it, so this ends
/// as soon as the peer resets the call.
pub(super) async fn respond<C, B>(
    call: C,
    mut respond: SendResponse<Bytes>,
    date: impl FnOnce() -> HeaderValue,
) -> Result<(), SendError>
where
    C: Future<Output = Reply<B>>,
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let reply = {
        let mut call = pin!(call);
        poll_fn(|context| {
            if let Poll::Ready(reply) = call.as_mut().poll(context) {
                return Poll::Ready(Ok(reply));
            }
            let reset = ready!(respond.poll_reset(context));
            Poll::Ready(Err(reset.map_or_else(SendError::from, SendError::Reset)))
        })
        .await?
    };
    let (mut head, body) = match reply {
        Reply::Whole(reply) => return reply.send(&mut respond, date()),
        Reply::Body(response) => response.into_parts(),
    };
    head.headers.entry(DATE).or_insert_with(date);
    let is_all = body.is_end_stream();
    if !is_all && let Some(length) = body.size_hint().exact() {
        head.headers
            .entry(CONTENT_LENGTH)
            .or_insert_with(|| length.into());
    }
    let stream = begin(&mut respond, Response::from_parts(head, ()), is_all)?;
    if is_all {
        return Ok(());
    }
    // Not kept: it would hold on to the call.
    drop(respond);
    let mut body = pin!(body);
    let mut sending = Sending { stream, next: None };
    poll_fn(|context| sending.poll(body.as_mut(), context)).await
}

struct Sending {
    stream: SendStream<Bytes>,
    /// What came from the body and waits for room, and whether it is the last of it.
    next: Option<(Bytes, bool)>,
}

impl Sending {
    fn poll<B>(
        &mut self,
        mut body: Pin<&mut B>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), SendError>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        loop {
            if let Poll::Ready(reset) = self.stream.poll_reset(context) {
                return Poll::Ready(Err(SendError::Reset(reset?)));
            }
            if self.next.is_some() {
                ready!(self.poll_room(context))?;
            }
            if let Some((data, is_last)) = self.next.take() {
                self.stream.send_data(data, is_last)?;
                if is_last {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            // Before any room is claimed: a body without data would keep the room from the
            // other calls of the connection.
            let Some(frame) = ready!(body.as_mut().poll_frame(context)) else {
                self.stream.send_data(Bytes::new(), true)?;
                return Poll::Ready(Ok(()));
            };
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => {
                    let error: Box<dyn Error + Send + Sync> = error.into();
                    self.stream.send_reset(reason_of(&*error));
                    return Poll::Ready(Err(SendError::Body(error)));
                }
            };
            match frame.into_data() {
                Ok(data) => {
                    let is_last = body.is_end_stream();
                    if data.is_empty() {
                        self.stream.send_data(data, is_last)?;
                        if is_last {
                            return Poll::Ready(Ok(()));
                        }
                        continue;
                    }
                    // h2 claims the rest once it has the data.
                    self.stream.reserve_capacity(1);
                    self.next = Some((data, is_last));
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        self.stream.reserve_capacity(0);
                        self.stream.send_trailers(trailers)?;
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }

    /// Ready once the peer has some room.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        while self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(context)) {
                Some(room) => {
                    room?;
                }
                None => return Poll::Ready(Err(SendError::Ended)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The reason to reset a call whose body failed.
fn reason_of(error: &(dyn Error + 'static)) -> Reason {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.reason().unwrap_or(Reason::INTERNAL_ERROR);
        }
        cause = error.source();
    }
    Reason::INTERNAL_ERROR
}
