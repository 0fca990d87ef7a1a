//! Keeps the index up with Postgres: the change log is the truth, a notification
//! only wakes, and a short poll covers one that was lost. Where the log does not
//! lead from what is known to what there is (a restored backup, another database, a
//! log that was trimmed), or following it is no use (too much changed, or it fails again
//! and again), everything is read anew beside the index that is there.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, sleep_until},
};
use uuid::Uuid;

mod supervisor;

use super::{Shared, assembly::Assembly, index::Writer, whole::Whole};
use crate::{
    domain::{Revision, id::ClientId},
    store::{
        Store,
        error::StoreError,
        feed::{CatchUp, Feed, Position, State},
    },
    telemetry::metrics::FeedConnection,
};

/// How long to wait after a failure before the next try, at first and at last. A
/// request that needs the database shortens it to the first.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// The same for the listener, without which nothing is lost but a little time.
const LAST_LISTENER_PAUSE: Duration = Duration::from_secs(5);
/// The share of the clients that may have changed where they are read by their ids: of
/// more than a quarter, reading everything is quicker. In any case so many.
const SHARE_READ_BY_ID: usize = 4;
const ALWAYS_READ_BY_ID: usize = 10_000;
/// How often following the log may fail, though the database answers, until it is given
/// up.
const MAX_FAILED_CATCH_UPS: u32 = 3;

/// The task that follows the database. It ends when this is dropped.
pub(super) struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Follows the database from when `ready` is.
pub(super) fn start(
    ready: impl Future<Output = ()> + Send + 'static,
    store: Store,
    shared: Arc<Shared>,
) -> Task {
    Task(tokio::spawn(async move {
        ready.await;
        let follow = || {
            // Each of them a task of its own, and aborted with this one.
            let mut tasks = JoinSet::new();
            tasks.spawn(listen(store.clone(), Arc::clone(&shared)));
            tasks.spawn(Follower::new(store.clone(), Arc::clone(&shared)).run());
            tasks
        };
        supervisor::supervise(follow, || shared.broken_off()).await;
    }))
}

/// What is held of the database.
struct Held {
    writer: Writer,
    position: Position,
    accounts: Uuid,
    /// Whether a version was given out that has everything.
    published: bool,
    /// How often it could not be brought up to the database that answers, on end.
    failed: u32,
}

/// Why everything is read anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Anew {
    /// The log does not lead from what is known to what there is.
    Lost,
    /// So much changed that it takes longer to read it by itself.
    TooMuch,
    /// Following the log fails.
    Failing,
}

/// As many clients as are worked out beside the other tasks of their thread. More
/// of them would keep those waiting.
const MANY: usize = 1000;

struct Follower {
    store: Store,
    shared: Arc<Shared>,
    connection: Option<Feed>,
    held: Option<Held>,
    /// When the database was last asked.
    asked_at: Instant,
    /// Since when it does not answer.
    trouble: Option<Instant>,
}

/// Why the database is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// It said that something changed.
    Heard,
    /// To see whether something did.
    Poll,
}

impl Follower {
    fn new(store: Store, shared: Arc<Shared>) -> Self {
        Self {
            store,
            shared,
            connection: None,
            held: None,
            asked_at: Instant::now(),
            trouble: None,
        }
    }

