//! Tokens, `<prefix>_<secret><checksum>` with 53 characters, and their hashes; also
//! [legacy tokens](LegacyToken), which HitKeep issued and which differ in length.
//!
//! The secret is 256 random bits in base62. The checksum is a CRC-32: it allows refusing a
//! typo and recognising a leaked token without a look-up, and protects nothing. A plaintext
//! token exists only in the request that presents it and in the reply that first reveals
//! it: the type has no `Display`, and its `Debug` shows only the kind.

use std::{cell::RefCell, fmt};

mod legacy;
mod redaction;

use super::{clock::Entropy, role::string_enum};
pub use legacy::{LEGACY_TOKEN_LENGTH, LegacyHash, LegacyToken, StoredHash, TokenScheme};
pub use redaction::{may_contain_token, without_tokens};

/// The digits of base62, in order.
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// The length of `hkp_`, `hkt_` or `hks_`.
const PREFIX_LENGTH: usize = 4;
/// 62^43 is just above 2^256.
const SECRET_LENGTH: usize = 43;
/// 62^6 is above 2^32.
const CHECKSUM_LENGTH: usize = 6;
/// The length of every token, in characters, all of them ASCII.
pub const TOKEN_LENGTH: usize = PREFIX_LENGTH + SECRET_LENGTH + CHECKSUM_LENGTH;
/// How many of the token's last characters a hint shows.
const HINT_TAIL: usize = 4;
/// The domain separation of the hash (BLAKE3's derive-key mode): a token's hash is of no
/// use to another program that hashes the same bytes, and vice versa.
const HASH_CONTEXT: &str = "auth.hitkeep.com 2026-11-23 token at rest v1";

string_enum! {
    /// What a token authenticates; its prefix says which.
    TokenKind ("token kind") {
        /// An API client that belongs to a user.
        Personal = "hkp",
        /// An API client that belongs to a team.
        Team = "hkt",
        /// A service account: a caller of this service.
        ServiceAccount = "hks",
    }
}

/// The text is not a token: its length, prefix, characters or checksum are wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a token")]
pub struct MalformedToken;

/// The first defect of a text that is not a token. For operators only: callers get the
/// answer for an unknown token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenDefect {
    /// It does not have the length of a token.
    #[error(
        "it has {0} characters, and a token has {TOKEN_LENGTH}, or {LEGACY_TOKEN_LENGTH} if \
         HitKeep itself issued it"
    )]
    Length(usize),
    /// It has the length of a legacy token, and a character that is not one of its digits, at
    /// this position, counted from 1.
    #[error(
        "it has as many characters as a token that HitKeep itself issued, but character {0} is \
         neither a digit nor a letter from a to f"
    )]
    LegacyCharacter(usize),
    /// It begins with none of the prefixes.
    #[error("it does not begin with hkp_, hkt_ or hks_")]
    Prefix,
    /// It has a character that is not in base62, at this position, counted from 1.
    #[error("character {0} is neither a digit nor a letter without an accent")]
    Character(usize),
    /// The checksum does not match.
    #[error("its checksum is wrong: a character was mistyped, or two are swapped")]
    Checksum,
}

/// A token in plaintext.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    kind: TokenKind,
    text: [u8; TOKEN_LENGTH],
}

/// The stored form of a token: the BLAKE3 hash of all its characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenHash(pub [u8; 32]);

/// What may be shown of a token to identify it: the prefix and the last four characters, as
/// in `hkp_...x7Qa`; of a legacy token a part of its hash, as in `sha256_1a7674`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenHint(pub String);

impl Token {
    /// Generates a token with 256 random bits.
    pub fn mint(kind: TokenKind, entropy: &dyn Entropy) -> Self {
        let mut secret = [0; 32];
        entropy.fill(&mut secret);
        let mut text = [0; TOKEN_LENGTH];
        text[..3].copy_from_slice(kind.as_str().as_bytes());
        text[3] = b'_';
        base62(&mut secret, &mut text[PREFIX_LENGTH..][..SECRET_LENGTH]);
        let checksum = checksum(&text);
        text[PREFIX_LENGTH + SECRET_LENGTH..].copy_from_slice(&checksum);
        Self { kind, text }
    }

