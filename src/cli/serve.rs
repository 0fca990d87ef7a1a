//! `serve`: the service against a Postgres that somebody else runs.

use std::{io, net::TcpStream, time::Duration};

use futures_util::{StreamExt, stream};
use tokio::net::TcpListener;
use tokio_stream::Stream;

use super::{Failure, open};
use crate::{
    config::ServeArgs,
    server::{self, Ended, Server, lifecycle},
    store::Store,
    telemetry::Telemetry,
};

/// How long to wait after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long the last export may take, where no shorter time is left for calls. It
/// comes after all else, and a collector that hangs must not hold up a restart.
const EXPORT_PATIENCE: Duration = Duration::from_secs(3);

pub(super) async fn run(args: &ServeArgs, telemetry: Telemetry) -> Result<(), Failure> {
    let listeners = Listeners::open(&args.listen, args.http_listen().as_slice()).await?;
    let store = open(&args.store()?);
    check_migrations(&store).await?;
    serve(store, listeners, args.server(), telemetry).await
}

/// Where callers come in.
pub(super) struct Listeners {
    pub(super) grpc: TcpListener,
    pub(super) http: Option<TcpListener>,
}

impl Listeners {
    /// Opens them; for HTTP on the first of the addresses that is free.
    ///
    /// # Errors
    /// Each says what to do.
    pub(super) async fn open(grpc: &str, http: &[&str]) -> Result<Self, Failure> {
        let grpc = listen(grpc, "--listen").await?;
        let Some((last, others)) = http.split_last() else {
            return Ok(Self { grpc, http: None });
        };
        for address in others {
            if let Ok(listener) = TcpListener::bind(address).await {
                return Ok(Self {
                    grpc,
                    http: Some(listener),
                });
            }
        }
        let http = Some(listen(last, "--http-listen").await?);
        Ok(Self { grpc, http })
    }
}

/// Serves until a signal says to stop.
pub(super) async fn serve(
    store: Store,
    listeners: Listeners,
    options: server::Options,
    telemetry: Telemetry,
) -> Result<(), Failure> {
    let stop = lifecycle::signals()?;
    if let Some(http) = &listeners.http {
        let address = http.local_addr()?;
        tracing::info!(%address, "HTTP is on {address}");
    }
    let address = listeners.grpc.local_addr()?;
    tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "serving on {address}");
    let server = Server {
        store,
        options,
        metrics: telemetry.metrics.clone(),
        sampling: telemetry.sampling,
        grpc: incoming(listeners.grpc),
        http: stream::iter(listeners.http).flat_map(incoming),
    };
    match server.run(stop).await {
        Ended::Drained => tracing::info!("stopped: every call under way was finished"),
        Ended::CutOff => tracing::warn!("stopped before every call under way was finished"),
    }
    telemetry
        .stop(EXPORT_PATIENCE.min(options.drain_timeout))
        .await;
    Ok(())
}

/// The connections of a listener. A failure to accept one (there may be no file
/// descriptor left for it) is waited out, because it would only fail again.
fn incoming(listener: TcpListener) -> impl Stream<Item = io::Result<TcpStream>> {
    stream::unfold(listener, async |listener| {
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

/// Opens the listener whose address is chosen with that option.
async fn listen(address: &str, option: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => "another program listens there; stop it, or choose",
            _ => "choose",
        };
        Failure::new(format_args!(
            "cannot listen on {address} ({error}): {advice} another address with {option}"
        ))
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
