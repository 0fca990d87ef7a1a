//! Reloads a database URL from its file while the server runs, so that a rotated password
//! needs no restart.
//!
//! The file is read at an interval, on SIGHUP, and when Postgres refuses the current
//! credentials. An invalid file changes nothing.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{
    config::{DatabaseUrlError, DatabaseUrlFile},
    store::{Reloaded, Store},
};

/// The delay before a refusal triggers another read of the file: every request may be
/// refused.
const REFUSED_PAUSE: Duration = Duration::from_millis(200);

/// Reloads the URL from its file.
pub(super) struct UrlReloader {
    pub(super) file: DatabaseUrlFile,
    pub(super) store: Store,
    pub(super) last_error: Option<String>,
}

impl UrlReloader {
    /// Reads the file at the interval, on each notification and after a refusal. Runs until
    /// aborted.
    pub(super) async fn run(mut self, every: Duration, reload: Arc<Notify>) {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let store = self.store.clone();
        let refused = async || {
            sleep(REFUSED_PAUSE).await;
            store.credentials_refused().await;
        };
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = reload.notified() => {}
                () = refused() => {}
            }
            let file = self.file.clone();
            // Reading may block on a slow disk.
            let read = tokio::task::spawn_blocking(move || file.read());
            let Ok(read) = read.await else {
                // The runtime is shutting down.
                return;
            };
            let replaced = read.and_then(|url| {
                // The store validates the URL again.
                self.store.reload(&url).map_err(DatabaseUrlError::Given)
            });
            match replaced {
                Ok(reloaded) => {
                    self.last_error = None;
                    self.log_replacement(reloaded);
                }
                Err(error) => self.log_rejection(&error),
            }
        }
    }

    fn log_replacement(&self, reloaded: Reloaded) {
        match reloaded {
            Reloaded::Same => {}
            Reloaded::Password => {
                tracing::info!("the database password was replaced: new connections use it");
            }
            Reloaded::Place => {
                let place = self.store.place();
                tracing::info!("the database URL was replaced: Postgres is at {place} now");
            }
        }
    }

    /// Logs an error once.
    fn log_rejection(&mut self, error: &DatabaseUrlError) {
        let last_error = error.to_string();
        if self.last_error.as_ref() != Some(&last_error) {
            tracing::warn!(
                error = last_error,
                "the database URL was not replaced: the previous one stays in use"
            );
            self.last_error = Some(last_error);
        }
    }
}
