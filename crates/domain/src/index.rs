//! The index: a map from the hashes of all tokens to their clients.
//!
//! An [`Index`] is one immutable version: its readers see a consistent state together with
//! its revision, without locks. The [`Writer`] makes the next version by path copying: it
//! copies two tables of 256 pointers and one leaf, and shares the rest. The cost does not
//! depend on the number of clients, and no code is unsafe.

use std::{collections::HashMap, sync::Arc};

mod tree;

use crate::{
    Revision, Timestamp,
    caller::ServiceAccount,
    certificate::CertificateName,
    client::Expiry,
    id::ClientId,
    introspection::{ResolvedClient, TokenStanding, WorksUntil},
    ledger::UsageSlot,
    token::TokenHash,
};
use tree::{Keyed, Tree};

/// One version of the index.
#[derive(Clone, Debug)]
pub struct Index {
    /// The revision of the database that this version reflects.
    pub revision: Revision,
    tokens: Tree<Token>,
    callers: Arc<Callers>,
    clients: usize,
}

/// All active service accounts. Replaced as a whole on each change, so that a holder can
/// compare addresses to find out whether its copy is the latest.
#[derive(Debug, Default)]
pub struct Callers {
    by_token: HashMap<TokenHash, Arc<ServiceAccount>>,
    by_name: HashMap<CertificateName, Arc<ServiceAccount>>,
}

impl Callers {
    /// Finds a service account by the hash of its token.
    pub fn find(&self, token: &TokenHash) -> Option<&Arc<ServiceAccount>> {
        self.by_token.get(token)
    }

    /// Finds the service account of the names in a certificate. `None` if they belong to
    /// several accounts, since that is ambiguous.
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
    /// The clients, to find the entries of their tokens when a client changes.
    clients: Tree<Placed>,
    count: usize,
}

/// A client as the index knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// The client, with its access resolved.
    Resolved(ResolvedClient),
    /// The database holds a row of the client that no version of the service writes, so
    /// that its tokens cannot be judged.
    Unreadable(ClientId),
}

impl Known {
    /// The id of the client, readable or not.
    pub const fn id(&self) -> ClientId {
        match self {
            Self::Resolved(client) => client.client,
            Self::Unreadable(id) => *id,
        }
    }
}

/// A client with all its tokens.
#[derive(Debug)]
pub struct Client {
    /// The client, or the id of an unreadable one.
    pub known: Known,
    /// The newest token; `None` only if an operator removed it by hand.
    current: Option<TokenHash>,
    /// The replaced tokens with the ends of their overlaps, sorted by hash for binary
    /// search: without it, the cost of a client would grow with the square of its tokens.
    replaced: Box<[(TokenHash, Timestamp)]>,
    /// Counts the client's uses. The next version of the client takes it over.
    pub usage: UsageSlot,
}

/// A token that was found.
#[derive(Clone, Copy, Debug)]
pub struct Found<'i> {
    token: &'i Token,
}

/// The entry of a token, which nearly always suffices to decide whether the token is
/// active. It is stored inline, to cost one cache miss.
#[derive(Clone, Debug)]
struct Token {
    hash: TokenHash,
    works: WorksUntil,
    client: Arc<Client>,
}

/// A client in the tree.
#[derive(Clone, Debug)]
struct Placed {
    place: u64,
    client: Arc<Client>,
}

impl Keyed for Token {
    type Key = TokenHash;

    /// Hashes are uniformly distributed as they are.
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

    /// Ids begin with a timestamp, so that they have to be mixed.
    fn place_of(id: &ClientId) -> u64 {
        /// The fraction of the golden ratio, an odd number without a pattern.
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
    /// The client that the token belongs to.
    pub fn client(self) -> &'i Client {
        &self.token.client
    }

    /// Whether the token is current, or replaced with an overlap.
    pub fn standing(self) -> TokenStanding {
        self.client().standing(&self.token.hash)
    }

    /// The expiry of the token, if it certainly works. If `None`, [`ResolvedClient::evaluate`]
    /// decides.
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

    /// The service accounts that are not revoked.
    pub fn callers(&self) -> &Arc<Callers> {
        &self.callers
    }

    /// The number of clients in this version.
    pub fn clients(&self) -> usize {
        self.clients
    }
}

impl Writer {
    /// Publishes the current state as an immutable version.
    pub fn version(&self, revision: Revision) -> Index {
        Index {
            revision,
            tokens: self.tokens.clone(),
            callers: Arc::clone(&self.callers),
            clients: self.count,
        }
    }

    /// The number of clients.
    pub fn clients(&self) -> usize {
        self.count
    }

    /// A writer with these clients, of which each must occur once, and their tokens.
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

    /// Inserts or replaces a client and all its tokens.
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

    /// Removes a client and its tokens.
    pub fn remove(&mut self, id: ClientId) {
        if let Some(old) = self.clients.remove(&id) {
            self.count -= 1;
            for (hash, _) in old.client.standings() {
                self.remove_token(&hash, id);
            }
        }
    }

    /// Replaces all service accounts.
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

    /// Removes a token, unless it belongs to another client by now.
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

    fn standings(&self) -> impl Iterator<Item = (TokenHash, TokenStanding)> {
        let current = self.current.iter();
        let current = current.map(|hash| (*hash, TokenStanding::Current));
        let replaced = self.replaced.iter();
        current.chain(replaced.map(|(hash, end)| (*hash, TokenStanding::ReplacedUntil(*end))))
    }

    /// The end of a replaced token's overlap.
    fn end(&self, hash: &TokenHash) -> Option<Timestamp> {
        let found = self
            .replaced
            .binary_search_by_key(&hash.0, |(hash, _)| hash.0);
        found.ok().map(|at| self.replaced[at].1)
    }

    fn has(&self, hash: &TokenHash) -> bool {
        self.current.as_ref() == Some(hash) || self.end(hash).is_some()
    }

    fn standing(&self, hash: &TokenHash) -> TokenStanding {
        self.end(hash)
            .map_or(TokenStanding::Current, TokenStanding::ReplacedUntil)
    }

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
