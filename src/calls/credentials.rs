//! How a caller shows who it is. Over gRPC: a bearer token, or a client certificate. Over
//! HTTP: a bearer token, the password of HTTP Basic, the `client_secret` of a form, or, if
//! `authorization` is the end client's, a header of its own.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderValue, Request, header::AUTHORIZATION};
use percent_encoding::percent_decode_str;

use crate::{
    domain::{caller::CallerPermission, replay::CallerSecret, token::Token},
    grpc::context::Proof,
    transport::tls::Peer,
};

/// The header of a proxy's own token.
pub(crate) const OF_PROXY: &str = "x-hitkeep-caller";
const BASIC: &str = "basic";
const BEARER: &str = "bearer";
/// The parameter of a form that has a caller's token (RFC 6749, section 2.3.1).
pub(crate) const CLIENT_SECRET: &str = "client_secret";

/// What a caller showed.
pub(crate) struct Shown {
    /// The token; none where there is none, or more than one.
    pub(crate) token: Option<String>,
    /// Whether it came as the credentials of an OAuth client: as HTTP Basic, or in the
    /// form.
    pub(crate) as_client: bool,
}

/// What a request's caller shows over gRPC. If there is a token and a certificate, the token
/// counts: a bad one is not made good by a certificate, and a good one may have other
/// permissions than the certificate's account.
pub(crate) fn proof<B>(request: &Request<B>) -> Option<Proof> {
    if request.headers().contains_key(AUTHORIZATION) {
        bearer(request.headers()).and_then(Proof::of_token)
    } else {
        let peer = request.extensions().get::<Peer>().cloned();
        peer.map(Proof::Certificate)
    }
}

/// The secret of a caller that manages API clients, with which its replies are sealed.
/// A certificate gives none: its private key is not known here.
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
    // RFC 9110, section 11.1: the scheme's case does not matter.
    scheme.eq_ignore_ascii_case(BEARER).then_some(token)
}

/// What is shown in `authorization` over HTTP.
pub(crate) fn in_authorization(headers: &HeaderMap) -> Shown {
    let shown = once(headers, AUTHORIZATION.as_str()).and_then(scheme);
    Shown {
        token: shown.and_then(token),
        as_client: shown.is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case(BASIC)),
    }
}

/// What is shown in a form. The `client_id` does not matter, as the name in HTTP Basic
/// does not; a secret without a value is none (RFC 6749, section 2.3.1).
pub(crate) fn in_form(form: &[u8]) -> Shown {
    let secrets = form_urlencoded::parse(form).filter(|(name, _)| name == CLIENT_SECRET);
    let mut secrets = secrets.filter(|(_, secret)| !secret.is_empty());
    let token = secrets.next().map(|(_, secret)| secret.into_owned());
    Shown {
        token: token.filter(|_| secrets.next().is_none()),
        as_client: true,
    }
}

/// Whether a form shows a secret, or several.
pub(crate) fn has_secret(form: &[u8]) -> bool {
    let mut parameters = form_urlencoded::parse(form);
    parameters.any(|(name, secret)| name == CLIENT_SECRET && !secret.is_empty())
}

/// The token that comes in that scheme.
fn token((scheme, rest): (&str, &str)) -> Option<String> {
    if scheme.eq_ignore_ascii_case(BASIC) {
        password(rest)
    } else {
        scheme.eq_ignore_ascii_case(BEARER).then(|| rest.to_owned())
    }
}

/// What a proxy shows: the token by itself, or as in `authorization`.
pub(crate) fn of_proxy(headers: &HeaderMap) -> Option<String> {
    let value = once(headers, OF_PROXY)?;
    match scheme(value) {
        None => Some(value.to_str().ok()?.trim().to_owned()),
        Some(with_scheme) => token(with_scheme),
    }
}

/// The value of a header that must be there once: with two of them it is open which
/// one is meant.
fn once<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

fn scheme(value: &HeaderValue) -> Option<(&str, &str)> {
    let (scheme, rest) = value.to_str().ok()?.trim().split_once(' ')?;
    Some((scheme, rest.trim()))
}

/// The password of HTTP Basic; the name does not matter. Both are percent-encoded
/// before they are put together (RFC 6749, section 2.3.1), which changes nothing
/// about a token, unless somebody encodes its underscore.
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
    fn a_caller_shows_its_token_in_either_scheme() {
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
            let shown = in_authorization(&headers("authorization", &[&value]));
            let got = (shown.token.as_deref(), shown.as_client);
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
    fn a_proxy_shows_its_token_in_a_header_of_its_own() {
        let shown = |values: &[&str]| of_proxy(&headers(OF_PROXY, values));
        for value in ["hks_x", " hks_x ", "Bearer hks_x", "bearer  hks_x"] {
            assert_eq!(shown(&[value]).as_deref(), Some("hks_x"), "{value}");
        }
        assert_eq!(shown(&[]), None);
        let basic = format!("Basic {}", BASE64_STANDARD.encode("proxy:hks_x"));
        assert_eq!(shown(&[&basic]).as_deref(), Some("hks_x"));
        assert_eq!(shown(&["Basic hks_x"]), None);
        assert_eq!(shown(&["Digest hks_x"]), None);
        assert_eq!(shown(&["hks_x", "hks_x"]), None);
    }
}
