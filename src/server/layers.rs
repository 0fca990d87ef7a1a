//! The layers in front of the services, each a function of the request and of
//! what comes next.

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
    admission::{self, Admission},
    auth::Access,
    bodies::{End, Until},
    calls::{self, Head, UnderWay, Watched, failure, id_header, trailers},
    measured::Method,
};
use crate::{
    domain::{caller::CallerPermission, token::may_contain_token},
    grpc::{
        context::{Deadline, Proven, REQUEST_ID, RequestId, Retired},
        error::{ApiError, Violation},
    },
    store::Store,
    telemetry::{metrics::Metrics, panic_message, traces::Sampling},
};

pub(super) const GRPC_TIMEOUT: &str = "grpc-timeout";
const GRPC_STATUS_DETAILS: &str = "grpc-status-details-bin";
const GRPC_ACCEPT_ENCODING: &str = "grpc-accept-encoding";
/// How much earlier than the caller we give up, so that our answer, with its
/// details, arrives before the caller stops listening: a tenth of the time, at
/// most this. It is more than the way back takes, because callers round the time
/// that they send up: grpc-core to three digits, so 10 s to at most 10.1 s.
const MAX_HEAD_START: Duration = Duration::from_millis(150);
/// How much of a path is repeated in a log or an answer.
const MAX_SHOWN_PATH: usize = 100;
/// The replacement of the directory: a stream, which our own timeout does not
/// end, and large, so that it has a limit of its own.
const REPLACE_DIRECTORY: &str = "/hitkeep.auth.v1.DirectoryService/ReplaceDirectory";
/// A stream that goes on for as long as its caller likes.
pub(super) const INTROSPECT_STREAM: &str = "/hitkeep.auth.v1.IntrospectionService/IntrospectStream";

/// How many streams of health may be open, and how many of reflection. Anybody may open
/// one, with no token, and keep it open for ever; but who is told of health that way is
/// a client, of which there may be many, and who asks for descriptors is a person.
const MAX_HEALTH_STREAMS: usize = 4096;
const MAX_REFLECTION_STREAMS: usize = 64;

/// How much may be under way at once.
#[derive(Debug)]
pub(super) struct Limits {
    /// Introspections: many, and quick. Those over HTTP count as well.
    introspections: Arc<Semaphore>,
    /// Replacements of the directory: few, and large.
    replacements: Semaphore,
    /// Everything else that works on the database.
    others: Admission,
    health_streams: Arc<Semaphore>,
    reflection_streams: Arc<Semaphore>,
    /// True once the server is about to end.
    draining: watch::Receiver<bool>,
}

impl Limits {
    pub(super) fn new(
        introspections: Arc<Semaphore>,
        replacements: usize,
        others: Admission,
        draining: watch::Receiver<bool>,
    ) -> Self {
        Self {
            introspections,
            replacements: Semaphore::new(replacements),
            others,
            health_streams: Arc::new(Semaphore::new(MAX_HEALTH_STREAMS)),
            reflection_streams: Arc::new(Semaphore::new(MAX_REFLECTION_STREAMS)),
            draining,
        }
    }
}

/// When a request began, which is what its deadline counts from.
#[derive(Clone, Copy, Debug)]
struct Begun(Instant);

/// What [`trace`] needs.
#[derive(Clone)]
pub(super) struct Tracing {
    /// Where request ids come from.
    pub(super) store: Store,
    /// Where calls are counted.
    pub(super) metrics: Metrics,
    /// Which calls are traced.
    pub(super) sampling: Sampling,
}

