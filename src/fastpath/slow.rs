//! The slow path: calls are handed to the router, on the shared runtime.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Body;
use tokio::{runtime::Handle, task::JoinHandle};
use tonic::Status;
use tower::Service as _;

use super::body::ReplyBody;
use crate::{
    calls::{
        message_buffer::MessageBuffer,
        method::{Method, max_message},
        record::ACTIVITY,
    },
    grpc::{Services, error::ApiError},
    transport::activity::{ActiveCall, Activity, TrackedBody},
};

/// What all connections share.
pub(crate) struct FastPath {
    pub(crate) services: Arc<Services>,
    pub(crate) router: axum::Router,
    /// The runtime of the slow path, so that longer calls do not block an I/O thread.
    pub(crate) runtime: Handle,
}

impl FastPath {
    /// Hands a call to the router.
    pub(super) fn route<B>(&self, request: Request<B>, call: ActiveCall) -> SlowCall
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let mut router = self.router.clone();
        let path = request.uri().path();
        let (streams, limit) = (Method::of(path).streams, max_message(path));
        let request = request.map(|body| MessageBuffer::new(body, limit, call.activity()));
        let routed = async move { router.call(request.map(axum::body::Body::new)).await };
        let routed = ACTIVITY.scope(Arc::clone(call.activity()), routed);
        SlowCall {
            task: self.runtime.spawn(routed),
            call: Some(call),
            streams,
        }
    }
}

/// A call on the slow path. Dropping it aborts the call.
pub(crate) struct SlowCall {
    task: JoinHandle<Result<Response<axum::body::Body>, Infallible>>,
    /// Moves into the response body.
    call: Option<ActiveCall>,
    streams: bool,
}

impl Drop for SlowCall {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl SlowCall {
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Response<ReplyBody>> {
        let response = match ready!(Pin::new(&mut self.task).poll(context)) {
            Ok(Ok(response)) => response,
            // The router catches panics, so the runtime has shut down.
            Err(_) => Status::from(ApiError::ShuttingDown).into_http(),
        };
        let call = self.call.take().expect("it is not polled after its end");
        let streams = self.streams;
        Poll::Ready(response.map(|body| {
            ReplyBody::Slow(if streams {
                TrackedBody::streaming(body, call)
            } else {
                TrackedBody::unary(body, call)
            })
        }))
    }
}

/// What the calls of one connection share.
pub(super) struct Connection {
    pub(super) fast_path: Arc<FastPath>,
    pub(super) activity: Arc<Activity>,
}
