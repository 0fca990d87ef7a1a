//! The task that reads changes: it waits for a reason to query, catches up, and follows the
//! primary from server to server.

use std::{
    future::pending,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    task::{JoinError, JoinHandle},
    time::{Instant, sleep, sleep_until},
};

use super::{
    FIRST_PAUSE, Shared,
    local_index::{CaughtUp, CompleteAt, LocalIndex, Reason, ReloadCause},
    shortage::CLOSE_DELAY,
};
use crate::{
    live_index::{
        claims::{Claim, ClaimOutcome},
        full_load::FullLoad,
    },
    store::{
        Store,
        error::StoreError,
        feed::{Feed, Found, Position},
    },
    telemetry::metrics::FeedConnection,
};

/// The longest pause before a retry. A request that waits for a refresh shortens it to the
/// first pause.
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// The least time between the starts of two surveys. Each opens a connection, and one
/// covers all commits before it.
const SURVEY_SPACING: Duration = Duration::from_millis(10);

/// The most changes before its start that a server recalls.
const MAX_RECALLED: usize = 50_000;

/// Where a commit of this process is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Applied {
    /// In the index, and in the database that the feed reads.
    InIndex,
    /// In that database; the index has yet to apply it.
    InDatabase,
    /// Nowhere: the history of that database does not contain it.
    Missing,
    /// The database is another one than that of the commit, and would look the same without it;
    /// so would the index.
    Unknown,
}

async fn locate(claim: &Claim, local: Position, feed: &mut Feed) -> Result<Applied, StoreError> {
    let Claim { commit, .. } = claim;
    if commit.is_stamped() && local == commit.position {
        return Ok(Applied::InIndex);
    }
    Ok(match feed.state(commit.position).await?.find(commit) {
        Found::No => Applied::Missing,
        Found::Unknown if local.revision >= commit.position.revision => Applied::Unknown,
        Found::Yes if local.revision >= commit.position.revision => Applied::InIndex,
        Found::Yes | Found::Unknown => Applied::InDatabase,
    })
}

/// Follows the database with one connection.
pub(super) struct Follower {
    store: Store,
    shared: Arc<Shared>,
    connection: Option<Feed>,
    /// The survey for the next connection, if one is in flight.
    survey: Option<SurveyTask>,
    /// When the last survey was scheduled to start.
    survey_started_at: Instant,
    local: Option<LocalIndex>,
    queried_at: Instant,
    failing_since: Option<Instant>,
    /// Since when surveys find no primary.
    primary_unknown_since: Option<Instant>,
    /// Whether the last connection leads to a standby.
    is_on_standby: bool,
    /// Whether a connection was released for the next survey.
    has_released: bool,
}

/// A survey for the primary. It ends when this is dropped.
struct SurveyTask(JoinHandle<Result<Feed, StoreError>>);

impl Drop for SurveyTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Follower {
    pub(super) fn new(store: Store, shared: Arc<Shared>) -> Self {
        Self {
            store,
            shared,
            connection: None,
            survey: None,
            survey_started_at: Instant::now(),
            local: None,
            queried_at: Instant::now(),
            failing_since: None,
            primary_unknown_since: None,
            is_on_standby: false,
            has_released: false,
        }
    }

