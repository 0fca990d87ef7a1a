//! What every process that answers holds in memory, kept up with Postgres: the
//! index, how fresh it is, and ways to wait until it is fresher.
//!
//! [`feed`] alone writes the index. Whoever answers takes the latest version, which
//! costs a few nanoseconds and waits for nobody, and looks at how long ago it was
//! known to be complete: beyond [`Options::max_staleness`] it proves nothing about
//! tokens that work.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwapOption, Guard};
use tokio::{
    sync::{Notify, Semaphore, oneshot, watch},
    task::JoinHandle,
    time::{Instant, timeout_at},
};
mod assembly;
mod claims;
mod feed;
pub mod index;
pub mod usage;
mod whole;

use crate::{
    domain::{Revision, Timestamp, clock::Clock, usage::Outcome},
    store::{Store, feed::Position},
    telemetry::metrics::Metrics,
};
use claims::Claims;
pub use claims::CommitLost;
use feed::Shortage;
use index::{Client, Index};
use usage::Ledger;

/// How long a write waits at most until it is in the index of its own replica.
const APPLY_TIMEOUT: Duration = Duration::from_millis(500);
/// Which part of the greatest staleness passes until the server that takes the writes is
/// looked for anew.
const SURVEYS: u32 = 4;
/// How much of the greatest staleness looking may take, in hundredths. Then a search that
/// takes so long each time still leaves a fifth of the bound.
const SURVEY_SHARE: u32 = 40;
/// How many polls may be missed until an index does not count as complete a moment
/// ago any more.
const MISSED_POLLS: u32 = 4;

/// What a replica can be set to.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long the index may have gone without proof that it is complete, and
    /// still say "active". Default 10 s.
    pub max_staleness: Duration,
    /// How often the database is asked for changes, where no notification comes.
    /// Default 250 ms.
    pub poll_interval: Duration,
    /// How often, in a second, the database may be asked besides on behalf of
    /// tokens that the index does not know. Default 100.
    pub max_lookups: u32,
    /// How many requests with such tokens may wait for that at once. Default 256.
    pub max_waiting: u32,
    /// How long one of them waits at most until the database was asked; and any request,
    /// for an index that is not loaded or has fallen behind. Default 1 s.
    pub ask_timeout: Duration,
    /// What noting uses can be set to.
    pub usage: usage::Options,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_staleness: Duration::from_secs(10),
            poll_interval: Duration::from_millis(250),
            max_lookups: 100,
            max_waiting: 256,
            ask_timeout: Duration::from_secs(1),
            usage: usage::Options::default(),
        }
    }
}

/// The handle. Cheap to clone; the feed ends with the last one.
#[derive(Clone)]
pub struct Replica {
    shared: Arc<Shared>,
    ledger: Ledger,
    /// Ends with the last handle.
    feed: Arc<feed::Task>,
}

/// A look at a replica that does not keep it: for the metrics, which it keeps itself.
#[derive(Clone)]
pub struct Glance {
    shared: Weak<Shared>,
    ledger: Ledger,
    feed: Weak<feed::Task>,
}

impl Glance {
    /// The replica, while there is one.
    pub fn replica(&self) -> Option<Replica> {
        Some(Replica {
            shared: self.shared.upgrade()?,
            ledger: self.ledger.clone(),
            feed: self.feed.upgrade()?,
        })
    }
}

/// Writes the uses that are noted. Dropped, it writes no more.
pub struct UsageWriter {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl UsageWriter {
    /// Writes what was noted so far, for a few seconds at most, and no more after
    /// that.
    pub async fn finish(self) {
        // It only ends by itself where it panicked, and says so then.
        self.stop.send(()).ok();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "uses of API clients were not written to the end");
        }
    }
}

