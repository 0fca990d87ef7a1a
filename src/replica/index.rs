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
    certificate::CertificateName,
    client::Expiry,
    id::ClientId,
    introspection::{ResolvedClient, TokenStanding, WorksUntil},
    token::TokenHash,
};
use tree::{Keyed, Tree};

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
pub struct Callers {
    by_token: HashMap<TokenHash, Arc<ServiceAccount>>,
    by_name: HashMap<CertificateName, Arc<ServiceAccount>>,
}

impl Callers {
    /// Finds the one that a token belongs to, by its hash.
    pub fn find(&self, token: &TokenHash) -> Option<&Arc<ServiceAccount>> {
        self.by_token.get(token)
    }

    /// Finds the one that the names in a certificate belong to. None where they are of
    /// several: it is open which one is meant.
    pub fn named(&self, names: &[CertificateName]) -> Option<&Arc<ServiceAccount>> {
        let mut found = names.iter().filter_map(|name| self.by_name.get(name));
        let first = found.next()?;
        found.all(|other| other.id == first.id).then_some(first)
    }
}

/// Makes versions of an [`Index`], one after the other.
#[derive(Debug, Default)]
pub struct Writer {
    tokens: Tree<Token>,
    callers: Arc<Callers>,
    /// Of each client what its tokens' entries were made from, to know which ones
    /// to remove.
    clients: Tree<Placed>,
    count: usize,
}

/// What is known of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Everything that there is to know.
    Resolved(ResolvedClient),
    /// The database holds something of it that nobody can read, so nothing can be
    /// said of its tokens.
    Unreadable(ClientId),
}

impl Known {
    /// Which client it is of.
    pub const fn id(&self) -> ClientId {
        match self {
            Self::Resolved(client) => client.client,
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
    /// Those that it replaced, each with its overlap's end, in the order of their
    /// hashes: so what a client costs grows with its tokens, and not with their square.
    replaced: Box<[(TokenHash, Timestamp)]>,
    /// Where its uses are noted. Handed on to what comes in this one's place.
    pub usage: UsageSlot,
}

/// A token that was found.
#[derive(Clone, Copy, Debug)]
pub struct Found<'i> {
    token: &'i Token,
}

/// What is read first of a token, and nearly always enough to tell whether it works:
/// it lies in one piece, since a million of them are in no processor's cache.
#[derive(Clone, Debug)]
struct Token {
    hash: TokenHash,
    works: WorksUntil,
    client: Arc<Client>,
}

/// A client among the others.
#[derive(Clone, Debug)]
struct Placed {
    place: u64,
    client: Arc<Client>,
}

impl Keyed for Token {
    type Key = TokenHash;

    /// Hashes are spread evenly as they are.
    fn place_of(hash: &TokenHash) -> u64 {
        let first = hash.0.first_chunk().expect("a hash has thirty-two bytes");
        u64::from_be_bytes(*first)
    }

    fn place(&self) -> u64 {
        Self::place_of(&self.hash)
    }

    fn has(&self, hash: &TokenHash) -> bool {
        self.hash == *hash
    }
}

impl Keyed for Placed {
    type Key = ClientId;

    /// Ids are not spread evenly: they begin with a time.
    fn place_of(id: &ClientId) -> u64 {
        /// An odd number without a pattern, the golden ratio's fraction.
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
        let (high, low) = id.uuid().as_u64_pair();
        (high ^ low.rotate_left(32)).wrapping_mul(SPREAD)
    }

    fn place(&self) -> u64 {
        self.place
    }

    fn has(&self, id: &ClientId) -> bool {
        self.client.known.id() == *id
    }
}

impl<'i> Found<'i> {
    /// Its client.
    pub fn client(self) -> &'i Client {
        &self.token.client
    }

    /// Its place among its client's tokens.
    pub fn standing(self) -> TokenStanding {
        self.client().standing(&self.token.hash)
    }

    /// When the token ends by itself, if it works. `None`: it does not work, or
    /// perhaps so, and [`ResolvedClient::evaluate`] tells.
    pub fn works(self, now: Timestamp) -> Option<Expiry> {
        self.token.works.at(now)
    }
}

