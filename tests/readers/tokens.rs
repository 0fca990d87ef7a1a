//! A token is found where `HitKeep` finds it: in `authorization` if that is a bearer's,
//! and else in `x-api-key`. `HitKeep` takes the first value of a header that comes
//! twice; here that shows no token that works, and whatever it is is no other one.

use hitkeep_auth::proxy_auth::credential::{Credential, Credentials};

/// Panics where the property does not hold.
pub fn hold(headers: &[(String, String)]) {
    let mut seen = Credentials::default();
    for (name, value) in headers {
        seen.see(name.as_bytes(), value.as_bytes());
    }
    let values = |wanted: &str| -> Vec<&str> {
        let named = headers
            .iter()
            .filter(|(name, _)| name.to_ascii_lowercase() == wanted);
        named.map(|(_, value)| value.as_str()).collect()
    };
    let (authorization, api_key) = (values("authorization"), values("x-api-key"));
    let expected = match (&authorization[..], &api_key[..]) {
        ([one], _) if bearer(one).is_some() => Expected::Token(bearer(one)),
        ([_, _, ..], _) | (_, [_, _, ..]) => Expected::Several,
        (_, [one]) => Expected::Token(Some(trim(one)).filter(|token| !token.is_empty())),
        (_, []) => Expected::Token(None),
    };
    let found = match seen.credential() {
        Credential::Several => Expected::Several,
        Credential::Missing => Expected::Token(None),
        Credential::Text(text) => Expected::Token(Some(
            std::str::from_utf8(text).expect("a part of a text, cut where it is ASCII"),
        )),
    };
    assert!(found == expected, "{headers:?}");
}

#[derive(PartialEq, Eq)]
enum Expected<'h> {
    Several,
    Token(Option<&'h str>),
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = trim(value).split_once(' ')?;
    let is_bearer = scheme.to_lowercase() == "bearer";
    Some(trim(token)).filter(|token| is_bearer && !token.is_empty())
}

fn trim(value: &str) -> &str {
    value.trim_matches([' ', '\t'])
}
