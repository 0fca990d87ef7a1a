//! The in-memory index that a process answers from, its staleness, and ways to wait for
//! a newer version.
//!
//! [`feed`] alone writes the index. A reader takes the latest version, which costs a few
//! nanoseconds and blocks on nothing, and checks its staleness: beyond
//! [`IndexOptions::max_staleness`], the index no longer proves that a token is active.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwapOption, Guard};
use tokio::{
    sync::{Notify, Semaphore, oneshot, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, sleep_until, timeout_at},
};
mod claims;
mod client_builder;
mod feed;
mod full_load;
mod intake;
mod progress;
mod recent;
mod refresh;
pub mod usage;
mod view;

use crate::{
    client::follow::age,
    domain::{
        Position, Revision, Timestamp,
        clock::Clock,
        id::ClientId,
        index::{Client, Index},
        ledger::{Ledger, Recorded},
        usage::{Batch, Outcome},
    },
    store::{Commit, NotAcknowledged, Store, error::StoreError, feed::Found},
    telemetry::metrics::Metrics,
};
use claims::{Claim, ClaimOutcome, Claims};
use feed::Shortage;
pub use intake::Intake;
pub use progress::FeedProgress;
use recent::RecentChanges;
use usage::Flusher;
pub use view::{Unanswerable, View};

/// How long a write waits for the feed alone to prove its change.
const FEED_TIMEOUT: Duration = Duration::from_millis(500);
/// The pause between the surveys of a write for the primary.
const PROOF_PAUSE: Duration = Duration::from_millis(100);
/// How long a write without a deadline waits for the proof of its change.
const PROOF_TIMEOUT: Duration = Duration::from_secs(10);
/// Surveys for the primary in each period of `max_staleness`.
const SURVEYS_PER_BOUND: u32 = 4;
/// The longest that a survey may take, in hundredths of `max_staleness`. If every survey
/// takes that long, a fifth of the bound is still left.
const SURVEY_SHARE: u32 = 40;
/// Polls that may be missed before the index no longer counts as current.
const MISSED_POLLS: u32 = 4;

#[derive(Clone, Copy, Debug)]
pub struct IndexOptions {
    /// The staleness beyond which the index no longer proves that a token is active.
    /// Default 10 s.
    pub max_staleness: Duration,
    /// The interval between polls if no notification arrives; at most a quarter of
    /// `max_staleness`. Default 250 ms.
    pub poll_interval: Duration,
    /// Refreshes per second, besides the polls, on behalf of tokens that the index does
    /// not know. Default 100.
    pub max_lookups: u32,
    /// Requests with such tokens that may wait for a refresh concurrently. Default 256.
    pub max_waiting: u32,
    /// The longest that a request waits for a refresh, or for an index that is not loaded
    /// or is behind. Default 1 s.
    pub refresh_timeout: Duration,
    pub usage: usage::UsageOptions,
}

impl Default for IndexOptions {
    fn default() -> Self {
        Self {
            max_staleness: Duration::from_secs(10),
            poll_interval: Duration::from_millis(250),
            max_lookups: 100,
            max_waiting: 256,
            refresh_timeout: Duration::from_secs(1),
            usage: usage::UsageOptions::default(),
        }
    }
}

/// A handle to the index and the feed. Cheap to clone; the feed stops with the last one.
#[derive(Clone)]
pub struct LiveIndex {
    shared: Arc<Shared>,
    ledger: Ledger,
    feed: Arc<feed::Task>,
}

/// A handle that does not keep the index alive: for the metrics, which the index
/// itself owns.
#[derive(Clone)]
pub struct WeakLiveIndex {
    shared: Weak<Shared>,
    ledger: Ledger,
    feed: Weak<feed::Task>,
}

impl WeakLiveIndex {
    /// The index, if it still exists.
    pub fn upgrade(&self) -> Option<LiveIndex> {
        Some(LiveIndex {
            shared: self.shared.upgrade()?,
            ledger: self.ledger.clone(),
            feed: self.feed.upgrade()?,
        })
    }
}

