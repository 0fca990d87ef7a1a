//! A token is found where `HitKeep` finds it: in `authorization` if that is a bearer's,
//! and else in `x-api-key`. `HitKeep` takes the first value of a header that comes
//! twice; here that shows no token that works, and whatever it is is no other one.
//!
//! What is found is a token of this service, or a legacy one, or neither: by its length and
//! characters alone, as anybody can check them.

use hitkeep_auth::{
    domain::token::{
        LEGACY_TOKEN_LENGTH, LegacyToken, TOKEN_LENGTH, Token, may_contain_token, without_tokens,
    },
    proxy_auth::credential::{Credential, Credentials},
};

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
    for (_, value) in headers {
        be_one_or_the_other(value);
    }
    if let Expected::Token(Some(text)) = found {
        be_one_or_the_other(text);
    }
}

fn be_one_or_the_other(text: &str) {
    let (ours, legacy) = (Token::parse(text), LegacyToken::parse(text));
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let is_legacy = text.len() == LEGACY_TOKEN_LENGTH && text.bytes().all(is_digit);
    assert!(legacy.is_ok() == is_legacy, "a legacy token or none");
    assert!(ours.is_err() || text.len() == TOKEN_LENGTH);
    let is_either = ours.is_ok() || legacy.is_ok();
    assert!(Token::defect(text).is_some() != is_either);
    // Whatever is a token must not be logged, wherever it stands in a text.
    if is_either {
        let around = format!("é{text}/x");
        assert!(may_contain_token(&around));
        assert!(without_tokens(&around) == "é[token]/x");
    }
    if let Ok(token) = ours {
        assert!(token.reveal() == text);
    }
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
