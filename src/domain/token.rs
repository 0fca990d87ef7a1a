//! Tokens: `<prefix>_<secret><checksum>`, 53 characters in all, and the hash
//! that is kept of them.
//!
//! The secret is 256 random bits in base62; the checksum is a CRC-32 that lets
//! a typo be refused and a leak be recognised without a look-up. It protects
//! nothing. A plaintext token exists in the request that presents it and in
//! the reply that first reveals it: the type has no `Display`, and its `Debug`
//! shows the kind alone.

use std::{cell::RefCell, fmt};

use super::{clock::Entropy, role::words};

/// The characters of base62, in the order of their digits.
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// The length of `hkp_`, `hkt_` or `hks_`.
const PREFIX_LENGTH: usize = 4;
/// 62^43 is just above 2^256.
const SECRET_LENGTH: usize = 43;
/// 62^6 is above 2^32.
const CHECKSUM_LENGTH: usize = 6;
/// The length of every token, in characters, all of them ASCII.
pub const TOKEN_LENGTH: usize = PREFIX_LENGTH + SECRET_LENGTH + CHECKSUM_LENGTH;
/// How much of the token's end a hint shows.
const HINT_TAIL: usize = 4;
/// What the hash is for (BLAKE3's derive-key mode): a token's hash is of no use
/// to any other program that hashes the same bytes, and the other way round.
const HASH_CONTEXT: &str = "auth.hitkeep.com 2026-11-23 token at rest v1";

words! {
    /// What a token authenticates, told by its prefix.
    TokenKind ("token kind") {
        /// An API client that belongs to a user.
        Personal = "hkp",
        /// An API client that belongs to a team.
        Team = "hkt",
        /// A service account: a caller of this service.
        ServiceAccount = "hks",
    }
}

/// Whether a token could be in a text, that was to have none: somebody mixed up two
/// fields, and what is logged or exported must not show it.
pub fn may_contain_token(text: &str) -> bool {
    let mut prefixes = TokenKind::ALL.iter().map(|kind| kind.as_str());
    prefixes.any(|prefix| {
        let mut found = text.match_indices(prefix);
        found.any(|(at, _)| text[at + prefix.len()..].starts_with('_'))
    })
}

/// The text is not a token: a wrong length, prefix, character or checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a token")]
pub struct MalformedToken;

/// What is wrong with a text that is no token: the first that applies. For people
/// who have to find out; callers are only told that it is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// It is not as long as every token is.
    #[error("it has {0} characters, and a token has {TOKEN_LENGTH}")]
    Length(usize),
    /// It begins with none of the prefixes.
    #[error("it does not begin with hkp_, hkt_ or hks_")]
    Prefix,
    /// There is a character in it that no token has; the first has the number 1.
    #[error("character {0} is neither a digit nor a letter without an accent")]
    Character(usize),
    /// The checksum is not that of the characters before it.
    #[error("its checksum is wrong: a character was mistyped, or two are swapped")]
    Checksum,
}

/// A whole token, in plain text.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    kind: TokenKind,
    text: [u8; TOKEN_LENGTH],
}

/// What is kept of a token: the BLAKE3 hash of all its characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash(pub [u8; 32]);

/// What is shown of a token to tell it from others: the prefix and the last
/// four characters, as in `hkp_...x7Qa`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenHint(pub String);

impl Token {
    /// Makes a new token of 256 random bits.
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

