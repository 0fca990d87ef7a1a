//! The machine's clock and source of randomness. No other module asks the operating system
//! for either.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, SystemTime},
};

use chrono::DateTime;
use hitkeep_auth_domain::{
    Timestamp,
    clock::{Clock, Entropy},
};
use rustix::time::{ClockId, clock_gettime};

/// The database's clock, estimated as the machine's clock plus an offset.
#[derive(Debug, Default)]
pub struct SystemClock {
    /// The database's time minus the machine's, in microseconds.
    offset: AtomicI64,
}

impl SystemClock {
    /// The machine's time, in microseconds since 1970.
    fn machine() -> i64 {
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the clock that others are given"
        )]
        let now = SystemTime::now();
        match now.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => microseconds(since),
            Err(before) => -microseconds(before.duration()),
        }
    }
}

fn microseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

impl Clock for SystemClock {
    /// With the resolution of Postgres.
    fn now(&self) -> Timestamp {
        let offset = self.offset.load(Ordering::Relaxed);
        let now = Self::machine().saturating_add(offset);
        // A clock that is beyond all calendars must not revive what has expired.
        DateTime::from_timestamp_micros(now).unwrap_or(Timestamp::MAX_UTC)
    }

    fn adopt(&self, database: Timestamp) -> Timestamp {
        database
    }

    fn calibrate(&self, database: Timestamp, waited: Duration) {
        // The database read its clock between our request and its answer, which bounds the
        // offset. An offset within the bounds stays, and another one moves to the nearer bound,
        // so that a slow answer does no harm.
        let least = database.timestamp_micros().saturating_sub(Self::machine());
        let known = self.offset.load(Ordering::Relaxed);
        let offset = known.clamp(least, least.saturating_add(microseconds(waited)));
        self.offset.store(offset, Ordering::Relaxed);
    }

    fn elapsed(&self) -> Duration {
        #[cfg(target_os = "linux")]
        let clock = ClockId::Boottime;
        #[cfg(not(target_os = "linux"))]
        let clock = ClockId::Monotonic;
        let time = clock_gettime(clock);
        // Neither is negative.
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
    }
}

/// The operating system's random source.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        getrandom::fill(buffer).expect("the operating system has randomness to give");
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn machine() -> Timestamp {
        DateTime::from_timestamp_micros(SystemClock::machine()).unwrap()
    }

    /// How many seconds the clock is ahead of the machine, apart from the test's duration.
    fn ahead(clock: &SystemClock) -> f64 {
        (clock.now() - machine()).as_seconds_f64()
    }

    #[test]
    fn a_slow_answer_moves_the_offset_to_the_nearest_bound() {
        let clock = SystemClock::default();
        let database = |seconds| machine() + TimeDelta::seconds(seconds);
        clock.calibrate(database(100), Duration::ZERO);
        assert!((ahead(&clock) - 100.0).abs() < 1.0);
        // The clock was read up to 10 s ago, which agrees with the estimate.
        clock.calibrate(database(95), Duration::from_secs(10));
        assert!((ahead(&clock) - 100.0).abs() < 1.0);
        // Neither of these agrees.
        clock.calibrate(database(80), Duration::from_secs(10));
        assert!((ahead(&clock) - 90.0).abs() < 1.0);
        clock.calibrate(database(200), Duration::from_secs(10));
        assert!((ahead(&clock) - 200.0).abs() < 1.0);
    }

    #[test]
    fn elapsed_increases() {
        let clock = SystemClock::default();
        assert!(clock.elapsed() <= clock.elapsed());
        assert!(clock.elapsed() > Duration::ZERO);
    }
}
