//! The index: from a token's hash to what is known of its client, for all of them.
//!
//! An [`Index`] is one version and never changes, so whoever has one reads a
//! consistent state together with its revision, and waits for nobody. The
//! [`Writer`] makes the next version: it copies the path to what it changes, which
//! is two tables of 256 pointers and one leaf, and shares everything else. That
//! costs the same however many clients there are, and nothing of it is unsafe.

use std::{collections::HashMap, sync::Arc};

mod tree;

use super::usage::UsageSlot;
use crate::domain::{
    Revision, Timestamp,
    caller::ServiceAccount,
    id::ClientId,
    introspection::{Settled, TokenStanding},
    token::TokenHash,
};
use tree::{Keyed, Place, Tree};

/// One version of everything that Introspect answers from.
#[derive(Clone, Debug)]
pub struct Index {
    /// The revision of the database that it is true for.
    pub revision: Revision,
    tokens: Tree<Token>,
    callers: Arc<Callers>,
    clients: usize,
}

/// The callers that there are. Made anew whenever there are others, so whoever keeps
/// one sees by its address whether it still is the latest.
#[derive(Debug, Default)]
pub struct Callers(HashMap<TokenHash, Arc<ServiceAccount>>);

impl Callers {
    /// Finds the one that a token belongs to, by its hash.
    pub fn find(&self, token: &TokenHash) -> Option<&Arc<ServiceAccount>> {
        self.0.get(token)
    }
}

/// Makes versions of an [`Index`], one after the other.
#[derive(Debug, Default)]
pub struct Writer {
    tokens: Tree<Token>,
    callers: Arc<Callers>,
    /// Of each client what its tokens' entries were made from, to know which ones
    /// to remove.
    clients: Tree<Arc<Client>>,
    count: usize,
}

/// What is known of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Everything that there is to know.
    Settled(Settled),
    /// The database holds something of it that nobody can read, so nothing can be
    /// said of its tokens.
    Unreadable(ClientId),
}

impl Known {
    /// Which client it is of.
    pub const fn id(&self) -> ClientId {
        match self {
            Self::Settled(settled) => settled.client,
            Self::Unreadable(id) => *id,
        }
    }
}

/// A client, and all its tokens.
#[derive(Debug)]
pub struct Client {
    /// What is known of it.
    pub known: Known,
    /// The newest token; none only where somebody removed it by hand.
    current: Option<TokenHash>,
    /// Those that it replaced.
    replaced: Box<[TokenHash]>,
    /// Where its uses are noted. Handed on to what comes in this one's place.
    pub usage: UsageSlot,
}

/// A token that was found.
#[derive(Clone, Copy, Debug)]
pub struct Found<'i> {
    /// Its place among its client's tokens.
    pub standing: TokenStanding,
    /// Its client.
    pub client: &'i Client,
}

#[derive(Clone, Debug)]
enum Token {
    /// The client's current one, whose hash is the client's.
    Current(Arc<Client>),
    /// One that was replaced.
    Replaced(Arc<Replaced>),
}

#[derive(Debug)]
struct Replaced {
    hash: TokenHash,
    until: Timestamp,
    client: Arc<Client>,
}

/// Where a hash is kept: hashes are spread evenly as they are.
fn place_of_hash(hash: &TokenHash) -> Place {
    let [first, second, rest @ ..] = hash.0;
    let tag = rest.first_chunk().expect("thirty bytes are left");
    Place {
        first,
        second,
        tag: u64::from_le_bytes(*tag),
    }
}

/// Where a client is kept. Ids are not spread evenly: they begin with a time.
fn place_of_client(id: ClientId) -> Place {
    /// An odd number without a pattern, the golden ratio's fraction.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let (high, low) = id.uuid().as_u64_pair();
    let mixed = (high ^ low.rotate_left(32)).wrapping_mul(SPREAD);
    let [.., second, first] = mixed.to_le_bytes();
    Place {
        first,
        second,
        tag: low,
    }
}

impl Token {
    fn client(&self) -> &Arc<Client> {
        match self {
            Self::Current(client) => client,
            Self::Replaced(replaced) => &replaced.client,
        }
    }
}

impl Keyed for Token {
    type Key = TokenHash;

    fn has(&self, hash: &TokenHash) -> bool {
        match self {
            Self::Current(client) => client.current == Some(*hash),
            Self::Replaced(replaced) => replaced.hash == *hash,
        }
    }
}

impl Keyed for Arc<Client> {
    type Key = ClientId;

    fn has(&self, id: &ClientId) -> bool {
        self.known.id() == *id
    }
}