    #[expect(clippy::infinite_loop, reason = "it is a task, and aborted")]
    async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        let mut reason = Reason::Poll;
        loop {
            let number = self.shared.begun.fetch_add(1, Ordering::SeqCst) + 1;
            self.asked_at = Instant::now();
            match self.step(reason).await {
                Ok(()) => {
                    self.answered(number);
                    pause = FIRST_PAUSE;
                    reason = self.next().await;
                }
                Err(error) => {
                    self.failed(number, &error);
                    self.pause(pause).await;
                    pause = LAST_PAUSE.min(pause * 2);
                    reason = Reason::Poll;
                }
            }
        }
    }

    /// Waits for the next reason to ask.
    async fn next(&self) -> Reason {
        let shared = &*self.shared;
        let lookup = Duration::from_secs(1) / shared.options.max_lookups.max(1);
        let asked = async {
            shared.asked.notified().await;
            sleep_until(self.asked_at + lookup).await;
        };
        tokio::select! {
            biased;
            () = shared.heard.notified() => Reason::Heard,
            () = asked => {
                shared.metrics.lookup();
                Reason::Poll
            }
            () = sleep_until(self.asked_at + shared.options.poll_interval) => Reason::Poll,
        }
    }

    /// Waits before the next try; not longer than at first where somebody needs it.
    async fn pause(&self, pause: Duration) {
        let asked = async {
            self.shared.asked.notified().await;
            sleep_until(self.asked_at + FIRST_PAUSE).await;
        };
        tokio::select! {
            () = asked => {}
            () = sleep(pause) => {}
        }
    }

    /// Asks the database, and takes in what it says.
    async fn step(&mut self, reason: Reason) -> Result<(), StoreError> {
        // Put back only when all went well: a connection that was left in the
        // middle of something is of no use.
        let mut feed = match self.connection.take() {
            Some(feed) if !feed.is_closed() => feed,
            _ => {
                let feed = self.store.connect_feed().await?;
                self.shared.metrics.feed_connected(FeedConnection::Reading);
                feed
            }
        };
        match self.held.as_mut() {
            Some(held) => {
                let asked_at = self.shared.clock.elapsed();
                match held.catch_up(&mut feed, reason, &self.shared).await? {
                    None => {
                        let is_changed = !held.published;
                        self.shared.publish(held, asked_at);
                        if is_changed {
                            self.shared.metrics.fed(self.asked_at.elapsed());
                        }
                    }
                    Some(anew) => {
                        anew.tell(held.position.revision);
                        // Should this fail as well, the log has its turn again.
                        held.failed = 0;
                        self.load(&mut feed).await?;
                    }
                }
            }
            None => self.load(&mut feed).await?,
        }
        self.connection = Some(feed);
        Ok(())
    }

    /// Reads everything, beside what is held.
    async fn load(&mut self, feed: &mut Feed) -> Result<(), StoreError> {
        let begun = Instant::now();
        let mut asked_at = self.shared.clock.elapsed();
        let mut whole = Whole::default();
        // For the clock: the answer to a short question is a better one.
        let nowhere = Position {
            database: Uuid::nil(),
            revision: Revision::default(),
            nonce: Uuid::nil(),
        };
        self.shared.calibrate(&feed.state(nowhere).await?, asked_at);
        let (state, accounts) = feed.read_all(&mut whole).await?;
        let assembly = whole.assembly;
        let built = tokio::task::spawn_blocking(|| assembly.into_writer());
        let mut writer = built.await.expect("it neither panics nor is aborted");
        writer.set_callers(accounts);
        let mut held = Held {
            writer,
            position: state.position,
            accounts: state.accounts,
            published: false,
            failed: 0,
        };
        // What was changed meanwhile. Where that fails, what was read is kept.
        let mut followed = Ok(None);
        if begun.elapsed() > self.shared.options.poll_interval {
            let then = self.shared.clock.elapsed();
            followed = held.catch_up(feed, Reason::Heard, &self.shared).await;
            match &followed {
                Ok(None) => asked_at = then,
                // Nobody knows of when it is.
                Ok(Some(Anew::Lost)) => asked_at = Duration::ZERO,
                Ok(Some(Anew::TooMuch | Anew::Failing)) | Err(_) => {}
            }
        }
        self.shared.publish(&mut held, asked_at);
        self.shared.metrics.feed_loaded();
        let clients = held.writer.clients();
        tracing::info!(
            clients,
            revision = held.position.revision.0,
            duration_ms = begun.elapsed().as_millis(),
            "the index holds {clients} API clients"
        );
        let old = self.held.replace(held);
        // Taking a large index apart takes a while too.
        drop(tokio::task::spawn_blocking(move || drop(old)));
        followed.map(drop)
    }

    fn answered(&mut self, number: u64) {
        self.shared.progress.send_modify(|progress| {
            progress.revision = self.held.as_ref().map(|held| held.position.revision);
            progress.answered = number;
        });
        if let Some(since) = self.trouble.take() {
            let duration_ms = since.elapsed().as_millis();
            tracing::info!(duration_ms, "the database answers again");
        }
    }

    fn failed(&mut self, number: u64, error: &StoreError) {
        self.connection = None;
        self.shared.progress.send_modify(|progress| {
            progress.failed = number;
            progress.failures += 1;
        });
        // Once, and not at every try.
        if self.trouble.is_none() {
            self.trouble = Some(self.asked_at);
            error.log();
            tracing::warn!("the index is not kept up until the database answers again");
        }
    }
}

