//! Conversions of Envoy's `Authorization`.

use std::{borrow::Cow, collections::BTreeSet};

use tonic::Code;

use crate::{
    domain::source::Source,
    pb::envoy::{
        config::core::v3::{HeaderValue, HeaderValueOption, address::Address, header_value_option},
        service::auth::v3::{
            CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
            attribute_context::HttpRequest, check_response::HttpResponse,
        },
        r#type::v3::HttpStatus,
    },
    proxy_auth::{
        credential::{Credential, Credentials},
        query::AuthorizationQuery,
        route::{PreflightHeaders, RouteSettings},
        source::{FORWARDED_FOR, TrustedHops},
        verdict::{HttpAnswer, METHOD_OVERRIDES, Pass, Refused, Verdict, is_reserved},
    },
};

/// Envoy's query, behind that many trusted proxies, of which Envoy is the last. Without an
/// HTTP request, which only filters for other protocols leave out, there is no token either.
/// The path and the method are those that Envoy itself states, whatever the headers say.
pub(crate) fn query(request: &CheckRequest, hops: TrustedHops) -> AuthorizationQuery<'_> {
    let attributes = request.attributes.as_ref();
    let settings = attributes.into_iter().flat_map(|all| {
        let settings = all.context_extensions.iter();
        settings.map(|(name, value)| (name.as_str(), value.as_str()))
    });
    let http = http(request);
    AuthorizationQuery {
        settings: RouteSettings::read(settings),
        is_preflight: http.is_some_and(is_preflight),
        target: http.map(|http| http.path.as_str()),
        credential: http.map_or(Credential::Missing, credential),
        source: source(request, hops),
    }
}

fn source(request: &CheckRequest, hops: TrustedHops) -> Source<'_> {
    let attributes = request.attributes.as_ref();
    let address = attributes.and_then(|all| all.source.as_ref()?.address.as_ref());
    let peer = match address.and_then(|address| address.address.as_ref()) {
        Some(Address::SocketAddress(socket)) => socket.address.as_str(),
        // What comes over a socket of this machine has no address.
        Some(Address::Pipe(_)) | None => "",
    };
    if hops.is_envoy_first() {
        return hops.behind_envoy(peer, std::iter::empty());
    }
    let headers = http(request).into_iter().flat_map(headers);
    let values = headers.filter(|(name, _)| name.eq_ignore_ascii_case(FORWARDED_FOR));
    let values: Vec<_> = values.map(|(_, value)| value).collect();
    hops.behind_envoy(peer, values.into_iter())
}

fn http(request: &CheckRequest) -> Option<&HttpRequest> {
    let attributes = request.attributes.as_ref()?;
    attributes.request.as_ref()?.http.as_ref()
}

fn is_preflight(http: &HttpRequest) -> bool {
    let mut signs = PreflightHeaders::default();
    for (name, _) in headers(http) {
        signs.see(name.as_bytes());
    }
    signs.indicate_preflight(&http.method)
}

fn credential(http: &HttpRequest) -> Credential<'_> {
    let mut seen = Credentials::default();
    for (name, value) in headers(http) {
        seen.see(name.as_bytes(), value);
    }
    seen.credential()
}

/// All headers: Envoy uses one of the two forms.
fn headers(http: &HttpRequest) -> impl Iterator<Item = (&str, &[u8])> {
    let joined = http.headers.iter();
    let joined = joined.map(|(name, value)| (name.as_str(), value.as_bytes()));
    let single = http.header_map.iter().flat_map(|all| &all.headers);
    joined.chain(single.map(|header| (header.key.as_str(), value(header))))
}

/// A header's value, in either form.
fn value(header: &HeaderValue) -> &[u8] {
    if header.raw_value.is_empty() {
        header.value.as_bytes()
    } else {
        &header.raw_value
    }
}

pub(crate) fn to_response(verdict: &Verdict, request: &CheckRequest) -> CheckResponse {
    match verdict {
        Verdict::Allowed(pass) => {
            let names = reserved(request);
            let removed = names.filter(|name| !pass.sets(name.as_bytes()));
            to_ok(pass, each_once(removed))
        }
        Verdict::Preflight => {
            let overrides = METHOD_OVERRIDES.map(str::to_owned);
            to_anonymous(each_once(reserved(request).chain(overrides)))
        }
        Verdict::Refused(refused) => to_denied(refused),
    }
}

/// The request's headers that only the check may set, in lower case.
fn reserved(request: &CheckRequest) -> impl Iterator<Item = String> {
    let names = http(request).into_iter().flat_map(headers);
    let names = names.filter(|(name, _)| is_reserved(name.as_bytes()));
    names.map(|(name, _)| name.to_ascii_lowercase())
}

fn each_once(names: impl Iterator<Item = String>) -> Vec<String> {
    let names: BTreeSet<_> = names.collect();
    names.into_iter().collect()
}

/// Allows a request without an identity.
fn to_anonymous(headers_to_remove: Vec<String>) -> CheckResponse {
    CheckResponse {
        status: Some(to_status(Code::Ok)),
        dynamic_metadata: None,
        http_response: Some(HttpResponse::OkResponse(OkHttpResponse {
            headers: Vec::new(),
            headers_to_remove,
        })),
    }
}

fn to_ok(pass: &Pass, headers_to_remove: Vec<String>) -> CheckResponse {
    let headers = pass.headers();
    let text = |text: &Cow<'_, str>| prost_types::Value {
        kind: Some(prost_types::value::Kind::StringValue(text.to_string())),
    };
    let metadata = headers.iter();
    let metadata = metadata.map(|(name, value)| ((*name).to_owned(), text(value)));
    CheckResponse {
        status: Some(to_status(Code::Ok)),
        dynamic_metadata: Some(prost_types::Struct {
            fields: metadata.collect(),
        }),
        http_response: Some(HttpResponse::OkResponse(OkHttpResponse {
            headers: to_headers(headers),
            headers_to_remove,
        })),
    }
}

pub(crate) fn to_denied(refused: &Refused) -> CheckResponse {
    let code = match refused {
        Refused::NoToken | Refused::Inactive => Code::Unauthenticated,
        Refused::PermissionDenied(_) | Refused::HumanOnly => Code::PermissionDenied,
        Refused::Unanswerable => Code::Unavailable,
        Refused::Misconfigured(_) => Code::Internal,
        Refused::AmbiguousPath(_) => Code::InvalidArgument,
    };
    let HttpAnswer {
        status,
        headers,
        body,
    } = refused.answer();
    CheckResponse {
        status: Some(to_status(code)),
        dynamic_metadata: None,
        http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: Some(HttpStatus {
                code: status.into(),
            }),
            headers: to_headers(headers),
            body: body.into_owned(),
        })),
    }
}

fn to_status(code: Code) -> tonic_types::pb::Status {
    tonic_types::pb::Status {
        code: code.into(),
        ..tonic_types::pb::Status::default()
    }
}

/// Headers that replace others of the same name: otherwise Envoy would append them to those
/// that the client sent.
fn to_headers(headers: Vec<(&'static str, Cow<'static, str>)>) -> Vec<HeaderValueOption> {
    let option = |(name, value): (&str, Cow<'_, str>)| HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            value: value.into_owned(),
            ..HeaderValue::default()
        }),
        append_action: header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
    };
    headers.into_iter().map(option).collect()
}
