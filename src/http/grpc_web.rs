//! gRPC-Web: the gRPC services for programs without trailers or HTTP/2, such as PHP and
//! browsers. Its calls pass all layers of gRPC: callers are authenticated, admitted, timed,
//! counted and logged as there.

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    middleware::{Next, map_request},
    response::Response,
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{ACCEPT, ALLOW, AUTHORIZATION, CONTENT_TYPE},
};
use tonic_web::GrpcWebLayer;
use tower::{Layer, ServiceExt};
use tower_http::cors::CorsLayer;

use super::{HttpState, answer::invalid_request, layers::close_on_shutdown};
use crate::{
    calls::{
        message_buffer::MessageBuffer,
        method::{self, OverGrpcWeb, max_message},
    },
    grpc::context::REQUEST_ID,
};

const BINARY: &str = "application/grpc-web+proto";
const TEXT: &str = "application/grpc-web-text+proto";
/// What the libraries of gRPC-Web send besides.
const REQUEST_HEADERS: [&str; 4] = ["x-grpc-web", "x-user-agent", "grpc-timeout", "traceparent"];
/// What a page must read of a response: without these, it cannot see why a call failed.
const RESPONSE_HEADERS: [&str; 3] = ["grpc-status", "grpc-message", "grpc-status-details-bin"];

pub(crate) struct GrpcWeb {
    /// The gRPC services behind their layers.
    pub(crate) services: Router,
    /// The origins whose pages may call.
    pub(crate) origins: &'static [HeaderValue],
}

/// The services behind what translates for them.
#[derive(Clone)]
pub(super) struct Serving {
    router: Router,
    /// Whether pages of any origin may call, so that browsers ask first.
    answers_preflights: bool,
    http: HttpState,
}

impl Serving {
    pub(super) fn new(GrpcWeb { services, origins }: GrpcWeb, http: HttpState) -> Self {
        let services = services.layer(map_request(buffer_message));
        let router = Router::new().fallback_service(GrpcWebLayer::new().layer(services));
        let answers_preflights = !origins.is_empty();
        let router = if answers_preflights {
            router.layer(cors(origins))
        } else {
            router
        };
        Self {
            router,
            answers_preflights,
            http,
        }
    }
}

/// Hands a message on once it is complete, as the gRPC listener does.
async fn buffer_message(request: Request) -> Request {
    let limit = max_message(request.uri().path());
    request.map(|body| Body::new(MessageBuffer::uncounted(body, limit)))
}

/// Lets pages of these origins call. Cookies are not among the credentials, since there are
/// none here.
fn cors(origins: &'static [HeaderValue]) -> CorsLayer {
    let named = |names: &[&'static str]| -> Vec<HeaderName> {
        let names = names.iter().map(|name| HeaderName::from_static(name));
        names.chain([REQUEST_ID]).collect()
    };
    let mut sent = named(&REQUEST_HEADERS);
    sent.extend([AUTHORIZATION, CONTENT_TYPE]);
    CorsLayer::new()
        .allow_origin(origins.to_vec())
        .allow_methods([Method::POST])
        .allow_headers(sent)
        .expose_headers(named(&RESPONSE_HEADERS))
}

/// Serves gRPC-Web, and leaves all other requests to the routes. Methods are known by their
/// paths: the header alone does not make a call, since proxies hand on headers of their
/// clients to `/forward-auth`.
pub(super) async fn serve(
    State(serving): State<Serving>,
    mut request: Request,
    next: Next,
) -> Response {
    if !method::Method::exists(request.uri().path()) {
        return next.run(request).await;
    }
    if request.method() == Method::POST
        && let Some(encoding) = encoding(request.headers().get(CONTENT_TYPE))
    {
        let accepted = accepted(request.headers()).unwrap_or(encoding);
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(encoding));
        headers.insert(ACCEPT, HeaderValue::from_static(accepted));
        request.extensions_mut().insert(OverGrpcWeb);
    } else if request.method() != Method::OPTIONS || !serving.answers_preflights {
        return next.run(request).await;
    }
    let version = request.version();
    let Ok(mut response) = serving.router.oneshot(request).await;
    close_on_shutdown(&serving.http, version, &mut response);
    response
}

