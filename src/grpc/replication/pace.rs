//! How fast a snapshot is sent: as fast as the replica reads while the thread has nothing else to
//! do, and with a small share of its time while it answers calls.

use std::time::Duration;

use tokio::task::yield_now;

use crate::domain::clock::Clock;

/// So many times as long as it took to make a part, others have the thread before the next one.
/// That leaves room for encoding and writing the part as well, which is not counted.
const OTHERS: u32 = 40;
/// What making a part counts at most: if it took longer, the thread was interrupted.
const LONGEST: Duration = Duration::from_micros(200);

/// Paces the parts of a snapshot.
#[derive(Default)]
pub(super) struct Pace {
    /// What making the last part took.
    took: Duration,
}

impl Pace {
    pub(super) fn make<T>(&mut self, clock: &dyn Clock, part: impl FnOnce() -> T) -> T {
        let begun = clock.elapsed();
        let part = part();
        self.took = clock.elapsed().saturating_sub(begun).min(LONGEST);
        part
    }

    /// Waits until the other tasks of this thread had their share of it since the last part, or
    /// had nothing more to do.
    pub(super) async fn leave_others_their_share(&self, clock: &dyn Clock) {
        let begun = clock.elapsed();
        let mut before = begun;
        loop {
            // Every other task that is ready runs meanwhile, and the sockets are looked at.
            yield_now().await;
            let now = clock.elapsed();
            let is_idle = now.saturating_sub(before) <= self.took;
            if is_idle || now.saturating_sub(begun) >= self.took * OTHERS {
                return;
            }
            before = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    };

    use super::*;
    use crate::domain::Timestamp;

    /// Stands still unless someone works.
    #[derive(Default)]
    struct WorkClock(AtomicU64);

    impl WorkClock {
        fn work(&self, time: Duration) {
            let time = u64::try_from(time.as_micros()).unwrap();
            self.0.fetch_add(time, Relaxed);
        }
    }

    impl Clock for WorkClock {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }

        fn adopt(&self, now: Timestamp) -> Timestamp {
            now
        }

        fn calibrate(&self, _: Timestamp, _: Duration) {}

        fn elapsed(&self) -> Duration {
            Duration::from_micros(self.0.load(Relaxed))
        }
    }

    /// What the others had of the thread between two parts, if each of their turns takes this
    /// long and they have so many.
    async fn left(part: Duration, turn: Duration, turns: u32) -> Duration {
        let clock = Arc::new(WorkClock::default());
        let working = Arc::clone(&clock);
        let others = tokio::spawn(async move {
            for _ in 0..turns {
                working.work(turn);
                yield_now().await;
            }
        });
        let mut pace = Pace::default();
        pace.make(&*clock, || clock.work(part));
        let begun = clock.elapsed();
        pace.leave_others_their_share(&*clock).await;
        others.abort();
        clock.elapsed().saturating_sub(begun)
    }

    const PART: Duration = Duration::from_micros(10);
    const TURN: Duration = Duration::from_micros(100);

    #[tokio::test]
    async fn others_have_their_share_of_a_busy_thread() {
        assert_eq!(left(PART, TURN, u32::MAX).await, PART * OTHERS);
        let interrupted = Duration::from_secs(1);
        assert_eq!(left(interrupted, LONGEST * 2, 1000).await, LONGEST * OTHERS);
    }

    #[tokio::test]
    async fn a_thread_with_nothing_else_to_do_sends_at_once() {
        assert_eq!(left(PART, TURN, 0).await, Duration::ZERO);
        assert_eq!(left(PART, TURN, 2).await, TURN * 2);
        assert_eq!(left(PART, PART, u32::MAX).await, PART);
    }
}
