//! `serve`: the service against a Postgres that somebody else runs.

use std::{io, net::TcpStream, time::Duration};

use tokio::net::TcpListener;
use tokio_stream::Stream;

use super::{Failure, open};
use crate::{
    config::ServeArgs,
    server::{self, Ended, lifecycle},
    store::Store,
};

/// How long to wait after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

pub(super) async fn run(args: &ServeArgs) -> Result<(), Failure> {
    let listener = listen(&args.listen).await?;
    let store = open(&args.store()?);
    check_migrations(&store).await?;
    serve(store, listener, args.server()).await
}

/// Serves until a signal says to stop.
pub(super) async fn serve(
    store: Store,
    listener: TcpListener,
    options: server::Options,
) -> Result<(), Failure> {
    let address = listener.local_addr()?;
    let incoming = incoming(listener);
    let stop = lifecycle::signals()?;
    tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "serving on {address}");
    match server::serve(store, options, incoming, stop).await {
        Ended::Drained => tracing::info!("stopped: every call under way was finished"),
        Ended::CutOff => tracing::warn!("stopped before every call under way was finished"),
    }
    Ok(())
}

/// The connections of a listener. A failure to accept one (there may be no file
/// descriptor left for it) is waited out, because it would only fail again.
fn incoming(listener: TcpListener) -> impl Stream<Item = io::Result<TcpStream>> {
    futures_util::stream::unfold(listener, async |listener| {
        loop {
            match listener.accept().await {
                Ok((connection, _)) => {
                    // Answers are small: each leaves at once.
                    let ready = connection
                        .set_nodelay(true)
                        .and_then(|()| connection.into_std());
                    return Some((ready, listener));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

/// Opens the listener.
///
/// # Errors
/// Each says what to do.
pub(super) async fn listen(address: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => {
                ": another program listens there; stop it, or choose another address with --listen"
            }
            _ => ": choose another address with --listen",
        };
        Failure::new(format_args!("cannot listen on {address} ({error}){advice}"))
    })
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

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    /// Otherwise an answer that does not fill a packet could wait for the peer to
    /// acknowledge the one before it, which takes 40 ms.
    #[tokio::test]
    async fn what_is_accepted_sends_without_delay() {
        let listener = listen("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let _peer = TcpStream::connect(address).unwrap();
        let mut incoming = std::pin::pin!(incoming(listener));
        let accepted = incoming.next().await.unwrap().unwrap();
        assert!(accepted.nodelay().unwrap());
    }
}
