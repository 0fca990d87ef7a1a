//! Idempotent writes (AIP-155): recognising a repeated request, and sealing the reply that
//! is replayed to it.
//!
//! The reply contains a token, so its stored form must be useless to a reader of the
//! database. It is encrypted with a key derived from the request's id and the caller's own
//! token. The database has neither: it finds the request by a hash of the id, and has a
//! different hash of the caller's token. So neither a token hash nor a lookup helps to find
//! the key, and vice versa.

use std::{fmt, str::FromStr};

use chrono::TimeDelta;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use uuid::Uuid;

use super::{
    access::Delegated,
    client::{Draft, Rotation},
    clock::Entropy,
    id::{self, ClientId, MalformedId, ServiceAccountId, UserId},
    token::Token,
};

/// How long a request id is remembered, by the database's clock. After that, the same id
/// stands for a new request.
pub const REMEMBERED_FOR: TimeDelta = TimeDelta::hours(24);
/// The longest sealed reply, in bytes. An API client that was created here has at most 100
/// grants and 32 ranges of about 50 bytes each, and up to 620 characters of text: about 8 KiB.
/// One that was imported may have as many grants as HitKeep has sites: this is room for 20,000.
pub const MAX_SEALED_REPLY: usize = 1024 * 1024;

/// The domain separation of derived values (BLAKE3's derive-key mode): a value for one
/// purpose reveals nothing about those for the others.
const SECRET_CONTEXT: &str = "auth.hitkeep.com 2026-11-29 caller secret for replays v1";
const LOOKUP_CONTEXT: &str = "auth.hitkeep.com 2026-11-29 replay lookup v1";
const DIGEST_CONTEXT: &str = "auth.hitkeep.com 2026-11-29 replay request digest v1";
const KEY_CONTEXT: &str = "auth.hitkeep.com 2026-11-29 sealed reply key v1";

/// A caller's secret, from which keys are derived. It is derived from the caller's token,
/// which has 256 random bits, and like the token it is never stored or shown.
#[derive(Clone)]
pub struct CallerSecret([u8; 32]);

impl CallerSecret {
    /// The secret of the caller that presents this token.
    pub fn of(token: &Token) -> Self {
        Self(token.derive(SECRET_CONTEXT))
    }
}

impl fmt::Debug for CallerSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallerSecret")
    }
}

/// The text is not a valid id of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadWriteId {
    /// It is not a UUID in canonical lower-case form.
    #[error(transparent)]
    Malformed(#[from] MalformedId),
    /// It is the nil UUID, which stands for an unset id.
    #[error("must not be the nil UUID")]
    Nil,
}

/// The id that a caller assigns to a write in order to retry it safely. It is half of the
/// key that seals a reply, so it is not shown either.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct WriteId(Uuid);

impl FromStr for WriteId {
    type Err = BadWriteId;

    fn from_str(text: &str) -> Result<Self, BadWriteId> {
        let id = id::parse(text)?;
        if id.is_nil() {
            return Err(BadWriteId::Nil);
        }
        Ok(Self(id))
    }
}

impl fmt::Debug for WriteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WriteId")
    }
}

/// The key to find a request by: a hash of the caller's account and the request's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup(pub [u8; 32]);

/// A digest that is equal for equal requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestDigest(pub [u8; 32]);

/// A write that accepts a request id.
#[derive(Clone, Copy, Debug)]
pub enum Write<'w> {
    /// Creates a client.
    Create(&'w Draft),
    /// Replaces a client's token.
    Rotate(ClientId, &'w Rotation),
}

impl Write<'_> {
    /// The digest of everything that determines the result of the write. It is taken from the
    /// parsed request, so order and spelling do not count. Neither do the actor's address and
    /// user agent, because a retry may come another way.
    ///
    /// A field that a later version adds must change the digest only if it is set, or a newer
    /// server would take a retry for another request.
    pub fn digest(&self, actor: UserId) -> RequestDigest {
        let mut hasher = blake3::Hasher::new_derive_key(DIGEST_CONTEXT);
        let mut add = |part: &str| {
            // The length prefix keeps adjacent parts apart.
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        };
        add(&actor.to_string());
        match self {
            Self::Create(Draft {
                delegated,
                name,
                description,
                expiry,
                sources,
                activation,
            }) => {
                add("create");
                add(name.as_str());
                add(description.as_str());
                let expiry = expiry.time().map(|time| time.timestamp_micros());
                add(&expiry.map_or_else(String::new, |micros| micros.to_string()));
                let grants = match delegated {
                    Delegated::Personal {
                        user,
                        instance_role,
                        grants,
                    } => {
                        add("user");
                        add(&user.to_string());
                        add(instance_role.as_str());
                        grants
                    }
                    Delegated::Team { team, grants } => {
                        add("team");
                        add(&team.to_string());
                        grants
                    }
                };
                for (site, role) in grants {
                    add(&site.to_string());
                    add(role.as_str());
                }
                // Added later, so only if they are set. No site is called like that.
                if !sources.is_everywhere() {
                    add("allowed_cidrs");
                    for range in sources.iter() {
                        add(&range.to_string());
                    }
                }
                if let Some(time) = activation.time() {
                    add("not_before_time");
                    add(&time.timestamp_micros().to_string());
                }
            }
            Self::Rotate(client, Rotation { overlap, etag }) => {
                add("rotate");
                add(&client.to_string());
                add(&overlap.length().to_string());
                add(etag.as_deref().unwrap_or_default());
            }
        }
        RequestDigest(hasher.finalize().into())
    }
}

