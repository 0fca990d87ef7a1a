//! The tokens of an index by their hashes, in a tree for each scheme: the hash of one scheme
//! is not even compared with one of another.

use std::sync::Arc;

use super::{
    Client, Known,
    tree::{Keyed, Tree},
};
use crate::{
    Timestamp,
    client::Expiry,
    id::ClientId,
    introspection::{ResolvedClient, TokenStanding, WorksUntil},
    token::{LegacyHash, StoredHash, TokenHash},
};

/// All tokens of one version of the index.
#[derive(Clone, Debug, Default)]
pub(super) struct Tokens {
    current_scheme: Tree<Token<TokenHash>>,
    legacy: Tree<Token<LegacyHash>>,
    /// The number of values in `legacy`.
    legacy_count: usize,
}

/// The entry of a token, which nearly always suffices to decide whether the token is
/// active. It is stored inline, to cost one cache miss.
#[derive(Clone, Debug)]
pub(super) struct Token<H> {
    hash: H,
    works: WorksUntil,
    client: Arc<Client>,
}

/// A token that was found by its hash.
#[derive(Clone, Copy, Debug)]
pub struct Found<'i, H = TokenHash> {
    token: &'i Token<H>,
}

/// The hash of one scheme.
pub(super) trait SchemeHash: Copy + Eq + Into<StoredHash> {
    fn bytes(&self) -> &[u8; 32];
}

impl SchemeHash for TokenHash {
    fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl SchemeHash for LegacyHash {
    fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl<H: SchemeHash> Keyed for Token<H> {
    type Key = H;

    /// Hashes are uniformly distributed as they are.
    fn place_of(hash: &H) -> u64 {
        let first = hash.bytes().first_chunk();
        u64::from_be_bytes(*first.expect("a hash has thirty-two bytes"))
    }

    fn place(&self) -> u64 {
        Self::place_of(&self.hash)
    }

    fn has(&self, hash: &H) -> bool {
        self.hash == *hash
    }
}

#[expect(
    private_bounds,
    reason = "there are no schemes but those of the domain"
)]
impl<'i, H: SchemeHash> Found<'i, H> {
    /// The client that the token belongs to.
    pub fn client(self) -> &'i Arc<Client> {
        &self.token.client
    }

    /// Whether the token is current, or replaced with an overlap.
    pub fn standing(self) -> TokenStanding {
        self.client().standing(&self.token.hash.into())
    }

    /// The end of a token of `client`, its own, if it certainly works. If `None`,
    /// [`evaluate`](ResolvedClient::evaluate) decides.
    pub fn works(self, client: &ResolvedClient, now: Timestamp) -> Option<Expiry> {
        let works = self.token.works;
        if self.token.client.replaced.is_empty() {
            // The newest token ends with its client, whose expiry need not be converted.
            return works.is_after(now).then_some(client.expiry);
        }
        works.at(now)
    }

    /// Whether the token works, if it is presented from an address that its client allows.
    fn works_somewhere(self, now: Timestamp) -> bool {
        match &self.client().known {
            Known::Resolved(client) if client.restrictions.is_some() => client
                .evaluate_anywhere(self.standing(), Expiry::Never, now)
                .is_ok(),
            Known::Resolved(_) | Known::Unreadable(_) => false,
        }
    }
}

impl Tokens {
    /// The tokens of these clients.
    pub(super) fn of<'c>(clients: impl Iterator<Item = &'c Arc<Client>>) -> Self {
        let (mut current_scheme, mut legacy) = (Vec::new(), Vec::new());
        for client in clients {
            for (hash, standing) in client.standings() {
                let works = client.works_until(standing);
                let client = Arc::clone(client);
                match hash {
                    StoredHash::Blake3(hash) => current_scheme.push(Token {
                        hash,
                        works,
                        client,
                    }),
                    StoredHash::HitkeepSha256(hash) => legacy.push(Token {
                        hash,
                        works,
                        client,
                    }),
                }
            }
        }
        Self {
            legacy_count: legacy.len(),
            current_scheme: Tree::of(current_scheme),
            legacy: Tree::of(legacy),
        }
    }

    pub(super) fn find(&self, hash: &TokenHash) -> Option<Found<'_>> {
        let token = self.current_scheme.find(hash)?;
        Some(Found { token })
    }

    pub(super) fn find_legacy(&self, hash: &LegacyHash) -> Option<Found<'_, LegacyHash>> {
        let token = self.legacy.find(hash)?;
        Some(Found { token })
    }

    /// The number of legacy tokens, replaced ones included.
    pub(super) const fn legacy_count(&self) -> usize {
        self.legacy_count
    }

    /// How many legacy tokens work at that time. Visits all of them.
    pub(super) fn working_legacy_count(&self, now: Timestamp) -> usize {
        if self.legacy_count == 0 {
            return 0;
        }
        let works = |token: &&Token<LegacyHash>| {
            token.works.is_after(now) || Found { token: *token }.works_somewhere(now)
        };
        self.legacy.iter().filter(works).count()
    }

    /// Inserts or replaces all tokens of a client.
    pub(super) fn put(&mut self, client: &Arc<Client>) {
        for (hash, standing) in client.standings() {
            let works = client.works_until(standing);
            let client = Arc::clone(client);
            match hash {
                StoredHash::Blake3(hash) => {
                    let token = Token {
                        hash,
                        works,
                        client,
                    };
                    self.current_scheme.put(&hash, token);
                }
                StoredHash::HitkeepSha256(hash) => {
                    let token = Token {
                        hash,
                        works,
                        client,
                    };
                    let replaced = self.legacy.put(&hash, token);
                    self.legacy_count += usize::from(replaced.is_none());
                }
            }
        }
    }

    /// Removes a token, unless it belongs to another client by now.
    pub(super) fn remove(&mut self, hash: &StoredHash, of: ClientId) {
        match hash {
            StoredHash::Blake3(hash) => {
                remove(&mut self.current_scheme, hash, of);
            }
            StoredHash::HitkeepSha256(hash) => {
                let removed = remove(&mut self.legacy, hash, of);
                self.legacy_count -= usize::from(removed);
            }
        }
    }
}

/// Removes a token if it belongs to that client, and returns whether it did.
fn remove<H: SchemeHash>(tree: &mut Tree<Token<H>>, hash: &H, of: ClientId) -> bool {
    let found = tree.find(hash);
    found.is_some_and(|token| token.client.known.id() == of) && tree.remove(hash).is_some()
}