/// Gives the request an id and its spans; see [`UnderWay`] for what becomes of it.
pub(super) async fn trace(
    State(Tracing {
        store,
        metrics,
        sampling,
    }): State<Tracing>,
    mut request: Request,
    next: Next,
) -> Response {
    let is_given = RequestId::given(request.headers()).is_some();
    let told = is_given || !super::hot::makes_no_id(request.uri().path());
    let RequestId(request_id) = RequestId::of(request.headers(), &store);
    let path = shown_path(&request);
    let method = Method::of(request.uri().path());
    let head = request.extensions_mut().remove::<Head>();
    let head = head.unwrap_or_else(|| {
        let is_traced = sampling.traces(request.headers());
        Head {
            span: Some(calls::span(&sampling, method, request.headers(), is_traced)),
            begun: None,
            is_timed: method.hot.is_some() && Metrics::is_timed(),
        }
    });
    let begun = head.begun.unwrap_or_else(Instant::now);
    request.extensions_mut().insert(Begun(begun));
    let span = info_span!(
        "request",
        rpc.method = path,
        request.id = &*request_id,
        caller.name = Empty,
        actor.user_id = Empty,
    );
    let traced = head.span.unwrap_or_else(tracing::Span::none);
    let caller = Proven::default();
    request.extensions_mut().insert(caller.clone());
    request
        .extensions_mut()
        .insert(RequestId(Arc::clone(&request_id)));
    let mut call = UnderWay {
        metrics,
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
    if let Some(id) = id_header(&request_id).filter(|_| told || failure.is_some()) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    if failure.is_none() && method.streams {
        return response.map(|body| Body::new(Watched::new(body, call)));
    }
    call.end(failure.as_ref());
    response
}

/// Why a response failed, if it did: as it was made here, with what is behind it, or
/// as its headers tell.
fn failure_of(response: &Response) -> Option<Status> {
    let told = failure(response.headers())?;
    let made = response.extensions().get::<Status>();
    Some(
        made.filter(|made| made.code() == told.code())
            .cloned()
            .unwrap_or(told),
    )
}

/// What a handler's panic said, for the log.
#[derive(Debug, thiserror::Error)]
#[error("a handler panicked: {0}")]
struct Panicked(String);

/// Turns a panic into INTERNAL: one bad request must not end the other streams
/// of its connection.
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

/// Refuses what is no call of gRPC, with a status of HTTP that whoever speaks something
/// else understands: to its client, a failed call with status 200 would be a success.
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

/// Whether the content type is one of gRPC's with messages in protobuf. Of several, the
/// first counts, as on the short way.
fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let kind = kind.and_then(|kind| kind.split(|byte| *byte == b';').next());
    kind.map(<[u8]>::trim_ascii).is_some_and(|kind| {
        let accepted: [&[u8]; 2] = [b"application/grpc", b"application/grpc+proto"];
        accepted.iter().any(|one| kind.eq_ignore_ascii_case(one))
    })
}

