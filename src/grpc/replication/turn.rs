//! The right to be sent a snapshot. It is lost if the replica reads too slowly: others wait
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

/// So much of its snapshot a replica must take in each [`WINDOW`], or what is left of it. That is
/// little for any way on which changes arrive in time; with less, a few replicas would hold up
/// all others for days.
const LEAST_BYTES: usize = 256 * 1024;
const WINDOW: Duration = Duration::from_secs(10);

/// A turn. Nothing polls a stream whose peer does not read, so a task of its own watches it.
pub(super) struct SnapshotTurn {
    permit: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
    /// How many bytes it took so far.
    taken: watch::Sender<usize>,
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
        let (taken, mut watched) = watch::channel(0_usize);
        let held = Arc::clone(&permit);
        let watchdog = tokio::spawn(async move {
            let mut wanted = LEAST_BYTES;
            while let Some(taken) = reached(&mut watched, wanted).await {
                wanted = taken.saturating_add(LEAST_BYTES);
            }
            drop(lock(&held).take());
        });
        Ok(Self {
            permit,
            taken,
            watchdog,
        })
    }

    /// Whether the replica may take the next part.
    ///
    /// # Errors
    /// If it was too slow, and another one may have the turn.
    pub(super) fn require(&self) -> Result<(), ApiError> {
        if lock(&self.permit).is_some() {
            Ok(())
        } else {
            Err(ApiError::SnapshotsBusy)
        }
    }

    /// The replica takes a part of that size.
    pub(super) fn take_part(&self, bytes: usize) {
        self.taken
            .send_modify(|taken| *taken = taken.saturating_add(bytes));
    }
}

impl Drop for SnapshotTurn {
    fn drop(&mut self) {
        self.watchdog.abort();
        drop(lock(&self.permit).take());
    }
}

/// Waits until so many bytes were taken, and returns how many are. `None` if that takes too long.
async fn reached(taken: &mut watch::Receiver<usize>, wanted: usize) -> Option<usize> {
    let reached = timeout(WINDOW, taken.wait_for(|taken| *taken >= wanted)).await;
    reached.ok()?.ok().map(|taken| *taken)
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
    async fn a_turn_ends_when_it_is_dropped_or_too_slow() {
        let turns = Arc::new(Semaphore::new(1));
        let first = SnapshotTurn::take(&turns).unwrap();
        assert!(SnapshotTurn::take(&turns).is_err());
        drop(first);
        let second = SnapshotTurn::take(&turns).unwrap();
        for _ in 0..5 {
            tokio::task::yield_now().await;
            advance(WINDOW.mul_f64(0.9)).await;
            assert!(second.require().is_ok());
            // In two parts.
            second.take_part(1);
            second.take_part(LEAST_BYTES - 1);
        }
        // It goes on to read, and less than it must.
        for _ in 0..9 {
            tokio::task::yield_now().await;
            advance(WINDOW / 10).await;
            assert!(second.require().is_ok());
            second.take_part(LEAST_BYTES / 10);
        }
        let freed = Arc::clone(&turns).acquire_owned().await.unwrap();
        assert!(second.require().is_err());
        // What the late one had belongs to another by now.
        drop(second);
        assert_eq!(turns.available_permits(), 0);
        drop(freed);
        assert_eq!(turns.available_permits(), 1);
    }
}
