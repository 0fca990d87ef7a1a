//! Extracts a request's token: from `authorization` as a bearer token, or else from
//! `x-api-key`, as `HitKeep` itself does.
//!
//! An `authorization` with another scheme, such as that of a proxy in front, does not hide
//! a token in `x-api-key`, and an empty token counts as none. Two values of one header are
//! ambiguous, and the next program may choose the other one. So they count as a token that
//! is inactive, which is also the answer to a proxy that joins them first.

use std::fmt;

/// Has the scheme and the token.
const AUTHORIZATION: &[u8] = b"authorization";
/// Has only the token.
const API_KEY: &[u8] = b"x-api-key";
/// The scheme; its case does not matter (RFC 9110, section 11.1).
const BEARER: &[u8] = b"bearer";

/// The credentials found in a request. The caller must show it every header.
#[derive(Clone, Copy, Default)]
pub struct Credentials<'r> {
    authorization: Given<'r>,
    api_key: Given<'r>,
}

#[derive(Clone, Copy, Default)]
enum Given<'r> {
    #[default]
    Never,
    Once(&'r [u8]),
    Often,
}

/// The token that a request carries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Credential<'r> {
    /// The request carries none.
    Missing,
    /// A text that may or may not be a token.
    Text(&'r [u8]),
    /// Several values, which count as an inactive token.
    Several,
}

impl<'r> Credentials<'r> {
    /// Takes note of a header; the case of its name does not matter.
    pub fn see(&mut self, name: &[u8], value: &'r [u8]) {
        let slot = if name.eq_ignore_ascii_case(AUTHORIZATION) {
            &mut self.authorization
        } else if name.eq_ignore_ascii_case(API_KEY) {
            &mut self.api_key
        } else {
            return;
        };
        *slot = match slot {
            Given::Never => Given::Once(value),
            Given::Once(_) | Given::Often => Given::Often,
        };
    }

    /// The token, after all headers were seen.
    pub fn credential(self) -> Credential<'r> {
        match self.authorization {
            Given::Often => return Credential::Several,
            Given::Once(value) => {
                if let Some(token) = bearer(value) {
                    return Credential::Text(token);
                }
            }
            Given::Never => {}
        }
        match self.api_key {
            Given::Often => Credential::Several,
            Given::Once(value) if !trimmed(value).is_empty() => Credential::Text(trimmed(value)),
            Given::Once(_) | Given::Never => Credential::Missing,
        }
    }
}

impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.credential().fmt(f)
    }
}

impl fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "Missing",
            Self::Text(_) => "Text",
            Self::Several => "Several",
        })
    }
}

/// The token of an `authorization` header; `None` if its scheme is another.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = trimmed(value).split_at_checked(BEARER.len())?;
    let is_bearer = scheme.eq_ignore_ascii_case(BEARER) && token.first() == Some(&b' ');
    is_bearer.then(|| trimmed(token)).filter(|t| !t.is_empty())
}

/// The value without surrounding white space.
fn trimmed(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found<'r>(headers: &[(&str, &'r str)]) -> Credential<'r> {
        let mut seen = Credentials::default();
        for (name, value) in headers {
            seen.see(name.as_bytes(), value.as_bytes());
        }
        seen.credential()
    }

    #[test]
    fn tokens_are_extracted_as_hitkeep_does() {
        let text = Credential::Text(b"t");
        for (headers, expected) in [
            (&[][..], Credential::Missing),
            (&[("authorization", "Bearer t")], text),
            (&[("Authorization", "bEARER   t  ")], text),
            (&[("AUTHORIZATION", " Bearer \tt\t")], text),
            (&[("x-api-key", "t")], text),
            (&[("X-Api-Key", "\tt ")], text),
            (&[("authorization", "Bearer t"), ("x-api-key", "u")], text),
            (&[("x-api-key", "u"), ("authorization", "Bearer t")], text),
            (&[("authorization", "Basic dDp0"), ("x-api-key", "t")], text),
            (&[("authorization", "Bearer "), ("x-api-key", "t")], text),
            (&[("authorization", "Bearer"), ("x-api-key", "t")], text),
            (&[("authorization", ""), ("x-api-key", "t")], text),
            (&[("authorization", "Bearer\tt")], Credential::Missing),
            (&[("authorization", "Bearert")], Credential::Missing),
            (&[("authorization", "Basic dDp0")], Credential::Missing),
            (&[("authorization", "t")], Credential::Missing),
            (&[("x-api-key", " ")], Credential::Missing),
            (&[("x-api-keys", "t")], Credential::Missing),
            (
                &[("authorization", "Bearer t,Bearer u")],
                Credential::Text(b"t,Bearer u"),
            ),
            (
                &[("authorization", "Bearer t"), ("Authorization", "Bearer t")],
                Credential::Several,
            ),
            (
                &[("x-api-key", "t"), ("x-api-key", "t")],
                Credential::Several,
            ),
            (
                &[
                    ("authorization", "Bearer t"),
                    ("x-api-key", "t"),
                    ("x-api-key", "t"),
                ],
                text,
            ),
        ] {
            let got = found(headers);
            assert!(got == expected, "{headers:?}: {got:?}");
        }
    }

    #[test]
    fn debug_shows_no_token() {
        let mut seen = Credentials::default();
        seen.see(API_KEY, b"secret");
        let shown = format!("{seen:?} {:?}", seen.credential());
        assert_eq!(shown, "Text Text");
    }
}
