//! The layers in front of the services, each a function of the request and the next layer.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use futures_util::FutureExt;
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
};
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};
use tonic::{Code, Status};
use tracing::{Instrument, field::Empty, info_span};

use super::{
    bodies::{CancelSignal, CancellableBody},
    directory::{self, Replacements},
};
use crate::{
    calls::{
        admission::{Admission, CallKind},
        deadline::time_limit,
        method::{
            Access, CHECK, INTROSPECT_STREAM, Method, OverGrpcWeb, REPLACE_DIRECTORY, REPLICATE,
            REVOKE_API_CLIENTS,
        },
        record::{
            self, ACTIVITY, CallRecord, CallStart, RecordedBody, failure, id_header, trailers,
        },
    },
    domain::{caller::CallerPermission, token::may_contain_token},
    fastpath,
    grpc::{
        Services,
        context::{CallerSlot, Deadline, REQUEST_ID, RequestId},
        error::{ApiError, Violation},
        ext_authz::cannot_tell,
    },
    telemetry::{metrics::Metrics, panic_message},
};

const GRPC_STATUS_DETAILS: &str = "grpc-status-details-bin";
const GRPC_ACCEPT_ENCODING: &str = "grpc-accept-encoding";
/// How many characters of a path are quoted in logs and responses.
const MAX_QUOTED_PATH: usize = 100;
/// How many of our timeouts a call may take that changes thousands of clients.
const MASS_CALL_TIMEOUTS: u32 = 6;
/// How many replicas may follow this server.
const MAX_REPLICATIONS: usize = 1024;
/// How many streams of health and of reflection may be open. Both need no token and may
/// stay open without end. Health is watched by clients, of which there may be many;
/// reflection is used by people.
const MAX_HEALTH_STREAMS: usize = 4096;
const MAX_REFLECTION_STREAMS: usize = 64;

#[derive(Debug)]
pub(super) struct Limits {
    /// Introspections, which are frequent and quick. Those over HTTP count as well.
    introspections: Arc<Semaphore>,
    replacements: Arc<Replacements>,
    /// All other calls, which use the database. Those over HTTP count as well.
    database_calls: Arc<Admission>,
    health_streams: Arc<Semaphore>,
    reflection_streams: Arc<Semaphore>,
    replications: Arc<Semaphore>,
    /// True once the server drains.
    draining: watch::Receiver<bool>,
}

impl Limits {
    pub(super) fn new(
        introspections: Arc<Semaphore>,
        replacements: Arc<Replacements>,
        database_calls: Arc<Admission>,
        draining: watch::Receiver<bool>,
    ) -> Self {
        Self {
            introspections,
            replacements,
            database_calls,
            health_streams: Arc::new(Semaphore::new(MAX_HEALTH_STREAMS)),
            reflection_streams: Arc::new(Semaphore::new(MAX_REFLECTION_STREAMS)),
            replications: Arc::new(Semaphore::new(MAX_REPLICATIONS)),
            draining,
        }
    }

    pub(super) fn replacements(&self) -> Arc<Replacements> {
        Arc::clone(&self.replacements)
    }
}

/// When a request began. Its deadline counts from then.
#[derive(Clone, Copy, Debug)]
struct StartTime(Instant);

