//! The machine's clock and source of randomness. The one place that asks the
//! operating system for either.

use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, TimeDelta, Utc};

use crate::domain::{
    Timestamp,
    clock::{Clock, Entropy},
};

/// The database's clock, kept here as the machine's own and an offset.
#[derive(Debug, Default)]
pub struct SystemClock {
    /// Database minus machine, in microseconds, as last seen.
    offset: AtomicI64,
}

impl SystemClock {
    fn machine() -> Timestamp {
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the clock that others are given"
        )]
        let now: DateTime<Utc> = std::time::SystemTime::now().into();
        now
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let now = Self::machine() + TimeDelta::microseconds(self.offset.load(Ordering::Relaxed));
        // Postgres keeps microseconds.
        DateTime::from_timestamp_micros(now.timestamp_micros()).unwrap_or(now)
    }

    fn adopt(&self, database: Timestamp) -> Timestamp {
        let offset = (database - Self::machine()).num_microseconds().unwrap_or(0);
        self.offset.store(offset, Ordering::Relaxed);
        database
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
