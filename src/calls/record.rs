//! The log line, metrics and trace of a call. A successful call is not logged; a failed
//! call is logged exactly once.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use tracing::{Span, field::Empty, info_span};

use super::method::{Method, code_name};
use crate::{
    grpc::{context::CallerSlot, error::ApiError},
    telemetry::{
        metrics::{Call, Metrics},
        traces::{self, Sampling},
    },
    transport::activity::{Activity, CutOff},
};

/// The header or trailer with the status code.
pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

tokio::task_local! {
    /// The connection's activity, for the task that handles a call. It is still set while
    /// the task is dropped, so that an aborted call can learn the reason.
    pub(crate) static ACTIVITY: Arc<Activity>;
}

/// What the fast path recorded of a call before it handed the call over.
#[derive(Clone, Debug)]
pub(crate) struct CallStart {
    /// The call's span; None if the call is not traced.
    pub(crate) span: Option<Span>,
    /// When it began; None if it was handed over immediately.
    pub(crate) begun: Option<Instant>,
    /// Whether it is in the sample of timed calls.
    pub(crate) is_timed: bool,
}

/// The span of a traced call, by OpenTelemetry's conventions for RPC. [`Sampling::record`]
/// makes the same span for calls that the fast path answers immediately.
pub(crate) fn span(sampling: &Sampling, method: Method, headers: &HeaderMap, traced: bool) -> Span {
    let Method { service, name, .. } = method;
    let span = info_span!(
        target: traces::TARGET,
        "call",
        otel.name = %format_args!("{service}/{name}"),
        otel.kind = "server",
        otel.status_code = Empty,
        rpc.system = "grpc",
        rpc.service = service,
        rpc.method = name,
        rpc.grpc.status_code = Empty,
        error.type = Empty,
        hitkeep_auth.reason = Empty,
        request.id = Empty,
        caller.name = Empty,
    );
    if !span.is_disabled() {
        sampling.begin(&span, headers, traced);
    }
    span
}

/// A call in flight. If it is dropped before it has ended, its caller or the server has cut
/// it off, which is recorded as a failure.
pub(crate) struct CallRecord {
    pub(crate) metrics: Metrics,
    pub(crate) method: Method,
    /// The path, redacted and truncated for the log.
    pub(crate) path: String,
    pub(crate) request_id: Arc<str>,
    pub(crate) caller: CallerSlot,
    /// The span of its log lines.
    pub(crate) span: Span,
    /// The exported span.
    pub(crate) traced: Span,
    pub(crate) begun: Instant,
    /// Whether it is in the sample of timed calls of its method.
    pub(crate) is_timed: bool,
    pub(crate) has_ended: bool,
}

impl fmt::Debug for CallRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CallRecord").field(&self.path).finish()
    }
}

impl Drop for CallRecord {
    fn drop(&mut self) {
        if !self.has_ended {
            // Outside of a task, the owner of the record has recorded the reason already.
            ACTIVITY
                .try_with(|activity| self.end_if_cut_off(activity))
                .ok();
            self.end(Some(&Status::cancelled("its caller went away")));
        }
    }
}

impl CallRecord {
    /// Records how the call ended: with that failure, or successfully.
    pub(crate) fn end(&mut self, failure: Option<&Status>) {
        if std::mem::replace(&mut self.has_ended, true) {
            return;
        }
        let code = failure.map_or(Code::Ok, Status::code);
        self.count(code);
        self.traced
            .record("rpc.grpc.status_code", i64::from(i32::from(code)));
        self.traced.record("request.id", &*self.request_id);
        if !self.caller.name().is_empty() {
            self.traced.record("caller.name", self.caller.name());
        }
        if let Some(status) = failure {
            self.log(status);
        }
    }

    /// Records that the call was cut off, unless its caller cancelled it.
    pub(crate) fn end_if_cut_off(&mut self, activity: &Activity) {
        if let Some(cause) = activity.cut_off() {
            self.end(Some(&Status::from(cause)));
        }
    }

    fn count(&self, code: Code) {
        let Method {
            service,
            name: method,
            streams,
            fast_path,
            ..
        } = self.method;
        let duration = self.begun.elapsed();
        if fast_path.is_some() && self.is_timed {
            self.metrics.introspection(method, duration);
        }
        self.metrics.call(Call {
            service,
            method,
            code: code.into(),
            // The duration of a stream is up to its caller.
            duration: (!streams && fast_path.is_none()).then_some(duration),
        });
    }

