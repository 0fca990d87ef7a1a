//! Writes that may be sent again (AIP-155): how a repeated request is recognised, and how
//! the reply is sealed that it gets.
//!
//! The reply holds a token, so what is kept of it must be worth nothing to whoever reads
//! the database. It is encrypted with a key that is derived from the request's id and from
//! the caller's own token. The database holds neither: the request is found by a hash of
//! its id, and of the caller's token the database has another hash. What a token hash or a
//! lookup reveals is therefore of no use for the key, and the other way round.

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

/// How long a request id is remembered, by the database's clock. At the end of it, the
/// same id stands for a new request.
pub const REMEMBERED_FOR: TimeDelta = TimeDelta::hours(24);
/// The longest sealed reply, in bytes. The largest API client has 100 grants of about 50
/// bytes each, and up to 620 characters of text: less than half of this.
pub const MAX_SEALED_REPLY: usize = 16 * 1024;

/// What is derived for (BLAKE3's derive-key mode): a value for one purpose tells nothing
/// about the values for the others.
const SECRET_CONTEXT: &str = "auth.hitkeep.com 2026-11-29 caller secret for replays v1";
const LOOKUP_CONTEXT: &str = "auth.hitkeep.com 2026-11-29 replay lookup v1";
const DIGEST_CONTEXT: &str = "auth.hitkeep.com 2026-11-29 replay request digest v1";
const KEY_CONTEXT: &str = "auth.hitkeep.com 2026-11-29 sealed reply key v1";

/// The secret of a caller from which keys are derived. It comes from the caller's token,
/// which has 256 random bits, and like the token it is never stored or shown.
#[derive(Clone)]
pub struct CallerSecret([u8; 32]);

impl CallerSecret {
    /// The secret of the caller that shows this token.
    pub fn of(token: &Token) -> Self {
        Self(token.derive(SECRET_CONTEXT))
    }
}

impl fmt::Debug for CallerSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallerSecret")
    }
}

/// The text cannot be the id of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadWriteId {
    /// It is not a UUID in its one accepted spelling.
    #[error(transparent)]
    Malformed(#[from] MalformedId),
    /// It is the nil UUID, which stands for an id that nobody set.
    #[error("must not be the nil UUID")]
    Nil,
}

/// The id that a caller gives to a write that it may send again. Half of what a reply is
/// sealed with, so it is not shown either.
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

/// What a request is found by: a hash of the caller's account and the request's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup(pub [u8; 32]);

/// What two requests have in common that ask for the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestDigest(pub [u8; 32]);

/// A write that can be asked for with an id.
#[derive(Clone, Copy, Debug)]
pub enum Write<'w> {
    /// To make a client.
    Create(&'w Draft),
    /// To replace a client's token.
    Rotate(ClientId, &'w Rotation),
}

impl Write<'_> {
    /// The digest of everything that determines what the write comes to, as it was read
    /// and not as it was sent: order and spelling do not count. The actor's address and
    /// user agent do not count either, because a retry may come another way.
    ///
    /// A field that is added in a later version must change the digest only where it is
    /// set, or a retry to a newer server would be taken for another request.
    pub fn digest(&self, actor: UserId) -> RequestDigest {
        let mut hasher = blake3::Hasher::new_derive_key(DIGEST_CONTEXT);
        let mut add = |part: &str| {
            // With its length in front, no part can run into the next.
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

/// A reply as it is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedReply {
    /// What makes the key one of a kind.
    pub salt: [u8; 32],
    /// The encrypted reply with its authentication tag.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for SealedReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedReply({} bytes)", self.bytes.len())
    }
}

/// A reply cannot be opened: it was sealed with another token of the caller's or for
/// another request, or it was altered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sealed reply cannot be opened")]
pub struct CannotOpen;

/// What a reply is sealed and opened with: the request's id and the caller's secret.
#[derive(Clone, Debug)]
pub struct ReplayKey {
    id: WriteId,
    secret: CallerSecret,
}

impl ReplayKey {
    /// The key of the request that this caller sent with this id.
    pub const fn new(id: WriteId, secret: CallerSecret) -> Self {
        Self { id, secret }
    }

    /// What the request is found by. Ids of different accounts are different requests.
    pub fn lookup(&self, account: ServiceAccountId) -> Lookup {
        let mut hasher = blake3::Hasher::new_derive_key(LOOKUP_CONTEXT);
        hasher.update(account.uuid().as_bytes());
        hasher.update(self.id.0.as_bytes());
        Lookup(hasher.finalize().into())
    }

    /// Encrypts a reply, for that request alone.
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
    /// Where it was sealed with another key or for another request, or was altered.
    pub fn open(
        &self,
        SealedReply { salt, mut bytes }: SealedReply,
        digest: &RequestDigest,
    ) -> Result<Vec<u8>, CannotOpen> {
        let length = self
            .cipher(&salt)
            .open_in_place(nonce(), Aad::from(digest.0), &mut bytes)
            .or(Err(CannotOpen))?
            .len();
        bytes.truncate(length);
        Ok(bytes)
    }

    /// The cipher for one reply: the salt gives each a key of its own.
    fn cipher(&self, salt: &[u8; 32]) -> LessSafeKey {
        let mut hasher = blake3::Hasher::new_derive_key(KEY_CONTEXT);
        hasher.update(salt);
        hasher.update(self.id.0.as_bytes());
        hasher.update(&self.secret.0);
        let key = UnboundKey::new(&CHACHA20_POLY1305, hasher.finalize().as_bytes());
        LessSafeKey::new(key.expect("a hash is as long as the cipher's key"))
    }
}

/// The same for every reply, which is sound because no key encrypts twice.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::*;
    use crate::domain::token::TokenKind;

    /// Other bytes each time.
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
    fn a_reply_opens_for_its_caller_its_id_and_its_request_alone() {
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
        assert_eq!(open(key(other, &hers), DIGEST), Err(CannotOpen));
        assert_eq!(open(key(id, &theirs), DIGEST), Err(CannotOpen));
        let another = RequestDigest([8; 32]);
        assert_eq!(open(key(id, &hers), another), Err(CannotOpen));
        for at in 0..sealed.bytes.len() {
            let mut altered = sealed.clone();
            altered.bytes[at] ^= 1;
            assert_eq!(key(id, &hers).open(altered, &DIGEST), Err(CannotOpen));
        }
        // The same reply is never sealed the same way twice.
        let again = key(id, &hers).seal(b"a reply".to_vec(), &DIGEST, &entropy);
        assert_ne!((again.salt, &again.bytes), (sealed.salt, &sealed.bytes));
    }

    #[test]
    fn what_is_kept_of_a_token_is_not_its_secret() {
        let token = Token::mint(TokenKind::ServiceAccount, &Counting::default());
        assert_ne!(CallerSecret::of(&token).0, token.hash().0);
    }
}
