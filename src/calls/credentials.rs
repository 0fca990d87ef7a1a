//! The credentials of callers. Over gRPC: a bearer token, or a client certificate. Over
//! HTTP: a bearer token, the password of HTTP Basic, the `client_secret` of a form, or, if
//! `authorization` belongs to the end client, a header of the proxy's own.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderValue, Request, header::AUTHORIZATION};
use percent_encoding::percent_decode_str;

use crate::{
    domain::{caller::CallerPermission, replay::CallerSecret, token::Token},
    grpc::context::Proof,
    transport::tls::Peer,
};

/// The header for the token of a caller that hands on requests of others, such as a proxy.
pub(crate) const PROXY_TOKEN: &str = "x-hitkeep-caller";
const BASIC: &str = "basic";
const BEARER: &str = "bearer";
/// The form parameter for a caller's token (RFC 6749, section 2.3.1).
pub(crate) const CLIENT_SECRET: &str = "client_secret";

pub(crate) struct SentToken {
    /// None if there is no token, or more than one.
    pub(crate) token: Option<String>,
    /// Whether it came as OAuth client credentials: as HTTP Basic, or in the form.
    pub(crate) as_client: bool,
}

/// The credentials of a gRPC caller. If there are both a token and a certificate, only the
/// token counts: a certificate must not make up for a bad token, and a good token may have
/// other permissions than the certificate's account.
pub(crate) fn proof<B>(request: &Request<B>) -> Option<Proof> {
    if request.headers().contains_key(AUTHORIZATION) {
        bearer(request.headers()).and_then(Proof::of_token)
    } else {
        let peer = request.extensions().get::<Peer>().cloned();
        peer.map(Proof::Certificate)
    }
}

/// The secret of a caller that manages API clients, with which its stored replies are
/// sealed. A certificate gives none: the server does not know its private key.
pub(crate) fn secret<B>(
    request: &Request<B>,
    needed: Option<CallerPermission>,
) -> Option<CallerSecret> {
    if needed != Some(CallerPermission::Manage) {
        return None;
    }
    let token = Token::parse(bearer(request.headers())?).ok()?;
    Some(CallerSecret::of(&token))
}

/// The bearer token in `authorization`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = scheme(once(headers, AUTHORIZATION.as_str())?)?;
    // RFC 9110, section 11.1: the scheme is case-insensitive.
    scheme.eq_ignore_ascii_case(BEARER).then_some(token)
}

/// The token in `authorization` over HTTP.
pub(crate) fn in_authorization(headers: &HeaderMap) -> SentToken {
    let sent = once(headers, AUTHORIZATION.as_str()).and_then(scheme);
    SentToken {
        token: sent.and_then(token),
        as_client: sent.is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case(BASIC)),
    }
}

/// The token in a form. `client_id` is ignored, as the user name in HTTP Basic is. A secret
/// without a value counts as absent (RFC 6749, section 2.3.1).
pub(crate) fn in_form(form: &[u8]) -> SentToken {
    let secrets = form_urlencoded::parse(form).filter(|(name, _)| name == CLIENT_SECRET);
    let mut secrets = secrets.filter(|(_, secret)| !secret.is_empty());
    let token = secrets.next().map(|(_, secret)| secret.into_owned());
    SentToken {
        token: token.filter(|_| secrets.next().is_none()),
        as_client: true,
    }
}

/// Whether a form has at least one secret.
pub(crate) fn has_secret(form: &[u8]) -> bool {
    let mut parameters = form_urlencoded::parse(form);
    parameters.any(|(name, secret)| name == CLIENT_SECRET && !secret.is_empty())
}

/// The token in credentials of either scheme.
fn token((scheme, rest): (&str, &str)) -> Option<String> {
    if scheme.eq_ignore_ascii_case(BASIC) {
        password(rest)
    } else {
        scheme.eq_ignore_ascii_case(BEARER).then(|| rest.to_owned())
    }
}

