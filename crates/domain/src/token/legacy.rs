//! Legacy tokens: those that HitKeep issued before this service did, 64 lower-case
//! hexadecimal digits, and their hashes.
//!
//! HitKeep stores SHA-256 of a token's text, and so do rows that were imported from it. A
//! hash of one scheme must never be taken for one of the other, so each has a type of its
//! own; [`StoredHash`] is either, with its scheme. A legacy token has no checksum: a text
//! that has the form may be anything.

use std::{fmt, ops::Range};

use ring::digest::{SHA256, digest};

use super::{MalformedToken, TokenHash, TokenHint};
use crate::role::string_enum;

/// The length of every legacy token, in characters, all of them ASCII.
pub const LEGACY_TOKEN_LENGTH: usize = 64;

string_enum! {
    /// How the stored form of a token is computed from its text.
    TokenScheme ("token scheme") {
        /// With BLAKE3, for the tokens of this service: [`TokenHash`].
        Blake3 = "blake3",
        /// With SHA-256, for legacy tokens: [`LegacyHash`].
        HitkeepSha256 = "hitkeep_sha256",
    }
}

/// A legacy token in plaintext. Such a token is only ever presented, and never issued.
#[derive(Clone)]
pub struct LegacyToken([u8; LEGACY_TOKEN_LENGTH]);

/// The stored form of a legacy token: the SHA-256 hash of all its characters, as HitKeep
/// stores it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LegacyHash(pub [u8; 32]);

/// The stored form of a token of either scheme. Hashes of different schemes differ, whatever
/// their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StoredHash {
    /// Of a token of this service.
    Blake3(TokenHash),
    /// Of a legacy token.
    HitkeepSha256(LegacyHash),
}

impl LegacyToken {
    /// Parses a presented token. Upper-case digits and spaces around it are refused, as
    /// HitKeep never issued them.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<Self, MalformedToken> {
        let text: [u8; LEGACY_TOKEN_LENGTH] = text.as_ref().try_into().or(Err(MalformedToken))?;
        if text.iter().all(|byte| is_digit(char::from(*byte))) {
            Ok(Self(text))
        } else {
            Err(MalformedToken)
        }
    }

    /// The hash to look up.
    pub fn hash(&self) -> LegacyHash {
        let hash = digest(&SHA256, &self.0);
        LegacyHash(hash.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl LegacyHash {
    /// What may be shown to identify the token, since no part of its text is stored:
    /// `sha256_` and the first six digits of the hash, which its holder can compare with the
    /// output of `sha256sum`.
    pub fn hint(&self) -> TokenHint {
        let [first, second, third, ..] = self.0;
        TokenHint(format!("sha256_{first:02x}{second:02x}{third:02x}"))
    }
}

impl StoredHash {
    /// The hash with these bytes, computed with that scheme.
    pub const fn new(scheme: TokenScheme, bytes: [u8; 32]) -> Self {
        match scheme {
            TokenScheme::Blake3 => Self::Blake3(TokenHash(bytes)),
            TokenScheme::HitkeepSha256 => Self::HitkeepSha256(LegacyHash(bytes)),
        }
    }

    /// The scheme with which it was computed.
    pub const fn scheme(&self) -> TokenScheme {
        match self {
            Self::Blake3(_) => TokenScheme::Blake3,
            Self::HitkeepSha256(_) => TokenScheme::HitkeepSha256,
        }
    }

    /// The bytes as they are stored. They mean nothing without the scheme.
    pub const fn bytes(&self) -> &[u8; 32] {
        match self {
            Self::Blake3(TokenHash(bytes)) | Self::HitkeepSha256(LegacyHash(bytes)) => bytes,
        }
    }
}

impl From<TokenHash> for StoredHash {
    fn from(hash: TokenHash) -> Self {
        Self::Blake3(hash)
    }
}

impl From<LegacyHash> for StoredHash {
    fn from(hash: LegacyHash) -> Self {
        Self::HitkeepSha256(hash)
    }
}

impl fmt::Debug for LegacyToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LegacyToken")
    }
}

impl fmt::Debug for LegacyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LegacyHash")
    }
}

