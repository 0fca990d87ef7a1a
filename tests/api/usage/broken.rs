//! A defect in the task that writes uses: it goes on.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use hitkeep_auth::store::Store;

use super::*;
use crate::support::doubles::{SeededEntropy, TestClock};

/// A clock that cannot be read. Of all that the flusher does, only the removal of days of
/// long ago reads it.
#[derive(Default)]
struct Broken {
    clock: TestClock,
    read: AtomicU32,
}

impl Clock for Broken {
    fn now(&self) -> Timestamp {
        self.read.fetch_add(1, Relaxed);
        panic!("there is no time");
    }

    fn adopt(&self, database: Timestamp) -> Timestamp {
        self.clock.adopt(database)
    }

    fn calibrate(&self, _: Timestamp, _: Duration) {}

    fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }
}

#[tokio::test]
async fn a_flusher_that_breaks_off_is_begun_anew() {
    let (app, dashboard, made) = TestApp::with_client().await;
    let clock = Arc::new(Broken::default());
    let entropy = Arc::new(SeededEntropy::default());
    let options = store::StoreOptions::new(&app.database_url);
    let store = Store::new(&options, Arc::clone(&clock) as _, entropy);
    let (ledger, flusher) = Flusher::with_ledger();
    let options = UsageOptions {
        flush_interval: Duration::from_millis(1),
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async move { drop(stopped.await) };
    let mut running = tokio::spawn(flusher.run(store, options, Metrics::default(), stopped));
    let slot = UsageSlot::default();
    for turn in 1..=3 {
        app.clock.advance(TimeDelta::seconds(1));
        let now = app.clock.now();
        ledger.record(id(&made.id), &slot, Outcome::Used, now);
        tokio::select! {
            () = until_used(&dashboard, &made.id, now) => {}
            ended = &mut running => panic!("it ended in turn {turn}: {ended:?}"),
        }
    }
    // It broke off after each, but perhaps the last.
    assert!(clock.read.load(Relaxed) >= 2);
    stop.send(()).unwrap();
    running.await.unwrap();
    let expected = (time("2026-01-01T00:00:00Z"), 3, Vec::new());
    assert_eq!(days(&dashboard, usage(VERA, &made.id)).await, [expected]);
}