/// The handle to the task that writes recorded uses. If it is dropped, the task flushes
/// once more and stops.
pub struct UsageWriter {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl UsageWriter {
    /// Starts a task that writes what a ledger records, until the future that it is given
    /// completes, and then the rest.
    pub fn start<F>(write: impl FnOnce(Pin<Box<dyn Future<Output = ()> + Send>>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel();
        // A writer whose handle was dropped stops as well.
        let stopped = Box::pin(async { drop(stopped.await) });
        let task = tokio::spawn(write(stopped));
        Self { stop, task }
    }

    /// Flushes the uses recorded so far, for a few seconds at most, and stops.
    pub async fn finish(self) {
        // The task ends by itself only if it panicked, which `await` then reports.
        self.stop.send(()).ok();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the last uses of API clients were not written");
        }
    }
}

struct Shared {
    clock: Arc<dyn Clock>,
    options: IndexOptions,
    /// The latest version; `None` until the first full load.
    index: ArcSwapOption<Index>,
    /// When the latest version was last proven complete, in nanoseconds of the clock's
    /// `elapsed`: never later than the survey that found its server to be the primary.
    /// Negative if a standby lags that far behind. It is written after the version and
    /// read before it, so that a version never appears fresher than it is.
    complete_at: AtomicI64,
    /// The same without that survey: by the word of the connected server alone.
    unverified_complete_at: AtomicI64,
    /// Commits of this process that its index is not known to contain.
    claims: Claims,
    /// Held by the one write that looks for the primary.
    proof: tokio::sync::Mutex<()>,
    /// What changed of late, for those who follow the index elsewhere.
    recent: RecentChanges,
    progress: watch::Sender<FeedProgress>,
    /// The number of queries that the feed has begun.
    queries_begun: AtomicU64,
    /// Wakes the feed, because a request waits for a refresh.
    refresh_requested: Notify,
    /// Wakes the feed, because a notification arrived.
    notified: Notify,
    /// Whether the listener was shown to receive notifications.
    listening: AtomicBool,
    /// Whether the feed should send a notification to test the listener.
    listener_needs_probe: AtomicBool,
    /// Which connections are released if Postgres has none left.
    shortage: Shortage,
    waiting: Semaphore,
    metrics: Metrics,
}

impl Shared {
    fn new(clock: Arc<dyn Clock>, options: IndexOptions, metrics: &Metrics) -> Arc<Self> {
        let options = IndexOptions {
            // One or two lost polls do no harm.
            poll_interval: options.poll_interval.min(options.max_staleness / 4),
            ..options
        };
        Arc::new(Self {
            clock,
            options,
            index: ArcSwapOption::empty(),
            complete_at: AtomicI64::new(i64::MIN),
            unverified_complete_at: AtomicI64::new(i64::MIN),
            claims: Claims::default(),
            proof: tokio::sync::Mutex::default(),
            recent: RecentChanges::default(),
            progress: watch::Sender::default(),
            queries_begun: AtomicU64::new(0),
            refresh_requested: Notify::new(),
            notified: Notify::new(),
            listening: AtomicBool::new(false),
            listener_needs_probe: AtomicBool::new(false),
            shortage: Shortage::default(),
            waiting: Semaphore::new(options.max_waiting as usize),
            metrics: metrics.clone(),
        })
    }
}

impl Shared {
    /// Proves claims by surveys, until the write of one of them has its outcome and drops this.
    #[expect(clippy::infinite_loop, reason = "the write that waits for it drops it")]
    async fn prove_claims(&self, store: &Store) -> Infallible {
        // One at a time, since each survey opens connections, and proves all commits before it.
        let _turn = self.proof.lock().await;
        loop {
            if let Err(error) = self.try_prove_claims(store).await {
                tracing::debug!(%error, "a change cannot be proven yet");
                if error.is_connection_shortage() {
                    self.shortage.release_one(store);
                }
            }
            sleep(PROOF_PAUSE).await;
        }
    }

    async fn try_prove_claims(&self, store: &Store) -> Result<(), StoreError> {
        let primary = store.connect_primary(self.survey_limit()).await?;
        for Claim { number, commit, .. } in self.claims.unacknowledged(primary.surveyed_at) {
            match primary.state(commit.position).await?.find(&commit) {
                Found::Yes => self.claims.prove(number),
                Found::No => self.claims.resolve(number, ClaimOutcome::Lost),
                Found::Unknown => self.claims.resolve(number, ClaimOutcome::Unknown),
            }
        }
        Ok(())
    }
}

impl LiveIndex {
    /// Starts the feed, which runs until the last clone is dropped, and the writer of
    /// uses.
    pub fn start(store: &Store, options: IndexOptions, metrics: &Metrics) -> (Self, UsageWriter) {
        Self::start_when(std::future::ready(()), store, options, metrics)
    }