    /// Parses a presented token.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<Self, MalformedToken> {
        let text: [u8; TOKEN_LENGTH] = text.as_ref().try_into().or(Err(MalformedToken))?;
        let kind = match &text[..PREFIX_LENGTH] {
            b"hkp_" => TokenKind::Personal,
            b"hkt_" => TokenKind::Team,
            b"hks_" => TokenKind::ServiceAccount,
            _ => return Err(MalformedToken),
        };
        // The checksum is compared as text, so its digits need no check. The others are checked
        // without an early exit: which of them are letters is random, and so a branch that no
        // processor predicts.
        let secret = &text[PREFIX_LENGTH..][..SECRET_LENGTH];
        let is_base62 = |all, digit: &u8| all & digit.is_ascii_alphanumeric();
        let sound = secret.iter().fold(true, is_base62)
            && text[PREFIX_LENGTH + SECRET_LENGTH..] == checksum(&text);
        if sound {
            Ok(Self { kind, text })
        } else {
            Err(MalformedToken)
        }
    }

    /// The first defect of the text; `None` if it is a token, or a legacy one.
    pub fn defect(text: &str) -> Option<TokenDefect> {
        if Self::parse(text).is_ok() || LegacyToken::parse(text).is_ok() {
            return None;
        }
        let length = text.chars().count();
        if length == LEGACY_TOKEN_LENGTH {
            let odd = text.chars().position(|c| !legacy::is_digit(c));
            return odd.map(|at| TokenDefect::LegacyCharacter(at + 1));
        }
        if length != TOKEN_LENGTH {
            return Some(TokenDefect::Length(length));
        }
        let prefixes = TokenKind::ALL.iter().map(|kind| kind.as_str());
        let Some(rest) = { prefixes }
            .find_map(|prefix| text.strip_prefix(prefix))
            .and_then(|rest| rest.strip_prefix('_'))
        else {
            return Some(TokenDefect::Prefix);
        };
        let odd = rest.chars().position(|c| !c.is_ascii_alphanumeric());
        Some(odd.map_or(TokenDefect::Checksum, |at| {
            TokenDefect::Character(PREFIX_LENGTH + at + 1)
        }))
    }

    /// The kind, from the prefix.
    pub const fn kind(&self) -> TokenKind {
        self.kind
    }

    /// The hash to store or look up.
    pub fn hash(&self) -> TokenHash {
        thread_local! {
            /// Setting up the context is the same work for all tokens, and a hasher is large, so
            /// each thread keeps one.
            static HASHER: RefCell<blake3::Hasher> =
                RefCell::new(blake3::Hasher::new_derive_key(HASH_CONTEXT));
        }
        HASHER.with_borrow_mut(|hasher| {
            let hash = hasher.reset().update(&self.text).finalize();
            TokenHash(hash.into())
        })
    }

    /// Derives another secret from the token (BLAKE3's derive-key mode). The context names the
    /// purpose; no stored value of the token leads to it.
    pub fn derive(&self, context: &'static str) -> [u8; 32] {
        blake3::derive_key(context, &self.text)
    }

    /// The part that may be shown.
    pub fn hint(&self) -> TokenHint {
        let tail = String::from_utf8_lossy(&self.text[TOKEN_LENGTH - HINT_TAIL..]);
        TokenHint(format!("{}_...{tail}", self.kind))
    }

    /// The plaintext, for the one reply that may contain it.
    pub fn reveal(&self) -> String {
        self.text.iter().copied().map(char::from).collect()
    }
}