impl Held {
    /// Brings what is held up to the database, or says why it has to be read anew.
    async fn catch_up(
        &mut self,
        feed: &mut Feed,
        reason: Reason,
        shared: &Shared,
    ) -> Result<Option<Anew>, StoreError> {
        if self.failed >= MAX_FAILED_CATCH_UPS {
            return Ok(Some(Anew::Failing));
        }
        let asked_at = shared.clock.elapsed();
        if reason == Reason::Poll {
            let state = feed.state(self.position).await?;
            shared.calibrate(&state, asked_at);
            if state.position == self.position && state.accounts == self.accounts {
                return Ok(None);
            }
        }
        let mut assembly = Assembly::default();
        let at_most = read_by_id(self.writer.clients());
        let caught_up = feed.catch_up(self.position, at_most, &mut assembly).await;
        self.failed = match &caught_up {
            Err(error) if !error.is_of_connection() => self.failed + 1,
            Err(_) => self.failed,
            Ok(_) => 0,
        };
        let state = match caught_up? {
            CatchUp::Lost => return Ok(Some(Anew::Lost)),
            CatchUp::TooMuch => return Ok(Some(Anew::TooMuch)),
            CatchUp::Nothing(state) => state,
            CatchUp::Changed(state, changed) => {
                self.published = false;
                self.position = state.position;
                self.writer = write(assembly, changed, std::mem::take(&mut self.writer)).await;
                state
            }
        };
        shared.calibrate(&state, asked_at);
        if state.accounts != self.accounts {
            // They may be newer than that state, which does no harm: no answer about
            // a token depends on them.
            let accounts = feed.read_accounts().await?;
            self.published = false;
            self.writer.set_callers(accounts);
            self.accounts = state.accounts;
        }
        Ok(None)
    }
}

/// How many changed clients are read by their ids, of so many that are known.
fn read_by_id(clients: usize) -> usize {
    ALWAYS_READ_BY_ID.max(clients / SHARE_READ_BY_ID)
}

impl Anew {
    fn tell(self, known: Revision) {
        let revision = known.0;
        match self {
            Self::Lost => tracing::warn!(
                revision,
                "the change log does not continue what is known here: the database is another \
                 one, or a restored one, or went on too far. Everything is read anew"
            ),
            Self::TooMuch => tracing::info!(
                revision,
                "so many API clients changed that everything is read anew"
            ),
            Self::Failing => tracing::warn!(
                revision,
                "the change log cannot be followed, though the database answers: everything is \
                 read anew"
            ),
        }
    }
}

async fn write(assembly: Assembly, changed: Vec<ClientId>, mut writer: Writer) -> Writer {
    if assembly.len() < MANY && changed.len() < MANY {
        assembly.write(&changed, &mut writer);
        return writer;
    }
    let writing = tokio::task::spawn_blocking(move || {
        assembly.write(&changed, &mut writer);
        writer
    });
    writing.await.expect("it neither panics nor is aborted")
}

impl Shared {
    /// Says that nobody follows the database: who waits need not wait for that.
    fn broken_off(&self) {
        self.listening.store(false, Ordering::Relaxed);
        self.progress.send_modify(|progress| {
            progress.failed = self.begun.load(Ordering::SeqCst);
            progress.failures += 1;
        });
    }

    /// Gives out a version, of which is known that it was complete at that time.
    fn publish(&self, held: &mut Held, asked_at: Duration) {
        if !held.published {
            let version = held.writer.version(held.position.revision);
            self.index.store(Some(Arc::new(version)));
            held.published = true;
        }
        let asked_at = u64::try_from(asked_at.as_nanos()).unwrap_or(u64::MAX);
        self.complete_at.store(asked_at, Ordering::Release);
    }

    fn calibrate(&self, state: &State, asked_at: Duration) {
        let waited = self.clock.elapsed().saturating_sub(asked_at);
        self.clock.calibrate(state.now, waited);
    }
}

/// Listens for notifications, for as long as that is possible.
#[expect(clippy::infinite_loop, reason = "it is a task, and aborted")]
async fn listen(store: Store, shared: Arc<Shared>) {
    let mut pause = FIRST_PAUSE;
    let mut trouble = false;
    loop {
        let woken = Arc::clone(&shared);
        match store.listen(move || woken.heard.notify_one()).await {
            Ok(mut listener) => {
                shared.metrics.feed_connected(FeedConnection::Listening);
                if trouble {
                    tracing::info!("changes are heard of again");
                }
                (pause, trouble) = (FIRST_PAUSE, false);
                shared.listening.store(true, Ordering::Relaxed);
                // What was changed before there was somebody to hear it.
                shared.heard.notify_one();
                listener.ended().await;
                shared.listening.store(false, Ordering::Relaxed);
            }
            Err(error) => {
                if !trouble {
                    error.log();
                    tracing::warn!("changes are not heard of: polling alone finds them");
                }
                trouble = true;
            }
        }
        sleep(pause).await;
        pause = LAST_LISTENER_PAUSE.min(pause * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_clients_is_read_by_id() {
        for (clients, read) in [
            (0, 10_000),
            (40_003, 10_000),
            (40_004, 10_001),
            (1_000_000, 250_000),
        ] {
            assert_eq!(read_by_id(clients), read, "{clients}");
        }
    }
}