/// Gives the request an id and its spans, and records it with a [`CallRecord`].
pub(super) async fn trace(
    State(services): State<Arc<Services>>,
    mut request: Request,
    next: Next,
) -> Response {
    let is_given = RequestId::from_caller(request.headers()).is_some();
    let returns_id = is_given || Method::of(request.uri().path()).fast_path.is_none();
    let RequestId(request_id) = RequestId::of(request.headers(), &services);
    let path = redacted_path(&request);
    let method = Method::of(request.uri().path());
    let head = request.extensions_mut().remove::<CallStart>();
    let head = head.unwrap_or_else(|| {
        let sampling = services.sampling();
        let is_traced = sampling.traces(request.headers());
        CallStart {
            span: Some(record::span(sampling, method, request.headers(), is_traced)),
            begun: None,
            is_timed: method.fast_path.is_some() && Metrics::is_timed(),
        }
    });
    let begun = head.begun.unwrap_or_else(Instant::now);
    request.extensions_mut().insert(StartTime(begun));
    let span = info_span!(
        "request",
        url.path = path,
        request.id = &*request_id,
        caller.name = Empty,
        actor.user_id = Empty,
    );
    let traced = head.span.unwrap_or_else(tracing::Span::none);
    let caller = CallerSlot::default();
    request.extensions_mut().insert(caller.clone());
    request
        .extensions_mut()
        .insert(RequestId(Arc::clone(&request_id)));
    let mut call = CallRecord {
        metrics: services.metrics().clone(),
        method,
        path,
        request_id: Arc::clone(&request_id),
        caller,
        span: span.clone(),
        traced: traced.clone(),
        begun,
        is_timed: head.is_timed,
        has_ended: false,
    };
    let answered = next.run(request).instrument(span).instrument(traced);
    let mut response = answered.await;
    let failure = failure_of(&response);
    if let Some(id) = id_header(&request_id).filter(|_| returns_id || failure.is_some()) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    if failure.is_none() && method.streams {
        return response.map(|body| {
            let activity = ACTIVITY.try_with(Arc::clone).ok();
            Body::new(RecordedBody::new(body, call, activity))
        });
    }
    call.end(failure.as_ref());
    response
}

/// The failure of a response: the original status with its source if it was made here,
/// otherwise the one in the headers.
fn failure_of(response: &Response) -> Option<Status> {
    let sent = failure(response.headers())?;
    let made = response.extensions().get::<Status>();
    Some(
        made.filter(|made| made.code() == sent.code())
            .cloned()
            .unwrap_or(sent),
    )
}

/// The message of a handler's panic, for the log.
#[derive(Debug, thiserror::Error)]
#[error("a handler panicked: {0}")]
struct Panicked(String);

/// Turns a panic into INTERNAL, so that one bad request does not end the other streams of
/// its connection.
pub(super) async fn catch_panic(request: Request, next: Next) -> Response {
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(panic) => {
            let mut status = Status::from(ApiError::Defect("a handler panicked"));
            status.set_source(Arc::new(Panicked(panic_message(&*panic).to_owned())));
            status.into_http()
        }
    }
}

/// Answers Envoy with a denial if its call failed through no fault of its own. On an error,
/// Envoy would apply its own configuration, which defaults to 403. The call is still logged
/// and counted as failed.
pub(crate) async fn answer_envoy(request: Request, next: Next) -> Response {
    let is_check = request.uri().path() == CHECK;
    let answer = next.run(request).await;
    let failure = if is_check {
        failure(answer.headers())
    } else {
        None
    };
    match failure.map(|status| status.code()) {
        Some(Code::Unavailable | Code::DeadlineExceeded | Code::Internal) => {}
        // The message is too large, or cannot be read: an end client can cause it with its
        // headers. What is not gRPC at all, and so not Envoy's, keeps its HTTP status.
        Some(Code::InvalidArgument) if answer.status() == StatusCode::OK => {}
        _ => return answer,
    }
    let id = answer.headers().get(REQUEST_ID).cloned();
    let mut message = Vec::new();
    fastpath::append_framed(&cannot_tell(), &mut message);
    fastpath::routed_reply(message.into(), id)
}

/// Refuses a request that is not gRPC, with an HTTP error status: to an HTTP client, a gRPC
/// status with HTTP status 200 would look like success.
pub(super) async fn require_grpc(request: Request, next: Next) -> Response {
    let (status, field, description) = if request.method() != http::Method::POST {
        let description = "must be POST, as gRPC calls are";
        (StatusCode::METHOD_NOT_ALLOWED, "method", description)
    } else if !is_grpc(request.headers()) {
        let description = "must be application/grpc or application/grpc+proto";
        (
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "content-type",
            description,
        )
    } else {
        return next.run(request).await;
    };
    let error = ApiError::InvalidFields(vec![Violation {
        field: field.to_owned(),
        description: description.to_owned(),
    }]);
    let mut response: Response = Status::from(error).into_http();
    *response.status_mut() = status;
    if status == StatusCode::METHOD_NOT_ALLOWED {
        let post = HeaderValue::from_static("POST");
        response.headers_mut().insert(ALLOW, post);
    }
    response
}