/// Where the first run of lower-case hexadecimal digits is that is long enough for a legacy
/// token. Trace ids and UUIDs are shorter; a longer hash is hidden for nothing.
pub(super) fn find(text: &str) -> Option<Range<usize>> {
    if text.len() < LEGACY_TOKEN_LENGTH {
        return None;
    }
    let mut start = 0;
    let mut runs = text
        .as_bytes()
        .split(|byte| !is_digit(char::from(*byte)))
        .map(|run| {
            let found = start..start + run.len();
            start = found.end + 1;
            found
        });
    runs.find(|run| run.len() >= LEGACY_TOKEN_LENGTH)
}

/// Whether a character is a lower-case hexadecimal digit.
pub(super) const fn is_digit(character: char) -> bool {
    matches!(character, '0'..='9' | 'a'..='f')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::token::{Token, may_contain_token};

    /// Of no token that anybody has.
    const EXAMPLE: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    /// Computed with sha256sum, and not with this code.
    const DIGEST: &str = "2a8abfa8cb9906290437854193ca6bca41d4d4e26d1d454bd66a35158095e737";

    #[test]
    fn the_hash_is_sha_256_of_the_text() {
        let hash = LegacyToken::parse(EXAMPLE).unwrap().hash();
        let hex = hash.0.map(|byte| format!("{byte:02x}")).concat();
        assert_eq!(hex, DIGEST);
        assert_eq!(hash.hint().0, format!("sha256_{}", &DIGEST[..6]));
    }

    #[test]
    fn debug_shows_neither_token_nor_hash() {
        let token = LegacyToken::parse(EXAMPLE).unwrap();
        let stored = StoredHash::from(token.hash());
        assert_eq!(
            format!("{token:?} {:?} {stored:?}", token.hash()),
            "LegacyToken LegacyHash HitkeepSha256(LegacyHash)"
        );
    }

    #[test]
    fn everything_else_is_refused() {
        for bad in [
            String::new(),
            EXAMPLE[..63].to_owned(),
            format!("{EXAMPLE}0"),
            format!(" {}", &EXAMPLE[..63]),
            EXAMPLE.to_uppercase(),
            EXAMPLE.replace('f', "g"),
            EXAMPLE.replacen("00", "é", 1),
            EXAMPLE.replacen("00", "\0\0", 1),
        ] {
            assert!(LegacyToken::parse(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_hash_of_one_scheme_is_none_of_the_other() {
        let [ours, theirs] =
            [TokenScheme::Blake3, TokenScheme::HitkeepSha256].map(|s| StoredHash::new(s, [7; 32]));
        assert_ne!(ours, theirs);
        assert_eq!(ours.bytes(), theirs.bytes());
        for scheme in TokenScheme::ALL {
            assert_eq!(StoredHash::new(*scheme, [7; 32]).scheme(), *scheme);
        }
    }

    #[test]
    fn a_text_that_may_contain_one_is_recognised() {
        for text in [
            EXAMPLE.to_owned(),
            format!("Bearer {EXAMPLE}"),
            format!("/api/{EXAMPLE}?x=1"),
            format!("token={EXAMPLE}&x"),
            format!("key{EXAMPLE}Z"),
            format!("{EXAMPLE}{EXAMPLE}"),
        ] {
            assert!(may_contain_token(&text), "{text}");
        }
        for text in [
            &EXAMPLE[..32],
            &format!("00-{}-{}-01", &EXAMPLE[..32], &EXAMPLE[..16]),
            "0191e0b5-7a7a-7c7c-8d8d-9e9e9e9e9e9e",
            &EXAMPLE.to_uppercase(),
            &EXAMPLE.replacen('9', "-", 1),
        ] {
            assert!(!may_contain_token(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_legacy_token_parses_and_no_other_text(text in "[0-9a-f]{64}") {
            prop_assert!(LegacyToken::parse(&text).is_ok());
            // Its length keeps it apart from the tokens of this service.
            prop_assert!(Token::parse(&text).is_err());
        }

        #[test]
        fn no_character_outside_of_the_digits_parses(
            text in "[0-9a-f]{64}",
            at in 0_usize..64,
            to in any::<char>().prop_filter("a digit", |to| !is_digit(*to)),
        ) {
            let edited = format!("{}{to}{}", &text[..at], &text[at + 1..]);
            prop_assert!(LegacyToken::parse(&edited).is_err());
        }
    }
}