/// A text that was presented as an API client's token.
#[derive(Clone, Debug)]
pub enum PresentedToken {
    /// The hash of a well-formed token of an API client.
    Hash(TokenHash),
    /// A text with the form of a legacy token, which is hashed only if the index has any.
    Legacy(LegacyToken),
    /// Anything else, such as a service account's token, which cannot be an API client's.
    Unknown,
}

impl PresentedToken {
    /// Reads any text, or bytes that may be none: a token is ASCII.
    pub fn read(text: impl AsRef<[u8]>) -> Self {
        let text = text.as_ref();
        match Token::parse(text) {
            Ok(token) => match token.kind() {
                TokenKind::Personal | TokenKind::Team => Self::Hash(token.hash()),
                TokenKind::ServiceAccount => Self::Unknown,
            },
            // Their lengths differ, so a token of this service never gets here.
            Err(_) => LegacyToken::parse(text).map_or(Self::Unknown, Self::Legacy),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:?})", self.kind)
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash")
    }
}

/// Writes a 256-bit number as base62 digits, most significant first, by long division in
/// place, which destroys `number`.
fn base62(number: &mut [u8; 32], digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        let mut rest = 0_u32;
        for byte in number.iter_mut() {
            let value = rest * 256 + u32::from(*byte);
            *byte = u8::try_from(value / 62).expect("rest is below 62, so the quotient fits");
            rest = value % 62;
        }
        *digit = BASE62[rest as usize];
    }
}

