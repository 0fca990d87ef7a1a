//! The machine's time, which a test can let jump for everybody at once, as if all processes had
//! been suspended: what was known then is older at once, and nobody waited.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use chrono::TimeDelta;
use hitkeep_auth::{
    domain::{Timestamp, clock::Clock},
    system::SystemClock,
};

/// The time of some processes.
#[derive(Clone, Default)]
pub struct SharedTime(Arc<Mutex<Vec<Jump>>>);

/// So much passed at once, and by the machine's clock it was then.
struct Jump {
    at: Timestamp,
    by: Duration,
}

impl SharedTime {
    /// A clock for one process.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(JumpingClock {
            machine: SystemClock::default(),
            time: self.clone(),
        })
    }

    /// Lets so much time pass at once. The time of day stays, so that nothing expires.
    pub fn jump(&self, by: Duration) {
        let mut jumps = self.0.lock().unwrap();
        let at = SystemClock::default().now();
        jumps.push(Jump { at, by });
    }

    /// How much time passed between two moments of the machine's clock.
    pub fn between(&self, from: Timestamp, to: Timestamp) -> TimeDelta {
        let jumps = self.0.lock().unwrap();
        let within = jumps.iter().filter(|jump| from <= jump.at && jump.at <= to);
        let jumped: Duration = within.map(|jump| jump.by).sum();
        (to - from) + TimeDelta::from_std(jumped).unwrap()
    }

    fn jumped(&self) -> Duration {
        self.0.lock().unwrap().iter().map(|jump| jump.by).sum()
    }
}

struct JumpingClock {
    machine: SystemClock,
    time: SharedTime,
}

impl Clock for JumpingClock {
    fn now(&self) -> Timestamp {
        self.machine.now()
    }

    fn adopt(&self, database: Timestamp) -> Timestamp {
        self.machine.adopt(database)
    }

    fn calibrate(&self, database: Timestamp, waited: Duration) {
        self.machine.calibrate(database, waited);
    }

    fn elapsed(&self) -> Duration {
        self.machine.elapsed() + self.time.jumped()
    }
}