    /// Like [`Self::start`]; sends the database nothing until `ready` completes.
    pub fn start_when(
        ready: impl Future<Output = ()> + Send + 'static,
        store: &Store,
        options: IndexOptions,
        metrics: &Metrics,
    ) -> (Self, UsageWriter) {
        let shared = Shared::new(Arc::clone(store.clock()), options, metrics);
        let feed = feed::start(ready, store.clone(), Arc::clone(&shared));
        let (ledger, flusher) = Flusher::with_ledger();
        let usage = UsageWriter::start(|stopped| {
            flusher.run(store.clone(), options.usage, metrics.clone(), stopped)
        });
        let index = Self {
            shared,
            ledger,
            feed: Arc::new(feed),
        };
        (index, usage)
    }

    /// An index that something else than a database feeds: `feed` gets the way to write it,
    /// and is started again if it panics, after which it must load everything. It is ended
    /// with the last handle. Also what is recorded of uses, which nothing writes yet.
    pub fn fed_by<F>(
        clock: Arc<dyn Clock>,
        options: IndexOptions,
        metrics: &Metrics,
        mut feed: impl FnMut(Intake) -> F + Send + 'static,
    ) -> (Self, Recorded)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let shared = Shared::new(clock, options, metrics);
        let (ledger, recorded) = Ledger::new();
        let fed = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let start = || {
                let mut tasks = JoinSet::new();
                tasks.spawn(feed(Intake::new(Arc::clone(&fed))));
                tasks
            };
            feed::supervise(start, || fed.mark_stopped()).await;
        });
        let index = Self {
            shared,
            ledger,
            feed: Arc::new(feed::Task(task)),
        };
        (index, recorded)
    }

    /// Records the outcome of presenting a client's token. Never blocks.
    pub fn record(&self, client: &Client, outcome: Outcome, now: Timestamp) {
        self.ledger
            .record(client.known.id(), &client.usage, outcome, now);
    }

    /// Records, in addition, that the token which worked was a replaced one. Never blocks.
    pub fn record_replaced(&self, client: &Client, now: Timestamp) {
        self.ledger
            .record_replaced(client.known.id(), &client.usage, now);
    }

    /// Adds uses that another process counted, to be written with those of this one.
    pub fn add_usage(&self, counted: &Batch) {
        self.ledger.add(counted);
    }

    /// The clients that may have changed between a position and the latest version, each
    /// once; `None` if that is not known, so that everything must be compared.
    pub fn changed_since(&self, position: Position) -> Option<Vec<ClientId>> {
        self.shared.recent.since(position)
    }

    /// The time by the database's clock, and by one that cannot be set.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.shared.clock
    }

    /// A handle that does not keep the index alive.
    pub fn downgrade(&self) -> WeakLiveIndex {
        WeakLiveIndex {
            shared: Arc::downgrade(&self.shared),
            ledger: self.ledger.clone(),
            feed: Arc::downgrade(&self.feed),
        }
    }

    pub fn options(&self) -> &IndexOptions {
        &self.shared.options
    }

    /// The latest version of the index, with its staleness.
    pub fn view(&self) -> Result<View, Unanswerable> {
        let shared = &*self.shared;
        // Read before the version, which may be replaced by one that has caught up; and the time
        // after it as well, since it may also be replaced by a staler one. The earlier time
        // holds.
        let is_behind = shared.claims.is_behind();
        let before = shared.complete_at.load(Ordering::Acquire);
        let index = shared.index.load();
        if index.is_none() {
            return Err(Unanswerable::Loading);
        }
        let complete_at = before.min(shared.complete_at.load(Ordering::Acquire));
        let (now, elapsed) = shared.clock.read();
        Ok(View {
            index,
            now,
            staleness: age(complete_at, elapsed),
            max_staleness: shared.options.max_staleness,
            is_behind,
        })
    }

    /// Whether the index can prove at all that a token is active.
    ///
    /// # Errors
    /// The reason why it cannot.
    pub fn require_fresh(&self) -> Result<(), Unanswerable> {
        self.view()?.require_fresh()
    }

    /// The latest version of the index, whatever its staleness; `None` until it is loaded.
    pub fn latest(&self) -> Guard<Option<Arc<Index>>> {
        self.shared.index.load()
    }

    /// The progress of the feed, and each change of it.
    pub fn progress(&self) -> watch::Receiver<FeedProgress> {
        self.shared.progress.subscribe()
    }

    /// Whether notifications arrive, as shown by one that was sent to test the listener.
    /// Polling goes on without them.
    pub fn is_listening(&self) -> bool {
        self.shared.listening.load(Ordering::Relaxed)
    }

    /// Waits until the index contains a revision.
    ///
    /// # Errors
    /// The revision of the index, if the deadline passes first.
    pub async fn wait_for_revision(
        &self,
        wanted: Revision,
        deadline: Instant,
    ) -> Result<(), Revision> {
        let reached = |progress: &FeedProgress| progress.revision() >= Some(wanted);
        if reached(&self.shared.progress.borrow()) {
            return Ok(());
        }
        self.shared.refresh_requested.notify_one();
        let mut progress = self.progress();
        if let Ok(Ok(_)) = timeout_at(deadline, progress.wait_for(reached)).await {
            return Ok(());
        }
        let progress = self.shared.progress.borrow();
        Err(progress.revision().unwrap_or_default())
    }

    /// Waits until the index contains a commit of this process and a survey has shown that
    /// the primary has it. Wakes the feed, rather than waiting for a notification.
    ///
    /// If that takes longer than 500 ms, or half of what is left until the deadline, this looks
    /// for the primary itself: the feed may be in a full load. If the primary has the commit
    /// then, this returns before the index contains it, and [`View::require_caught_up`] fails
    /// until the feed has applied it.
    ///
    /// # Errors
    /// If the primary lost the commit, or nothing shows before the deadline that it has it:
    /// an acknowledged change must be in force on the server that takes the writes.
    pub async fn wait_applied(
        &self,
        store: &Store,
        committed: Commit,
        deadline: Option<Instant>,
    ) -> Result<(), NotAcknowledged> {
        let shared = &*self.shared;
        let now = Instant::now();
        let deadline = deadline.unwrap_or(now + PROOF_TIMEOUT);
        let left = deadline.saturating_duration_since(now);
        let (_, resolved) = shared.claims.add(committed, shared.clock.elapsed());
        shared.notified.notify_one();
        let prove = async {
            sleep(FEED_TIMEOUT.min(left / 2)).await;
            shared.prove_claims(store).await
        };
        let unproven = Err(NotAcknowledged::Unproven(committed.position.revision.0));
        tokio::select! {
            biased;
            resolved = resolved => resolved.unwrap_or(unproven),
            never = prove => match never {},
            // The feed resolves the claim later.
            () = sleep_until(deadline) => unproven,
        }
    }

    /// The latest version of the index; waits up to `refresh_timeout` for the first one.
    ///
    /// # Errors
    /// [`Unanswerable::Loading`].
    pub async fn loaded_view(&self, deadline: Instant) -> Result<View, Unanswerable> {
        if let Ok(view) = self.view() {
            return Ok(view);
        }
        let mut progress = self.progress();
        let deadline = deadline.min(Instant::now() + self.shared.options.refresh_timeout);
        let loaded = progress.wait_for(|progress| progress.position.is_some());
        // Whether or not the wait timed out, `view` decides.
        drop(timeout_at(deadline, loaded).await);
        self.view()
    }

    /// The latest version of the index that has caught up with this process's commits;
    /// waits up to `refresh_timeout` for it.
    ///
    /// # Errors
    /// [`Unanswerable::Loading`] or [`Unanswerable::Behind`].
    pub async fn caught_up_view(&self, deadline: Instant) -> Result<View, Unanswerable> {
        let caught_up = || {
            let view = self.view()?;
            view.require_caught_up()?;
            Ok(view)
        };
        if let Ok(view) = caught_up() {
            return Ok(view);
        }
        let mut progress = self.progress();
        let deadline = deadline.min(Instant::now() + self.shared.options.refresh_timeout);
        // Whether or not the wait timed out, the latest version decides.
        drop(timeout_at(deadline, progress.wait_for(|_| caught_up().is_ok())).await);
        caught_up()
    }
}
