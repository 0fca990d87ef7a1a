//! Reports presentations of replaced tokens as events. Beside the flushes, which take no write
//! lock: a transaction that has it for long delays these events, and no count.

use std::{
    panic::AssertUnwindSafe,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{sync::Notify, time::sleep};

use crate::{
    domain::usage::{Batch, ReplacedUses},
    store::{
        Store,
        error::{StoreError, causes},
        outbox::REPORTED_AT_ONCE,
    },
    telemetry::panic_message,
};

/// The presentations that are not reported yet, between the flushes and the task that reports
/// them.
#[derive(Debug, Default)]
pub(super) struct Reporter {
    pending: Mutex<ReplacedUses>,
    added: Notify,
}

impl Reporter {
    /// Moves the presentations of a batch here.
    pub(super) fn take(&self, batch: &mut Batch) {
        let left_out = batch.move_replaced(&mut self.pending());
        if left_out > 0 {
            tracing::warn!(
                left_out,
                "too many API clients with a replaced token wait to be reported: {left_out} are \
                 reported when they present it again"
            );
        }
        if !self.pending().is_empty() {
            self.added.notify_one();
        }
    }

    /// Whether everything is reported.
    pub(super) fn is_done(&self) -> bool {
        self.pending().is_empty()
    }

    /// Reports what is moved here, without an end. After a failure, it waits for `pause`. May be
    /// dropped at any point: what may not have been written stays, and is written once.
    #[expect(clippy::infinite_loop, reason = "it is dropped")]
    pub(super) async fn run(&self, store: &Store, pause: Duration) {
        let mut fails = false;
        loop {
            if self.is_done() {
                self.added.notified().await;
            }
            let done = AssertUnwindSafe(self.report(store)).catch_unwind().await;
            match done {
                Ok(Ok(())) => {
                    if fails {
                        tracing::info!("uses of replaced tokens are reported again");
                    }
                    fails = false;
                    continue;
                }
                Ok(Err(error)) if !fails => {
                    let causes = causes(&error);
                    tracing::warn!(
                        causes,
                        "uses of replaced tokens cannot be reported yet: {error}"
                    );
                }
                Ok(Err(_)) => {}
                Err(panic) => {
                    let panic = panic_message(&*panic);
                    tracing::error!(
                        panic,
                        "reporting uses of replaced tokens panicked: this is a defect"
                    );
                    *self.pending() = ReplacedUses::default();
                }
            }
            fails = true;
            sleep(pause).await;
        }
    }

    /// Reports everything, with the write lock for some clients at a time. What fails because
    /// of a defect would fail each time, and is left out.
    ///
    /// # Errors
    /// If something is not reported. It stays.
    pub(super) async fn report(&self, store: &Store) -> Result<(), StoreError> {
        loop {
            let some = self.pending().first(REPORTED_AT_ONCE);
            if some.is_empty() {
                return Ok(());
            }
            match store.until_failover(store.send_replaced(&some)).await {
                Err(error) if error.is_defect() => error.log(),
                done => done?,
            }
            self.pending().remove(&some);
        }
    }

    fn pending(&self) -> MutexGuard<'_, ReplacedUses> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
