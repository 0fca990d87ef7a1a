//! Counts of what happens too often to be counted any other way: some words for each
//! thread, that no other thread writes to as a rule, so that counting costs a few
//! nanoseconds and nobody waits. They are added up when somebody reads the metrics.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use super::{FastMethod, Verdict};

/// Sets of counts. Threads beyond that share one.
const SHARDS: usize = 64;
/// Of so many introspections, the time of one is taken.
const TIMED: u32 = 64;

/// The counts of one thread. No other thread's are in the same line of a cache.
#[repr(align(128))]
#[derive(Debug, Default)]
struct Shard {
    verdicts: [AtomicU64; Verdict::ALL.len()],
    calls: [AtomicU64; FastMethod::ALL.len()],
}

/// All of them.
#[derive(Debug)]
pub(super) struct Counts(Box<[Shard]>);

impl Default for Counts {
    fn default() -> Self {
        Self((0..SHARDS).map(|_| Shard::default()).collect())
    }
}

impl Counts {
    fn shard(&self) -> &Shard {
        thread_local! {
            static PLACE: Cell<usize> = const { Cell::new(usize::MAX) };
        }
        static PLACES: AtomicUsize = AtomicUsize::new(0);
        let place = PLACE.with(|place| {
            if place.get() == usize::MAX {
                place.set(PLACES.fetch_add(1, Relaxed) % SHARDS);
            }
            place.get()
        });
        &self.0[place]
    }

    pub(super) fn verdict(&self, verdict: Verdict) {
        self.shard().verdicts[verdict as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn call(&self, call: FastMethod) {
        self.shard().calls[call as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn verdicts(&self, verdict: Verdict) -> u64 {
        self.sum(|shard| &shard.verdicts[verdict as usize])
    }

    pub(super) fn calls(&self, call: FastMethod) -> u64 {
        self.sum(|shard| &shard.calls[call as usize])
    }

    fn sum(&self, count: impl Fn(&Shard) -> &AtomicU64) -> u64 {
        let counts = self.0.iter().map(|shard| count(shard).load(Relaxed));
        counts.sum()
    }
}

/// Whether the time of this introspection is taken: of the first on each thread, and
/// then of one in [`TIMED`].
pub(super) fn is_timed() -> bool {
    thread_local! {
        static PASSED: Cell<u32> = const { Cell::new(0) };
    }
    PASSED.with(|passed| {
        let number = passed.get();
        passed.set((number + 1) % TIMED);
        number == 0
    })
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn no_count_is_lost_among_more_threads_than_shards() {
        let counts = Counts::default();
        thread::scope(|scope| {
            for _ in 0..2 * SHARDS {
                scope.spawn(|| {
                    for verdict in Verdict::ALL {
                        counts.verdict(verdict);
                    }
                    counts.call(FastMethod::Check);
                });
            }
        });
        let all = u64::try_from(2 * SHARDS).unwrap();
        for verdict in Verdict::ALL {
            assert_eq!(counts.verdicts(verdict), all);
        }
        assert_eq!(
            (
                counts.calls(FastMethod::Introspect),
                counts.calls(FastMethod::Check)
            ),
            (0, all)
        );
    }

    #[test]
    fn the_time_of_the_first_is_taken_and_of_a_few_others() {
        let timed = |count| {
            let count = move || (0..count).filter(|_| is_timed()).count();
            thread::spawn(count).join().unwrap()
        };
        assert_eq!(timed(1), 1);
        assert_eq!(timed(64), 1);
        assert_eq!(timed(65), 2);
    }
}
