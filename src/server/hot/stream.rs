//! The short way for `IntrospectStream`: requests are answered where they lie, as
//! many at once as came in, and their answers leave together.
//!
//! It reads no more than it can answer: when the caller does not take its answers,
//! HTTP/2 asks for none, and nothing is read. A request that has to wait holds up
//! those after it, as the order of the answers demands.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use hyper::body::{Body, Frame, Incoming};
use prost::Message;
use tonic::Status;

use crate::{
    grpc::{Services, context::Proof, error::ApiError, fast::PREFIX_BYTES},
    pb,
    replica::Replica,
    server::{
        MAX_MESSAGE_BYTES,
        calls::{GRPC_STATUS, UnderWay},
    },
};

/// How much is answered until it is sent: a frame of HTTP/2, about.
const ENOUGH: usize = 16 * 1024;

/// A stream of requests, and its answers as a body.
pub(in crate::server) struct Conversation {
    services: Services,
    replica: Replica,
    /// The caller's: a stream may outlive it.
    caller: Proof,
    requests: Incoming,
    read: BytesMut,
    /// The answer to a request that could not be answered at once.
    waiting: Option<Pin<Box<dyn Future<Output = pb::IntrospectResponse> + Send>>>,
    /// Ready when the server ends.
    draining: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// What there is to say at the end, once that has come.
    end: Option<Result<(), ApiError>>,
    is_over: bool,
    call: UnderWay,
}

impl Conversation {
    pub(super) fn new(
        services: Services,
        replica: Replica,
        caller: Proof,
        requests: Incoming,
        call: UnderWay,
    ) -> Self {
        let mut draining = services.draining();
        Self {
            services,
            replica,
            caller,
            requests,
            read: BytesMut::new(),
            waiting: None,
            draining: Box::pin(async move {
                // Also where whoever could tell is gone.
                draining.wait_for(|draining| *draining).await.ok();
            }),
            end: None,
            is_over: false,
            call,
        }
    }

    /// Answers what was read, and gives what there is to send: nothing where that
    /// needs more to be read, or the end has come.
    fn poll_answers(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut answers = Vec::new();
        loop {
            if let Some(waiting) = &mut self.waiting {
                match waiting.as_mut().poll(context) {
                    Poll::Ready(answer) => {
                        self.waiting = None;
                        append(&answer, &mut answers);
                    }
                    Poll::Pending if answers.is_empty() => return Poll::Pending,
                    Poll::Pending => break,
                }
            }
            self.answer_read(&mut answers);
            if answers.len() >= ENOUGH || self.end.is_some() {
                break;
            }
            if self.waiting.is_some() {
                continue;
            }
            match self.poll_read(context) {
                Poll::Ready(()) => {}
                Poll::Pending if answers.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready((!answers.is_empty()).then(|| answers.into()))
    }

    /// Answers one whole request after the other, up to one that has to wait.
    fn answer_read(&mut self, answers: &mut Vec<u8>) {
        // All of them came in before this moment, so one look at the time and at the
        // index does for all.
        let at_once = self.services.at_once();
        while answers.len() < ENOUGH && self.end.is_none() && self.waiting.is_none() {
            let Some((prefix, rest)) = self.read.split_at_checked(PREFIX_BYTES) else {
                return;
            };
            let (compressed, length) = prefix.split_first().expect("it is five bytes");
            let length = length.try_into().expect("they are four");
            let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
            if *compressed != 0 || length > MAX_MESSAGE_BYTES {
                self.end = Some(Err(ApiError::unreadable_message()));
                return;
            }
            let Some(message) = rest.get(..length) else {
                return;
            };
            if answers.is_empty() {
                answers.reserve(ENOUGH + ENOUGH / 4);
            }
            let answered = at_once.as_ref().map(|now| now.answer(message, answers));
            if answered != Some(true) {
                match pb::IntrospectRequest::decode(message) {
                    Ok(request) => {
                        let services = self.services.clone();
                        let answer = async move { services.answer_streamed(&request).await };
                        self.waiting = Some(Box::pin(answer));
                    }
                    Err(_) => self.end = Some(Err(ApiError::unreadable_message())),
                }
            }
            self.read.advance(PREFIX_BYTES + length);
        }
    }

    /// Reads more, or sees that there is no more.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match ready!(Pin::new(&mut self.requests).poll_frame(context)) {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    self.read.extend_from_slice(&data);
                }
                let index = self.replica.index();
                let known = index
                    .as_ref()
                    .and_then(|index| self.caller.account(index.callers()));
                if known.is_none() {
                    self.end = Some(Err(ApiError::CallerUnknown));
                }
            }
            None if self.read.is_empty() => self.end = Some(Ok(())),
            // In the middle of a message.
            None | Some(Err(_)) => self.end = Some(Err(ApiError::unreadable_message())),
        }
        Poll::Ready(())
    }

    pub(super) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if self.end.is_none() && self.draining.as_mut().poll(context).is_ready() {
            self.end = Some(Err(ApiError::ShuttingDown));
        }
        if self.end.is_none()
            && let Some(answers) = ready!(self.poll_answers(context))
        {
            return Poll::Ready(Some(Ok(Frame::data(answers))));
        }
        self.is_over = true;
        let mut trailers = HeaderMap::new();
        if let Some(Err(error)) = self.end.take() {
            let status = Status::from(error);
            self.call.end(Some(&status));
            if status.add_header(&mut trailers).is_err() {
                let code = HeaderValue::from(i32::from(status.code()));
                trailers.insert(GRPC_STATUS, code);
            }
        } else {
            self.call.end(None);
            trailers.insert(GRPC_STATUS, super::OK);
        }
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

fn append(answer: &pb::IntrospectResponse, answers: &mut Vec<u8>) {
    let length = u32::try_from(answer.encoded_len()).expect("an answer is small");
    answers.push(0);
    answers.extend_from_slice(&length.to_be_bytes());
    answer
        .encode(answers)
        .expect("a vector grows as far as it is needed");
}
