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

/// The database's clock, estimated as a clock of the machine plus an offset.
///
/// That clock cannot be set, so that an estimate stays what it was when the machine's time of
/// day is. The time of day is read once, for the first estimate.
#[derive(Debug)]
pub struct SystemClock {
    /// The database's time minus [`elapsed`], in microseconds.
    offset: AtomicI64,
}

impl Default for SystemClock {
    fn default() -> Self {
        let offset = time_of_day().saturating_sub(microseconds(elapsed()));
        Self {
            offset: AtomicI64::new(offset),
        }
    }
}

impl SystemClock {
    /// The database's time at a moment of [`elapsed`].
    fn at(&self, elapsed: Duration) -> Timestamp {
        let offset = self.offset.load(Ordering::Relaxed);
        let time = microseconds(elapsed).saturating_add(offset);
        // A clock that is beyond all calendars must not revive what has expired.
        DateTime::from_timestamp_micros(time).unwrap_or(Timestamp::MAX_UTC)
    }
}

/// The machine's time of day, in microseconds since 1970.
fn time_of_day() -> i64 {
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

/// How long the machine has been running, with the time that it slept.
fn elapsed() -> Duration {
    #[cfg(target_os = "linux")]
    let clock = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = ClockId::Monotonic;
    let time = clock_gettime(clock);
    // Neither is negative.
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

fn microseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

impl Clock for SystemClock {
    /// With the resolution of Postgres.
    fn now(&self) -> Timestamp {
        self.at(elapsed())
    }

    fn adopt(&self, database: Timestamp) -> Timestamp {
        database
    }

    fn calibrate(&self, database: Timestamp, waited: Duration) {
        // The database read its clock between our request and its answer, which bounds the
        // offset. An offset within the bounds stays, and another one moves to the nearer bound,
        // so that a slow answer does no harm.
        let elapsed = microseconds(elapsed());
        let least = database.timestamp_micros().saturating_sub(elapsed);
        let known = self.offset.load(Ordering::Relaxed);
        let offset = known.clamp(least, least.saturating_add(microseconds(waited)));
        self.offset.store(offset, Ordering::Relaxed);
    }

    fn elapsed(&self) -> Duration {
        elapsed()
    }

    fn read(&self) -> (Timestamp, Duration) {
        let elapsed = elapsed();
        (self.at(elapsed), elapsed)
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
        DateTime::from_timestamp_micros(time_of_day()).unwrap()
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
    fn both_are_of_one_moment() {
        let clock = SystemClock::default();
        let before = (clock.now(), clock.elapsed());
        let (now, elapsed) = clock.read();
        let after = (clock.now(), clock.elapsed());
        assert!(before.0 <= now && now <= after.0);
        assert!(before.1 <= elapsed && elapsed <= after.1);
        assert_eq!(clock.at(elapsed), now);
    }

    #[test]
    fn elapsed_increases() {
        let clock = SystemClock::default();
        assert!(clock.elapsed() <= clock.elapsed());
        assert!(clock.elapsed() > Duration::ZERO);
    }
}