    #[expect(clippy::infinite_loop, reason = "it is a task, and aborted")]
    pub(super) async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        let mut reason = Reason::Poll;
        loop {
            let number = self.shared.queries_begun.fetch_add(1, Ordering::SeqCst) + 1;
            self.queried_at = Instant::now();
            match Box::pin(self.step(reason)).await {
                Ok(()) => {
                    self.query_succeeded(number);
                    pause = FIRST_PAUSE;
                    reason = self.next_reason().await;
                }
                Err(error) => {
                    self.query_failed(number, &error);
                    self.back_off(pause).await;
                    pause = LAST_PAUSE.min(pause * 2);
                    reason = Reason::Poll;
                }
            }
        }
    }

    /// Waits for the next reason to query the database.
    async fn next_reason(&mut self) -> Reason {
        let shared = Arc::clone(&self.shared);
        let lookup = Duration::from_secs(1) / shared.options.max_lookups.max(1);
        let requested = async {
            shared.refresh_requested.notified().await;
            sleep_until(self.queried_at + lookup).await;
        };
        let found = async {
            match &mut self.survey {
                Some(survey) => (&mut survey.0).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            found = found => {
                self.survey = None;
                self.survey_done(found);
                Reason::Notification
            }
            () = self.store.server_changed() => Reason::ServerChanged,
            () = shared.notified.notified() => Reason::Notification,
            () = requested => {
                shared.metrics.lookup();
                Reason::Poll
            }
            () = sleep_until(self.queried_at + shared.options.poll_interval) => Reason::Poll,
        }
    }

    /// Waits before a retry; a request that waits for a refresh, or a change, shortens that to
    /// the first pause.
    async fn back_off(&self, pause: Duration) {
        let woken = async {
            tokio::select! {
                () = self.shared.refresh_requested.notified() => {}
                // A change of this process was committed, so the database answers.
                () = self.shared.notified.notified() => {}
            }
            sleep_until(self.queried_at + FIRST_PAUSE).await;
        };
        tokio::select! {
            () = woken => {}
            () = sleep(pause) => {}
        }
    }

    /// Queries the database, and applies the changes to the index.
    async fn step(&mut self, reason: Reason) -> Result<(), StoreError> {
        let mut feed = self.connect(reason).await?;
        // The connection is kept only on success: after a failure it may be in the middle
        // of a transaction.
        match self.local.as_mut() {
            Some(local) => {
                let queried_at = self.shared.clock.elapsed();
                match local.catch_up(&mut feed, reason, &self.shared).await? {
                    CaughtUp::Complete(lag) => {
                        let is_changed = !local.published;
                        local.publish(&self.shared, CompleteAt::of(&feed, queried_at, lag));
                        if is_changed {
                            self.shared.metrics.feed_lag(self.queried_at.elapsed());
                        }
                    }
                    CaughtUp::Reload(cause) => {
                        // If the full load fails as well, the log is tried again.
                        local.failed = 0;
                        Box::pin(self.load(&mut feed, Some(cause))).await?;
                    }
                }
            }
            None => Box::pin(self.load(&mut feed, None)).await?,
        }
        self.resolve_claims(&mut feed).await?;
        if self
            .shared
            .listener_needs_probe
            .swap(false, Ordering::Relaxed)
        {
            feed.notify().await?;
        }
        self.connection = Some(feed);
        Ok(())
    }

    /// The connection of the last survey, or a new one if it was lost. Starts the next
    /// survey in the background if one is due, so that no query waits for it.
    async fn connect(&mut self, reason: Reason) -> Result<Feed, StoreError> {
        let elapsed = self.shared.clock.elapsed();
        if let Some(feed) = self.connection.take_if(|feed| !feed.is_closed()) {
            let is_due = elapsed.saturating_sub(feed.surveyed_at) >= self.shared.survey_interval();
            let has_new_claim = self.shared.claims.newest() > Some(feed.surveyed_at);
            if is_due || has_new_claim || reason == Reason::ServerChanged {
                self.start_survey();
            }
            return Ok(feed);
        }
        self.survey = None;
        self.survey_started_at = Instant::now();
        let feed = self.store.connect_feed().await;
        let feed = feed.inspect_err(|error| {
            self.release_connection(error);
        })?;
        self.is_on_standby = !feed.is_primary;
        self.connection_obtained();
        self.shared.metrics.feed_connected(FeedConnection::Reading);
        Ok(feed)
    }

    /// Starts a survey in the background, unless one is in flight.
    fn start_survey(&mut self) {
        if self.survey.is_some() {
            return;
        }
        // A retry after a survey that found no primary waits longer.
        let spacing = if self.primary_unknown_since.is_some() || self.is_on_standby {
            self.shared.options.poll_interval
        } else {
            SURVEY_SPACING
        };
        let at = self.survey_started_at + spacing;
        self.survey_started_at = at.max(Instant::now());
        let (store, limit) = (self.store.clone(), self.shared.survey_limit());
        self.survey = Some(SurveyTask(tokio::spawn(async move {
            sleep_until(at).await;
            store.connect_feed_within(limit).await
        })));
    }

    /// Releases a connection if a survey failed for lack of one. Returns whether there was
    /// one to release.
    fn release_connection(&mut self, error: &StoreError) -> bool {
        let is_released =
            error.is_connection_shortage() && self.shared.shortage.release_one(&self.store);
        self.has_released |= is_released;
        is_released
    }

    /// Lets the listener connect again after a survey got a connection. The shortage is over
    /// if nothing had to be released for it.
    fn connection_obtained(&mut self) {
        self.shared.shortage.search_succeeded();
        if !std::mem::take(&mut self.has_released) {
            self.shared.shortage.end();
        }
    }

    /// Continues with the connection that a survey found. If surveys fail, the index becomes
    /// stale, although the connected server may still answer.
    fn survey_done(&mut self, found: Result<Result<Feed, StoreError>, JoinError>) {
        match found {
            Ok(Ok(feed)) => {
                if feed.is_primary && self.primary_unknown_since.take().is_some() {
                    tracing::info!("the primary database server was found again");
                }
                self.is_on_standby = !feed.is_primary;
                // This closes the old connection, which the listener may now replace.
                self.connection = Some(feed);
                self.connection_obtained();
            }
            Ok(Err(error)) if self.release_connection(&error) => {
                self.survey_started_at = Instant::now() + CLOSE_DELAY;
            }
            Ok(Err(error)) => {
                // Logged once per outage, not at each retry.
                if self.primary_unknown_since.is_none() {
                    self.primary_unknown_since = Some(self.queried_at);
                    error.log();
                    tracing::warn!(
                        "no survey confirms that the connected database server is the primary: \
                         the index is becoming stale"
                    );
                }
            }
            Err(error) => tracing::error!(%error, "the survey for the primary panicked"),
        }
    }

    /// Resolves the claims of this process: their commits are contained, or lost.
    async fn resolve_claims(&mut self, feed: &mut Feed) -> Result<(), StoreError> {
        let Some(position) = self.local.as_ref().map(|local| local.position) else {
            return Ok(());
        };
        for claim in self.shared.claims.open() {
            let claims = &self.shared.claims;
            let applied = locate(&claim, position, feed).await?;
            match (applied, feed.proves(claim.committed_at)) {
                (Applied::InIndex, true) => claims.resolve(claim.number, ClaimOutcome::Contained),
                (Applied::Missing, true) => claims.resolve(claim.number, ClaimOutcome::Lost),
                (Applied::Unknown, true) => claims.resolve(claim.number, ClaimOutcome::Unknown),
                (Applied::InIndex | Applied::Unknown, false) => {
                    claims.apply(claim.number);
                    self.start_survey();
                }
                (Applied::Missing, false) => self.start_survey(),
                (Applied::InDatabase, _) => self.shared.notified.notify_one(),
            }
        }
        Ok(())
    }

    /// Runs a full load, while the old index goes on answering.
    async fn load(
        &mut self,
        feed: &mut Feed,
        cause: Option<ReloadCause>,
    ) -> Result<(), StoreError> {
        let started = Instant::now();
        let queried_at = self.shared.clock.elapsed();
        let mut load = FullLoad::default();
        let state = feed.state(Position::UNKNOWN).await?;
        self.shared.require_ahead(&state)?;
        if let (Some(cause), Some(local)) = (cause, &self.local) {
            cause.log(local.position.revision);
        }
        self.shared.report_lost(feed).await?;
        // A short query calibrates the clock better than a long one.
        self.shared.calibrate(&state, queried_at);
        let (state, accounts) = feed.read_all(&mut load).await?;
        let builder = load.builder;
        let built = tokio::task::spawn_blocking(|| builder.into_writer());
        let mut writer = built.await.expect("it neither panics nor is aborted");
        writer.set_callers(accounts);
        let mut local = LocalIndex {
            writer,
            position: state.position,
            accounts: state.accounts,
            published: false,
            failed: 0,
        };
        // Nothing is known of how it differs from the version before it.
        self.shared.recent.restart(state.position);
        // After that, a failure keeps the load.
        let mut followed = match cause {
            None => self.recall(feed, state.position).await,
            Some(_) => Ok(()),
        };
        // Applies the changes made during the load.
        let mut complete_at = CompleteAt::of(feed, queried_at, state.lag);
        if followed.is_ok() && started.elapsed() > self.shared.options.poll_interval {
            let then = self.shared.clock.elapsed();
            match local
                .catch_up(feed, Reason::Notification, &self.shared)
                .await
            {
                Ok(CaughtUp::Complete(lag)) => complete_at = CompleteAt::of(feed, then, lag),
                // The log does not say of when the load is.
                Ok(CaughtUp::Reload(ReloadCause::Lost)) => complete_at = CompleteAt::UNKNOWN,
                Ok(CaughtUp::Reload(ReloadCause::TooMuch | ReloadCause::Failing)) => {}
                Err(error) => followed = Err(error),
            }
        }
        local.publish(&self.shared, complete_at);
        self.shared.metrics.feed_loaded();
        let clients = local.writer.clients();
        tracing::info!(
            clients,
            revision = local.position.revision.0,
            duration_ms = started.elapsed().as_millis(),
            "loaded the index: {clients} API clients"
        );
        let old = self.local.replace(local);
        // Dropping a large index takes long as well.
        drop(tokio::task::spawn_blocking(move || drop(old)));
        followed
    }

    /// Learns from the change log what changed before this server started, so that replicas which
    /// followed it before, or another server, go on from where they are.
    async fn recall(&self, feed: &mut Feed, position: Position) -> Result<(), StoreError> {
        let way = feed.history(position, MAX_RECALLED).await?;
        self.shared.recent.recall(way);
        Ok(())
    }

    fn query_succeeded(&mut self, number: u64) {
        self.shared.progress.send_modify(|progress| {
            progress.position = self.local.as_ref().map(|local| local.position);
            progress.answered = number;
            progress.is_reached = true;
        });
        if let Some(since) = self.failing_since.take() {
            let duration_ms = since.elapsed().as_millis();
            tracing::info!(duration_ms, "the database answers again");
        }
    }

    fn query_failed(&mut self, number: u64, error: &StoreError) {
        self.connection = None;
        self.shared.progress.send_modify(|progress| {
            progress.failed = number;
            progress.failures += 1;
            progress.is_reached = false;
        });
        // Logged once per outage, not at each retry.
        if self.failing_since.is_none() {
            self.failing_since = Some(self.queried_at);
            error.log();
            tracing::warn!("the index is not updated until the database answers again");
        }
    }
}
