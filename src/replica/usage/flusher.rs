//! The task that writes what was noted: in one batch every few seconds, and once
//! more at the end.

use std::{any::Any, panic::AssertUnwindSafe, pin::pin, time::Duration};

use chrono::TimeDelta;
use futures_util::FutureExt;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};

use super::Entry;
use crate::{
    domain::{
        replay::REMEMBERED_FOR,
        usage::{Batch, Day, MAX_DAYS},
    },
    store::{
        Store,
        error::{StoreError, causes},
        usage::Trimmed,
    },
    telemetry::{
        metrics::{Metrics, WriteResult},
        panic_message,
    },
};

/// How long the last flush may take, with all its tries.
const LAST_FLUSH: Duration = Duration::from_secs(5);
/// How long to wait before another try of the last flush.
const LAST_FLUSH_PAUSE: Duration = Duration::from_millis(100);
/// How often days of long ago are looked for, on each replica: they come into
/// being once a day.
const TRIM_INTERVAL: Duration = Duration::from_hours(1);

/// How often requests are looked for that are no longer remembered, on each replica.
const FORGET_INTERVAL: Duration = Duration::from_mins(10);
/// How much longer than necessary a request is kept: this clock is not exactly the
/// database's, and one that is still remembered must stay.
const FORGET_MARGIN: TimeDelta = TimeDelta::minutes(1);

const CANNOT_WRITE: &str = "uses of API clients cannot be written and are kept";
const CANNOT_REMOVE: &str = "uses of API clients of more than 400 days ago cannot be removed";

/// What noting uses can be set to.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long after a flush the next one begins, which is about how late a use
    /// is seen, and what a crash can lose. Not zero. Default 5 s.
    pub flush_interval: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            flush_interval: Duration::from_secs(5),
        }
    }
}

/// Writes what is noted in a [`super::Ledger`].
#[derive(Debug)]
pub struct Flusher {
    entries: mpsc::UnboundedReceiver<Entry>,
    /// What was taken, and is not written yet.
    batch: Batch,
    /// Whether the last flush broke off.
    broke_off: bool,
    /// Whether the last flush failed.
    failing: bool,
    /// Whether the last try to remove days of long ago did.
    trim_failing: bool,
    /// When days of long ago are next looked for; `None`: with the next flush.
    next_trim: Option<Instant>,
    /// When requests that are no longer remembered are next looked for.
    next_forgetting: Instant,
}

impl Flusher {
    pub(super) fn new(entries: mpsc::UnboundedReceiver<Entry>) -> Self {
        Self {
            entries,
            batch: Batch::default(),
            broke_off: false,
            failing: false,
            trim_failing: false,
            next_trim: None,
            next_forgetting: Instant::now() + FORGET_INTERVAL,
        }
    }

    /// Flushes every interval until `stop` is ready, and then once more, for five
    /// seconds at most. What is noted after that is not written.
    pub async fn run(
        mut self,
        store: Store,
        options: Options,
        metrics: Metrics,
        stop: impl Future<Output = ()>,
    ) {
        let mut stop = pin!(stop);
        let give_up = loop {
            tokio::select! {
                biased;
                () = &mut stop => break Instant::now() + LAST_FLUSH,
                () = sleep(options.flush_interval) => {}
            }
            let mut flush = pin!(self.flush_anyhow(&store, &metrics));
            tokio::select! {
                () = &mut flush => {}
                () = &mut stop => {
                    // One that is cut off in the middle may be written all the
                    // same, and its next try would count twice.
                    let give_up = Instant::now() + LAST_FLUSH;
                    if timeout_at(give_up, flush).await.is_err() {
                        tracing::warn!("stopped before the last uses of API clients were written");
                        return;
                    }
                    break give_up;
                }
            }
        };
        if timeout_at(give_up, self.flush_all(&store, &metrics))
            .await
            .is_err()
        {
            let clients = self.batch.len();
            tracing::warn!(
                clients,
                "stopped before the last uses of {clients} API clients were written"
            );
        }
    }

    /// Takes what was noted so far and writes it, with what could not be written
    /// before. Where there is nothing to write, Postgres is left alone.
    ///
    /// # Errors
    /// Where it cannot be written. It is kept, and written with the next.
    pub async fn flush(&mut self, store: &Store) -> Result<(), StoreError> {
        self.take();
        store.flush_usage(&mut self.batch).await
    }

    /// How many clients have something that was taken and is not written.
    pub fn unwritten(&self) -> usize {
        self.batch.len()
    }