struct Shared {
    clock: Arc<dyn Clock>,
    options: Options,
    /// The latest version; none until everything was read once.
    index: ArcSwapOption<Index>,
    /// When the latest version was last known to be complete, by the clock's
    /// `elapsed`, in nanoseconds: by what the server says that was last shown to take
    /// the writes, and at the time at which that was shown. Before the clock's beginning
    /// where a standby lags that far behind. Written after the version, read before it:
    /// so a version is never taken for fresher than it is.
    complete_at: AtomicI64,
    /// The same, by what the server says that is connected.
    heard_at: AtomicI64,
    /// What this process committed and its index is not known to contain.
    claims: Claims,
    progress: watch::Sender<Progress>,
    /// How many times the feed has set out to ask the database.
    begun: AtomicU64,
    /// Somebody waits for the database to be asked.
    asked: Notify,
    /// The database says that something changed.
    heard: Notify,
    /// Whether there is somebody to hear it.
    listening: AtomicBool,
    /// Whether a notification is to be sent, to see whether the listener hears it.
    is_listener_untried: AtomicBool,
    /// What is given up where Postgres has no connection left.
    shortage: Shortage,
    waiting: Semaphore,
    metrics: Metrics,
}

/// How far the feed has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Where the index stands; none until there is an index.
    position: Option<Position>,
    /// The number of the last question that was answered, and taken in.
    answered: u64,
    /// The number of the last question that failed.
    failed: u64,
    /// How many times the database could not be asked, since the start.
    pub failures: u64,
}

impl Progress {
    /// The index' revision; none until there is an index.
    pub fn revision(&self) -> Option<Revision> {
        self.position.map(|position| position.revision)
    }

    /// Whether the database answered when it was asked last.
    pub fn reaches_database(&self) -> bool {
        self.answered > self.failed
    }
}

/// The latest version of the index, for one answer.
pub struct View {
    index: Guard<Option<Arc<Index>>>,
    /// The time, by the database's clock.
    pub now: Timestamp,
    /// How long ago the version was last known to be complete.
    pub staleness: Duration,
    max_staleness: Duration,
    is_behind: bool,
}

/// Why it cannot be told whether a token works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotTell {
    /// Nothing was read from the database yet.
    #[error("the index is not loaded yet")]
    Loading,
    /// The index has gone without proof that it is complete for too long.
    #[error("the index is {} s old", .0.as_secs())]
    Stale(Duration),
    /// A change was made here that the index does not have yet.
    #[error("the index lacks a change that was made here")]
    Behind,
    /// The database was asked and did not answer.
    #[error("the database does not answer")]
    NoAnswer,
}

impl View {
    /// The index.
    pub fn index(&self) -> &Index {
        self.index.as_ref().expect("a view is made of a version")
    }

    /// Whether anything may be said of a token from this version. Not where the index
    /// lacks a change that this process acknowledged.
    pub const fn require_caught_up(&self) -> Result<(), CannotTell> {
        if self.is_behind {
            Err(CannotTell::Behind)
        } else {
            Ok(())
        }
    }

    /// Whether the version proves that a token works.
    pub fn require_fresh(&self) -> Result<(), CannotTell> {
        self.require_caught_up()?;
        if self.staleness <= self.max_staleness {
            Ok(())
        } else {
            Err(CannotTell::Stale(self.staleness))
        }
    }

    /// For how long an answer from this version still lies within the bound.
    pub fn stays_fresh_for(&self) -> Duration {
        self.max_staleness.saturating_sub(self.staleness)
    }
}

impl Replica {
    /// Starts following the store's database, until the last clone is dropped, and
    /// writing what is noted to it.
    pub fn start(store: &Store, options: Options, metrics: &Metrics) -> (Self, UsageWriter) {
        Self::start_when(std::future::ready(()), store, options, metrics)
    }

