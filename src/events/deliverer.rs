//! The task that delivers: it holds the lease, notices expiries, and starts attempts.
//!
//! A process whose lease has run out starts nothing. What it had started may still arrive,
//! after another process delivered the same and what follows: a duplicate may be late, and is
//! known by its id.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    path::PathBuf,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use chrono::TimeDelta;
use futures_util::FutureExt;
use tokio::{
    task::{Id, JoinError, JoinSet, spawn_blocking},
    time::{Instant, sleep, sleep_until, timeout},
};
use uuid::Uuid;

use super::{
    Endpoint, NoSecret, SecretSource,
    attempt::Attempts,
    message::{Answer, Sender},
    metrics::DeliveryMetrics,
};
use crate::{
    domain::id::RequestId,
    store::{
        Store,
        error::{StoreError, causes},
        outbox::{Hold, REPORTED_AT_ONCE},
        tls::TlsError,
    },
    telemetry::{metrics::Metrics, panic_message},
};

/// How often the secrets are read again.
const SECRET_INTERVAL: Duration = Duration::from_secs(5);
/// How often the outbox is counted for the metrics.
const BACKLOG_INTERVAL: Duration = Duration::from_secs(10);
/// The longest pause between two attempts while all fail.
const LAST_PAUSE: Duration = Duration::from_secs(10);
/// How long giving the lease back may take at the end.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug)]
pub struct DeliveryOptions {
    /// The interval between looks for events that are due. Default 1 s.
    pub poll_interval: Duration,
    /// How long a process that ends without giving notice keeps others from delivering.
    /// Default 10 s.
    pub lease: Duration,
    /// The interval between looks for expiries. Default 1 min.
    pub expiry_interval: Duration,
    /// The limit of one attempt. Default 15 s.
    pub request_timeout: Duration,
    /// The most attempts at a time, each of another client. Default 8.
    pub concurrency: usize,
    /// How long attempts in flight may take to finish at the end. Default 15 s.
    pub drain_timeout: Duration,
}

impl Default for DeliveryOptions {
    fn default() -> Self {
        Self {
            poll_interval: Duration::from_secs(1),
            lease: Duration::from_secs(10),
            expiry_interval: Duration::from_mins(1),
            request_timeout: Duration::from_secs(15),
            concurrency: 8,
            drain_timeout: Duration::from_secs(15),
        }
    }
}

/// The receiver, and what to know about it.
#[derive(Clone, Debug)]
pub struct Webhook {
    pub endpoint: Endpoint,
    /// The secrets that they are signed with.
    pub secrets: SecretSource,
    /// The authorities that the receiver's certificate must be signed by; those of the system
    /// if `None`.
    pub authorities: Option<PathBuf>,
}

impl Webhook {
    /// Looks whether events could be delivered, without a receiver. Blocks on the file system.
    ///
    /// # Errors
    /// If a file cannot be used.
    pub fn check(&self) -> Result<(), SetupError> {
        self.secrets.read().map_err(SetupError::Secret)?;
        let timeout = DeliveryOptions::default().request_timeout;
        Sender::new(self.endpoint.clone(), self.authorities.clone(), timeout)?;
        Ok(())
    }
}

/// Why events cannot be delivered at all.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// There are no secrets to sign with.
    #[error(transparent)]
    Secret(NoSecret),
    #[error("the webhook's authorities cannot be used")]
    Tls(#[from] TlsError),
}

/// Delivers the events of a database, whenever no other process does.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent")]
pub struct Deliverer {
    attempts: Attempts,
    secrets: SecretSource,
    options: DeliveryOptions,
    /// Identifies this process in the lease.
    holder: Uuid,
    hold: Hold,
    /// When the lease runs out, as far as this process knows.
    held_until: Instant,
    /// Whether the receiver wants no more events: this process leaves the delivery to those that
    /// may have another receiver, for as long as it runs.
    is_gone: bool,
    /// Whether the lease was given back because of that.
    stop_is_noted: bool,
    next_renewal: Instant,
    next_secrets: Instant,
    next_backlog: Instant,
    next_expiries: Instant,
    /// Whether the last look for expiries found as many as it reports.
    has_more_expiries: bool,
    /// Until when nothing is started, since all attempts fail.
    paused_until: Instant,
    failures_in_a_row: u32,
    /// Whether an event was rejected since one was accepted.
    has_rejected: bool,
    database_fails: bool,
    secrets_fail: bool,
    /// The clients with an attempt in flight, by task.
    busy: HashMap<Id, Uuid>,
}

