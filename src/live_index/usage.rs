//! The task that writes recorded uses: one batch every few seconds, and a last one at
//! shutdown.
//!
//! A crash loses the uses since the last flush, at most one interval's. A batch that cannot
//! be written is kept, and grows by at most ten counts per client and day, so that an
//! outage of Postgres loses nothing. A connection that breaks between Postgres's commit and
//! its reply makes a batch count twice, and so does a server that hangs while another one takes
//! over; the last use is right even then.
//!
//! Presentations of replaced tokens go to a task beside it, which writes events about them.

use std::{any::Any, panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Duration};

use chrono::TimeDelta;
use futures_util::FutureExt;
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    domain::{
        ledger::{Ledger, Recorded},
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

mod replaced;

use replaced::Reporter;

/// The timeout of the last flush, including retries.
const LAST_FLUSH: Duration = Duration::from_secs(5);
/// The pause before a retry of the last flush.
const LAST_FLUSH_PAUSE: Duration = Duration::from_millis(100);
/// The interval between trims on each server; old days appear once a day.
const TRIM_INTERVAL: Duration = Duration::from_hours(1);

/// The interval between removals of expired requests on each server.
const FORGET_INTERVAL: Duration = Duration::from_mins(10);
/// The extra time that an expired request is kept: this clock differs slightly from the
/// database's, and a request that is not expired there must stay.
const FORGET_MARGIN: TimeDelta = TimeDelta::minutes(1);

/// How long a replica may retry a report.
const REPLICAS_REMEMBERED_FOR: TimeDelta = TimeDelta::days(30);

const CANNOT_WRITE: &str = "uses of API clients cannot be written and are kept";
const CANNOT_REMOVE: &str = "uses of API clients of more than 400 days ago cannot be removed";

#[derive(Clone, Copy, Debug)]
pub struct UsageOptions {
    /// The pause between two flushes: about how late a use is visible, and how much a
    /// crash loses. Must not be zero. Default 5 s.
    pub flush_interval: Duration,
}

impl Default for UsageOptions {
    fn default() -> Self {
        Self {
            flush_interval: Duration::from_secs(5),
        }
    }
}

/// Writes the uses that a [`Ledger`] records.
#[derive(Debug)]
pub struct Flusher {
    recorded: Recorded,
    /// Uses that were taken, and are not written yet.
    batch: Batch,
    /// Presentations of replaced tokens that were taken.
    reporter: Arc<Reporter>,
    /// Whether the last flush panicked.
    panicked: bool,
    failing: bool,
    trim_failing: bool,
    /// When the next trim is due; `None` means with the next flush.
    next_trim: Option<Instant>,
    next_forgetting: Instant,
}

impl Flusher {
    /// A ledger, and the flusher that writes what it records.
    pub fn with_ledger() -> (Ledger, Self) {
        let (ledger, recorded) = Ledger::new();
        (ledger, Self::new(recorded))
    }

    fn new(recorded: Recorded) -> Self {
        Self {
            recorded,
            batch: Batch::default(),
            reporter: Arc::default(),
            panicked: false,
            failing: false,
            trim_failing: false,
            next_trim: None,
            next_forgetting: Instant::now() + FORGET_INTERVAL,
        }
    }

    /// Flushes every interval until `stop` completes, and then once more, for five seconds
    /// at most. Uses recorded after that are lost.
    pub async fn run(
        mut self,
        store: Store,
        options: UsageOptions,
        metrics: Metrics,
        stop: impl Future<Output = ()>,
    ) {
        let reporter = Arc::clone(&self.reporter);
        let deadline = tokio::select! {
            deadline = self.run_until(&store, options, &metrics, stop) => deadline,
            () = reporter.run(&store, options.flush_interval) => Instant::now(),
        };
        let reported = timeout_at(deadline, reporter.report(&store)).await;
        if !matches!(reported, Ok(Ok(()))) && !reporter.is_done() {
            tracing::warn!("stopped before every use of a replaced token was reported");
        }
    }

    /// Flushes until `stop` completes, and once more. Returns until when anything else may
    /// take.
    async fn run_until(
        &mut self,
        store: &Store,
        options: UsageOptions,
        metrics: &Metrics,
        stop: impl Future<Output = ()>,
    ) -> Instant {
        let mut stop = pin!(stop);
        let deadline = loop {
            tokio::select! {
                biased;
                () = &mut stop => break Instant::now() + LAST_FLUSH,
                () = sleep(options.flush_interval) => {}
            }
            let mut flush = pin!(self.flush_catching_panics(store, metrics));
            tokio::select! {
                () = &mut flush => {}
                () = &mut stop => {
                    // A flush that times out may be committed all the same, so that a
                    // retry would count twice.
                    let deadline = Instant::now() + LAST_FLUSH;
                    if timeout_at(deadline, flush).await.is_err() {
                        tracing::warn!("stopped before the last uses of API clients were written");
                        return deadline;
                    }
                    break deadline;
                }
            }
        };
        if timeout_at(deadline, self.flush_all(store, metrics))
            .await
            .is_err()
        {
            let clients = self.batch.len();
            tracing::warn!(
                clients,
                "stopped before the last uses of {clients} API clients were written"
            );
        }
        deadline
    }

    /// Writes all uses recorded so far, together with those of failed flushes. Sends
    /// Postgres nothing if there are none.
    ///
    /// # Errors
    /// If the batch cannot be written. It is kept for the next flush.
    pub async fn flush(&mut self, store: &Store) -> Result<(), StoreError> {
        self.take();
        store
            .until_failover(store.flush_usage(&mut self.batch))
            .await
    }

    /// Takes what was recorded.
    fn take(&mut self) {
        self.recorded.take(&mut self.batch);
        self.reporter.take(&mut self.batch);
    }

    /// Writes the events about presentations of replaced tokens that were taken, as
    /// [`Self::run`] does beside the flushes.
    ///
    /// # Errors
    /// If they cannot be written. They are kept.
    pub async fn report_replaced(&self, store: &Store) -> Result<(), StoreError> {
        self.reporter.report(store).await
    }

    /// The number of clients whose uses were taken and are not written yet.
    pub fn pending(&self) -> usize {
        self.batch.len()
    }

    /// Removes the counts of days more than 400 days ago, if a trim is due.
    ///
    /// # Errors
    /// If they cannot be removed. Uses are written all the same.
    pub async fn trim(&mut self, store: &Store) -> Result<(), StoreError> {
        if self.next_trim.is_some_and(|next| Instant::now() < next) {
            return Ok(());
        }
        let before = Day::of(store.clock().now()).before(MAX_DAYS);
        self.next_trim = match store.until_failover(store.trim_usage(before)).await? {
            Trimmed::All => Some(Instant::now() + TRIM_INTERVAL),
            Trimmed::Some => None,
        };
        Ok(())
    }

    /// Removes expired requests with their sealed replies, replicas that reported nothing
    /// for long, and events that were kept for long, if that is due. No answer depends on it.
    ///
    /// # Errors
    /// If they cannot be removed. The next attempt follows after the usual interval.
    pub async fn forget(&mut self, store: &Store) -> Result<(), StoreError> {
        if Instant::now() < self.next_forgetting {
            return Ok(());
        }
        self.next_forgetting = Instant::now() + FORGET_INTERVAL;
        let until = store.clock().now() - REMEMBERED_FOR - FORGET_MARGIN;
        let silent_since = store.clock().now() - REPLICAS_REMEMBERED_FOR;
        let forget = async {
            // Each statement removes a bounded number.
            while store.remove_requests(until).await? > 0 {}
            store.forget_replicas(silent_since).await?;
            store.trim_events().await
        };
        store.until_failover(forget).await
    }

    async fn forget_and_log(&mut self, store: &Store) {
        if let Err(error) = self.forget(store).await {
            let causes = causes(&error);
            tracing::warn!(
                causes,
                "requests of more than 24 hours ago, or events of long ago, cannot be removed: {error}"
            );
        }
    }

    /// Flushes, and catches panics: nothing awaits this task before shutdown, so that a panic
    /// would otherwise go unnoticed, and uses unwritten, until then.
    async fn flush_catching_panics(&mut self, store: &Store, metrics: &Metrics) {
        let flush = AssertUnwindSafe(self.flush_and_log(store, metrics));
        if let Err(panic) = flush.catch_unwind().await {
            self.handle_panic(&*panic);
        }
    }

    /// Logs that a flush panicked, and keeps the batch for a retry. After two panics in a
    /// row, the batch is probably the cause, and is dropped, since nothing would ever be
    /// written otherwise.
    fn handle_panic(&mut self, panic: &(dyn Any + Send)) {
        let panic = panic_message(panic);
        let lost = if std::mem::replace(&mut self.panicked, true) {
            std::mem::take(&mut self.batch).len()
        } else {
            0
        };
        tracing::error!(
            panic,
            lost,
            "writing uses of API clients panicked and is restarted: this is a defect; the \
             uses of {lost} clients are lost"
        );
    }

    async fn flush_and_log(&mut self, store: &Store, metrics: &Metrics) {
        let begun = Instant::now();
        let has_some = !(self.recorded.is_empty() && self.batch.is_empty());
        let done = self.flush(store).await;
        self.panicked = false;
        if has_some {
            metrics.flush(WriteResult::from(&done), begun.elapsed());
        }
        metrics.pending_usage(self.batch.len());
        self.log_flush(&done);
        if has_some && done.is_ok() {
            // A failure here does not affect the uses, which are written.
            let trimmed = self.trim(store).await;
            self.log_trim(&trimmed);
        }
        self.forget_and_log(store).await;
    }

    /// Writes all uses, and retries until it succeeds.
    async fn flush_all(&mut self, store: &Store, metrics: &Metrics) {
        loop {
            let begun = Instant::now();
            self.take();
            let has_some = !self.batch.is_empty();
            let done = store
                .until_failover(store.flush_usage(&mut self.batch))
                .await;
            if has_some {
                metrics.flush(WriteResult::from(&done), begun.elapsed());
            }
            self.log_flush(&done);
            if self.batch.is_empty() {
                return;
            }
            sleep(LAST_FLUSH_PAUSE).await;
        }
    }

    /// Logs the first failure of an outage, and the first success after it.
    fn log_flush(&mut self, done: &Result<(), StoreError>) {
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

    /// The same for trims.
    fn log_trim(&mut self, done: &Result<(), StoreError>) {
        match done {
            Ok(()) if self.trim_failing => {
                tracing::info!("uses of API clients of more than 400 days ago are removed again");
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
    use super::*;
    use crate::telemetry::logged::Logged;

    #[test]
    fn the_begin_and_the_end_of_an_outage_are_logged() {
        type Log = fn(&mut Flusher, &Result<(), StoreError>);
        let logs: [(Log, [&str; 3]); 2] = [
            (
                Flusher::log_flush,
                [
                    "cannot be written",
                    "are written again",
                    "cannot be written",
                ],
            ),
            (
                Flusher::log_trim,
                [
                    "cannot be removed",
                    "are removed again",
                    "cannot be removed",
                ],
            ),
        ];
        for (log, expected) in logs {
            let (_ledger, mut flusher) = Flusher::with_ledger();
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
                log(&mut flusher, &done);
            }
            let lines = logged.lines();
            assert_eq!(lines.len(), 3, "{lines:?}");
            for (line, said) in lines.iter().zip(expected) {
                assert!(line.contains(said), "{line}");
            }
        }
    }

    /// A panic loses no uses, unless it repeats with the same batch.
    #[test]
    fn a_flush_that_panics_is_an_error_and_is_retried_once() {
        let (ledger, mut flusher) = Flusher::with_ledger();
        let client = crate::domain::id::ClientId::from_uuid(uuid::Uuid::from_u128(1));
        let now = "2026-03-01T12:00:00Z".parse().unwrap();
        let used = crate::domain::usage::Outcome::Used;
        ledger.record(
            client,
            &crate::domain::ledger::UsageSlot::default(),
            used,
            now,
        );
        flusher.recorded.take(&mut flusher.batch);
        let logged = Logged::from_here();
        for (pending, lost) in [(1, "lost=0"), (0, "lost=1")] {
            flusher.handle_panic(&"a defect");
            assert_eq!(flusher.pending(), pending);
            let lines = logged.lines();
            let line = lines.last().unwrap();
            for text in ["ERROR", "panicked", "panic=\"a defect\"", lost] {
                assert!(line.contains(text), "{text}: {line}");
            }
        }
        assert_eq!(logged.lines().len(), 2);
    }

    #[test]
    fn one_failure_hides_no_other() {
        let (_ledger, mut flusher) = Flusher::with_ledger();
        let failed = || Err(StoreError::Inconsistent("by hand".to_owned()));
        let logged = Logged::from_here();
        flusher.log_flush(&Ok(()));
        flusher.log_trim(&failed());
        flusher.log_flush(&Ok(()));
        flusher.log_flush(&failed());
        flusher.log_trim(&Ok(()));
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
