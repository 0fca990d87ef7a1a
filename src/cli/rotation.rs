//! A database URL that is in a file, taken up while the server runs: a password that was
//! rotated needs no restart.
//!
//! The file is read again every so often, on SIGHUP, and when Postgres refuses the
//! credentials that are in use. What cannot be used changes nothing.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{
    config::{DatabaseUrlError, DatabaseUrlFile},
    store::{Reloaded, Store},
};

/// How long to wait between two looks at the file that a refusal gave cause to: every
/// request may be refused.
const REFUSED_PAUSE: Duration = Duration::from_millis(200);

/// Reads the file again.
pub(super) struct Rotation {
    pub(super) file: DatabaseUrlFile,
    pub(super) store: Store,
    /// What was wrong with the file at the last look.
    pub(super) trouble: Option<String>,
}

impl Rotation {
    /// Reads the file every so often, whenever told to, and after a refusal. Until
    /// aborted.
    pub(super) async fn run(mut self, every: Duration, told: Arc<Notify>) {
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
                () = told.notified() => {}
                () = refused() => {}
            }
            let file = self.file.clone();
            // The file may be on a disk that takes its time.
            let read = tokio::task::spawn_blocking(move || file.read());
            let Ok(read) = read.await else {
                // The runtime ends.
                return;
            };
            let taken = read.and_then(|url| {
                // The same check again, by whoever uses it.
                self.store.reload(&url).map_err(DatabaseUrlError::Given)
            });
            match taken {
                Ok(reloaded) => {
                    self.trouble = None;
                    self.tell(reloaded);
                }
                Err(error) => self.refuse(&error),
            }
        }
    }

    fn tell(&self, reloaded: Reloaded) {
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

    /// Says what is wrong, once.
    fn refuse(&mut self, error: &DatabaseUrlError) {
        let trouble = error.to_string();
        if self.trouble.as_ref() != Some(&trouble) {
            tracing::warn!(
                error = trouble,
                "the database URL was not replaced: the one from before stays"
            );
            self.trouble = Some(trouble);
        }
    }
}
