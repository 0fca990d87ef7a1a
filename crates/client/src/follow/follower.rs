//! The task that follows a server upstream, and goes to another one when that fails.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::{
    Identity, Limits, Observer,
    connect::connect,
    copy::Copy,
    hints::RetryHints,
    intake::Intake,
    session::{Session, SessionError},
};
use crate::target::Target;

/// The first and the longest pause after all servers failed. Half of each is random, since
/// all replicas of an installation lose the same server.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(2);

/// Follows one server at a time.
pub(super) struct Follower<I, O> {
    who: Identity,
    limits: Limits,
    intake: I,
    observer: O,
    copy: Copy,
    /// The number of the server that is followed, or tried next.
    at: usize,
    hints: RetryHints,
    /// Since when no server is followed.
    failing_since: Option<Instant>,
}

impl<I: Intake, O: Observer> Follower<I, O> {
    pub(super) fn new(who: Identity, limits: Limits, intake: I, observer: O) -> Self {
        Self {
            hints: RetryHints::none(who.upstream.targets.len()),
            who,
            limits,
            intake,
            observer,
            copy: Copy::default(),
            at: 0,
            failing_since: None,
        }
    }

    #[expect(clippy::infinite_loop, reason = "it is a task, and aborted")]
    pub(super) async fn run(mut self) {
        let servers = self.who.upstream.targets.len();
        let mut pause = FIRST_PAUSE;
        let mut failed = 0;
        loop {
            let (at, may_ask_at) = self.hints.next(self.at);
            self.at = at;
            // Also while requests wait: they are why it wants to be left alone.
            sleep_until(may_ask_at).await;
            let (error, has_followed) = self.follow().await;
            self.who.link.set(None);
            self.intake.source_lost();
            if has_followed {
                (pause, failed) = (FIRST_PAUSE, 0);
            }
            self.log(&error);
            failed += 1;
            if let Some(delay) = error.retry_delay() {
                let chance = self.chance();
                self.hints.take(self.at, delay, chance);
            } else if failed >= servers && !(error.is_orderly() && has_followed) {
                // While there are others to try, they are tried at once.
                self.back_off(pause).await;
                pause = LAST_PAUSE.min(pause * 2);
            }
            self.at = (self.at + 1) % servers;
        }
    }

    /// Follows the present server until that fails, and whether it answered before.
    async fn follow(&mut self) -> (SessionError, bool) {
        let refresh = self.intake.begin_attempt();
        let target = self.who.upstream.targets[self.at].clone();
        let client = match connect(&self.who.upstream, &target, &self.limits).await {
            Ok(client) => client,
            Err(error) => return (error.into(), false),
        };
        let (link, observer, connected) = (&self.who.link, &self.observer, client.clone());
        let failing_since = &mut self.failing_since;
        let mut has_followed = false;
        let mut on_answer = || {
            has_followed = true;
            link.set(Some(connected.clone()));
            observer.followed();
            if let Some(since) = failing_since.take() {
                let duration_ms = since.elapsed().as_millis();
                tracing::info!(duration_ms, "{target} is followed again");
            } else {
                tracing::info!("{target} is followed");
            }
        };
        let mut session = Session {
            id: self.who.id,
            without_names: self.who.upstream.without_names,
            limits: &self.limits,
            copy: &mut self.copy,
            intake: &mut self.intake,
            refresh,
            // A new connection may lead to another server, behind a load balancer or a name with
            // several addresses. It continues from the position, so that asking costs little.
            has_alternative: self.who.upstream.targets.len() > 1
                || !matches!(target, Target::Unix(_)),
            on_answer: &mut on_answer,
        };
        let Err(error) = session.run(client).await;
        (error, has_followed)
    }

    /// Logs the first failure of an outage.
    fn log(&mut self, error: &SessionError) {
        let target = &self.who.upstream.targets[self.at];
        if self.failing_since.is_none() {
            self.failing_since = Some(Instant::now());
            if error.is_orderly() {
                tracing::info!("{target} ended the replication, and is asked again");
            } else {
                tracing::warn!("{target} is not followed: {error}");
            }
        } else {
            tracing::debug!("{target} is not followed: {error}");
        }
    }

    /// Waits before the next attempt, if no server said how long; a request that waits for a
    /// refresh shortens that.
    async fn back_off(&self, wait: Duration) {
        let part = f64::midpoint(1.0, f64::from(self.chance()) / f64::from(u8::MAX));
        let requested = async {
            self.intake.refresh_requested().await;
            sleep(FIRST_PAUSE).await;
        };
        tokio::select! {
            () = requested => {}
            () = sleep(wait.mul_f64(part)) => {}
        }
    }

    fn chance(&self) -> u8 {
        let mut chance = [0];
        self.who.entropy.fill(&mut chance);
        chance[0]
    }
}
