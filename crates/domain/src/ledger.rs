//! Uses of API clients, recorded without blocking and taken in batches.
//!
//! An answer records its outcome with a few atomic operations on the client's counters. It
//! takes no lock, and allocates only for the first use of a client and the first of each
//! interval. The holder of the [`Recorded`] uses takes all non-zero counters every few
//! seconds, as one [`Batch`].

use std::{
    num::{NonZeroU32, NonZeroU64},
    sync::{
        Arc, OnceLock,
        atomic::{
            AtomicI64, AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
};

use chrono::DateTime;
use tokio::sync::mpsc;

use crate::{
    Timestamp,
    id::ClientId,
    usage::{Batch, Count, Day, Outcome, RefusalReason},
};

/// A client's counters, which the index keeps with the client. Takes 16 bytes until the
/// first use. Clones share existing counters; if there are none yet, each clone allocates
/// its own, and all of them are taken.
#[derive(Clone, Debug, Default)]
pub struct UsageSlot(OnceLock<Arc<Counters>>);

/// One client's uses that are not taken yet.
#[derive(Debug)]
struct Counters {
    client: ClientId,
    /// When a token of the client last worked, in microseconds since 1970, or `NEVER`. It
    /// is never reset, since writing it again changes nothing.
    last_used: AtomicI64,
    /// When a replaced token of the client was last presented, in microseconds since 1970,
    /// doubled, and one more if it worked; or `NEVER`. While it worked, exactly one entry
    /// `Replaced` in the queue, or about to be sent, refers to it; a refusal is taken with its
    /// tally. One that worked hides refusals until it is taken: one word has room for one of
    /// them, and what matters more stays.
    replaced: AtomicI64,
    /// Indexed by outcome.
    tallies: [Tally; Outcome::ALL.len()],
}

/// No token of the client has worked yet.
const NEVER: i64 = i64::MIN;
/// How a token is counted that was replaced and whose overlap has ended.
const TOKEN_ROTATED: Outcome = Outcome::Refused(RefusalReason::TokenRotated);

/// The count of one outcome on one day. One atomic word holds the day's number in its high
/// half and the count in its low half, so that both change together. Zero is empty.
///
/// While a tally is not empty, exactly one entry in the queue, or about to be sent, refers
/// to it: the thread that counts the first use sends the entry, and its receiver empties
/// the tally.
#[derive(Debug, Default)]
struct Tally(AtomicU64);

/// The result of counting one use.
#[derive(Debug, PartialEq, Eq)]
enum Counted {
    /// The tally was not empty, so that an entry refers to it already.
    OneMore,
    /// The tally was empty: an entry must be sent.
    First,
    /// The tally held another day, or was full. Its old counts were taken out, and must be
    /// sent.
    Displaced(Day, NonZeroU32),
}

/// An entry of the queue.
#[derive(Debug)]
enum Entry {
    /// The tally of that outcome is not empty.
    Dirty(Arc<Counters>, Outcome),
    /// Counts displaced from their tally, mostly at midnight, or counted elsewhere.
    Displaced(ClientId, Count),
    /// When a token of the client worked, where that was seen elsewhere.
    UsedAt(ClientId, Timestamp),
    /// A replaced token of the client worked.
    Replaced(Arc<Counters>),
    /// When a replaced token of the client worked, where that was seen elsewhere.
    ReplacedUsedAt(ClientId, Timestamp),
    /// When a replaced token of the client was refused, where that was seen elsewhere.
    ReplacedRefusedAt(ClientId, Timestamp),
}

/// Records uses. Cheap to clone; all clones share one [`Recorded`].
#[derive(Clone, Debug)]
pub struct Ledger {
    queue: mpsc::UnboundedSender<Entry>,
}

impl Ledger {
    /// A ledger, and what it records. At most eleven entries per client wait in the queue,
    /// and a few more around midnight.
    pub fn new() -> (Self, Recorded) {
        let (queue, entries) = mpsc::unbounded_channel();
        (Self { queue }, Recorded { entries })
    }

    /// Records the outcome of presenting a client's token, at a time of the database's
    /// clock. Never blocks.
    pub fn record(&self, client: ClientId, slot: &UsageSlot, outcome: Outcome, now: Timestamp) {
        let counters = slot.counters(client);
        if outcome.token_worked() {
            // Before the count, so that the taker of the count sees this too.
            counters.used_at(now);
        } else if outcome == TOKEN_ROTATED {
            // Also before the count.
            counters.presented(now, false);
        }
        let entry = match counters.tallies[outcome.index()].add_one(Day::of(now)) {
            Counted::OneMore => return,
            Counted::First => Entry::Dirty(Arc::clone(counters), outcome),
            Counted::Displaced(day, count) => {
                let count = NonZeroU64::from(count);
                let count = Count {
                    day,
                    outcome,
                    count,
                };
                Entry::Displaced(client, count)
            }
        };
        self.send(entry);
    }

    /// Records, in addition, that the token which worked was one that a newer one had
    /// replaced. Never blocks.
    pub fn record_replaced(&self, client: ClientId, slot: &UsageSlot, now: Timestamp) {
        let counters = slot.counters(client);
        if counters.presented(now, true) {
            self.send(Entry::Replaced(Arc::clone(counters)));
        }
    }

    /// Records uses that were taken or counted elsewhere, and are still to be written.
    pub fn add(&self, batch: &Batch) {
        for (client, pending) in batch.after(None) {
            for count in pending.counts() {
                self.send(Entry::Displaced(*client, *count));
            }
            if let Some(time) = pending.last_used() {
                self.send(Entry::UsedAt(*client, time));
            }
            if let Some(time) = pending.replaced_token_used() {
                self.send(Entry::ReplacedUsedAt(*client, time));
            }
            if let Some(time) = pending.replaced_token_refused() {
                self.send(Entry::ReplacedRefusedAt(*client, time));
            }
        }
    }

    fn send(&self, entry: Entry) {
        // Without a holder of `Recorded`, uses are dropped.
        drop(self.queue.send(entry));
    }
}

/// The uses that a [`Ledger`] recorded and that are not taken yet. Once it is dropped, uses
/// are dropped as well.
#[derive(Debug)]
pub struct Recorded {
    entries: mpsc::UnboundedReceiver<Entry>,
}

impl Recorded {
    /// Moves the recorded uses into a batch. Stops at the present length of the queue, which
    /// busy clients refill all the time.
    pub fn take(&mut self, batch: &mut Batch) {
        for _ in 0..self.entries.len() {
            match self.entries.try_recv() {
                Ok(Entry::Dirty(counters, outcome)) => counters.take(outcome, batch),
                Ok(Entry::Displaced(client, count)) => batch.add(client, count),
                Ok(Entry::UsedAt(client, time)) => batch.used_at(client, time),
                Ok(Entry::Replaced(counters)) => {
                    if let Some(time) = counters.take_replaced(true) {
                        batch.replaced_token_used_at(counters.client, time);
                    }
                }
                Ok(Entry::ReplacedUsedAt(client, time)) => {
                    batch.replaced_token_used_at(client, time);
                }
                Ok(Entry::ReplacedRefusedAt(client, time)) => {
                    batch.replaced_token_refused_at(client, time);
                }
                Err(_) => return,
            }
        }
    }

    /// Whether nothing was recorded since the last [`Self::take`].
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl UsageSlot {
    fn counters(&self, client: ClientId) -> &Arc<Counters> {
        if let Some(counters) = self.0.get() {
            return counters;
        }
        // Allocated beforehand, so that concurrent callers wait for a move only.
        let counters = Arc::new(Counters::new(client));
        self.0.get_or_init(|| counters)
    }
}

impl Counters {
    fn new(client: ClientId) -> Self {
        Self {
            client,
            last_used: AtomicI64::new(NEVER),
            replaced: AtomicI64::new(NEVER),
            tallies: Default::default(),
        }
    }

    fn used_at(&self, now: Timestamp) {
        let now = now.timestamp_micros();
        if self.last_used.load(Relaxed) < now {
            self.last_used.fetch_max(now, Relaxed);
        }
    }

    /// Notes that a replaced token was presented. Returns whether none that worked is noted.
    fn presented(&self, now: Timestamp, worked: bool) -> bool {
        let new = now.timestamp_micros() << 1 | i64::from(worked);
        let replace = |known| (worked || !has_worked(known)).then_some(new);
        let before = self.replaced.fetch_update(AcqRel, Relaxed, replace);
        !before.is_ok_and(has_worked)
    }

    /// Takes when a replaced token was last presented, if that worked, or was refused.
    fn take_replaced(&self, worked: bool) -> Option<Timestamp> {
        let is_wanted = |known| known != NEVER && has_worked(known) == worked;
        let take = |known| is_wanted(known).then_some(NEVER);
        let word = self.replaced.fetch_update(AcqRel, Relaxed, take).ok()?;
        DateTime::from_timestamp_micros(word >> 1)
    }

    /// Moves a tally into a batch.
    fn take(&self, outcome: Outcome, batch: &mut Batch) {
        // Only the receiver of the tally's entry empties it.
        let Some((day, count)) = self.tallies[outcome.index()].take() else {
            return;
        };
        let count = NonZeroU64::from(count);
        batch.add(
            self.client,
            Count {
                day,
                outcome,
                count,
            },
        );
        if outcome.token_worked()
            && let Some(time) = DateTime::from_timestamp_micros(self.last_used.load(Relaxed))
        {
            batch.used_at(self.client, time);
        }
        if outcome == TOKEN_ROTATED
            && let Some(time) = self.take_replaced(false)
        {
            batch.replaced_token_refused_at(self.client, time);
        }
    }
}

/// Whether the word tells of a replaced token that worked.
const fn has_worked(replaced: i64) -> bool {
    replaced & 1 == 1
}

impl Tally {
    fn add_one(&self, day: Day) -> Counted {
        let first = pack(day, NonZeroU32::MIN);
        let mut before = self.0.load(Relaxed);
        loop {
            // Nearly always, so that it does without the calendar.
            let (after, counted) = if is_same_day(before, first) && has_room(before) {
                (before + 1, Counted::OneMore)
            } else {
                let displaced = |(day, count)| Counted::Displaced(day, count);
                (first, unpack(before).map_or(Counted::First, displaced))
            };
            match self.0.compare_exchange_weak(before, after, AcqRel, Relaxed) {
                Ok(_) => return counted,
                Err(changed) => before = changed,
            }
        }
    }

    fn take(&self) -> Option<(Day, NonZeroU32)> {
        unpack(self.0.swap(0, Acquire))
    }
}

fn pack(day: Day, count: NonZeroU32) -> u64 {
    u64::from(day.number().cast_unsigned()) << u32::BITS | u64::from(count.get())
}

const fn is_same_day(one: u64, other: u64) -> bool {
    one >> u32::BITS == other >> u32::BITS
}

/// Whether a word counts something, and can count one more.
fn has_room(word: u64) -> bool {
    let count = word & u64::from(u32::MAX);
    (1..u64::from(u32::MAX)).contains(&count)
}

fn unpack(word: u64) -> Option<(Day, NonZeroU32)> {
    let [a, b, c, d, count @ ..] = word.to_be_bytes();
    let count = NonZeroU32::new(u32::from_be_bytes(count))?;
    let number = i32::from_be_bytes([a, b, c, d]);
    let day = Day::from_number(number).expect("it is the number of a day");
    Some((day, count))
}

#[cfg(test)]
mod tests;