/// A proxy's token, bare or with a scheme as in `authorization`.
pub(crate) fn proxy_token(headers: &HeaderMap) -> Option<String> {
    let value = once(headers, PROXY_TOKEN)?;
    match scheme(value) {
        None => Some(value.to_str().ok()?.trim().to_owned()),
        Some(with_scheme) => token(with_scheme),
    }
}

/// The value of a header that must occur once: with two values, it is ambiguous which one
/// is meant.
pub(crate) fn once<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

fn scheme(value: &HeaderValue) -> Option<(&str, &str)> {
    let (scheme, rest) = value.to_str().ok()?.trim().split_once(' ')?;
    Some((scheme, rest.trim()))
}

/// The password of HTTP Basic; the user name is ignored. Both are percent-encoded before
/// they are joined (RFC 6749, section 2.3.1). That does not change a token, unless the
/// caller encodes its underscore.
fn password(credentials: &str) -> Option<String> {
    let decoded = BASE64_STANDARD.decode(credentials).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (_, password) = text.split_once(':')?;
    let password = percent_decode_str(password).decode_utf8().ok()?;
    Some(password.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_callers_token_is_read_in_either_scheme() {
        let basic = |text: &str| format!("Basic {}", BASE64_STANDARD.encode(text));
        for (value, token, is_basic) in [
            ("Bearer hks_x".to_owned(), Some("hks_x"), false),
            ("bEARER  hks_x ".to_owned(), Some("hks_x"), false),
            (basic("anybody:hks_x"), Some("hks_x"), true),
            (basic(":hks_x"), Some("hks_x"), true),
            (basic("a%3Ab:hks%5Fx"), Some("hks_x"), true),
            (basic("anybody:a:b"), Some("a:b"), true),
            (basic("anybody:"), Some(""), true),
            (basic("hks_x"), None, true),
            (basic("anybody:%ff"), None, true),
            ("Basic !".to_owned(), None, true),
            ("Basic /w==".to_owned(), None, true),
            ("hks_x".to_owned(), None, false),
            ("Digest hks_x".to_owned(), None, false),
        ] {
            let sent = in_authorization(&headers("authorization", &[&value]));
            let got = (sent.token.as_deref(), sent.as_client);
            assert_eq!(got, (token, is_basic), "{value}");
        }
        let twice = headers("authorization", &["Bearer hks_x", "Bearer hks_x"]);
        assert_eq!(in_authorization(&twice).token, None);
        assert_eq!(in_authorization(&HeaderMap::new()).token, None);
    }

    #[test]
    fn a_form_has_one_secret_or_none() {
        for (form, token) in [
            ("client_id=x&client_secret=hks_x&token=y", Some("hks_x")),
            ("client_secret=hks%5Fx", Some("hks_x")),
            ("client_secret=&client_secret=hks_x", Some("hks_x")),
            ("client_secret=hks_x&client_secret=hks_x", None),
            ("client_secret=", None),
            ("client_id=hks_x", None),
            ("Client_Secret=hks_x", None),
            ("", None),
        ] {
            assert_eq!(in_form(form.as_bytes()).token.as_deref(), token, "{form}");
        }
    }

    #[test]
    fn a_proxys_token_has_a_header_of_its_own() {
        let sent = |values: &[&str]| proxy_token(&headers(PROXY_TOKEN, values));
        for value in ["hks_x", " hks_x ", "Bearer hks_x", "bearer  hks_x"] {
            assert_eq!(sent(&[value]).as_deref(), Some("hks_x"), "{value}");
        }
        assert_eq!(sent(&[]), None);
        let basic = format!("Basic {}", BASE64_STANDARD.encode("proxy:hks_x"));
        assert_eq!(sent(&[&basic]).as_deref(), Some("hks_x"));
        assert_eq!(sent(&["Basic hks_x"]), None);
        assert_eq!(sent(&["Digest hks_x"]), None);
        assert_eq!(sent(&["hks_x", "hks_x"]), None);
    }
}
