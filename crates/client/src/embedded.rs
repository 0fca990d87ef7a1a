//! A copy of the index inside of the program: tokens are judged without asking anybody.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hitkeep_auth_domain::{
    Timestamp,
    client::Expiry,
    clock::Clock,
    id::ReplicaId,
    ledger::{Ledger, Recorded},
    token::PresentedToken,
};
use tokio::{
    sync::oneshot,
    task::{AbortHandle, JoinHandle, JoinSet},
    time::Instant,
};

mod intake;
mod judge;
mod live;

use crate::{
    caller_token::CallerToken,
    client::{Client, LONGEST},
    error::{Error, Unavailable},
    follow::{self, Identity, Link, TokenSource, Upstream, supervise},
    principal::Principal,
    question::Question,
    system::{SystemClock, SystemEntropy},
};
use intake::LiveIntake;
use live::Live;

/// Options of an embedded index. The defaults are those of `hitkeep-auth replica`. A time is at
/// most 30 days, whatever it is set to.
#[derive(Clone)]
pub struct EmbeddedOptions {
    /// The age beyond which the index no longer proves that a token works. Default 10 s.
    pub max_staleness: Duration,
    /// How often to ask how fresh the index is; at most a quarter of `max_staleness`, and at
    /// least 10 ms. Default 250 ms.
    pub poll_interval: Duration,
    /// How many times a second the server is asked because of tokens that the index does not
    /// know. Default 100.
    pub max_lookups: u32,
    /// How many questions may wait for that at the same time. Default 256.
    pub max_waiting: u32,
    /// The longest that a question waits for that, or for the first index. Default 1 s.
    pub refresh_timeout: Duration,
    /// How often uses are reported to the server; at least 10 ms. Default 5 s.
    pub usage_interval: Duration,
    /// Whether the names of API clients stay with the servers. Default: no.
    pub without_names: bool,
    /// From when on tokens that HitKeep itself issued no longer work. Default: never.
    pub accept_legacy_until: Option<Timestamp>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self {
            max_staleness: Duration::from_secs(10),
            poll_interval: Duration::from_millis(250),
            max_lookups: 100,
            max_waiting: 256,
            refresh_timeout: Duration::from_secs(1),
            usage_interval: Duration::from_secs(5),
            without_names: false,
            accept_legacy_until: None,
            clock: Arc::new(SystemClock::default()),
        }
    }
}

impl fmt::Debug for EmbeddedOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedOptions")
            .field("max_staleness", &self.max_staleness)
            .finish_non_exhaustive()
    }
}

/// The index, and the tasks that feed it and report its uses.
pub(crate) struct Embedded {
    live: Arc<Live>,
    ledger: Ledger,
    follower: AbortHandle,
    reporter: Mutex<Option<Reporting>>,
}

/// The task that reports uses. If this is dropped, it reports the last ones and ends.
struct Reporting {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Embedded {
    /// Begins to follow the servers of a client.
    pub(crate) fn start(client: &Client, options: EmbeddedOptions) -> Self {
        let options = options.bounded();
        let clock = Arc::clone(&options.clock);
        let entropy = Arc::new(SystemEntropy);
        let who = Identity {
            id: ReplicaId::mint(clock.now(), &*entropy),
            upstream: Arc::new(upstream(client, options.without_names)),
            link: Arc::new(Link::default()),
            entropy,
            max_staleness: options.max_staleness,
        };
        let live = Arc::new(Live::new(options));
        let interval = live.options.usage_interval;
        let (fed, follower) = (Arc::clone(&live), who.clone());
        let follower = tokio::spawn(async move {
            let start = || {
                let mut tasks = JoinSet::new();
                let intake = LiveIntake::new(Arc::clone(&fed));
                tasks.spawn(follow::follow(follower.clone(), intake, ()));
                tasks
            };
            supervise(start, || fed.source_lost()).await;
        });
        let (ledger, recorded): (_, Recorded) = Ledger::new();
        let (stop, stopped) = oneshot::channel::<()>();
        let reporter = follow::reporter(&who, recorded, ());
        let task = tokio::spawn(reporter.run(interval, async { drop(stopped.await) }));
        Self {
            live,
            ledger,
            follower: follower.abort_handle(),
            reporter: Mutex::new(Some(Reporting { stop, task })),
        }
    }

    /// Waits until there is an index that is fresh.
    pub(crate) async fn ready(&self) {
        self.live.fresh().await;
    }

    /// Reports the last uses, for a few seconds at most.
    pub(crate) async fn finish(&self) {
        // No holder panics.
        let reporter = self.reporter.lock();
        let reporting = reporter.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Reporting { stop, task }) = reporting {
            // It ends by itself only if it panicked.
            stop.send(()).ok();
            if let Err(error) = task.await {
                tracing::error!(%error, "the last uses of API clients were not reported");
            }
        }
    }

    /// Answers a question about a text.
    pub(crate) async fn ask(
        &self,
        text: &str,
        question: &Question<'_>,
    ) -> Result<Principal, Error> {
        let presented = PresentedToken::read(text);
        match self.judge(&presented, question) {
            Ok(Some(judged)) => judged,
            // Only who waits needs to know since when.
            Ok(None) | Err(Unavailable::Loading | Unavailable::Late) => {
                self.ask_patiently(&presented, question).await
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The same, where the index lacks something that may come.
    async fn ask_patiently(
        &self,
        presented: &PresentedToken,
        question: &Question<'_>,
    ) -> Result<Principal, Error> {
        let deadline = Instant::now() + self.live.options.refresh_timeout;
        if let Some(wanted) = question.at_least {
            self.live.wait_for_revision(wanted, deadline).await?;
        }
        self.live.loaded_until(deadline).await;
        if let Some(judged) = self.judge(presented, question)? {
            return judged;
        }
        // It may have been made a moment ago.
        self.live.refresh(deadline).await?;
        match self.judge(presented, question)? {
            Some(judged) => judged,
            None => self.unknown(),
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

/// The servers of a client, as a follower needs them.
fn upstream(client: &Client, without_names: bool) -> Upstream {
    let connection = client.connection();
    let token = connection.token().cloned();
    let mut certificates = None;
    let targets = connection.destinations().map(|to| {
        certificates = Some(Arc::clone(&to.certificates));
        to.target.clone()
    });
    Upstream {
        targets: targets.collect(),
        token: TokenSource::new(move || Ok(token.as_ref().map(CallerToken::read_again))),
        certificates: certificates.unwrap_or_default(),
        without_names,
    }
}

impl EmbeddedOptions {
    /// The same, where each time can be added to another one.
    fn bounded(self) -> Self {
        Self {
            max_staleness: self.max_staleness.min(LONGEST),
            poll_interval: self.poll_interval.min(LONGEST),
            refresh_timeout: self.refresh_timeout.min(LONGEST),
            usage_interval: self.usage_interval.min(LONGEST),
            ..self
        }
    }

    fn legacy_tokens_until(&self) -> Expiry {
        self.accept_legacy_until.map_or(Expiry::Never, Expiry::At)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_is_without_an_end() {
        let endless = EmbeddedOptions {
            max_staleness: Duration::MAX,
            poll_interval: Duration::MAX,
            refresh_timeout: Duration::MAX,
            usage_interval: Duration::MAX,
            ..EmbeddedOptions::default()
        };
        let live = Live::new(endless.bounded());
        for time in [
            live.options.max_staleness,
            live.options.poll_interval,
            live.options.refresh_timeout,
            live.options.usage_interval,
        ] {
            assert!(time <= LONGEST, "{time:?}");
        }
    }
}