    /// Takes what was noted into the batch. Not more than there is now: clients
    /// that are used all the time would be back before it came to an end.
    fn take(&mut self) {
        for _ in 0..self.entries.len() {
            match self.entries.try_recv() {
                Ok(Entry::Dirty(counters, outcome)) => counters.take(outcome, &mut self.batch),
                Ok(Entry::Displaced(client, count)) => self.batch.add(client, count),
                Err(_) => return,
            }
        }
    }

    /// Removes days that are older than 400 days, if it is time to look for them again.
    ///
    /// # Errors
    /// Where they cannot be removed. What is noted is written all the same.
    pub async fn trim(&mut self, store: &Store) -> Result<(), StoreError> {
        if self.next_trim.is_some_and(|next| Instant::now() < next) {
            return Ok(());
        }
        let before = Day::of(store.clock().now()).before(MAX_DAYS);
        self.next_trim = match store.trim_usage(before).await? {
            Trimmed::All => Some(Instant::now() + TRIM_INTERVAL),
            Trimmed::Some => None,
        };
        Ok(())
    }

    /// Removes requests that are no longer remembered, with their sealed replies, if it is
    /// time to look for them again. Nothing depends on it but how long they lie there.
    ///
    /// # Errors
    /// Where they cannot be removed. They are looked for again after as long.
    pub async fn forget(&mut self, store: &Store) -> Result<(), StoreError> {
        if Instant::now() < self.next_forgetting {
            return Ok(());
        }
        self.next_forgetting = Instant::now() + FORGET_INTERVAL;
        let until = store.clock().now() - REMEMBERED_FOR - FORGET_MARGIN;
        // Once a bound was reached there is more.
        while store.remove_requests(until).await? > 0 {}
        Ok(())
    }

    async fn forget_and_tell(&mut self, store: &Store) {
        if let Err(error) = self.forget(store).await {
            let causes = causes(&error);
            tracing::warn!(
                causes,
                "requests of more than 24 hours ago cannot be removed: {error}"
            );
        }
    }

    /// Flushes, and comes back also where that panics: this is a task of its own, so nobody
    /// else would notice before the end, and nothing would be written until then.
    async fn flush_anyhow(&mut self, store: &Store, metrics: &Metrics) {
        let flush = AssertUnwindSafe(self.flush_and_tell(store, metrics));
        if let Err(panic) = flush.catch_unwind().await {
            self.break_off(&*panic);
        }
    }

    /// Notes that a flush panicked. The next one may do better; but where two of them did
    /// in a row, what they were to write is what is wrong, and nothing else would ever be
    /// written.
    fn break_off(&mut self, panic: &(dyn Any + Send)) {
        let panic = panic_message(panic);
        let lost = if std::mem::replace(&mut self.broke_off, true) {
            std::mem::take(&mut self.batch).len()
        } else {
            0
        };
        tracing::error!(
            panic,
            lost,
            "writing uses of API clients broke off, and is begun anew: this is a defect; \
             what was noted of {lost} clients is lost"
        );
    }

    async fn flush_and_tell(&mut self, store: &Store, metrics: &Metrics) {
        let begun = Instant::now();
        let has_some = !(self.entries.is_empty() && self.batch.is_empty());
        let done = self.flush(store).await;
        self.broke_off = false;
        if has_some {
            metrics.flush(WriteResult::from(&done), begun.elapsed());
        }
        metrics.pending_usage(self.batch.len());
        self.tell(&done);
        if has_some && done.is_ok() {
            // Whatever becomes of this, the uses are written.
            let trimmed = self.trim(store).await;
            self.tell_trim(&trimmed);
        }
        self.forget_and_tell(store).await;
    }

    /// Writes everything, and tries until it is.
    async fn flush_all(&mut self, store: &Store, metrics: &Metrics) {
        loop {
            let begun = Instant::now();
            self.take();
            let has_some = !self.batch.is_empty();
            let done = store.flush_usage(&mut self.batch).await;
            if has_some {
                metrics.flush(WriteResult::from(&done), begun.elapsed());
            }
            self.tell(&done);
            if self.batch.is_empty() {
                return;
            }
            sleep(LAST_FLUSH_PAUSE).await;
        }
    }

