//! The tokens, and what is known about each: that it works, that it was revoked
//! and when, or nothing, because an acknowledgement was lost.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::support::{dice::Dice, population::Known};

/// A time after the start, in microseconds; this one is never.
const NEVER: u64 = u64::MAX;

/// A token whose state is known.
pub struct Watched {
    /// The client it belongs to.
    pub client: Known,
    /// When its creation was acknowledged; the start for those that were there.
    made: u64,
    revocation_begun: AtomicU64,
    revoked: AtomicU64,
}

/// All of them. Whoever holds a token that is on no list any more can still tell
/// its state from the token itself.
pub struct Tokens {
    begun: Instant,
    working: Mutex<Vec<Arc<Watched>>>,
    revoked: Mutex<Vec<Arc<Watched>>>,
    created: AtomicU64,
    unknown: AtomicU64,
    over: AtomicBool,
}

/// How many changes were made.
pub struct Changes {
    /// Clients made.
    pub created: u64,
    /// Clients revoked.
    pub revoked: usize,
    /// Changes of which nobody knows whether they were made.
    pub unknown: u64,
}

/// Which token to look at.
#[derive(Clone, Copy)]
pub enum Wanted {
    /// Any.
    Any,
    /// The last one whose state changed.
    Newest,
}

impl Watched {
    fn new(client: Known, made: u64) -> Self {
        Self {
            client,
            made,
            revocation_begun: AtomicU64::new(NEVER),
            revoked: AtomicU64::new(NEVER),
        }
    }
}

impl Tokens {
    /// Tokens that all work.
    pub fn new(clients: Vec<Known>) -> Self {
        let watched = |client| Arc::new(Watched::new(client, 0));
        Self {
            begun: Instant::now(),
            working: Mutex::new(clients.into_iter().map(watched).collect()),
            revoked: Mutex::default(),
            created: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            over: AtomicBool::new(false),
        }
    }

    /// Tells those who ask and those who write to stop.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Whether they are to stop.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// The time, in microseconds after the start.
    pub fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).expect("a benchmark ends")
    }

    /// One that works. It may be revoked any time.
    pub fn working(&self, wanted: Wanted, chance: &mut Dice) -> Arc<Watched> {
        let working = self.working.lock().expect("nobody panics with it");
        pick(&working, wanted, chance).expect("there are always some left")
    }

    /// One whose revocation was acknowledged, where there is one.
    pub fn revoked(&self, wanted: Wanted, chance: &mut Dice) -> Option<Arc<Watched>> {
        let revoked = self.revoked.lock().expect("nobody panics with it");
        pick(&revoked, wanted, chance)
    }

    /// Those whose revocation was acknowledged after so many others.
    pub fn revoked_after(&self, others: usize) -> Vec<Arc<Watched>> {
        let revoked = self.revoked.lock().expect("nobody panics with it");
        revoked[others..].to_vec()
    }

    /// All that work, and all that were revoked.
    pub fn all(&self) -> [Vec<Arc<Watched>>; 2] {
        [&self.working, &self.revoked].map(|list| list.lock().expect("nobody panics").clone())
    }

    /// Somebody made a client, and knows it.
    pub fn created(&self, client: Known) -> Arc<Watched> {
        self.created.fetch_add(1, Ordering::Relaxed);
        let made = Arc::new(Watched::new(client, self.now()));
        let mut working = self.working.lock().expect("nobody panics with it");
        working.push(Arc::clone(&made));
        made
    }

    /// Takes one to be revoked: from now on it may be refused.
    pub fn begin_revocation(&self, chance: &mut Dice) -> Arc<Watched> {
        let mut working = self.working.lock().expect("nobody panics with it");
        let at = chance.below(working.len());
        let taken = working.swap_remove(at);
        taken.revocation_begun.store(self.now(), Ordering::SeqCst);
        taken
    }

    /// Its revocation was acknowledged just now.
    pub fn acknowledged(&self, token: &Arc<Watched>) {
        token.revoked.store(self.now(), Ordering::SeqCst);
        let mut revoked = self.revoked.lock().expect("nobody panics with it");
        revoked.push(Arc::clone(token));
    }

    /// Nobody knows whether a change was made.
    pub fn unknown(&self) {
        self.unknown.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a refusal that was there just now is a wrong one.
    pub fn must_work(token: &Watched) -> bool {
        token.revocation_begun.load(Ordering::SeqCst) == NEVER
    }

    /// How long ago a token was made.
    pub fn age(&self, token: &Watched) -> Duration {
        Duration::from_micros(self.now().saturating_sub(token.made))
    }

    /// How long after its revocation's acknowledgement a token was accepted that
    /// was asked about at that time; nothing where it was before that.
    pub fn lateness(token: &Watched, asked: u64) -> Option<Duration> {
        let revoked = token.revoked.load(Ordering::SeqCst);
        let after = asked.checked_sub(revoked)?;
        Some(Duration::from_micros(after))
    }

    /// What was changed so far.
    pub fn changes(&self) -> Changes {
        Changes {
            created: self.created.load(Ordering::Relaxed),
            revoked: self.all()[1].len(),
            unknown: self.unknown.load(Ordering::Relaxed),
        }
    }
}

fn pick(list: &[Arc<Watched>], wanted: Wanted, chance: &mut Dice) -> Option<Arc<Watched>> {
    match wanted {
        Wanted::Newest => list.last().cloned(),
        Wanted::Any if list.is_empty() => None,
        Wanted::Any => Some(Arc::clone(&list[chance.below(list.len())])),
    }
}
