//! What is done where Postgres has no connection left for the search for the server that
//! takes the writes: without it the index grows stale, so a connection is given up that is
//! of less use. First come those of the pool that nobody uses, then the listener's, without
//! which changes are found by polling. The reader's own is kept: it reads the changes.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::{sync::watch, time::sleep};

use crate::store::Store;

/// How long Postgres takes to see that a connection is closed.
pub(super) const CLOSING: Duration = Duration::from_millis(50);

/// What is given up because there are too few connections.
#[derive(Default)]
pub(in crate::replica) struct Shortage {
    /// Whether the listener's connection is needed for the search.
    is_listener_needed: watch::Sender<bool>,
    /// Whether it was told in the log.
    is_told: AtomicBool,
}

impl Shortage {
    /// Gives one connection up, and says whether there was one.
    pub(super) fn give_up_one(&self, store: &Store) -> bool {
        let is_given_up =
            store.close_idle_connection() || !self.is_listener_needed.send_replace(true);
        if !self.is_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "Postgres has no connection left for the search for the server that takes the \
                 writes: idle ones, and then the listener's, are given up for it each time"
            );
        }
        is_given_up
    }

    /// The search has had its connection: the listener may have one again.
    pub(super) fn give_back(&self) {
        self.is_listener_needed.send_replace(false);
    }

    /// Notes that nothing had to be given up.
    pub(super) fn end(&self) {
        if self.is_told.swap(false, Ordering::Relaxed) {
            tracing::info!("Postgres has connections left again");
        }
    }

    /// Waits until the listener has to give its connection up.
    pub(super) async fn needs_listener(&self) {
        self.until(true).await;
    }

    /// Waits until the listener may have a connection.
    pub(super) async fn spares_listener(&self) {
        if *self.is_listener_needed.borrow() {
            self.until(false).await;
            sleep(CLOSING).await;
        }
    }

    async fn until(&self, is_needed: bool) {
        let mut needed = self.is_listener_needed.subscribe();
        let reached = needed.wait_for(|needed| *needed == is_needed).await;
        reached.expect("it does not end before this");
    }
}
