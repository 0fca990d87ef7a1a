//! Counting without waiting, also from many threads at once.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
};

use chrono::TimeDelta;

use super::*;

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
fn drain(recorded: &mut Recorded, counts: &mut Counts, last: &mut BTreeMap<ClientId, Timestamp>) {
    for (client, pending) in batch(recorded).after(None) {
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

/// All that was recorded so far, as it is to be written.
fn batch(recorded: &mut Recorded) -> Batch {
    let mut batch = Batch::default();
    recorded.take(&mut batch);
    batch
}

#[test]
fn the_latest_use_of_a_replaced_token_is_taken_once() {
    let (ledger, mut recorded) = Ledger::new();
    let slot = UsageSlot::default();
    assert!(recorded.is_empty());
    let mut first = Batch::default();
    for seconds in 0..3 {
        let time = noon() + TimeDelta::seconds(seconds);
        ledger.record_replaced(client(1), &slot, time);
        first.replaced_token_used_at(client(1), time);
    }
    assert_eq!(recorded.entries.len(), 1);
    assert_eq!(batch(&mut recorded), first);
    assert!(recorded.is_empty());

    ledger.record_replaced(client(1), &slot, noon());
    assert!(!recorded.is_empty());
    let mut second = Batch::default();
    second.replaced_token_used_at(client(1), noon());
    assert_eq!(batch(&mut recorded), second);
}

#[test]
fn uses_that_were_counted_elsewhere_are_taken_as_they_are() {
    let (ledger, mut recorded) = Ledger::new();
    let mut elsewhere = Batch::default();
    let counts = [(1, USED, 2), (1, REVOKED, 3), (2, USED, 4)];
    for (number, outcome, count) in counts {
        let count = Count {
            day: Day::of(noon()),
            outcome,
            count: NonZeroU64::new(count).unwrap(),
        };
        elsewhere.add(client(number), count);
    }
    elsewhere.used_at(client(1), noon());
    elsewhere.replaced_token_used_at(client(3), noon());
    ledger.add(&elsewhere);
    assert_eq!(batch(&mut recorded), elsewhere);
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

#[test]
fn the_latest_presentation_of_a_replaced_token_is_known_and_one_that_worked_first() {
    let (ledger, mut recorded) = Ledger::new();
    let slot = UsageSlot::default();
    let client = client(1);
    let at = |second| Timestamp::from_timestamp(second, 7000).unwrap();
    let mut take = || {
        let mut batch = Batch::default();
        recorded.take(&mut batch);
        let (_, pending) = batch.after(None).next().expect("it was presented");
        let (worked, refused) = (
            pending.replaced_token_used(),
            pending.replaced_token_refused(),
        );
        (worked, refused)
    };
    ledger.record(client, &slot, TOKEN_ROTATED, at(1));
    ledger.record(client, &slot, TOKEN_ROTATED, at(2));
    assert_eq!(take(), (None, Some(at(2))));
    ledger.record(client, &slot, TOKEN_ROTATED, at(3));
    ledger.record_replaced(client, &slot, at(4));
    ledger.record(client, &slot, TOKEN_ROTATED, at(5));
    assert_eq!(take(), (Some(at(4)), None));
    ledger.record(client, &slot, TOKEN_ROTATED, at(6));
    assert_eq!(take(), (None, Some(at(6))));
}