/// Whether the content type is gRPC with protobuf messages. If there are several, the first
/// counts, as on the fast path.
fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let kind = kind.and_then(|kind| kind.split(|byte| *byte == b';').next());
    kind.map(<[u8]>::trim_ascii).is_some_and(|kind| {
        let accepted: [&[u8]; 2] = [b"application/grpc", b"application/grpc+proto"];
        accepted.iter().any(|one| kind.eq_ignore_ascii_case(one))
    })
}

/// Sheds calls beyond the limits.
pub(super) async fn shed(
    State(limits): State<Arc<Limits>>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    let limit = match Access::of(path) {
        Access::Health if !Method::of(path).streams => return next.run(request).await,
        Access::Health => return open_stream(&limits, &limits.health_streams, request, next).await,
        Access::Reflection => {
            return open_stream(&limits, &limits.reflection_streams, request, next).await;
        }
        Access::Permitted(_) if path == REPLICATE => {
            return open_stream(&limits, &limits.replications, request, next).await;
        }
        Access::Permitted(_) if path == REPLACE_DIRECTORY => {
            return directory::authenticate(&limits.replacements, request, next).await;
        }
        Access::Permitted(CallerPermission::Introspect) => &limits.introspections,
        Access::Permitted(_) | Access::Authenticated => {
            let kind = CallKind::of(Method::of(path));
            return match limits.database_calls.admit(kind, Instant::now()) {
                Some(_admitted) => next.run(request).await,
                None => Status::from(ApiError::Overloaded).into_http(),
            };
        }
    };
    match limit.try_acquire() {
        Ok(_permit) => next.run(request).await,
        Err(_) => Status::from(ApiError::Overloaded).into_http(),
    }
}