    fn log(&self, status: &Status) {
        let code = code_name(status.code());
        let details = status.get_error_details();
        let reason = details.error_info().map_or("", |info| info.reason.as_str());
        let fault = Fault::of(status.code(), self.method.streams);
        self.traced.record("error.type", code);
        self.traced.record("hitkeep_auth.reason", reason);
        if fault >= Fault::Server {
            self.traced.record("otel.status_code", traces::ERROR);
        }
        let source = std::error::Error::source(status);
        let causes = source.and_then(|source| match source.downcast_ref() {
            Some(error) => ApiError::causes(error),
            None => Some(source.to_string()),
        });
        let duration_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        // Quoted, since a path and a message may hold any characters.
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    rpc.service = self.method.service,
                    rpc.method = self.method.name,
                    rpc.code = code,
                    rpc.reason = reason,
                    request.id = &*self.request_id,
                    caller.name = self.caller.name(),
                    duration_ms,
                    causes,
                    "{:?} failed: {:?}",
                    self.path,
                    status.message(),
                )
            };
        }
        let log = || match fault {
            Fault::Benign => line!(debug),
            Fault::Caller => line!(info),
            Fault::Server => line!(warn),
            Fault::Defect => line!(error),
        };
        self.traced.in_scope(|| self.span.in_scope(log));
    }
}

impl From<CutOff> for Status {
    fn from(cause: CutOff) -> Self {
        match cause {
            CutOff::ServerEnded => {
                let ends = Self::from(ApiError::ShuttingDown);
                let details = ends.get_error_details();
                Self::with_error_details(ends.code(), "the server cut it off, and ended", details)
            }
            CutOff::Stalled => {
                Self::cancelled("its connection was ended: the peer did not take an answer")
            }
        }
    }
}

/// Whose fault a failure is, which decides the log level: warnings must stay rare enough
/// that operators act on them, so the errors of callers are below that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// The caller cancelled a stream, which is how most streams end.
    Benign,
    /// The caller's request was wrong or refused, or the caller cancelled it.
    Caller,
    /// The server could not do its work: it is overloaded, its index is stale, or Postgres
    /// is unreachable.
    Server,
    /// A bug: a person should look.
    Defect,
}

impl Fault {
    const fn of(code: Code, streams: bool) -> Self {
        match code {
            Code::Ok => Self::Benign,
            Code::Cancelled if streams => Self::Benign,
            Code::Cancelled
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Unauthenticated => Self::Caller,
            Code::DeadlineExceeded | Code::Unavailable => Self::Server,
            Code::Unknown | Code::Internal | Code::DataLoss => Self::Defect,
        }
    }
}

/// The response body of a stream; the call ends with it.
pub(crate) struct RecordedBody<B> {
    body: B,
    call: CallRecord,
    /// The activity of its connection. The task-local is gone by then, since the task has
    /// ended. None outside of a connection.
    activity: Option<Arc<Activity>>,
}

impl<B> RecordedBody<B> {
    pub(crate) const fn new(body: B, call: CallRecord, activity: Option<Arc<Activity>>) -> Self {
        Self {
            body,
            call,
            activity,
        }
    }
}

impl<B> Drop for RecordedBody<B> {
    fn drop(&mut self) {
        if let Some(activity) = &self.activity {
            self.call.end_if_cut_off(activity);
        }
    }
}

impl<B> Body for RecordedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    let failure = failure(trailers);
                    self.call.end(failure.as_ref());
                }
            }
            Poll::Ready(Some(Err(_))) => {
                self.call
                    .end(Some(&Status::unknown("the stream broke off")));
            }
            Poll::Ready(None) => self.call.end(None),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The status in headers or trailers, if it is a failure.
pub(crate) fn failure(headers: &HeaderMap) -> Option<Status> {
    let status = headers
        .contains_key(GRPC_STATUS)
        .then(|| Status::from_header_map(headers))??;
    (status.code() != Code::Ok).then_some(status)
}

pub(crate) fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        let code = HeaderValue::from(i32::from(status.code()));
        trailers.insert(GRPC_STATUS, code);
    }
    trailers
}

pub(crate) fn id_header(id: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(id).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_callers_are_not_warnings() {
        for code in [Code::NotFound, Code::Unauthenticated, Code::InvalidArgument] {
            assert_eq!(Fault::of(code, false), Fault::Caller);
        }
        for code in [Code::Unavailable, Code::DeadlineExceeded] {
            assert_eq!(Fault::of(code, false), Fault::Server);
        }
        assert_eq!(Fault::of(Code::Internal, false), Fault::Defect);
        assert_eq!(Fault::of(Code::Cancelled, true), Fault::Benign);
        assert_eq!(Fault::of(Code::Cancelled, false), Fault::Caller);
    }
}
