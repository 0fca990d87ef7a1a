//! Sharded counters for the most frequent events: each thread normally has a shard of its
//! own, so counting takes a few nanoseconds and no thread waits. The shards are summed when
//! the metrics are read.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use super::{FastMethod, VerdictReason};

/// The number of shards. If there are more threads, they share the shards.
const SHARDS: usize = 64;
/// One introspection in this many is timed.
const TIMED: u32 = 64;

/// The counts of one thread, aligned so that no other thread's are in the same cache line.
/// In this order, so that the frequent ones share a line.
#[repr(C, align(128))]
#[derive(Debug, Default)]
struct Shard {
    verdicts: [AtomicU64; VerdictReason::ALL.len()],
    calls: [AtomicU64; FastMethod::ALL.len()],
    legacy_verdicts: [AtomicU64; VerdictReason::ALL.len()],
}

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
            static SHARD: Cell<usize> = const { Cell::new(usize::MAX) };
        }
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = SHARD.with(|number| {
            if number.get() == usize::MAX {
                number.set(NEXT.fetch_add(1, Relaxed) % SHARDS);
            }
            number.get()
        });
        &self.0[number]
    }

    pub(super) fn verdict(&self, verdict: VerdictReason) {
        self.shard().verdicts[verdict as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn legacy_verdict(&self, verdict: VerdictReason) {
        self.shard().legacy_verdicts[verdict as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn call(&self, call: FastMethod) {
        self.shard().calls[call as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn verdicts(&self, verdict: VerdictReason) -> u64 {
        self.sum(|shard| &shard.verdicts[verdict as usize])
    }

    pub(super) fn legacy_verdicts(&self, verdict: VerdictReason) -> u64 {
        self.sum(|shard| &shard.legacy_verdicts[verdict as usize])
    }

    pub(super) fn calls(&self, call: FastMethod) -> u64 {
        self.sum(|shard| &shard.calls[call as usize])
    }

    fn sum(&self, count: impl Fn(&Shard) -> &AtomicU64) -> u64 {
        let counts = self.0.iter().map(|shard| count(shard).load(Relaxed));
        counts.sum()
    }
}

/// Whether this introspection is timed: the first on each thread, and then one in
/// [`TIMED`].
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
    fn no_count_is_lost_if_threads_share_shards() {
        let counts = Counts::default();
        thread::scope(|scope| {
            for _ in 0..2 * SHARDS {
                scope.spawn(|| {
                    for verdict in VerdictReason::ALL {
                        counts.verdict(verdict);
                        counts.legacy_verdict(verdict);
                    }
                    counts.call(FastMethod::Check);
                });
            }
        });
        let all = u64::try_from(2 * SHARDS).unwrap();
        for verdict in VerdictReason::ALL {
            assert_eq!(counts.verdicts(verdict), all);
            assert_eq!(counts.legacy_verdicts(verdict), all);
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
    fn the_first_introspection_is_timed_and_then_one_in_64() {
        let timed = |count| {
            let count = move || (0..count).filter(|_| is_timed()).count();
            thread::spawn(count).join().unwrap()
        };
        assert_eq!(timed(1), 1);
        assert_eq!(timed(64), 1);
        assert_eq!(timed(65), 2);
    }
}