    /// The same; asks the database for nothing until `ready` is.
    pub fn start_when(
        ready: impl Future<Output = ()> + Send + 'static,
        store: &Store,
        options: Options,
        metrics: &Metrics,
    ) -> (Self, UsageWriter) {
        let options = Options {
            // A poll or two may be lost without harm.
            poll_interval: options.poll_interval.min(options.max_staleness / 4),
            ..options
        };
        let shared = Arc::new(Shared {
            clock: Arc::clone(store.clock()),
            options,
            index: ArcSwapOption::empty(),
            complete_at: AtomicI64::new(i64::MIN),
            heard_at: AtomicI64::new(i64::MIN),
            claims: Claims::default(),
            progress: watch::Sender::default(),
            begun: AtomicU64::new(0),
            asked: Notify::new(),
            heard: Notify::new(),
            listening: AtomicBool::new(false),
            is_listener_untried: AtomicBool::new(false),
            shortage: Shortage::default(),
            waiting: Semaphore::new(options.max_waiting as usize),
            metrics: metrics.clone(),
        });
        let feed = feed::start(ready, store.clone(), Arc::clone(&shared));
        let (ledger, flusher) = Ledger::new();
        let (stop, stopped) = oneshot::channel();
        let stopped = async {
            // A writer that nobody can stop any more is as good as stopped.
            drop(stopped.await);
        };
        let task =
            tokio::spawn(flusher.run(store.clone(), options.usage, metrics.clone(), stopped));
        let replica = Self {
            shared,
            ledger,
            feed: Arc::new(feed),
        };
        (replica, UsageWriter { stop, task })
    }

    /// Notes what the presentation of a client's token came to. Waits for nobody.
    pub fn note(&self, client: &Client, outcome: Outcome, now: Timestamp) {
        self.ledger
            .note(client.known.id(), &client.usage, outcome, now);
    }

    /// A look at it that does not keep it.
    pub fn glance(&self) -> Glance {
        Glance {
            shared: Arc::downgrade(&self.shared),
            ledger: self.ledger.clone(),
            feed: Arc::downgrade(&self.feed),
        }
    }

    /// What it was set to.
    pub fn options(&self) -> &Options {
        &self.shared.options
    }

    /// The latest version of the index.
    pub fn view(&self) -> Result<View, CannotTell> {
        let shared = &*self.shared;
        // Before the version: one that is behind may be followed by one that is not.
        let is_behind = shared.claims.is_behind();
        let complete_at = shared.complete_at.load(Ordering::Acquire);
        let index = shared.index.load();
        if index.is_none() {
            return Err(CannotTell::Loading);
        }
        Ok(View {
            index,
            now: shared.clock.now(),
            staleness: since(&*shared.clock, complete_at),
            max_staleness: shared.options.max_staleness,
            is_behind,
        })
    }

    /// Whether it can be told at all of a token that works that it does.
    ///
    /// # Errors
    /// Why not.
    pub fn require_fresh(&self) -> Result<(), CannotTell> {
        self.view()?.require_fresh()
    }

    /// The latest version of the index, for what does not depend on the time.
    pub fn index(&self) -> Guard<Option<Arc<Index>>> {
        self.shared.index.load()
    }