impl Deliverer {
    /// Prepares the delivery, and exports its metrics. Blocks on the file system.
    ///
    /// # Errors
    /// If a file cannot be used.
    pub fn new(
        webhook: Webhook,
        options: DeliveryOptions,
        store: Store,
        metrics: &Metrics,
    ) -> Result<Self, SetupError> {
        let keys = webhook.secrets.read().map_err(SetupError::Secret)?;
        let timeout = options.request_timeout;
        let sender = Sender::new(webhook.endpoint, webhook.authorities, timeout)?;
        let state = Arc::<DeliveryMetrics>::default();
        let clock = Arc::clone(store.clock());
        DeliveryMetrics::observe(&state, metrics, move || clock.now());
        let holder = RequestId::mint(store.clock().now(), store.entropy()).uuid();
        let now = Instant::now();
        Ok(Self {
            attempts: Attempts {
                store,
                sender,
                keys,
                state,
            },
            secrets: webhook.secrets,
            options,
            holder,
            hold: Hold::Other,
            held_until: now,
            is_gone: false,
            stop_is_noted: false,
            next_renewal: now,
            next_secrets: now + SECRET_INTERVAL,
            next_backlog: now,
            next_expiries: now,
            has_more_expiries: false,
            paused_until: now,
            failures_in_a_row: 0,
            has_rejected: false,
            database_fails: false,
            secrets_fail: false,
            busy: HashMap::new(),
        })
    }

