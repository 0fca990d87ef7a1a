//! The right to be sent a snapshot. It is lost if the replica does not read: others wait
//! for it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinHandle,
    time::timeout,
};

use crate::grpc::error::ApiError;

/// How long a replica may take to read the next part.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// A turn. Nothing polls a stream whose peer does not read, so a task of its own watches it.
pub(super) struct SnapshotTurn {
    permit: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
    parts: watch::Sender<()>,
    watchdog: JoinHandle<()>,
}

impl SnapshotTurn {
    /// Takes a turn.
    ///
    /// # Errors
    /// If all turns are taken.
    pub(super) fn take(turns: &Arc<Semaphore>) -> Result<Self, ApiError> {
        let permit = Arc::clone(turns).try_acquire_owned();
        let permit = permit.or(Err(ApiError::SnapshotsBusy))?;
        let permit = Arc::new(Mutex::new(Some(permit)));
        let (parts, mut sent) = watch::channel(());
        let watched = Arc::clone(&permit);
        let watchdog = tokio::spawn(async move {
            while let Ok(Ok(())) = timeout(MAX_PAUSE, sent.changed()).await {}
            drop(lock(&watched).take());
        });
        Ok(Self {
            permit,
            parts,
            watchdog,
        })
    }

    /// The replica takes the next part.
    ///
    /// # Errors
    /// If it took too long, and another one may have the turn.
    pub(super) fn next_part(&self) -> Result<(), ApiError> {
        self.parts.send_replace(());
        if lock(&self.permit).is_some() {
            Ok(())
        } else {
            Err(ApiError::SnapshotsBusy)
        }
    }
}

impl Drop for SnapshotTurn {
    fn drop(&mut self) {
        self.watchdog.abort();
        drop(lock(&self.permit).take());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // No holder panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_turn_ends_when_it_is_dropped_or_not_used() {
        let turns = Arc::new(Semaphore::new(1));
        let first = SnapshotTurn::take(&turns).unwrap();
        assert!(SnapshotTurn::take(&turns).is_err());
        drop(first);
        let second = SnapshotTurn::take(&turns).unwrap();
        for _ in 0..5 {
            tokio::task::yield_now().await;
            advance(MAX_PAUSE.mul_f64(0.9)).await;
            assert!(second.next_part().is_ok());
        }
        tokio::task::yield_now().await;
        let freed = Arc::clone(&turns).acquire_owned().await.unwrap();
        assert!(second.next_part().is_err());
        // What the late one had belongs to another by now.
        drop(second);
        assert_eq!(turns.available_permits(), 0);
        drop(freed);
        assert_eq!(turns.available_permits(), 1);
    }
}