    /// Logs that flushes fail when they begin to, and that they work again when
    /// they do: not each of them.
    fn tell(&mut self, done: &Result<(), StoreError>) {
        match done {
            Ok(()) if self.failing => tracing::info!("uses of API clients are written again"),
            Err(error) if !self.failing => {
                let (causes, clients) = (causes(error), self.batch.len());
                if error.is_defect() {
                    tracing::error!(causes, clients, "{CANNOT_WRITE}: {error}");
                } else {
                    tracing::warn!(causes, clients, "{CANNOT_WRITE}: {error}");
                }
            }
            Ok(()) | Err(_) => {}
        }
        self.failing = done.is_err();
    }

    /// The same for the removal of days of long ago.
    fn tell_trim(&mut self, done: &Result<(), StoreError>) {
        match done {
            Ok(()) if self.trim_failing => {
                tracing::info!("uses of long ago are removed again");
            }
            Err(error) if !self.trim_failing => {
                let causes = causes(error);
                if error.is_defect() {
                    tracing::error!(causes, "{CANNOT_REMOVE}: {error}");
                } else {
                    tracing::warn!(causes, "{CANNOT_REMOVE}: {error}");
                }
            }
            Ok(()) | Err(_) => {}
        }
        self.trim_failing = done.is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Ledger, UsageSlot},
        *,
    };
    use crate::{domain::id::ClientId, telemetry::logged::Logged};

    impl Flusher {
        /// Takes what was noted, and out of here.
        pub(in crate::replica::usage) fn taken(&mut self) -> Batch {
            self.take();
            std::mem::take(&mut self.batch)
        }

        /// How many entries wait.
        pub(in crate::replica::usage) fn waiting(&self) -> usize {
            self.entries.len()
        }
    }

    #[test]
    fn a_failure_is_told_when_it_begins_and_when_it_ends() {
        type Tell = fn(&mut Flusher, &Result<(), StoreError>);
        let tells: [(Tell, [&str; 3]); 2] = [
            (
                Flusher::tell,
                [
                    "cannot be written",
                    "are written again",
                    "cannot be written",
                ],
            ),
            (
                Flusher::tell_trim,
                [
                    "cannot be removed",
                    "are removed again",
                    "cannot be removed",
                ],
            ),
        ];
        for (tell, expected) in tells {
            let (_ledger, mut flusher) = Ledger::new();
            let failed = || Err(StoreError::Inconsistent("by hand".to_owned()));
            let logged = Logged::from_here();
            for done in [
                Ok(()),
                failed(),
                failed(),
                failed(),
                Ok(()),
                Ok(()),
                failed(),
            ] {
                tell(&mut flusher, &done);
            }
            let lines = logged.lines();
            assert_eq!(lines.len(), 3, "{lines:?}");
            for (line, said) in lines.iter().zip(expected) {
                assert!(line.contains(said), "{line}");
            }
        }
    }

    /// Whatever panicked, what was noted meanwhile is not lost, but where it is that.
    #[test]
    fn a_flush_that_breaks_off_is_an_error_and_is_tried_once_more() {
        let (ledger, mut flusher) = Ledger::new();
        let client = ClientId::from_uuid(uuid::Uuid::from_u128(1));
        let now = "2026-03-01T12:00:00Z".parse().unwrap();
        let used = crate::domain::usage::Outcome::Used;
        ledger.note(client, &UsageSlot::default(), used, now);
        flusher.take();
        let logged = Logged::from_here();
        for (unwritten, lost) in [(1, "lost=0"), (0, "lost=1")] {
            flusher.break_off(&"a defect");
            assert_eq!(flusher.unwritten(), unwritten);
            let lines = logged.lines();
            let line = lines.last().unwrap();
            for text in ["ERROR", "broke off", "panic=\"a defect\"", lost] {
                assert!(line.contains(text), "{text}: {line}");
            }
        }
        assert_eq!(logged.lines().len(), 2);
    }

    #[test]
    fn one_failure_hides_no_other() {
        let (_ledger, mut flusher) = Ledger::new();
        let failed = || Err(StoreError::Inconsistent("by hand".to_owned()));
        let logged = Logged::from_here();
        flusher.tell(&Ok(()));
        flusher.tell_trim(&failed());
        flusher.tell(&Ok(()));
        flusher.tell(&failed());
        flusher.tell_trim(&Ok(()));
        let lines = logged.lines();
        let said = [
            "cannot be removed",
            "cannot be written",
            "are removed again",
        ];
        assert_eq!(lines.len(), said.len(), "{lines:?}");
        for (line, said) in lines.iter().zip(said) {
            assert!(line.contains(said), "{line}");
        }
    }
}