impl Index {
    /// Finds a token by its hash.
    pub fn find(&self, hash: &TokenHash) -> Option<Found<'_>> {
        let token = self.tokens.find(hash)?;
        Some(Found { token })
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
            let client = Client::new(known, &tokens, UsageSlot::default());
            by_hash.extend(client.tokens());
            by_id.push(Placed::new(client));
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
        let old = self.clients.find(&id);
        let usage = old.map(|old| old.client.usage.clone()).unwrap_or_default();
        let client = Client::new(known, tokens, usage);
        if let Some(old) = self.clients.put(&id, Placed::new(Arc::clone(&client))) {
            for (hash, _) in old.client.standings() {
                if !client.has(&hash) {
                    self.remove_token(&hash, id);
                }
            }
        } else {
            self.count += 1;
        }
        for token in client.tokens() {
            self.tokens.put(&token.hash.clone(), token);
        }
    }

    /// Forgets a client and its tokens, which are unknown from here on.
    pub fn remove(&mut self, id: ClientId) {
        if let Some(old) = self.clients.remove(&id) {
            self.count -= 1;
            for (hash, _) in old.client.standings() {
                self.remove_token(&hash, id);
            }
        }
    }

    /// Puts these callers in the place of all that were known.
    pub fn set_callers(&mut self, accounts: Vec<(TokenHash, ServiceAccount)>) {
        let mut callers = Callers::default();
        for (hash, account) in accounts {
            let account = Arc::new(account);
            let names = account.certificate_names.iter();
            callers
                .by_name
                .extend(names.map(|name| (name.clone(), Arc::clone(&account))));
            callers.by_token.insert(hash, account);
        }
        self.callers = Arc::new(callers);
    }

    /// Removes a token, unless it became another client's meanwhile.
    fn remove_token(&mut self, hash: &TokenHash, of: ClientId) {
        let found = self.tokens.find(hash);
        if found.is_some_and(|token| token.client.known.id() == of) {
            self.tokens.remove(hash);
        }
    }
}

impl Placed {
    fn new(client: Arc<Client>) -> Self {
        Self {
            place: Self::place_of(&client.known.id()),
            client,
        }
    }
}

impl Client {
    fn new(known: Known, tokens: &[(TokenHash, TokenStanding)], usage: UsageSlot) -> Arc<Self> {
        let mut current = None;
        let mut replaced = Vec::new();
        for (hash, standing) in tokens {
            match standing {
                TokenStanding::Current => current = current.or(Some(*hash)),
                TokenStanding::ReplacedUntil(end) => replaced.push((*hash, *end)),
            }
        }
        replaced.sort_unstable_by_key(|(hash, _)| hash.0);
        Arc::new(Self {
            known,
            current,
            replaced: replaced.into(),
            usage,
        })
    }

    /// Its tokens, each with its place among them.
    fn standings(&self) -> impl Iterator<Item = (TokenHash, TokenStanding)> {
        let current = self.current.iter();
        let current = current.map(|hash| (*hash, TokenStanding::Current));
        let replaced = self.replaced.iter();
        current.chain(replaced.map(|(hash, end)| (*hash, TokenStanding::ReplacedUntil(*end))))
    }

    /// When one of its tokens ends that was replaced.
    fn end(&self, hash: &TokenHash) -> Option<Timestamp> {
        let found = self
            .replaced
            .binary_search_by_key(&hash.0, |(hash, _)| hash.0);
        found.ok().map(|at| self.replaced[at].1)
    }

    fn has(&self, hash: &TokenHash) -> bool {
        self.current.as_ref() == Some(hash) || self.end(hash).is_some()
    }

    /// The place of one of its tokens.
    fn standing(&self, hash: &TokenHash) -> TokenStanding {
        self.end(hash)
            .map_or(TokenStanding::Current, TokenStanding::ReplacedUntil)
    }

    /// An entry for each of its tokens.
    fn tokens(self: &Arc<Self>) -> impl Iterator<Item = Token> {
        self.standings().map(|(hash, standing)| Token {
            hash,
            works: match &self.known {
                Known::Resolved(client) => client.works_until(standing),
                Known::Unreadable(_) => WorksUntil::NEVER,
            },
            client: Arc::clone(self),
        })
    }
}
