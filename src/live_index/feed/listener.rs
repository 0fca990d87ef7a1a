//! The task that listens for notifications.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::sleep;

use super::{FIRST_PAUSE, Shared};
use crate::{store::Store, telemetry::metrics::FeedConnection};

/// The longest pause before the listener reconnects. Without it, changes only arrive later.
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// Listens for notifications, and reconnects if the connection ends. Postgres, or a pooler
/// in between, may accept LISTEN and never send a notification; so the feed sends one, and
/// the listener counts as listening only once it has received one.
pub(super) async fn listen(store: Store, shared: Arc<Shared>) {
    let mut pause = FIRST_PAUSE;
    let mut failing = false;
    loop {
        shared.shortage.listener_may_connect().await;
        let woken = Arc::clone(&shared);
        let on_notification = move || {
            woken.listening.store(true, Ordering::Relaxed);
            woken.notified.notify_one();
        };
        match store.listen(on_notification).await {
            Ok(mut listener) => {
                shared.metrics.feed_connected(FeedConnection::Listening);
                if failing {
                    tracing::info!("LISTEN works again");
                }
                (pause, failing) = (FIRST_PAUSE, false);
                shared.listener_needs_probe.store(true, Ordering::Relaxed);
                // Covers the changes that were made before LISTEN.
                shared.notified.notify_one();
                tokio::select! {
                    () = listener.ended() => {}
                    () = shared.shortage.listener_must_release() => {}
                }
                drop(listener);
                shared.listening.store(false, Ordering::Relaxed);
            }
            Err(error) => {
                if !failing {
                    error.log();
                    tracing::warn!("LISTEN failed; changes are found by polling");
                }
                failing = true;
            }
        }
        sleep(pause).await;
        pause = LAST_PAUSE.min(pause * 2);
    }
}