    /// How far the feed has come, and word of each step.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.shared.progress.subscribe()
    }

    /// Whether notifications come in: one that was sent to see it did. Polling goes on
    /// without them.
    pub fn is_listening(&self) -> bool {
        self.shared.listening.load(Ordering::Relaxed)
    }

    /// Waits until the index has reached a revision.
    ///
    /// # Errors
    /// Where it has not by then: how far it got.
    pub async fn reach(&self, wanted: Revision, give_up: Instant) -> Result<(), Revision> {
        let reached = |progress: &Progress| progress.revision() >= Some(wanted);
        if reached(&self.shared.progress.borrow()) {
            return Ok(());
        }
        self.shared.asked.notify_one();
        let mut progress = self.progress();
        if let Ok(Ok(_)) = timeout_at(give_up, progress.wait_for(reached)).await {
            return Ok(());
        }
        let progress = self.shared.progress.borrow();
        Err(progress.revision().unwrap_or_default())
    }

    /// Waits until what was just committed is in the index, and until it is shown that
    /// the server that takes the writes has it, without waiting for word from the
    /// database. Gives up after a while, and in any case by then: the change is committed
    /// none the less, and has to be acknowledged. If the index does not have it then,
    /// [`View::require_caught_up`] fails until it has.
    ///
    /// # Errors
    /// Where the commit was lost before it could be acknowledged: the server that takes
    /// the writes does not have it.
    pub async fn wait_applied(
        &self,
        committed: Position,
        give_up: Option<Instant>,
    ) -> Result<(), CommitLost> {
        let shared = &*self.shared;
        let (number, settled) = shared.claims.add(committed, shared.clock.elapsed());
        shared.heard.notify_one();
        let ours = Instant::now() + APPLY_TIMEOUT;
        let give_up = give_up.map_or(ours, |theirs| theirs.min(ours));
        if let Ok(Ok(settled)) = timeout_at(give_up, settled).await {
            return settled;
        }
        // The feed settles it later, as everything that it knows of.
        if shared.claims.acknowledge(number) {
            tracing::warn!(
                revision = committed.revision.0,
                "the index does not have a change in time that was made here: until it has, \
                 nothing is answered from it"
            );
        }
        Ok(())
    }

    /// The latest version of the index; waits a little for the first one.
    ///
    /// # Errors
    /// [`CannotTell::Loading`].
    pub async fn loaded_view(&self, give_up: Instant) -> Result<View, CannotTell> {
        if let Ok(view) = self.view() {
            return Ok(view);
        }
        let mut progress = self.progress();
        let give_up = give_up.min(Instant::now() + self.shared.options.ask_timeout);
        let loaded = progress.wait_for(|progress| progress.position.is_some());
        // In time or not: there is one, or there is none.
        drop(timeout_at(give_up, loaded).await);
        self.view()
    }

    /// The latest version of the index, from which something may be said of a token;
    /// waits a little for it.
    ///
    /// # Errors
    /// [`CannotTell::Loading`] or [`CannotTell::Behind`].
    pub async fn caught_up_view(&self, give_up: Instant) -> Result<View, CannotTell> {
        let caught_up = || {
            let view = self.view()?;
            view.require_caught_up()?;
            Ok(view)
        };
        if let Ok(view) = caught_up() {
            return Ok(view);
        }
        let mut progress = self.progress();
        let give_up = give_up.min(Instant::now() + self.shared.options.ask_timeout);
        // In time or not: what there is then is the answer.
        drop(timeout_at(give_up, progress.wait_for(|_| caught_up().is_ok())).await);
        caught_up()
    }

    /// Waits until the database was asked for changes at least once after now, and
    /// they are in the index: whatever was committed before this call is known
    /// after it. All who wait at once share one question, so that any number of
    /// tokens that nobody knows costs the database no more than
    /// [`Options::max_lookups`] a second.
    ///
    /// Where too many wait already, the word of the index stands, if it was complete
    /// a moment ago.
    ///
    /// # Errors
    /// Where neither can be had.
    pub async fn ask(&self, give_up: Instant) -> Result<(), CannotTell> {
        let shared = &*self.shared;
        let Ok(_permit) = shared.waiting.try_acquire() else {
            shared.metrics.rejected();
            self.view()?.require_caught_up()?;
            let staleness = since(&*shared.clock, shared.heard_at.load(Ordering::Relaxed));
            if staleness <= shared.options.poll_interval * MISSED_POLLS {
                return Ok(());
            }
            return Err(CannotTell::Stale(staleness));
        };
        let begun = shared.begun.load(Ordering::SeqCst);
        shared.asked.notify_one();
        let mut progress = self.progress();
        let settled = |progress: &Progress| progress.answered.max(progress.failed) > begun;
        let give_up = give_up.min(Instant::now() + self.shared.options.ask_timeout);
        match timeout_at(give_up, progress.wait_for(settled)).await {
            Ok(Ok(progress)) if progress.answered > begun => Ok(()),
            _ => Err(CannotTell::NoAnswer),
        }
    }
}

/// How long ago that was, by a clock's `elapsed` in nanoseconds.
fn since(clock: &dyn Clock, at: i64) -> Duration {
    let ago = nanoseconds(clock.elapsed()).saturating_sub(at);
    Duration::from_nanos(u64::try_from(ago).unwrap_or_default())
}

/// A length of time as it is kept in the atomics.
fn nanoseconds(length: Duration) -> i64 {
    i64::try_from(length.as_nanos()).unwrap_or(i64::MAX)
}
