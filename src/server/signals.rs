//! The process's signals, as messages.

use std::sync::Arc;

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc},
};

/// SIGTERM and SIGINT, as messages for [`super::serve`].
///
/// # Errors
/// If the handlers cannot be installed.
pub fn termination() -> std::io::Result<mpsc::Receiver<()>> {
    let (sender, receiver) = mpsc::channel(2);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if sender.send(()).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// SIGHUP, as notifications to reload files.
///
/// # Errors
/// If the handler cannot be installed.
pub fn hangups() -> std::io::Result<Arc<Notify>> {
    let mut hangup = signal(SignalKind::hangup())?;
    let notified = Arc::new(Notify::new());
    let notifier = Arc::clone(&notified);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            notifier.notify_one();
        }
    });
    Ok(notified)
}