    /// Delivers until `stop` completes. Attempts in flight may then finish, for a while.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let mut tasks = JoinSet::new();
        loop {
            let work = AssertUnwindSafe(self.work(&mut tasks, stop.as_mut()));
            let Err(panic) = work.catch_unwind().await else {
                break;
            };
            let panic = panic_message(&*panic);
            tracing::error!(
                panic,
                "delivering events panicked and is restarted: this is a defect"
            );
            sleep(self.options.poll_interval).await;
        }
        let drained = timeout(self.options.drain_timeout, self.drain(&mut tasks)).await;
        if drained.is_err() {
            tracing::warn!("stopped before every event in flight was delivered");
        }
        drop(tasks);
        self.attempts.state.is_delivering.store(false, Relaxed);
        if self.hold != Hold::Other || self.is_gone {
            let store = &self.attempts.store;
            let released = store.release_event_delivery(self.holder);
            // Without it, the next process waits until the lease runs out.
            drop(timeout(RELEASE_TIMEOUT, released).await);
        }
    }

    /// Waits for the attempts in flight, and keeps the lease meanwhile, so that no other process
    /// sends the same.
    async fn drain(&mut self, tasks: &mut JoinSet<Answer>) {
        loop {
            tokio::select! {
                finished = tasks.join_next() => {
                    if finished.is_none() {
                        return;
                    }
                }
                () = sleep_until(self.next_renewal), if self.holds() => {
                    let store = self.attempts.store.clone();
                    let done = store.until_failover(self.renew()).await;
                    self.log_database(&done);
                    if done.is_err() {
                        self.next_renewal = Instant::now() + self.options.poll_interval;
                    }
                }
            }
        }
    }

    async fn work(
        &mut self,
        tasks: &mut JoinSet<Answer>,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) {
        loop {
            tokio::select! {
                biased;
                () = &mut stop => return,
                () = self.step(tasks) => {}
            }
        }
    }

    /// Does what is due, and waits until something may be. May be dropped at any point.
    async fn step(&mut self, tasks: &mut JoinSet<Answer>) {
        let store = self.attempts.store.clone();
        let done = store.until_failover(self.do_due(tasks)).await;
        self.log_database(&done);
        let is_delivering = self.holds();
        self.attempts
            .state
            .is_delivering
            .store(is_delivering, Relaxed);
        let mut next = Instant::now();
        if !(is_delivering && self.has_more_expiries) {
            next += self.options.poll_interval;
        }
        tokio::select! {
            Some(finished) = tasks.join_next_with_id(), if !tasks.is_empty() => {
                self.finish(finished);
            }
            () = sleep_until(next) => {}
        }
    }

    async fn do_due(&mut self, tasks: &mut JoinSet<Answer>) -> Result<(), StoreError> {
        let now = Instant::now();
        self.has_more_expiries = false;
        if now >= self.next_renewal {
            self.renew().await?;
        }
        if now >= self.next_secrets {
            self.next_secrets = now + SECRET_INTERVAL;
            self.read_secrets().await;
        }
        if self.holds() {
            self.start_due(tasks).await?;
        }
        if now >= self.next_backlog {
            let backlog = self.attempts.store.event_backlog().await?;
            self.attempts.state.set_backlog(backlog);
            self.next_backlog = now + BACKLOG_INTERVAL;
        }
        if self.holds() && now >= self.next_expiries {
            let sent = self.attempts.store.send_expiries().await?;
            // If there may be more, the lease is looked at before them.
            self.has_more_expiries = sent >= REPORTED_AT_ONCE;
            if !self.has_more_expiries {
                self.next_expiries = now + self.options.expiry_interval;
            }
        }
        Ok(())
    }

    fn holds(&self) -> bool {
        self.hold == Hold::Held && Instant::now() < self.held_until
    }

    /// Takes the lease, or keeps it.
    async fn renew(&mut self) -> Result<(), StoreError> {
        let begun = Instant::now();
        let store = &self.attempts.store;
        if self.is_gone {
            if !self.stop_is_noted {
                store.stop_events(self.holder).await?;
                self.stop_is_noted = true;
            }
            return Ok(());
        }
        let lease = TimeDelta::from_std(self.options.lease).unwrap_or(TimeDelta::MAX);
        let until = store.clock().now() + lease;
        let hold = store.hold_event_delivery(self.holder, until).await?;
        self.held_until = begun + self.options.lease;
        self.next_renewal = begun + self.options.lease / 3;
        if hold != self.hold {
            let endpoint = self.attempts.sender.endpoint();
            match hold {
                Hold::Held => tracing::info!("delivers events to {endpoint}"),
                Hold::Other => tracing::info!("another process delivers events"),
            }
        }
        self.hold = hold;
        Ok(())
    }

    /// Reads the secrets again. If that fails, the last ones stay in use.
    async fn read_secrets(&mut self) {
        let source = self.secrets.clone();
        let read = spawn_blocking(move || source.read()).await;
        match read.unwrap_or_else(|error| Err(NoSecret(error.to_string()))) {
            Ok(keys) => {
                self.attempts.keys = keys;
                self.secrets_fail = false;
            }
            Err(error) if !self.secrets_fail => {
                tracing::warn!("{error}: events are signed with the last secrets");
                self.secrets_fail = true;
            }
            Err(_) => {}
        }
    }

    /// Starts attempts for events that are due, of clients that have none in flight.
    async fn start_due(&mut self, tasks: &mut JoinSet<Answer>) -> Result<(), StoreError> {
        let limit = if self.all_fail() {
            1
        } else {
            self.options.concurrency
        };
        let free = limit.saturating_sub(tasks.len());
        if free == 0 || Instant::now() < self.paused_until {
            return Ok(());
        }
        let busy: Vec<Uuid> = self.busy.values().copied().collect();
        let due = self.attempts.store.due_events(&busy, free).await?;
        // The lease may have run out while they were read, and another process have them.
        if !self.holds() {
            return Ok(());
        }
        for event in due {
            let client = event.client_id;
            let pause = self.options.poll_interval;
            let attempt = self.attempts.clone().deliver(event, pause);
            let task = tasks.spawn(attempt);
            self.busy.insert(task.id(), client);
        }
        Ok(())
    }

    /// Whether the receiver seems to be away, so that one attempt at a time is enough.
    fn all_fail(&self) -> bool {
        usize::try_from(self.failures_in_a_row).unwrap_or(usize::MAX) >= self.options.concurrency
    }

    fn finish(&mut self, finished: Result<(Id, Answer), JoinError>) {
        let endpoint = self.attempts.sender.endpoint();
        let (id, answer) = match finished {
            Ok((id, answer)) => (id, answer),
            Err(error) => {
                tracing::error!(%error, "an attempt to deliver an event panicked: this is a defect");
                let why = "a defect".to_owned();
                let failed = Answer::Failed {
                    is_rejected: false,
                    why,
                    retry_after: None,
                };
                (error.id(), failed)
            }
        };
        self.busy.remove(&id);
        match answer {
            Answer::Accepted => {
                if self.failures_in_a_row > 0 {
                    tracing::info!("events are delivered to {endpoint} again");
                }
                self.failures_in_a_row = 0;
                self.has_rejected = false;
            }
            Answer::Gone => {
                if !self.is_gone {
                    tracing::error!(
                        "{endpoint} answered 410 Gone: this server delivers no events until it \
                         is restarted"
                    );
                }
                self.is_gone = true;
                self.hold = Hold::Other;
                self.next_renewal = Instant::now();
            }
            // The receiver is there, so that the others are not slowed down.
            Answer::Failed {
                is_rejected: true,
                why,
                ..
            } => {
                if !self.has_rejected {
                    tracing::warn!("an event was rejected by {endpoint}: {why}");
                }
                self.has_rejected = true;
            }
            Answer::Failed { why, .. } => {
                if self.failures_in_a_row == 0 {
                    tracing::warn!("an event could not be delivered to {endpoint}: {why}");
                }
                self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
                if self.all_fail() {
                    let doublings = self.failures_in_a_row.min(16);
                    let pause = Duration::from_millis(1) * 2_u32.pow(doublings);
                    self.paused_until = Instant::now() + pause.min(LAST_PAUSE);
                }
            }
        }
    }

    /// Logs the first failure of an outage, and the first success after it.
    fn log_database(&mut self, done: &Result<(), StoreError>) {
        match done {
            Ok(()) if self.database_fails => tracing::info!("the outbox of events is read again"),
            Err(error) if !self.database_fails => {
                let causes = causes(error);
                if error.is_defect() {
                    tracing::error!(causes, "the outbox of events cannot be read: {error}");
                } else {
                    tracing::warn!(causes, "the outbox of events cannot be read: {error}");
                }
            }
            Ok(()) | Err(_) => {}
        }
        self.database_fails = done.is_err();
    }
}
