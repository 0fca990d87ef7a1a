//! The index: maps from the hashes of all tokens to their clients, one for each scheme.
//!
//! An [`Index`] is one immutable version: its readers see a consistent state together with
//! its revision, without locks. The [`Writer`] makes the next version by path copying: it
//! copies two tables of 256 pointers and one leaf, and shares the rest. The cost does not
//! depend on the number of clients, and no code is unsafe.

use std::{collections::HashMap, sync::Arc};

mod judge;
mod tokens;
mod tree;

use crate::{
    Position, Revision, Timestamp,
    caller::ServiceAccount,
    certificate::CertificateName,
    id::ClientId,
    introspection::{ResolvedClient, TokenStanding, WorksUntil},
    ledger::UsageSlot,
    token::{LegacyHash, StoredHash, TokenHash},
};
pub use judge::Judged;
pub use tokens::Found;
use tokens::Tokens;
use tree::{Keyed, Tree};

/// One version of the index.
#[derive(Clone, Debug)]
pub struct Index {
    /// The state of the database that this version reflects.
    pub position: Position,
    tokens: Tokens,
    callers: Arc<Callers>,
    clients: Tree<Placed>,
    count: usize,
}

/// All active service accounts. Replaced as a whole on each change, so that a holder can
/// compare addresses to find out whether its copy is the latest.
#[derive(Debug, Default)]
pub struct Callers {
    by_token: HashMap<TokenHash, Arc<ServiceAccount>>,
    /// By the tokens that were replaced, some of which still work.
    by_replaced_token: HashMap<TokenHash, Arc<ServiceAccount>>,
    by_name: HashMap<CertificateName, Arc<ServiceAccount>>,
}

impl Callers {
    /// Finds a service account by the hash of its token: its newest one, or the one before
    /// during its overlap. Only for that one is the time read.
    pub fn find(
        &self,
        token: &TokenHash,
        now: impl FnOnce() -> Timestamp,
    ) -> Option<&Arc<ServiceAccount>> {
        if let Some(account) = self.by_token.get(token) {
            return Some(account);
        }
        let account = self.by_replaced_token.get(token)?;
        let replaced = account.replaced_token.as_ref()?;
        replaced.works(now()).then_some(account)
    }

    /// Whether it depends on the time whether a token works: it was replaced.
    pub fn is_replaced(&self, token: &TokenHash) -> bool {
        self.by_replaced_token.contains_key(token)
    }

    /// All accounts, with the hashes of their newest tokens.
    pub fn accounts(&self) -> impl Iterator<Item = (&TokenHash, &ServiceAccount)> {
        let accounts = self.by_token.iter();
        accounts.map(|(hash, account)| (hash, &**account))
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
    tokens: Tokens,
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
    current: Option<StoredHash>,
    /// The replaced tokens with the ends of their overlaps, sorted by hash for binary
    /// search: without it, the cost of a client would grow with the square of its tokens.
    replaced: Box<[(StoredHash, Timestamp)]>,
    /// Counts the client's uses. The next version of the client takes it over.
    pub usage: UsageSlot,
}

/// A client in the tree.
#[derive(Clone, Debug)]
struct Placed {
    place: u64,
    client: Arc<Client>,
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

impl Index {
    /// Finds a token by its hash.
    pub fn find(&self, hash: &TokenHash) -> Option<Found<'_>> {
        self.tokens.find(hash)
    }

    /// Whether any client has a legacy token, a replaced one included. If not, there is no
    /// need to hash one.
    pub fn has_legacy_tokens(&self) -> bool {
        self.tokens.legacy_count() > 0
    }

    /// Finds a legacy token by its hash.
    pub fn find_legacy(&self, hash: &LegacyHash) -> Option<Found<'_, LegacyHash>> {
        self.tokens.find_legacy(hash)
    }

    /// How many legacy tokens work at that time, unless they are no longer accepted at all.
    /// Visits all of them.
    pub fn working_legacy_tokens(&self, now: Timestamp) -> usize {
        self.tokens.working_legacy_count(now)
    }

    /// The revision of the database that this version reflects.
    pub const fn revision(&self) -> Revision {
        self.position.revision
    }

    /// Finds a client by its id.
    pub fn client(&self, id: ClientId) -> Option<&Client> {
        let placed = self.clients.find(&id)?;
        Some(&placed.client)
    }

    /// The clients in one of the [`Self::PARTS`] into which a version is divided, to
    /// read all clients in steps that hold nothing but the version in between.
    pub fn part(&self, part: usize) -> impl Iterator<Item = &Client> {
        let leaf = self.clients.leaf_at(part).iter();
        leaf.map(|placed| &*placed.client)
    }

