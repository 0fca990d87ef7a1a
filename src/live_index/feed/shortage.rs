//! Releases connections if Postgres has none left for a survey. Without surveys the index
//! becomes stale, so that a less useful connection is released: first idle ones of the
//! pool, then the listener's, since polling finds the changes without it. The reader's own
//! connection is kept, because it reads the changes.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::{sync::watch, time::sleep};

use crate::store::Store;

/// The time that Postgres takes to free a closed connection.
pub(super) const CLOSE_DELAY: Duration = Duration::from_millis(50);

/// The state of releasing connections.
#[derive(Default)]
pub(in crate::live_index) struct Shortage {
    /// Whether the survey needs the listener's connection.
    is_listener_needed: watch::Sender<bool>,
    is_logged: AtomicBool,
}

impl Shortage {
    /// Releases one connection. Returns whether there was one to release.
    pub(in crate::live_index) fn release_one(&self, store: &Store) -> bool {
        let is_released =
            store.close_idle_connection() || !self.is_listener_needed.send_replace(true);
        if !self.is_logged.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "Postgres has no connection left to look for the primary: idle connections, and \
                 then the listener's, are released for it each time"
            );
        }
        is_released
    }

    /// A survey has had its connection: the listener may connect again.
    pub(super) fn search_succeeded(&self) {
        self.is_listener_needed.send_replace(false);
    }

    /// A survey got a connection without a release: the shortage is over.
    pub(super) fn end(&self) {
        if self.is_logged.swap(false, Ordering::Relaxed) {
            tracing::info!("Postgres has connections left again");
        }
    }

    /// Waits until the listener must release its connection.
    pub(super) async fn listener_must_release(&self) {
        self.until(true).await;
    }

    /// Waits until the listener may connect.
    pub(super) async fn listener_may_connect(&self) {
        if *self.is_listener_needed.borrow() {
            self.until(false).await;
            sleep(CLOSE_DELAY).await;
        }
    }

    async fn until(&self, is_needed: bool) {
        let mut needed = self.is_listener_needed.subscribe();
        let reached = needed.wait_for(|needed| *needed == is_needed).await;
        reached.expect("the sender lives as long as self");
    }
}
