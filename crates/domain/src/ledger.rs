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
    usage::{Batch, Count, Day, Outcome},
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
    /// Indexed by outcome.
    tallies: [Tally; Outcome::ALL.len()],
}

/// No token of the client has worked yet.
const NEVER: i64 = i64::MIN;

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
}

/// Records uses. Cheap to clone; all clones share one [`Recorded`].
#[derive(Clone, Debug)]
pub struct Ledger {
    queue: mpsc::UnboundedSender<Entry>,
}

impl Ledger {
    /// A ledger, and what it records. At most ten entries per client wait in the queue,
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

    /// Records uses that were taken or counted elsewhere, and are still to be written.
    pub fn add(&self, batch: &Batch) {
        for (client, pending) in batch.after(None) {
            for count in pending.counts() {
                self.send(Entry::Displaced(*client, *count));
            }
            if let Some(time) = pending.last_used() {
                self.send(Entry::UsedAt(*client, time));
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
            tallies: Default::default(),
        }
    }

    fn used_at(&self, now: Timestamp) {
        let now = now.timestamp_micros();
        if self.last_used.load(Relaxed) < now {
            self.last_used.fetch_max(now, Relaxed);
        }
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
    }
}

impl Tally {
    fn add_one(&self, day: Day) -> Counted {
        let mut before = self.0.load(Relaxed);
        loop {
            let (after, counted) = match unpack(before) {
                None => (pack(day, NonZeroU32::MIN), Counted::First),
                Some((same, count)) if same == day && count < NonZeroU32::MAX => {
                    (pack(day, count.saturating_add(1)), Counted::OneMore)
                }
                Some((other, count)) => {
                    (pack(day, NonZeroU32::MIN), Counted::Displaced(other, count))
                }
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

fn unpack(word: u64) -> Option<(Day, NonZeroU32)> {
    let [a, b, c, d, count @ ..] = word.to_be_bytes();
    let count = NonZeroU32::new(u32::from_be_bytes(count))?;
    let number = i32::from_be_bytes([a, b, c, d]);
    let day = Day::from_number(number).expect("it is the number of a day");
    Some((day, count))
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::atomic::{AtomicBool, Ordering::SeqCst},
        thread,
    };

    use chrono::TimeDelta;

    use super::*;
    use crate::usage::RefusalReason;

    const USED: Outcome = Outcome::Used;
    const DENIED: Outcome = Outcome::Refused(RefusalReason::RoleTooLow);
    const REVOKED: Outcome = Outcome::Refused(RefusalReason::Revoked);

    fn client(number: u128) -> ClientId {
        ClientId::from_uuid(uuid::Uuid::from_u128(number))
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn noon() -> Timestamp {
        at("2026-03-01T12:00:00Z")
    }

    type Counts = BTreeMap<(ClientId, Day, Outcome), u64>;

    /// Takes everything recorded so far.
    fn drain(
        recorded: &mut Recorded,
        counts: &mut Counts,
        last: &mut BTreeMap<ClientId, Timestamp>,
    ) {
        let mut batch = Batch::default();
        recorded.take(&mut batch);
        for (client, pending) in batch.after(None) {
            for Count {
                day,
                outcome,
                count,
            } in pending.counts()
            {
                *counts.entry((*client, *day, *outcome)).or_default() += count.get();
            }
            if let Some(time) = pending.last_used() {
                let known = last.entry(*client).or_insert(time);
                *known = time.max(*known);
            }
        }
    }

    fn drained(recorded: &mut Recorded) -> (Counts, BTreeMap<ClientId, Timestamp>) {
        let (mut counts, mut last) = Default::default();
        drain(recorded, &mut counts, &mut last);
        (counts, last)
    }

    #[test]
    fn a_slot_is_small_until_it_is_used() {
        assert!(size_of::<UsageSlot>() <= 16);
        assert!(size_of::<Counters>() <= 112);
    }

    #[test]
    fn a_recorded_use_is_taken_once() {
        let (ledger, mut recorded) = Ledger::new();
        let slot = UsageSlot::default();
        let today = Day::of(noon());
        let second = TimeDelta::seconds(1);
        ledger.record(client(1), &slot, USED, noon());
        ledger.record(client(1), &slot, USED, noon() - second);
        ledger.record(client(1), &slot, DENIED, noon() + second);
        ledger.record(client(1), &slot, REVOKED, noon() + second * 2);
        let (counts, last) = drained(&mut recorded);
        let expected = [(USED, 2), (DENIED, 1), (REVOKED, 1)];
        let expected = expected.map(|(outcome, count)| ((client(1), today, outcome), count));
        assert_eq!(counts, Counts::from(expected));
        assert_eq!(last, BTreeMap::from([(client(1), noon() + second)]));
        assert_eq!(drained(&mut recorded), Default::default());

        ledger.record(client(1), &slot, REVOKED, noon());
        let (counts, last) = drained(&mut recorded);
        assert_eq!(counts, Counts::from([((client(1), today, REVOKED), 1)]));
        assert!(last.is_empty(), "a token that does not work is not used");
    }

    #[test]
    fn a_client_waits_in_the_queue_once_for_each_outcome() {
        let (ledger, recorded) = Ledger::new();
        let slot = UsageSlot::default();
        for _ in 0..100 {
            for outcome in Outcome::ALL {
                ledger.record(client(1), &slot, outcome, noon());
            }
        }
        assert_eq!(recorded.entries.len(), Outcome::ALL.len());
    }

    #[test]
    fn midnight_falls_between_two_uses() {
        let (ledger, mut recorded) = Ledger::new();
        let slot = UsageSlot::default();
        let before = at("2026-03-01T23:59:59.999999Z");
        let midnight = at("2026-03-02T00:00:00Z");
        // Clocks are adjusted, and threads overtake each other.
        for time in [before, before, midnight, before, midnight, midnight] {
            ledger.record(client(1), &slot, USED, time);
        }
        let (counts, last) = drained(&mut recorded);
        let expected = [before, midnight].map(|time| ((client(1), Day::of(time), USED), 3));
        assert_eq!(counts, Counts::from(expected));
        assert_eq!(last, BTreeMap::from([(client(1), midnight)]));
    }

    #[test]
    fn a_full_tally_makes_room() {
        let today = Day::of(noon());
        let almost = NonZeroU32::MAX.get() - 1;
        let tally = Tally(AtomicU64::new(pack(
            today,
            NonZeroU32::new(almost).unwrap(),
        )));
        assert_eq!(tally.add_one(today), Counted::OneMore);
        assert_eq!(
            tally.add_one(today),
            Counted::Displaced(today, NonZeroU32::MAX)
        );
        assert_eq!(tally.take(), Some((today, NonZeroU32::MIN)));
        assert_eq!(tally.take(), None);
        assert_eq!(tally.add_one(today), Counted::First);
    }

    #[test]
    fn a_word_holds_any_day() {
        let max = NonZeroU32::MAX;
        for number in [-719_162, -1, 0, 1, 2_932_896] {
            let day = Day::from_number(number).unwrap();
            assert_eq!(unpack(pack(day, max)), Some((day, max)));
        }
        assert_eq!(unpack(0), None);
    }

    /// The index replaces a client and hands its slot on, while a reader still holds the
    /// old version.
    #[test]
    fn a_slot_that_was_handed_on_counts_with_the_old_one() {
        let (ledger, mut recorded) = Ledger::new();
        let old = UsageSlot::default();
        let handed_on_empty = old.clone();
        ledger.record(client(1), &old, USED, noon());
        let handed_on = old.clone();
        for slot in [&handed_on_empty, &handed_on, &old] {
            ledger.record(client(1), slot, USED, noon());
        }
        // The counters outlive their records.
        drop((old, handed_on, handed_on_empty));
        let (counts, _) = drained(&mut recorded);
        let expected = [((client(1), Day::of(noon()), USED), 4)];
        assert_eq!(counts, Counts::from(expected));
    }

    #[test]
    fn without_a_receiver_uses_are_dropped() {
        let (ledger, recorded) = Ledger::new();
        drop(recorded);
        ledger.record(client(1), &UsageSlot::default(), USED, noon());
    }

    /// Many threads record, on both sides of midnight and with slots that were handed on,
    /// while one takes continuously: every use is taken exactly once.
    #[test]
    fn no_use_is_lost_or_taken_twice() {
        const THREADS: u128 = 4;
        const ROUNDS: i64 = 2_000;

        let (ledger, mut recorded) = Ledger::new();
        let midnight = at("2026-03-02T00:00:00Z");
        // The uses that each thread records in each round.
        let mut uses = Vec::new();
        for number in 0..3 {
            for outcome in [USED, DENIED, REVOKED] {
                for seconds in [-1, 1] {
                    uses.push((number, outcome, TimeDelta::seconds(seconds)));
                }
            }
        }
        let slots: Vec<_> = (0..3).map(|_| UsageSlot::default()).collect();
        let handed_on = slots.clone();
        let recording = AtomicBool::new(true);
        let (counts, last) = thread::scope(|scope| {
            let record_all = |records: &[UsageSlot]| {
                for round in 0..ROUNDS {
                    for (number, outcome, offset) in &uses {
                        let time = midnight + *offset + TimeDelta::microseconds(round);
                        let slot = &records[*number];
                        ledger.record(client(*number as u128), slot, *outcome, time);
                    }
                }
            };
            let recorders: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let records = if thread % 2 == 0 { &slots } else { &handed_on };
                    scope.spawn(move || record_all(records))
                })
                .collect();
            let taker = scope.spawn(|| {
                let (mut counts, mut last) = Default::default();
                loop {
                    // Read first, so that the last round comes after all uses.
                    let done = !recording.load(SeqCst);
                    drain(&mut recorded, &mut counts, &mut last);
                    if done {
                        return (counts, last);
                    }
                }
            });
            for recorder in recorders {
                recorder.join().unwrap();
            }
            recording.store(false, SeqCst);
            taker.join().unwrap()
        });
        let each = u64::try_from(THREADS).unwrap() * ROUNDS.unsigned_abs();
        let mut expected = Counts::new();
        for (number, outcome, offset) in &uses {
            let day = Day::of(midnight + *offset);
            expected.insert((client(*number as u128), day, *outcome), each);
        }
        assert_eq!(counts, expected);
        let latest = midnight + TimeDelta::seconds(1) + TimeDelta::microseconds(ROUNDS - 1);
        assert_eq!(
            last,
            (0..3).map(|number| (client(number), latest)).collect()
        );
        assert_eq!(drained(&mut recorded), Default::default());
    }
}
