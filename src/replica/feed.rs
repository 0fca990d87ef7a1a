//! Keeps the index up with Postgres: the change log is the truth, a notification
//! only wakes, and a short poll covers one that was lost. Where the log does not
//! lead from what is known to what there is (a restored backup, another database, a
//! log that was trimmed), or following it is no use (too much changed, or it fails again
//! and again), everything is read anew beside the index that is there.

use std::{
    future::pending,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    task::{JoinError, JoinHandle, JoinSet},
    time::{Instant, sleep, sleep_until},
};
use uuid::Uuid;

mod shortage;
mod supervisor;

use super::{
    SURVEY_SHARE, SURVEYS, Shared,
    assembly::Assembly,
    claims::{Claim, Fate},
    index::Writer,
    nanoseconds,
    whole::Whole,
};
use crate::{
    domain::{Revision, id::ClientId},
    store::{
        Store,
        error::StoreError,
        feed::{CatchUp, Feed, Position, State},
    },
    telemetry::metrics::FeedConnection,
};
use shortage::CLOSING;
pub(super) use shortage::Shortage;

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

/// How long after it was begun to look for the server that takes the writes that may be
/// begun again. Each search makes a connection, and one serves all changes that were
/// committed before it.
const SURVEY_SPACING: Duration = Duration::from_millis(10);

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

/// What following the log came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CaughtUp {
    /// What is held is what the server has, which lags that far behind the primary.
    Complete(Duration),
    /// Everything has to be read anew.
    Anew(Anew),
}

/// When an index was complete, by the clock's `elapsed` in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Proof {
    /// By what the connected server said.
    heard_at: i64,
    /// The same, and not after the server was last found to take the writes.
    complete_at: i64,
}

impl Proof {
    /// It is not known when.
    const NONE: Self = Self {
        heard_at: i64::MIN,
        complete_at: i64::MIN,
    };

    /// What was asked at that time through this connection, of a server that lags that
    /// far behind the primary.
    fn of(feed: &Feed, asked_at: Duration, lag: Duration) -> Self {
        let at = |time| nanoseconds(time).saturating_sub(nanoseconds(lag));
        Self {
            heard_at: at(asked_at),
            complete_at: at(asked_at.min(feed.since)),
        }
    }
}

/// Where a change is that this process committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Applied {
    /// In the index, and in the database that it is read from.
    Here,
    /// In that database; it is not read yet.
    There,
    /// The history of that database does not contain it.
    Nowhere,
}

async fn is_applied(claim: &Claim, held: Position, feed: &mut Feed) -> Result<Applied, StoreError> {
    if held == claim.position {
        return Ok(Applied::Here);
    }
    if !feed.state(claim.position).await?.contains {
        return Ok(Applied::Nowhere);
    }
    Ok(if held.revision >= claim.position.revision {
        Applied::Here
    } else {
        Applied::There
    })
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
    /// The next connection, while it is looked for.
    renewal: Option<Renewal>,
    /// When that was last begun.
    looked_at: Instant,
    held: Option<Held>,
    /// When the database was last asked.
    asked_at: Instant,
    /// Since when it does not answer.
    trouble: Option<Instant>,
    /// Since when the server that takes the writes is not found.
    doubt: Option<Instant>,
    /// Whether a connection was given up for the search that comes next.
    gave_up: bool,
}

/// A search for the server that takes the writes. It ends when this is dropped.
struct Renewal(JoinHandle<Result<Feed, StoreError>>);

impl Drop for Renewal {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why the database is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// It said that something changed.
    Heard,
    /// To see whether something did.
    Poll,
    /// Another connection leads to another server.
    Doubt,
}