    /// The number of parts of a version.
    pub const PARTS: usize = tree::LEAVES;

    /// The service accounts that are not revoked.
    pub fn callers(&self) -> &Arc<Callers> {
        &self.callers
    }

    /// The number of clients in this version.
    pub fn clients(&self) -> usize {
        self.count
    }
}

impl Writer {
    /// Publishes the current state as an immutable version.
    pub fn version(&self, position: Position) -> Index {
        Index {
            position,
            tokens: self.tokens.clone(),
            callers: Arc::clone(&self.callers),
            clients: self.clients.clone(),
            count: self.count,
        }
    }

    /// The number of clients.
    pub fn clients(&self) -> usize {
        self.count
    }

    /// A writer with these clients, of which each must occur once, and their tokens.
    pub fn of(clients: impl Iterator<Item = (Known, Vec<(StoredHash, TokenStanding)>)>) -> Self {
        let client = |(known, tokens): (_, Vec<_>)| {
            Placed::new(Client::new(known, &tokens, UsageSlot::default()))
        };
        let by_id: Vec<_> = clients.map(client).collect();
        Self {
            callers: Arc::default(),
            count: by_id.len(),
            tokens: Tokens::of(by_id.iter().map(|placed| &placed.client)),
            clients: Tree::of(by_id),
        }
    }

    /// Inserts or replaces a client and all its tokens.
    pub fn put(&mut self, known: Known, tokens: &[(StoredHash, TokenStanding)]) {
        let id = known.id();
        let old = self.clients.find(&id);
        let usage = old.map(|old| old.client.usage.clone()).unwrap_or_default();
        let client = Client::new(known, tokens, usage);
        if let Some(old) = self.clients.put(&id, Placed::new(Arc::clone(&client))) {
            for (hash, _) in old.client.standings() {
                if !client.has(&hash) {
                    self.tokens.remove(&hash, id);
                }
            }
        } else {
            self.count += 1;
        }
        self.tokens.put(&client);
    }

    /// Removes a client and its tokens.
    pub fn remove(&mut self, id: ClientId) {
        if let Some(old) = self.clients.remove(&id) {
            self.count -= 1;
            for (hash, _) in old.client.standings() {
                self.tokens.remove(&hash, id);
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
            if let Some(replaced) = account.replaced_token {
                let account = Arc::clone(&account);
                callers.by_replaced_token.insert(replaced.hash, account);
            }
            callers.by_token.insert(hash, account);
        }
        self.callers = Arc::new(callers);
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
    fn new(known: Known, tokens: &[(StoredHash, TokenStanding)], usage: UsageSlot) -> Arc<Self> {
        let mut current = None;
        let mut replaced = Vec::new();
        for (hash, standing) in tokens {
            match standing {
                TokenStanding::Current => current = current.or(Some(*hash)),
                TokenStanding::ReplacedUntil(end) => replaced.push((*hash, *end)),
            }
        }
        replaced.sort_unstable_by_key(|(hash, _)| *hash);
        Arc::new(Self {
            known,
            current,
            replaced: replaced.into(),
            usage,
        })
    }

    /// The hashes of the client's tokens: the newest one, and those that it replaced.
    pub fn standings(&self) -> impl Iterator<Item = (StoredHash, TokenStanding)> {
        let current = self.current.iter();
        let current = current.map(|hash| (*hash, TokenStanding::Current));
        let replaced = self.replaced.iter();
        current.chain(replaced.map(|(hash, end)| (*hash, TokenStanding::ReplacedUntil(*end))))
    }

    /// The end of a replaced token's overlap.
    fn end(&self, hash: &StoredHash) -> Option<Timestamp> {
        let found = self.replaced.binary_search_by_key(hash, |(hash, _)| *hash);
        found.ok().map(|at| self.replaced[at].1)
    }

    fn has(&self, hash: &StoredHash) -> bool {
        self.current.as_ref() == Some(hash) || self.end(hash).is_some()
    }

    fn standing(&self, hash: &StoredHash) -> TokenStanding {
        self.end(hash)
            .map_or(TokenStanding::Current, TokenStanding::ReplacedUntil)
    }

    /// Until when a token of that standing works.
    fn works_until(&self, standing: TokenStanding) -> WorksUntil {
        match &self.known {
            Known::Resolved(client) => client.works_until(standing),
            Known::Unreadable(_) => WorksUntil::NEVER,
        }
    }
}