/// A reply in its stored, encrypted form.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedReply {
    /// Random; makes the key unique.
    pub salt: [u8; 32],
    /// The encrypted reply with its authentication tag.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for SealedReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedReply({} bytes)", self.bytes.len())
    }
}

/// The reply cannot be decrypted: it was sealed with another of the caller's tokens or for
/// another request, or it was altered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sealed reply cannot be opened")]
pub struct OpenError;

/// Seals and opens a reply, with the request's id and the caller's secret.
#[derive(Clone, Debug)]
pub struct ReplayKey {
    id: WriteId,
    secret: CallerSecret,
}

impl ReplayKey {
    /// The key of the caller's request with this id.
    pub const fn new(id: WriteId, secret: CallerSecret) -> Self {
        Self { id, secret }
    }

    /// The key to find the request by. Equal ids of different accounts are different requests.
    pub fn lookup(&self, account: ServiceAccountId) -> Lookup {
        let mut hasher = blake3::Hasher::new_derive_key(LOOKUP_CONTEXT);
        hasher.update(account.uuid().as_bytes());
        hasher.update(self.id.0.as_bytes());
        Lookup(hasher.finalize().into())
    }

    /// Encrypts a reply and binds it to the request's digest.
    pub fn seal(
        &self,
        mut reply: Vec<u8>,
        digest: &RequestDigest,
        entropy: &dyn Entropy,
    ) -> SealedReply {
        let mut salt = [0; 32];
        entropy.fill(&mut salt);
        self.cipher(&salt)
            .seal_in_place_append_tag(nonce(), Aad::from(digest.0), &mut reply)
            .expect("a reply is far shorter than what the cipher takes");
        SealedReply { salt, bytes: reply }
    }

    /// Decrypts a reply.
    ///
    /// # Errors
    /// If it was sealed with another key or for another request, or was altered.
    pub fn open(
        &self,
        SealedReply { salt, mut bytes }: SealedReply,
        digest: &RequestDigest,
    ) -> Result<Vec<u8>, OpenError> {
        let length = self
            .cipher(&salt)
            .open_in_place(nonce(), Aad::from(digest.0), &mut bytes)
            .or(Err(OpenError))?
            .len();
        bytes.truncate(length);
        Ok(bytes)
    }

    /// The cipher for one reply: the salt gives each its own key.
    fn cipher(&self, salt: &[u8; 32]) -> LessSafeKey {
        let mut hasher = blake3::Hasher::new_derive_key(KEY_CONTEXT);
        hasher.update(salt);
        hasher.update(self.id.0.as_bytes());
        hasher.update(&self.secret.0);
        let key = UnboundKey::new(&CHACHA20_POLY1305, hasher.finalize().as_bytes());
        LessSafeKey::new(key.expect("a hash is as long as the cipher's key"))
    }
}

/// A constant nonce, which is sound because no key encrypts twice.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::*;
    use crate::token::TokenKind;

    /// Yields different bytes on each call.
    #[derive(Default)]
    struct Counting(AtomicU8);

    impl Entropy for Counting {
        fn fill(&self, buffer: &mut [u8]) {
            buffer.fill(self.0.fetch_add(1, Ordering::Relaxed));
        }
    }

    const DIGEST: RequestDigest = RequestDigest([7; 32]);

    fn key(id: &str, secret: &CallerSecret) -> ReplayKey {
        ReplayKey::new(id.parse().unwrap(), secret.clone())
    }

    #[test]
    fn a_reply_opens_only_for_its_caller_id_and_request() {
        let entropy = Counting::default();
        let secret = || CallerSecret::of(&Token::mint(TokenKind::ServiceAccount, &entropy));
        let (id, other) = (
            "7a1c3f0e-9b2d-4e5f-8a6b-1c2d3e4f5a6b",
            "7a1c3f0e-9b2d-4e5f-8a6b-1c2d3e4f5a6c",
        );
        let (hers, theirs) = (secret(), secret());
        let sealed = key(id, &hers).seal(b"a reply".to_vec(), &DIGEST, &entropy);
        let open = |key: ReplayKey, digest| key.open(sealed.clone(), &digest);
        assert_eq!(open(key(id, &hers), DIGEST), Ok(b"a reply".to_vec()));
        assert_eq!(open(key(other, &hers), DIGEST), Err(OpenError));
        assert_eq!(open(key(id, &theirs), DIGEST), Err(OpenError));
        let another = RequestDigest([8; 32]);
        assert_eq!(open(key(id, &hers), another), Err(OpenError));
        for at in 0..sealed.bytes.len() {
            let mut altered = sealed.clone();
            altered.bytes[at] ^= 1;
            assert_eq!(key(id, &hers).open(altered, &DIGEST), Err(OpenError));
        }
        // Sealing the same reply again gives a different result.
        let again = key(id, &hers).seal(b"a reply".to_vec(), &DIGEST, &entropy);
        assert_ne!((again.salt, &again.bytes), (sealed.salt, &sealed.bytes));
    }

    #[test]
    fn the_token_hash_is_not_the_caller_secret() {
        let token = Token::mint(TokenKind::ServiceAccount, &Counting::default());
        assert_ne!(CallerSecret::of(&token).0, token.hash().0);
    }
}
