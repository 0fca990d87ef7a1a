//! Recognises tokens in the middle of other texts, and takes them out. Nothing is looked up and
//! no checksum is compared, so a token that was mistyped or cut short is hidden as well.

use std::{borrow::Cow, ops::Range};

use super::{PREFIX_LENGTH, TokenKind, legacy};

/// What stands in the place of a token.
const REDACTED: &str = "[token]";
/// How many characters behind a prefix are taken for a secret. A prefix alone and a hint, such
/// as `hkp_...x7Qa`, give nothing away, and remain.
const SHORTEST_SECRET: usize = 8;

/// Whether a text that should have no token may contain one, because a caller mixed up two
/// fields. Such a text must not be logged or exported. Legacy tokens have no prefix, so
/// every long enough run of lower-case hexadecimal digits counts as one.
pub fn may_contain_token(text: &str) -> bool {
    let mut prefixes = TokenKind::ALL.iter().map(|kind| kind.as_str());
    let has_prefix = prefixes.any(|prefix| {
        let mut found = text.match_indices(prefix);
        found.any(|(at, _)| text[at + prefix.len()..].starts_with('_'))
    });
    has_prefix || legacy::find(text).is_some()
}

/// The text with `[token]` in the place of each token, for texts that cannot be refused. It is
/// never longer than before.
pub fn without_tokens(text: &str) -> Cow<'_, str> {
    let Some(first) = find(text) else {
        return Cow::Borrowed(text);
    };
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    let mut next = Some(first);
    while let Some(found) = next {
        clean.push_str(&rest[..found.start]);
        clean.push_str(REDACTED);
        rest = &rest[found.end..];
        next = find(rest);
    }
    clean.push_str(rest);
    Cow::Owned(clean)
}

/// Where the first token of any kind is.
fn find(text: &str) -> Option<Range<usize>> {
    let kinds = TokenKind::ALL.iter().map(|kind| kind.as_str());
    let prefixed = kinds.filter_map(|prefix| find_prefixed(text, prefix));
    prefixed
        .chain(legacy::find(text))
        .min_by_key(|found| found.start)
}

/// Where the first token with that prefix is. An underscore counts as a part of the secret, so
/// that of two tokens in a row no part remains.
fn find_prefixed(text: &str, prefix: &str) -> Option<Range<usize>> {
    text.match_indices(prefix).find_map(|(at, _)| {
        let rest = text[at + prefix.len()..].strip_prefix('_')?;
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let length = rest.bytes().take_while(is_part).count();
        (length >= SHORTEST_SECRET).then_some(at..at + PREFIX_LENGTH + length)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::token::{LEGACY_TOKEN_LENGTH, LegacyToken, TOKEN_LENGTH, Token};

    const OURS: &str = "hkp_00000000000000000000000000000000000000000004Rx6xu";
    const LEGACY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    /// Whether a part of the text is a token of either kind.
    fn has_token(text: &str) -> bool {
        let is_token = |part: &str| Token::parse(part).is_ok() || LegacyToken::parse(part).is_ok();
        let starts = text.char_indices().map(|(at, _)| at);
        let lengths = [TOKEN_LENGTH, LEGACY_TOKEN_LENGTH];
        let mut parts = starts.flat_map(|at| lengths.map(|length| text.get(at..at + length)));
        parts.any(|part| part.is_some_and(is_token))
    }

    #[test]
    fn a_token_is_replaced_and_the_rest_stays() {
        for (text, expected) in [
            (OURS.to_owned(), "[token]"),
            (LEGACY.to_owned(), "[token]"),
            (format!("curl/8 ({OURS}; é)"), "curl/8 ([token]; é)"),
            (format!("é{LEGACY}é"), "é[token]é"),
            (format!("{LEGACY}, {OURS}, x"), "[token], [token], x"),
            (format!("{OURS}{OURS}"), "[token]"),
            (format!("{LEGACY}{OURS}"), "[token][token]"),
            (format!("{OURS}{LEGACY}"), "[token]"),
            (format!("hkp_{OURS}"), "[token]"),
            (format!("hkp_.{OURS}"), "hkp_.[token]"),
            (format!("key{LEGACY}Z"), "key[token]Z"),
            // Mistyped, cut short, and of the others' kinds.
            (format!("{OURS}1"), "[token]"),
            (OURS[..52].to_owned(), "[token]"),
            ("hkt_12345678".to_owned(), "[token]"),
            ("hks_12345678".to_owned(), "[token]"),
        ] {
            assert_eq!(without_tokens(&text), expected, "{text}");
            assert!(may_contain_token(&text), "{text}");
        }
    }

    #[test]
    fn what_gives_nothing_away_stays() {
        for text in [
            "",
            "Mozilla/5.0 (X11; Linux x86_64) é",
            "it does not begin with hkp_, hkt_ or hks_",
            "hkp_...x7Qa",
            "hkp_1234567",
            "hkp-12345678",
            "HKP_12345678",
            &OURS[4..],
            &LEGACY[1..],
            &LEGACY.to_uppercase(),
        ] {
            assert_eq!(without_tokens(text), text);
        }
    }

    /// Pieces of which texts with tokens consist, in any order.
    fn pieces() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just(OURS.to_owned()),
            Just(LEGACY.to_owned()),
            Just("hkp_".to_owned()),
            "hk[pts]_[0-9A-Za-z_]{0,60}",
            "[0-9a-f]{1,70}",
            "[hkpts_.é ]{0,4}",
            any::<String>(),
        ];
        prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn no_token_remains(text in pieces()) {
            let clean = without_tokens(&text);
            prop_assert!(!has_token(&clean), "{clean}");
            prop_assert!(clean.len() <= text.len());
            prop_assert_eq!(without_tokens(&clean), &*clean);
            if has_token(&text) {
                prop_assert!(may_contain_token(&text));
            }
        }

        #[test]
        fn other_text_stays(before in "[^0-9a-fh]*", after in "([^0-9A-Za-z_].*)?") {
            prop_assume!(!may_contain_token(&after));
            for token in [OURS, LEGACY] {
                let clean = without_tokens(&format!("{before}{token}{after}")).into_owned();
                prop_assert_eq!(clean, format!("{before}[token]{after}"));
            }
            let plain = format!("{before}{after}");
            prop_assert_eq!(without_tokens(&plain), &*plain);
        }
    }
}
