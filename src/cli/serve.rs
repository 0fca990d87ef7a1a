//! `serve`: the service against a Postgres that somebody else runs.

use std::sync::Arc;

use super::{Failure, open};
use crate::{
    config::ServeArgs,
    server::{self, Ended, lifecycle, listeners::Listeners, tls::Tls},
    store::Store,
    system::SystemClock,
};

pub(super) async fn run(args: &ServeArgs) -> Result<(), Failure> {
    let (tls, watcher) = match args.tls.files()? {
        Some(files) => {
            let (tls, watcher) = Tls::load(files)?;
            (Some(tls), Some(watcher))
        }
        None => (None, None),
    };
    let listeners = Listeners::open(&args.listen, tls.as_ref()).await?;
    // Also without TLS: nobody who says it means to end the process.
    let hangups = lifecycle::hangups()?;
    if let Some(watcher) = watcher {
        let clock = Arc::new(SystemClock::default());
        tokio::spawn(watcher.run(args.tls.tls_poll_interval, hangups, clock));
    }
    let store = open(&args.store()?);
    check_migrations(&store).await?;
    serve(store, listeners, args.server()).await
}

/// Serves until a signal says to stop.
pub(super) async fn serve(
    store: Store,
    listeners: Listeners,
    options: server::Options,
) -> Result<(), Failure> {
    let stop = lifecycle::signals()?;
    for address in listeners.addresses()? {
        tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "serving on {address}");
    }
    match server::serve(store, options, listeners.incoming(), stop).await {
        Ended::Drained => tracing::info!("stopped: every call under way was finished"),
        Ended::CutOff => tracing::warn!("stopped before every call under way was finished"),
    }
    Ok(())
}

/// Refuses a database that is not what this version needs.
pub(super) async fn check_migrations(store: &Store) -> Result<(), Failure> {
    let pending = store.pending_migrations().await?;
    if pending.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format_args!(
        "the database lacks {} migrations ({}): apply them with `hitkeep-auth migrate`",
        pending.len(),
        pending.join(", "),
    )))
}