/// Admits a stream within its limit, and ends it when the server drains or its connection
/// reaches the maximum age. Otherwise it lasts as long as its caller likes.
async fn open_stream(
    limits: &Limits,
    limit: &Arc<Semaphore>,
    request: Request,
    next: Next,
) -> Response {
    let Ok(permit) = Arc::clone(limit).try_acquire_owned() else {
        return Status::from(ApiError::Overloaded).into_http();
    };
    // Watchers of health end by themselves, after the last report.
    let ends_by_itself = Access::of(request.uri().path()) == Access::Health;
    let drained = || -> CancelSignal {
        let mut draining = limits.draining.clone();
        let retired = ACTIVITY.try_with(|activity| activity.retired()).ok();
        Box::pin(async move {
            let drained = async {
                if ends_by_itself || draining.wait_for(|draining| *draining).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let retired = async {
                // If the connection is gone, the stream ends with it.
                let retired = match retired {
                    Some(mut retired) => retired.wait_for(|retired| *retired).await.is_ok(),
                    None => false,
                };
                if !retired {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = drained => {}
                () = retired => {}
            }
        })
    };
    // Both directions, since the responses may go on for as long as the caller sends
    // requests.
    let request = request.map(|body| Body::new(CancellableBody::request(body, drained())));
    let response = next.run(request).await;
    let cancel_trailers = trailers(&Status::from(ApiError::ShuttingDown));
    response.map(|body| {
        Body::new(CancellableBody::response(
            body,
            drained(),
            cancel_trailers,
            permit,
        ))
    })
}

/// Refuses what only a server with a database does. The caller is not asked for who it is: a
/// replica knows the callers that introspect alone.
pub(super) async fn refuse_management(request: Request, next: Next) -> Response {
    let method = Method::of(request.uri().path());
    match Access::of(request.uri().path()) {
        Access::Permitted(
            CallerPermission::Manage | CallerPermission::Directory | CallerPermission::Audit,
        ) => Status::from(ApiError::MethodUnknown(format!(
            "{}/{} is not served by a replica: call a server that has the database",
            method.service, method.name
        )))
        .into_http(),
        _ => next.run(request).await,
    }
}

/// Refuses streams over gRPC-Web. It has none of requests; and those of responses are bound by
/// the age and the drain of gRPC connections, which those of HTTP do not have.
pub(super) async fn refuse_web_streams(request: Request, next: Next) -> Response {
    let method = Method::of(request.uri().path());
    if method.is_unary() || request.extensions().get::<OverGrpcWeb>().is_none() {
        return next.run(request).await;
    }
    Status::from(ApiError::MethodUnknown(format!(
        "{}/{} is a stream, and gRPC-Web serves unary methods only: call it over gRPC",
        method.service, method.name
    )))
    .into_http()
}

/// Enforces the caller's deadline, or our own timeout if that is earlier.
pub(super) async fn deadline(
    State(ours): State<Duration>,
    mut request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    let is_exempt = [REPLACE_DIRECTORY, INTROSPECT_STREAM, REPLICATE].contains(&path)
        || matches!(Access::of(path), Access::Health | Access::Reflection)
            && Method::of(path).streams;
    let ours = if path == REVOKE_API_CLIENTS {
        ours.saturating_mul(MASS_CALL_TIMEOUTS)
    } else {
        ours
    };
    let Some(limit) = time_limit(request.headers(), (!is_exempt).then_some(ours)) else {
        return next.run(request).await;
    };
    let begun = request.extensions().get::<StartTime>();
    let deadline = begun.map_or_else(Instant::now, |begun| begun.0) + limit;
    request.extensions_mut().insert(Deadline(deadline));
    match tokio::time::timeout_at(deadline, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Status::from(ApiError::DeadlineExceeded).into_http(),
    }
}

/// Gives errors of tonic itself the code and details that all errors have. Our own errors
/// always have details, so they are not changed.
pub(super) async fn complete_errors(request: Request, next: Next) -> Response {
    let method = redacted_path(&request);
    let mut response = next.run(request).await;
    if response.headers().contains_key(GRPC_STATUS_DETAILS) {
        return response;
    }
    let Some(status) = failure(response.headers()) else {
        return response;
    };
    let error = match status.code() {
        // The message could not be decoded, or is too large.
        Code::Internal | Code::OutOfRange => ApiError::unreadable_message(),
        Code::Unimplemented => {
            // tonic refuses compressed messages with this header, which says what a client
            // may send.
            let accepted = response.headers_mut().remove(GRPC_ACCEPT_ENCODING);
            let Some(accepted) = accepted else {
                let unknown = ApiError::MethodUnknown(format!("{method} does not exist"));
                return Status::from(unknown).into_http();
            };
            let refused = ApiError::MethodUnknown(
                "the message is compressed, which is not supported: send it with the \
                 grpc-encoding \"identity\", which is none"
                    .to_owned(),
            );
            let mut response: Response = Status::from(refused).into_http();
            response
                .headers_mut()
                .insert(GRPC_ACCEPT_ENCODING, accepted);
            return response;
        }
        // Health and reflection have statuses of their own.
        _ => return response,
    };
    Status::from(error).into_http()
}

/// The request's path, redacted and truncated.
fn redacted_path(request: &Request) -> String {
    let path = request.uri().path();
    if may_contain_token(path) {
        return "/a token".to_owned();
    }
    path.chars().take(MAX_QUOTED_PATH).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_are_matched_as_the_protocol_specifies() {
        let is_grpc = |text: &'static str| {
            let kind = HeaderValue::from_static(text);
            is_grpc(&HeaderMap::from_iter([(CONTENT_TYPE, kind)]))
        };
        for kind in [
            "application/grpc",
            "application/grpc+proto",
            "Application/GRPC",
            "application/grpc;charset=utf-8",
            "application/grpc+proto ; charset=utf-8",
        ] {
            assert!(is_grpc(kind), "{kind}");
        }
        for other in [
            "",
            "application/json",
            "application/grpc-web",
            "application/grpc-web+proto",
            "application/grpc-web-text",
            "application/grpc+json",
            "application/grpcx",
            "application/grpc application/grpc",
            "text/html",
        ] {
            assert!(!is_grpc(other), "{other}");
        }
        assert!(!super::is_grpc(&HeaderMap::new()));
    }
}
