//! The clock that tests move by hand, and randomness that is the same in every
//! run. They are here so that no release build can contain them.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use hitkeep_auth::domain::{
    Timestamp,
    clock::{Clock, Entropy},
};

/// A clock that stands still until it is moved.
pub struct TestClock {
    now: Mutex<Timestamp>,
    elapsed: Mutex<Duration>,
}

impl Default for TestClock {
    fn default() -> Self {
        let start: DateTime<Utc> = "2026-01-01T12:00:00Z".parse().unwrap();
        Self {
            now: Mutex::new(start),
            elapsed: Mutex::default(),
        }
    }
}

impl TestClock {
    /// Moves the time of day on.
    pub fn advance(&self, by: TimeDelta) {
        *self.now.lock().unwrap() += by;
    }

    /// Lets what is known grow old.
    pub fn grow_old(&self, by: Duration) {
        *self.elapsed.lock().unwrap() += by;
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        *self.now.lock().unwrap()
    }

    fn adopt(&self, _: Timestamp) -> Timestamp {
        self.now()
    }

    fn calibrate(&self, _: Timestamp, _: Duration) {}

    fn elapsed(&self) -> Duration {
        *self.elapsed.lock().unwrap()
    }
}

/// The same sequence of bytes in every run.
#[derive(Default)]
pub struct SeededEntropy {
    draws: AtomicU64,
    broken: AtomicBool,
}

impl SeededEntropy {
    /// From here on there is no randomness to be had.
    pub fn break_down(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// There is again.
    pub fn recover(&self) {
        self.broken.store(false, Ordering::Relaxed);
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        assert!(
            !self.broken.load(Ordering::Relaxed),
            "there is no randomness to be had"
        );
        let draw = self.draws.fetch_add(1, Ordering::Relaxed);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&draw.to_le_bytes());
        hasher.finalize_xof().fill(buffer);
    }
}
