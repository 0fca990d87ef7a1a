//! Where a request shows its token: in `authorization` as a bearer token, or else in
//! `x-api-key`, as `HitKeep` itself takes it.
//!
//! An `authorization` of another scheme, such as that of a proxy in front, does not
//! keep a token in `x-api-key` from being seen. An empty token is none. Two values of
//! one header are not one token: it is open which of them is meant, and whoever reads
//! the request next may take the other one. So what they show is a token that works
//! for nobody, and the answer is the one that a proxy gets which joins them first.

use std::fmt;

/// The header that holds the token and its scheme.
const AUTHORIZATION: &[u8] = b"authorization";
/// The header that holds the token alone.
const API_KEY: &[u8] = b"x-api-key";
/// The scheme; its case does not matter (RFC 9110, section 11.1).
const BEARER: &[u8] = b"bearer";

/// What is seen of a request's headers, of which all are to be shown to it.
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

/// The token that a request shows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Credential<'r> {
    /// None.
    Missing,
    /// This text, which may be a token or not.
    Text(&'r [u8]),
    /// More than one.
    Several,
}

impl<'r> Credentials<'r> {
    /// Looks at a header, whose name may be in any case.
    pub fn see(&mut self, name: &[u8], value: &'r [u8]) {
        let place = if name.eq_ignore_ascii_case(AUTHORIZATION) {
            &mut self.authorization
        } else if name.eq_ignore_ascii_case(API_KEY) {
            &mut self.api_key
        } else {
            return;
        };
        *place = match place {
            Given::Never => Given::Once(value),
            Given::Once(_) | Given::Often => Given::Often,
        };
    }

    /// The token that was seen.
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

/// The token of a bearer's `authorization`; none where it is of another scheme.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = trimmed(value).split_at_checked(BEARER.len())?;
    let is_bearer = scheme.eq_ignore_ascii_case(BEARER) && token.first() == Some(&b' ');
    is_bearer.then(|| trimmed(token)).filter(|t| !t.is_empty())
}

/// Without the blanks around it.
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
    fn a_token_is_found_where_hitkeep_finds_it() {
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