impl Follower {
    fn new(store: Store, shared: Arc<Shared>) -> Self {
        Self {
            store,
            shared,
            connection: None,
            renewal: None,
            looked_at: Instant::now(),
            held: None,
            asked_at: Instant::now(),
            trouble: None,
            doubt: None,
            gave_up: false,
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
    async fn next(&mut self) -> Reason {
        let shared = Arc::clone(&self.shared);
        let lookup = Duration::from_secs(1) / shared.options.max_lookups.max(1);
        let asked = async {
            shared.asked.notified().await;
            sleep_until(self.asked_at + lookup).await;
        };
        let found = async {
            match &mut self.renewal {
                Some(renewal) => (&mut renewal.0).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            found = found => {
                self.renewal = None;
                self.renew(found);
                Reason::Heard
            }
            () = self.store.server_doubted() => Reason::Doubt,
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

    /// Asks the database, and applies what it says to the index.
    async fn step(&mut self, reason: Reason) -> Result<(), StoreError> {
        let mut feed = self.connect(reason).await?;
        // Put back only when all went well: a connection that was left in the
        // middle of something is of no use.
        match self.held.as_mut() {
            Some(held) => {
                let asked_at = self.shared.clock.elapsed();
                match held.catch_up(&mut feed, reason, &self.shared).await? {
                    CaughtUp::Complete(lag) => {
                        let is_changed = !held.published;
                        self.shared.publish(held, Proof::of(&feed, asked_at, lag));
                        if is_changed {
                            self.shared.metrics.feed_lag(self.asked_at.elapsed());
                        }
                    }
                    CaughtUp::Anew(anew) => {
                        anew.tell(held.position.revision);
                        // Should this fail as well, the log has its turn again.
                        held.failed = 0;
                        self.load(&mut feed).await?;
                    }
                }
            }
            None => self.load(&mut feed).await?,
        }
        self.settle_claims(&mut feed).await?;
        if self
            .shared
            .is_listener_untried
            .swap(false, Ordering::Relaxed)
        {
            feed.notify().await?;
        }
        self.connection = Some(feed);
        Ok(())
    }

    /// A connection to the server that takes the writes, as far as is known: the one that
    /// was found last, or a new one where there is none. Looks for the next one meanwhile,
    /// so that a search holds nobody up.
    async fn connect(&mut self, reason: Reason) -> Result<Feed, StoreError> {
        let elapsed = self.shared.clock.elapsed();
        if let Some(feed) = self.connection.take_if(|feed| !feed.is_closed()) {
            let is_due = elapsed.saturating_sub(feed.since) >= self.shared.survey_interval();
            let is_claimed = self.shared.claims.newest() > Some(feed.since);
            if is_due || is_claimed || reason == Reason::Doubt {
                self.look_for_server();
            }
            return Ok(feed);
        }
        self.renewal = None;
        self.looked_at = Instant::now();
        let feed = self.store.connect_feed().await;
        let feed = feed.inspect_err(|error| {
            self.make_room(error);
        })?;
        self.has_room();
        self.shared.metrics.feed_connected(FeedConnection::Reading);
        Ok(feed)
    }

    /// Begins to look for the server that takes the writes, unless that is under way.
    fn look_for_server(&mut self) {
        if self.renewal.is_some() {
            return;
        }
        // Where it fails at once, it is not tried at once again.
        let spacing = if self.doubt.is_some() {
            self.shared.options.poll_interval
        } else {
            SURVEY_SPACING
        };
        let at = self.looked_at + spacing;
        self.looked_at = at.max(Instant::now());
        let (store, limit) = (self.store.clone(), self.shared.survey_limit());
        self.renewal = Some(Renewal(tokio::spawn(async move {
            sleep_until(at).await;
            store.connect_feed_within(limit).await
        })));
    }

    /// Gives a connection up if the search failed for want of one, and says whether that
    /// was possible.
    fn make_room(&mut self, error: &StoreError) -> bool {
        let gives_up = error.is_of_shortage() && self.shared.shortage.give_up_one(&self.store);
        self.gave_up |= gives_up;
        gives_up
    }

    /// Notes that the search had a connection.
    fn has_room(&mut self) {
        self.shared.shortage.give_back();
        if !std::mem::take(&mut self.gave_up) {
            self.shared.shortage.end();
        }
    }

    /// Goes on with the connection that was looked for, if there is one. Otherwise the
    /// index grows stale, although the server that is connected may go on answering.
    fn renew(&mut self, found: Result<Result<Feed, StoreError>, JoinError>) {
        match found {
            Ok(Ok(feed)) => {
                if self.doubt.take().is_some() {
                    tracing::info!("the database server that takes the writes was found again");
                }
                // What it replaces is closed: the listener's is made in its place.
                self.connection = Some(feed);
                self.has_room();
            }
            Ok(Err(error)) if self.make_room(&error) => {
                self.looked_at = Instant::now() + CLOSING;
            }
            Ok(Err(error)) => {
                // Once, and not at every try.
                if self.doubt.is_none() {
                    self.doubt = Some(self.asked_at);
                    error.log();
                    tracing::warn!(
                        "it cannot be shown that the connected database server takes the \
                         writes: the index grows stale"
                    );
                }
            }
            Err(error) => tracing::error!(%error, "the search for a database server broke off"),
        }
    }

    /// Settles what this process committed: it counts, or it is lost.
    async fn settle_claims(&mut self, feed: &mut Feed) -> Result<(), StoreError> {
        let Some(position) = self.held.as_ref().map(|held| held.position) else {
            return Ok(());
        };
        for claim in self.shared.claims.open() {
            let claims = &self.shared.claims;
            let is_applied = is_applied(&claim, position, feed).await?;
            // Whether the server was found to take the writes after the commit.
            let is_proven = feed.since >= claim.committed_at;
            match (is_applied, is_proven) {
                (Applied::Here, true) => claims.settle(claim.number, Fate::Contained),
                (Applied::Nowhere, true) => claims.settle(claim.number, Fate::Lost),
                (Applied::Here, false) => {
                    claims.apply(claim.number);
                    self.look_for_server();
                }
                (Applied::Nowhere, false) => self.look_for_server(),
                (Applied::There, _) => self.shared.heard.notify_one(),
            }
        }
        Ok(())
    }

    /// Reads everything, beside what is held.
    async fn load(&mut self, feed: &mut Feed) -> Result<(), StoreError> {
        let begun = Instant::now();
        let asked_at = self.shared.clock.elapsed();
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
        let mut proof = Proof::of(feed, asked_at, state.lag);
        let mut followed = Ok(());
        if begun.elapsed() > self.shared.options.poll_interval {
            let then = self.shared.clock.elapsed();
            match held.catch_up(feed, Reason::Heard, &self.shared).await {
                Ok(CaughtUp::Complete(lag)) => proof = Proof::of(feed, then, lag),
                // Nobody knows of when it is.
                Ok(CaughtUp::Anew(Anew::Lost)) => proof = Proof::NONE,
                Ok(CaughtUp::Anew(Anew::TooMuch | Anew::Failing)) => {}
                Err(error) => followed = Err(error),
            }
        }
        self.shared.publish(&mut held, proof);
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
        followed
    }

    fn answered(&mut self, number: u64) {
        self.shared.progress.send_modify(|progress| {
            progress.position = self.held.as_ref().map(|held| held.position);
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
    ) -> Result<CaughtUp, StoreError> {
        if self.failed >= MAX_FAILED_CATCH_UPS {
            return Ok(CaughtUp::Anew(Anew::Failing));
        }
        let asked_at = shared.clock.elapsed();
        if reason != Reason::Heard {
            let state = feed.state(self.position).await?;
            shared.calibrate(&state, asked_at);
            if state.position == self.position && state.accounts == self.accounts {
                return Ok(CaughtUp::Complete(state.lag));
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
            CatchUp::Lost => return Ok(CaughtUp::Anew(Anew::Lost)),
            CatchUp::TooMuch => return Ok(CaughtUp::Anew(Anew::TooMuch)),
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
        Ok(CaughtUp::Complete(state.lag))
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

    /// Gives out a version, of which is known when it was complete.
    fn publish(&self, held: &mut Held, proof: Proof) {
        if !held.published {
            let version = held.writer.version(held.position.revision);
            self.index.store(Some(Arc::new(version)));
            held.published = true;
        }
        self.heard_at.store(proof.heard_at, Ordering::Relaxed);
        self.complete_at.store(proof.complete_at, Ordering::Release);
    }

    /// How long a server that was found to take the writes goes on without being looked
    /// for again.
    fn survey_interval(&self) -> Duration {
        self.options.max_staleness / SURVEYS
    }

    /// How long looking for it may take.
    fn survey_limit(&self) -> Duration {
        self.options.max_staleness * SURVEY_SHARE / 100
    }

    fn calibrate(&self, state: &State, asked_at: Duration) {
        let waited = self.clock.elapsed().saturating_sub(asked_at);
        self.clock.calibrate(state.now, waited);
    }
}

/// Listens for notifications, for as long as that is possible. Postgres, or a pooler in
/// between, may accept LISTEN and never send anything; so a notification is sent to this
/// listener, and only one that heard it counts.
async fn listen(store: Store, shared: Arc<Shared>) {
    let mut pause = FIRST_PAUSE;
    let mut trouble = false;
    loop {
        shared.shortage.spares_listener().await;
        let woken = Arc::clone(&shared);
        let heard = move || {
            woken.listening.store(true, Ordering::Relaxed);
            woken.heard.notify_one();
        };
        match store.listen(heard).await {
            Ok(mut listener) => {
                shared.metrics.feed_connected(FeedConnection::Listening);
                if trouble {
                    tracing::info!("LISTEN works again");
                }
                (pause, trouble) = (FIRST_PAUSE, false);
                shared.is_listener_untried.store(true, Ordering::Relaxed);
                // What was changed before there was somebody to hear it.
                shared.heard.notify_one();
                tokio::select! {
                    () = listener.ended() => {}
                    () = shared.shortage.needs_listener() => {}
                }
                drop(listener);
                shared.listening.store(false, Ordering::Relaxed);
            }
            Err(error) => {
                if !trouble {
                    error.log();
                    tracing::warn!("LISTEN failed; changes are found by polling");
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