/// The CRC-32 (IEEE) of all characters before the checksum.
fn checksum(text: &[u8; TOKEN_LENGTH]) -> [u8; CHECKSUM_LENGTH] {
    let mut crc = crc32fast::hash(&text[..PREFIX_LENGTH + SECRET_LENGTH]);
    let mut digits = [0; CHECKSUM_LENGTH];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(crc % 62) as usize];
        crc /= 62;
    }
    digits
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Fixed([u8; 32]);

    impl Entropy for Fixed {
        fn fill(&self, buffer: &mut [u8]) {
            buffer.copy_from_slice(&self.0[..buffer.len()]);
        }
    }

    fn kinds() -> impl Strategy<Value = TokenKind> {
        proptest::sample::select(TokenKind::ALL)
    }

    #[test]
    fn the_hash_is_blake3_in_derive_key_mode() {
        let token = Token::mint(TokenKind::Team, &Fixed([7; 32]));
        let expected = blake3::derive_key(HASH_CONTEXT, token.reveal().as_bytes());
        assert_eq!(token.hash().0, expected);
    }

    /// Computed with Python's zlib.crc32 and int, not with this code.
    #[test]
    fn the_format_is_stable() {
        let token = Token::mint(TokenKind::Personal, &Fixed([0; 32])).reveal();
        assert_eq!(
            token,
            "hkp_00000000000000000000000000000000000000000004Rx6xu"
        );
        let token = Token::mint(TokenKind::Team, &Fixed([0xff; 32])).reveal();
        assert_eq!(
            token,
            "hkt_yhjskwdA6OZ1AL1YmHWZWm8LLG7HjnuCA2j5rOw8Xp13QfUhN"
        );
        let bytes = std::array::from_fn(|i| u8::try_from(i).unwrap());
        let token = Token::mint(TokenKind::ServiceAccount, &Fixed(bytes));
        assert_eq!(
            token.reveal(),
            "hks_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf48My2h"
        );
        assert_eq!(token.hint().0, "hks_...My2h");
    }

    #[test]
    fn debug_shows_only_the_kind() {
        let token = Token::mint(TokenKind::Team, &Fixed([7; 32]));
        assert_eq!(
            format!("{token:?} {:?}", token.hash()),
            "Token(Team) TokenHash"
        );
    }

    #[test]
    fn malformed_tokens_are_refused() {
        let good = Token::mint(TokenKind::Team, &Fixed([7; 32])).reveal();
        for bad in [
            String::new(),
            "hkt_".to_owned(),
            good.replace("hkt", "hkx"),
            good.replace("hkt", "hkp"),
            good.to_uppercase(),
            format!("{good} "),
            format!(" {good}"),
            good[..52].to_owned(),
            format!("{}é", &good[..51]),
            "\0".repeat(TOKEN_LENGTH),
        ] {
            assert_eq!(Token::parse(&bad), Err(MalformedToken), "{bad:?}");
        }
    }

    #[test]
    fn a_fitting_checksum_does_not_make_other_characters_digits() {
        for at in [PREFIX_LENGTH, PREFIX_LENGTH + SECRET_LENGTH - 1] {
            let mut text = Token::mint(TokenKind::Team, &Fixed([7; 32])).text;
            text[at] = b'-';
            let fitting = checksum(&text);
            text[PREFIX_LENGTH + SECRET_LENGTH..].copy_from_slice(&fitting);
            let text = std::str::from_utf8(&text).unwrap();
            assert_eq!(Token::parse(text), Err(MalformedToken), "{text}");
            assert_eq!(Token::defect(text), Some(TokenDefect::Character(at + 1)));
        }
    }

    #[test]
    fn the_first_defect_is_reported() {
        let good = Token::mint(TokenKind::Team, &Fixed([7; 32])).reveal();
        let (start, end) = good.split_at(51);
        let swapped: String = end.chars().rev().collect();
        for (text, defect) in [
            (good.clone(), None),
            (String::new(), Some(TokenDefect::Length(0))),
            (format!("{good} "), Some(TokenDefect::Length(54))),
            ("0a".repeat(32), None),
            ("0a".repeat(33), Some(TokenDefect::Length(66))),
            ("0A".repeat(32), Some(TokenDefect::LegacyCharacter(2))),
            (
                format!("{}é", "0a".repeat(31) + "f"),
                Some(TokenDefect::LegacyCharacter(64)),
            ),
            (good.replace("hkt_", "hkt-"), Some(TokenDefect::Prefix)),
            (good.replace("hkt", "HKT"), Some(TokenDefect::Prefix)),
            (good.replace("hkt", "hkp"), Some(TokenDefect::Checksum)),
            (format!("{start}{swapped}"), Some(TokenDefect::Checksum)),
            (
                format!("{}_{}", &good[..9], &good[10..]),
                Some(TokenDefect::Character(10)),
            ),
            (
                format!("{}é", &good[..52]),
                Some(TokenDefect::Character(53)),
            ),
        ] {
            assert_eq!(Token::defect(&text), defect, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn minted_tokens_round_trip(kind in kinds(), secret: [u8; 32]) {
            let token = Token::mint(kind, &Fixed(secret));
            let text = token.reveal();
            prop_assert_eq!(text.len(), TOKEN_LENGTH);
            let parsed = Token::parse(&text).unwrap();
            prop_assert_eq!(parsed.hash(), token.hash());
            prop_assert_eq!(parsed, token);
        }

        #[test]
        fn no_one_character_edit_parses(
            kind in kinds(),
            secret: [u8; 32],
            at in 0..TOKEN_LENGTH,
            to in proptest::sample::select(&BASE62[..]),
        ) {
            let minted = Token::mint(kind, &Fixed(secret));
            let token = minted.reveal();
            let mut edited = token.clone().into_bytes();
            edited[at] = to;
            let edited = String::from_utf8(edited).unwrap();
            prop_assume!(edited != token);
            prop_assert_eq!(Token::parse(&edited), Err(MalformedToken));
        }

        #[test]
        fn different_secrets_have_different_hashes(a: [u8; 32], b: [u8; 32]) {
            prop_assume!(a != b);
            let hash = |secret| Token::mint(TokenKind::Personal, &Fixed(secret)).hash();
            prop_assert_ne!(hash(a), hash(b));
        }
    }
}