impl Index {
    /// Finds a token by its hash.
    pub fn find(&self, hash: &TokenHash) -> Option<Found<'_>> {
        Some(match self.tokens.find(place_of_hash(hash), hash)? {
            Token::Current(client) => Found {
                standing: TokenStanding::Current,
                client,
            },
            Token::Replaced(replaced) => Found {
                standing: TokenStanding::ReplacedUntil(replaced.until),
                client: &replaced.client,
            },
        })
    }

    /// Finds a caller that is not revoked by the hash of its token.
    pub fn caller(&self, hash: &TokenHash) -> Option<&Arc<ServiceAccount>> {
        self.callers.find(hash)
    }

    /// The callers that are not revoked.
    pub fn callers(&self) -> &Arc<Callers> {
        &self.callers
    }

    /// How many clients it holds.
    pub fn clients(&self) -> usize {
        self.clients
    }
}

impl Writer {
    /// The state so far, as a version of its own.
    pub fn version(&self, revision: Revision) -> Index {
        Index {
            revision,
            tokens: self.tokens.clone(),
            callers: Arc::clone(&self.callers),
            clients: self.count,
        }
    }

    /// How many clients there are.
    pub fn clients(&self) -> usize {
        self.count
    }

    /// A writer that knows these clients, each of them once, and their tokens.
    pub fn of(clients: impl Iterator<Item = (Known, Vec<(TokenHash, TokenStanding)>)>) -> Self {
        let (mut by_id, mut by_hash) = (Vec::new(), Vec::new());
        for (known, tokens) in clients {
            let id = known.id();
            let (client, tokens) = entries(known, &tokens, UsageSlot::default());
            for (hash, token) in tokens {
                by_hash.push((place_of_hash(&hash), token));
            }
            by_id.push((place_of_client(id), client));
        }
        Self {
            callers: Arc::default(),
            count: by_id.len(),
            clients: Tree::of(by_id),
            tokens: Tree::of(by_hash),
        }
    }

    /// Puts a client in the place of what was known of it, with all its tokens.
    pub fn put(&mut self, known: Known, tokens: &[(TokenHash, TokenStanding)]) {
        let id = known.id();
        let place = place_of_client(id);
        let old = self.clients.find(place, &id);
        let usage = old.map(|old| old.usage.clone()).unwrap_or_default();
        let (client, tokens) = entries(known, tokens, usage);
        if let Some(old) = self.clients.put(place, &id, Arc::clone(&client)) {
            let is_kept = |hash: &TokenHash| tokens.iter().any(|(kept, _)| kept == hash);
            for hash in old.hashes().filter(|hash| !is_kept(hash)) {
                self.remove_token(hash, id);
            }
        } else {
            self.count += 1;
        }
        for (hash, token) in tokens {
            self.tokens.put(place_of_hash(&hash), &hash, token);
        }
    }

    /// Forgets a client and its tokens, which are unknown from here on.
    pub fn remove(&mut self, id: ClientId) {
        if let Some(old) = self.clients.remove(place_of_client(id), &id) {
            self.count -= 1;
            for hash in old.hashes() {
                self.remove_token(hash, id);
            }
        }
    }

    /// Puts these callers in the place of all that were known.
    pub fn set_callers(&mut self, accounts: Vec<(TokenHash, ServiceAccount)>) {
        let accounts = accounts.into_iter();
        let callers = accounts.map(|(hash, account)| (hash, Arc::new(account)));
        self.callers = Arc::new(Callers(callers.collect()));
    }

    /// Removes a token, unless it became another client's meanwhile.
    fn remove_token(&mut self, hash: &TokenHash, of: ClientId) {
        let place = place_of_hash(hash);
        let found = self.tokens.find(place, hash);
        if found.is_some_and(|token| token.client().known.id() == of) {
            self.tokens.remove(place, hash);
        }
    }
}

/// A client, and an entry for each of its tokens.
fn entries(
    known: Known,
    tokens: &[(TokenHash, TokenStanding)],
    usage: UsageSlot,
) -> (Arc<Client>, Vec<(TokenHash, Token)>) {
    let of = |(hash, standing): &(TokenHash, TokenStanding)| (*hash, standing.end().time());
    let (replaced, current): (Vec<_>, Vec<_>) = tokens
        .iter()
        .map(of)
        .partition(|(_, until)| until.is_some());
    let client = Arc::new(Client {
        known,
        current: current.first().map(|(hash, _)| *hash),
        replaced: replaced.iter().map(|(hash, _)| *hash).collect(),
        usage,
    });
    let entry = |(hash, until): (TokenHash, Option<Timestamp>)| {
        let client = Arc::clone(&client);
        let token = match until {
            None => Token::Current(client),
            Some(until) => Token::Replaced(Arc::new(Replaced {
                hash,
                until,
                client,
            })),
        };
        (hash, token)
    };
    let tokens = current.into_iter().take(1).chain(replaced);
    let tokens = tokens.map(entry).collect();
    (client, tokens)
}

impl Client {
    fn hashes(&self) -> impl Iterator<Item = &TokenHash> {
        self.current.iter().chain(&self.replaced)
    }
}
