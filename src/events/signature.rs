//! Signatures of Standard Webhooks: HMAC-SHA256 over id, time and body, with each of the
//! secrets, so that a secret can be replaced without a gap.

use std::{fmt, sync::Arc};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use ring::hmac;

/// What a secret begins with.
const PREFIX: &str = "whsec_";
/// The length of a decoded secret in bytes, as Standard Webhooks demands.
const LENGTHS: std::ops::RangeInclusive<usize> = 24..=64;
/// The most secrets at a time: a rotation needs two, and each makes the header longer.
const MAX_SECRETS: usize = 8;
/// Base64 as secrets are written, with or without padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The keys that every message is signed with; at least one.
#[derive(Clone)]
pub struct SigningKeys(Vec<hmac::Key>);

/// Why a text is no list of secrets. It is not repeated, since it may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSecret {
    #[error("it holds no secret")]
    Empty,
    #[error("secret {0} of it is not whsec_ and 24 to 64 bytes in base64")]
    Malformed(usize),
    #[error("it holds more than {MAX_SECRETS} secrets")]
    TooMany,
}

/// There are no usable secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoSecret(pub String);

/// Reads the secrets, so that a replaced file is used soon. Reading blocks.
#[derive(Clone)]
pub struct SecretSource(Arc<dyn Fn() -> Result<SigningKeys, NoSecret> + Send + Sync>);

impl SecretSource {
    /// A source that reads the secrets when it is called.
    pub fn new(read: impl Fn() -> Result<SigningKeys, NoSecret> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    pub(super) fn read(&self) -> Result<SigningKeys, NoSecret> {
        (self.0)()
    }
}

impl fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretSource")
    }
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKeys")
    }
}

impl SigningKeys {
    /// Parses secrets that are separated by white space or commas.
    ///
    /// # Errors
    /// If there is none, or one of them is malformed.
    pub fn parse(text: &str) -> Result<Self, BadSecret> {
        let separated = |c: char| c.is_whitespace() || c == ',';
        let secrets = text.split(separated).filter(|secret| !secret.is_empty());
        let key = |(at, secret): (usize, &str)| {
            let malformed = BadSecret::Malformed(at + 1);
            let encoded = secret.strip_prefix(PREFIX).ok_or(malformed)?;
            let bytes = LENIENT.decode(encoded).or(Err(malformed))?;
            if LENGTHS.contains(&bytes.len()) {
                Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
            } else {
                Err(malformed)
            }
        };
        let keys = secrets
            .enumerate()
            .map(key)
            .collect::<Result<Vec<_>, _>>()?;
        match keys.len() {
            0 => Err(BadSecret::Empty),
            1..=MAX_SECRETS => Ok(Self(keys)),
            _ => Err(BadSecret::TooMany),
        }
    }

    /// The value of `webhook-signature`: a signature for each secret, separated by spaces.
    pub(super) fn sign(&self, id: &str, seconds: i64, body: &[u8]) -> String {
        let head = format!("{id}.{seconds}.");
        let sign = |key: &hmac::Key| {
            let mut context = hmac::Context::with_key(key);
            context.update(head.as_bytes());
            context.update(body);
            format!("v1,{}", STANDARD.encode(context.sign()))
        };
        let signatures: Vec<_> = self.0.iter().map(sign).collect();
        signatures.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks reference implementations.
    #[test]
    fn the_known_example_is_signed_as_known() {
        let keys = SigningKeys::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        let signed = keys.sign(id, 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn each_secret_gives_a_signature() {
        let secret = |byte: u8| format!("whsec_{}", STANDARD.encode([byte; 32]));
        let both = SigningKeys::parse(&format!("{}\n{},", secret(1), secret(2))).unwrap();
        let one = |byte| {
            SigningKeys::parse(&secret(byte))
                .unwrap()
                .sign("id", 7, b"body")
        };
        assert_eq!(
            both.sign("id", 7, b"body"),
            format!("{} {}", one(1), one(2))
        );
        assert_eq!(format!("{both:?}"), "SigningKeys");
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        let secret = |length| format!("whsec_{}", STANDARD.encode(vec![7; length]));
        for (text, refused) in [
            (String::new(), Some(BadSecret::Empty)),
            (" ,\n".to_owned(), Some(BadSecret::Empty)),
            (secret(23), Some(BadSecret::Malformed(1))),
            (secret(24), None),
            (secret(64), None),
            (secret(65), Some(BadSecret::Malformed(1))),
            (STANDARD.encode([7; 32]), Some(BadSecret::Malformed(1))),
            (
                format!("{} whsec_???", secret(32)),
                Some(BadSecret::Malformed(2)),
            ),
            (vec![secret(24); 8].join(" "), None),
            (vec![secret(24); 9].join(" "), Some(BadSecret::TooMany)),
            // Without padding.
            (secret(32).trim_end_matches('=').to_owned(), None),
        ] {
            assert_eq!(SigningKeys::parse(&text).err(), refused, "{text}");
        }
    }
}