    /// Reads a token that somebody presents.
    pub fn parse(text: &str) -> Result<Self, MalformedToken> {
        let text: [u8; TOKEN_LENGTH] = text.as_bytes().try_into().or(Err(MalformedToken))?;
        let kind = match &text[..PREFIX_LENGTH] {
            b"hkp_" => TokenKind::Personal,
            b"hkt_" => TokenKind::Team,
            b"hks_" => TokenKind::ServiceAccount,
            _ => return Err(MalformedToken),
        };
        // The checksum's own digits are compared, so they need no check. All of the
        // others are looked at: no processor foresees which of them are letters.
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

    /// What keeps a text from being a token.
    pub fn flaw(text: &str) -> Option<Flaw> {
        if Self::parse(text).is_ok() {
            return None;
        }
        let length = text.chars().count();
        if length != TOKEN_LENGTH {
            return Some(Flaw::Length(length));
        }
        let prefixes = TokenKind::ALL.iter().map(|kind| kind.as_str());
        let Some(rest) = { prefixes }
            .find_map(|prefix| text.strip_prefix(prefix))
            .and_then(|rest| rest.strip_prefix('_'))
        else {
            return Some(Flaw::Prefix);
        };
        let odd = rest.chars().position(|c| !c.is_ascii_alphanumeric());
        Some(odd.map_or(Flaw::Checksum, |at| Flaw::Character(PREFIX_LENGTH + at + 1)))
    }

    /// What the token authenticates.
    pub const fn kind(&self) -> TokenKind {
        self.kind
    }

    /// What is kept of it.
    pub fn hash(&self) -> TokenHash {
        thread_local! {
            /// The context's part of the work is the same for all tokens, and a
            /// hasher is large: one is made for each thread.
            static HASHER: RefCell<blake3::Hasher> =
                RefCell::new(blake3::Hasher::new_derive_key(HASH_CONTEXT));
        }
        HASHER.with_borrow_mut(|hasher| {
            let hash = hasher.reset().update(&self.text).finalize();
            TokenHash(hash.into())
        })
    }

    /// Another secret that is derived from it (BLAKE3's derive-key mode). The context
    /// names the purpose; nothing that is kept of the token leads to it.
    pub fn derive(&self, context: &'static str) -> [u8; 32] {
        blake3::derive_key(context, &self.text)
    }

    /// What is shown of it.
    pub fn hint(&self) -> TokenHint {
        let tail = String::from_utf8_lossy(&self.text[TOKEN_LENGTH - HINT_TAIL..]);
        TokenHint(format!("{}_...{tail}", self.kind))
    }

    /// The secret itself, for the one reply that may show it.
    pub fn reveal(&self) -> String {
        self.text.iter().copied().map(char::from).collect()
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

/// Writes a 256-bit number as base62 digits, most significant first. The number
/// is used up: long division in place.
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

/// The checksum of a token's text: CRC-32 (IEEE) of all that stands before it.
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

    /// Worked out with Python's zlib.crc32 and int, not with this code.
    #[test]
    fn the_format_is_the_contracts() {
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
    fn debug_shows_the_kind_alone() {
        let token = Token::mint(TokenKind::Team, &Fixed([7; 32]));
        assert_eq!(
            format!("{token:?} {:?}", token.hash()),
            "Token(Team) TokenHash"
        );
    }

    #[test]
    fn what_is_no_token_is_refused() {
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
    fn what_is_wrong_is_told() {
        let good = Token::mint(TokenKind::Team, &Fixed([7; 32])).reveal();
        let (start, end) = good.split_at(51);
        let swapped: String = end.chars().rev().collect();
        for (text, flaw) in [
            (good.clone(), None),
            (String::new(), Some(Flaw::Length(0))),
            (format!("{good} "), Some(Flaw::Length(54))),
            (good.replace("hkt_", "hkt-"), Some(Flaw::Prefix)),
            (good.replace("hkt", "HKT"), Some(Flaw::Prefix)),
            (good.replace("hkt", "hkp"), Some(Flaw::Checksum)),
            (format!("{start}{swapped}"), Some(Flaw::Checksum)),
            (
                format!("{}_{}", &good[..9], &good[10..]),
                Some(Flaw::Character(10)),
            ),
            (format!("{}é", &good[..52]), Some(Flaw::Character(53))),
        ] {
            assert_eq!(Token::flaw(&text), flaw, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn parsing_gives_back_what_minting_wrote(kind in kinds(), secret: [u8; 32]) {
            let token = Token::mint(kind, &Fixed(secret));
            let text = token.reveal();
            prop_assert_eq!(text.len(), TOKEN_LENGTH);
            let parsed = Token::parse(&text).unwrap();
            prop_assert_eq!(parsed.hash(), token.hash());
            prop_assert_eq!(parsed, token);
        }

        #[test]
        fn no_edit_of_one_character_parses(
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