/// The encoding of a content type, as tonic-web writes it, which knows no parameters and no
/// capital letters.
fn encoding(kind: Option<&HeaderValue>) -> Option<&'static str> {
    let kind = kind?.to_str().ok()?.split(';').next()?.trim();
    match &*kind.to_ascii_lowercase() {
        "application/grpc-web" | BINARY => Some(BINARY),
        "application/grpc-web-text" | TEXT => Some(TEXT),
        _ => None,
    }
}

/// The encoding that the caller accepts, if it names one.
fn accepted(headers: &HeaderMap) -> Option<&'static str> {
    let values = headers.get_all(ACCEPT).iter();
    let mut kinds = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    kinds.find_map(|kind| encoding(HeaderValue::from_str(kind).ok().as_ref()))
}

/// Refuses other requests for a method: they are for the gRPC listener, or not for this
/// service.
pub(super) async fn refuse_others(request: Request, next: Next) -> Response {
    if !method::Method::exists(request.uri().path()) {
        return next.run(request).await;
    }
    if request.method() == Method::POST {
        let description = "the content type must be application/grpc-web+proto or \
                           application/grpc-web-text+proto";
        return invalid_request(StatusCode::UNSUPPORTED_MEDIA_TYPE, description);
    }
    let status = StatusCode::METHOD_NOT_ALLOWED;
    let mut response = invalid_request(status, "the method must be POST");
    let post = HeaderValue::from_static("POST");
    response.headers_mut().insert(ALLOW, post);
    response
}

#[cfg(test)]
mod tests {
    use axum::body::Bytes;
    use futures_util::{StreamExt as _, stream};

    use super::*;

    /// tonic would allocate an announced message at once.
    #[tokio::test]
    async fn a_message_is_read_once_it_is_complete() {
        const PARTS: [&[u8]; 3] = [&[0, 0, 0], &[0, 4, 1, 2], &[3, 4]];
        let parts = PARTS.map(|part| Ok::<_, axum::Error>(Bytes::from_static(part)));
        let body = Body::from_stream(stream::iter(parts));
        let path = "/hitkeep.auth.v1.IntrospectionService/Introspect";
        let request = http::Request::post(path).body(body).unwrap();
        let read = buffer_message(request).await.into_body().into_data_stream();
        let read: Vec<_> = read.map(Result::unwrap).collect().await;
        assert_eq!(read, [&[0, 0, 0, 0, 4, 1, 2, 3, 4][..]]);
    }

    #[test]
    fn content_types_are_matched_as_the_protocol_specifies() {
        for (kind, expected) in [
            ("application/grpc-web", Some(BINARY)),
            ("application/grpc-web+proto", Some(BINARY)),
            ("Application/gRPC-Web+Proto; charset=utf-8", Some(BINARY)),
            ("application/grpc-web-text", Some(TEXT)),
            ("application/grpc-web-text+proto", Some(TEXT)),
            ("application/grpc-web+json", None),
            ("application/grpc-web-texts", None),
            ("application/grpc", None),
            ("application/json", None),
            ("", None),
        ] {
            let kind = HeaderValue::from_static(kind);
            assert_eq!(encoding(Some(&kind)), expected, "{kind:?}");
        }
        assert_eq!(encoding(None), None);
    }

    #[test]
    fn an_accepted_encoding_is_found_among_others() {
        let accepted = |text| {
            let value = HeaderValue::from_static(text);
            accepted(&HeaderMap::from_iter([(ACCEPT, value)]))
        };
        assert_eq!(accepted("*/*"), None);
        assert_eq!(accepted("application/grpc-web-text"), Some(TEXT));
        assert_eq!(
            accepted("text/html, application/grpc-web;q=0.9"),
            Some(BINARY)
        );
        assert_eq!(super::accepted(&HeaderMap::new()), None);
    }
}