/// Refuses what is over the limit, at once.
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
        Access::Permitted(_) if path == REPLACE_DIRECTORY => &limits.replacements,
        Access::Permitted(CallerPermission::Introspect) => &limits.introspections,
        Access::Permitted(_) | Access::Known => {
            let kind = admission::Kind::of(Method::of(path));
            return match limits.others.admit(kind, Instant::now()) {
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

/// Lets a stream in that needs no caller, where there is room for one more, and ends it
/// with the server, or with its connection where that is old: by itself it goes on for as
/// long as its caller likes.
async fn open_stream(
    limits: &Limits,
    room: &Arc<Semaphore>,
    request: Request,
    next: Next,
) -> Response {
    let Ok(permit) = Arc::clone(room).try_acquire_owned() else {
        return Status::from(ApiError::Overloaded).into_http();
    };
    // Those who watch health are told how it ends, and by then end by themselves.
    let ends = Access::of(request.uri().path()) == Access::Reflection;
    let drained = || -> End {
        let mut draining = limits.draining.clone();
        let retired = calls::PULSE.try_with(|pulse| pulse.retired()).ok();
        Box::pin(async move {
            let drained = async {
                if !ends || draining.wait_for(|draining| *draining).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let retired = async {
                match retired {
                    Some(retired) => Retired(retired).told().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = drained => {}
                () = retired => {}
            }
        })
    };
    // Both ways, since who answers goes on for as long as its caller may ask.
    let request = request.map(|body| Body::new(Until::request(body, drained())));
    let response = next.run(request).await;
    let last_words = trailers(&Status::from(ApiError::ShuttingDown));
    response.map(|body| Body::new(Until::response(body, drained(), last_words, permit)))
}

/// How long a call may take, from its beginning: as long as its caller allows, less
/// what our answer needs to get there, and no longer than we do.
pub(super) fn time_limit(headers: &HeaderMap, ours: Option<Duration>) -> Option<Duration> {
    let theirs = headers.get(GRPC_TIMEOUT).and_then(parse_timeout);
    let theirs = theirs.map(|timeout| timeout.saturating_sub(MAX_HEAD_START.min(timeout / 10)));
    theirs.into_iter().chain(ours).min()
}

/// Ends a call that takes longer than its caller, or we, allow.
pub(super) async fn deadline(
    State(ours): State<Duration>,
    mut request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    let is_exempt = [REPLACE_DIRECTORY, INTROSPECT_STREAM].contains(&path)
        || matches!(Access::of(path), Access::Health | Access::Reflection)
            && Method::of(path).streams;
    let Some(limit) = time_limit(request.headers(), (!is_exempt).then_some(ours)) else {
        return next.run(request).await;
    };
    let begun = request.extensions().get::<Begun>();
    let deadline = begun.map_or_else(Instant::now, |begun| begun.0) + limit;
    request.extensions_mut().insert(Deadline(deadline));
    match tokio::time::timeout_at(deadline, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Status::from(ApiError::DeadlineExceeded).into_http(),
    }
}

/// Gives what tonic refuses by itself the code and the details that all errors
/// have. Our own always have details, so nothing of ours is touched.
pub(super) async fn complete_errors(request: Request, next: Next) -> Response {
    let method = shown_path(&request);
    let mut response = next.run(request).await;
    if response.headers().contains_key(GRPC_STATUS_DETAILS) {
        return response;
    }
    let Some(status) = failure(response.headers()) else {
        return response;
    };
    let error = match status.code() {
        // A message that is not the one it should be, or is too large.
        Code::Internal | Code::OutOfRange => ApiError::unreadable_message(),
        Code::Unimplemented => {
            // With it, tonic refuses a compression; a client reads there what to send.
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
        // Health and reflection answer for themselves.
        _ => return response,
    };
    Status::from(error).into_http()
}

/// A request's path, cut to what can be shown.
fn shown_path(request: &Request) -> String {
    let path = request.uri().path();
    if may_contain_token(path) {
        return "/a token".to_owned();
    }
    path.chars().take(MAX_SHOWN_PATH).collect()
}

/// Reads a `grpc-timeout`: at most eight digits and a unit. One that cannot be
/// read is none, as with every other gRPC server.
fn parse_timeout(value: &HeaderValue) -> Option<Duration> {
    let (digits, unit) = value
        .to_str()
        .ok()?
        .split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_are_read_as_the_protocol_writes_them() {
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

    #[test]
    fn timeouts_are_read_as_the_protocol_writes_them() {
        let read = |text: &'static str| parse_timeout(&HeaderValue::from_static(text));
        assert_eq!(read("99999999H"), Some(Duration::from_hours(99_999_999)));
        assert_eq!(read("2M"), Some(Duration::from_mins(2)));
        assert_eq!(read("3S"), Some(Duration::from_secs(3)));
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("7u"), Some(Duration::from_micros(7)));
        assert_eq!(read("7n"), Some(Duration::from_nanos(7)));
        for none in ["", "S", "1", "1s", "-1S", "1.5S", "999999999S", " 1S"] {
            assert_eq!(read(none), None, "{none:?}");
        }
    }
}
