//! One attempt to deliver an event, and what it comes to.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use chrono::TimeDelta;
use tokio::time::sleep;

use super::{
    SigningKeys,
    message::{Answer, Sender},
    metrics::DeliveryMetrics,
};
use crate::store::{
    Store,
    error::StoreError,
    outbox::{FailedAttempt, OutboxEvent},
};

/// The first delay after a failure; it doubles with each failure of the same event.
const FIRST_DELAY: Duration = Duration::from_secs(2);
/// The longest delay. Half of each delay is random.
const LAST_DELAY: Duration = Duration::from_hours(1);
/// How often the outcome of an attempt is tried to be recorded.
const RECORD_TRIES: u32 = 30;

/// What an attempt needs.
#[derive(Clone)]
pub(super) struct Attempts {
    pub(super) store: Store,
    pub(super) sender: Sender,
    pub(super) keys: SigningKeys,
    pub(super) state: Arc<DeliveryMetrics>,
}

impl std::fmt::Debug for Attempts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attempts")
            .field("sender", &self.sender)
            .finish_non_exhaustive()
    }
}

impl Attempts {
    /// Sends an event once, and records what that came to.
    pub(super) async fn deliver(self, event: OutboxEvent, pause: Duration) -> Answer {
        let Self {
            store,
            sender,
            keys,
            state,
        } = &self;
        let answer = sender.send(&event, keys, store.clock().now()).await;
        match &answer {
            Answer::Accepted => {
                state.delivered.fetch_add(1, Relaxed);
                recorded(store, pause, || store.event_delivered(&event)).await;
            }
            Answer::Gone => {
                state.failed.fetch_add(1, Relaxed);
            }
            Answer::Failed {
                why, retry_after, ..
            } => {
                let now = store.clock().now();
                let last_attempt = event.try_until;
                let attempts = event.attempts.saturating_add(1);
                let delay = delay(attempts, store).max(retry_after.unwrap_or_default());
                let delay = TimeDelta::from_std(delay).unwrap_or(TimeDelta::MAX);
                let dead = (now >= last_attempt).then_some(now);
                let failed = FailedAttempt {
                    attempts,
                    next: match dead {
                        Some(_) => now,
                        None => (now + delay).min(last_attempt),
                    },
                    error: why,
                    dead,
                };
                if dead.is_some() {
                    state.died.fetch_add(1, Relaxed);
                    tracing::warn!(
                        event.id = %event.id,
                        client.id = %event.client_id,
                        attempts,
                        "event {} could not be delivered for three days, and is dead: {why}",
                        event.id
                    );
                } else {
                    state.failed.fetch_add(1, Relaxed);
                }
                recorded(store, pause, || store.event_failed(&event, failed)).await;
            }
        }
        answer
    }
}

/// Records the outcome of an attempt. While that fails, the client stays busy: otherwise, the
/// event would be sent again as soon as the database is back.
async fn recorded<F>(store: &Store, pause: Duration, record: impl Fn() -> F)
where
    F: Future<Output = Result<(), StoreError>>,
{
    for _ in 0..RECORD_TRIES {
        match store.until_failover(record()).await {
            Ok(()) => return,
            Err(error) if error.is_defect() => {
                error.log();
                return;
            }
            Err(error) => {
                tracing::debug!(%error, "the outcome of an attempt cannot be recorded yet");
                sleep(pause).await;
            }
        }
    }
    tracing::warn!("the outcome of an attempt was not recorded: an event is sent again");
}

/// The delay after that many failures, of which half is random.
fn delay(failures: i64, store: &Store) -> Duration {
    let doublings = u32::try_from(failures.clamp(1, 16) - 1).unwrap_or_default();
    let longest = LAST_DELAY.min(FIRST_DELAY * 2_u32.pow(doublings));
    let mut chance = [0];
    store.entropy().fill(&mut chance);
    longest.mul_f64(f64::midpoint(
        1.0,
        f64::from(chance[0]) / f64::from(u8::MAX),
    ))
}
