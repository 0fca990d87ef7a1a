//! `serve`: the service against a Postgres that somebody else runs.

use std::{
    convert::Infallible,
    future::pending,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use tokio::sync::oneshot;

use super::{Failure, descriptors, open, rotation::Rotation};
use crate::{
    config::ServeArgs,
    server::{Ended, Options, Server, lifecycle},
    store::{
        NoConnection, Store,
        error::{StoreError, causes},
    },
    system::SystemClock,
    telemetry::Telemetry,
    transport::{
        listeners::{Address, ListenError, Listeners},
        tls::Tls,
    },
};

/// How long to wait until Postgres is tried again, at first and at last. Half of it
/// is left to chance: all servers of an installation wait for the same Postgres.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// How often it is said that it still is waited for.
const REMINDER: Duration = Duration::from_mins(1);

/// How long the last export may take, where no shorter time is left for calls. It
/// comes after all else, and a collector that hangs must not hold up a restart.
const EXPORT_PATIENCE: Duration = Duration::from_secs(3);

pub(super) async fn run(args: &ServeArgs, telemetry: Telemetry) -> Result<Ended, Failure> {
    let (options, database) = (args.server(), args.store()?);
    let listeners = 1 + usize::from(!args.http_listen.is_empty());
    let connections = options.max_connections.saturating_mul(listeners);
    descriptors::make_room(connections, database.pool_size);
    let (tls, watcher) = match args.tls.files()? {
        Some(files) => {
            let (tls, watcher) = Tls::load(files)?;
            (Some(tls), Some(watcher))
        }
        None => (None, None),
    };
    if let Some(tls) = &tls {
        tls.observe(&telemetry.metrics);
    }
    let for_http = tls
        .as_ref()
        .filter(|_| args.tls.http_tls)
        .map(Tls::for_http);
    let tls = [tls.as_ref(), for_http.as_ref()];
    let http = Some(&*args.http_listen).filter(|addresses| !addresses.is_empty());
    let doors = Doors::open(&args.listen, http.as_slice(), tls).await?;
    // Also without TLS: nobody who says it means to end the process.
    let hangups = lifecycle::hangups()?;
    if let Some(watcher) = watcher {
        let clock = Arc::new(SystemClock::default());
        tokio::spawn(watcher.run(args.tls.tls_poll_interval, hangups, clock));
    }
    let store = open(&database);
    if let Some(file) = args.database.file() {
        let rotation = Rotation {
            file,
            store: store.clone(),
            trouble: None,
        };
        tokio::spawn(rotation.run(args.secret_poll_interval, lifecycle::hangups()?));
    }
    let (tell, told) = oneshot::channel();
    let ready = async {
        // One that will never be ready is not served for long.
        if told.await.is_err() {
            pending::<()>().await;
        }
    };
    let check = async {
        until_ready(&store).await?;
        // Gone only where the server has ended.
        tell.send(()).ok();
        pending::<Result<Infallible, Failure>>().await
    };
    tokio::select! {
        // In this order: first it says where it serves.
        biased;
        served = serve(ready, store.clone(), doors, options, telemetry) => served,
        Err(failure) = check => Err(failure),
    }
}

/// Where callers come in.
pub(super) struct Doors {
    pub(super) grpc: Listeners,
    pub(super) http: Option<Listeners>,
}

impl Doors {
    /// Opens them, for gRPC and for HTTP with the TLS of each; for HTTP the first of the
    /// alternatives whose addresses are all free.
    ///
    /// # Errors
    /// Each says what to do.
    pub(super) async fn open(
        grpc: &[Address],
        http: &[&[Address]],
        [for_grpc, for_http]: [Option<&Tls>; 2],
    ) -> Result<Self, Failure> {
        let failed = |error: ListenError, option: &str| {
            Failure::new(format_args!(
                "{error}; choose another address with {option}"
            ))
        };
        let grpc = Listeners::open(grpc, for_grpc).await;
        let grpc = grpc.map_err(|error| failed(error, "--listen"))?;
        let mut refused = None;
        for addresses in http {
            match Listeners::open(addresses, for_http).await {
                Ok(http) => {
                    let http = Some(http);
                    return Ok(Self { grpc, http });
                }
                Err(error) => refused = Some(error),
            }
        }
        match refused {
            None => Ok(Self { grpc, http: None }),
            Some(error) => Err(failed(error, "--http-listen")),
        }
    }
}

/// Serves until a signal says to stop. A second one ends whatever is under way, the last
/// export as well.
pub(super) async fn serve(
    ready: impl Future<Output = ()> + Send + 'static,
    store: Store,
    doors: Doors,
    options: Options,
    telemetry: Telemetry,
) -> Result<Ended, Failure> {
    let stop = lifecycle::signals()?;
    // The same signals, for what comes when the server has ended.
    let mut told = lifecycle::signals()?;
    let told_twice = async move {
        told.recv().await;
        told.recv().await;
    };
    if let Some(http) = &doors.http {
        for address in http.addresses()? {
            tracing::info!(%address, "HTTP is on {address}");
        }
    }
    for address in doors.grpc.addresses()? {
        tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "serving on {address}");
    }
    let server = Server {
        store,
        options,
        metrics: telemetry.metrics.clone(),
        sampling: telemetry.sampling.clone(),
        grpc: doors.grpc.incoming(),
        http: stream::iter(doors.http).flat_map(Listeners::incoming),
    };
    let ended = server.run_when(ready, stop).await;
    match ended {
        Ended::Drained => tracing::info!("stopped: every call under way was finished"),
        Ended::CutOff => tracing::warn!("stopped before every call under way was finished"),
    }
    tokio::select! {
        // In this order: where nothing is exported, nothing is lost either.
        biased;
        () = telemetry.stop(EXPORT_PATIENCE.min(options.drain_timeout)) => {}
        () = told_twice => tracing::warn!("told again to stop: not all telemetry was exported"),
    }
    Ok(ended)
}

/// Waits until the database answers and is what this version needs. Postgres may
/// start later than this process, or just be failing over.
///
/// # Errors
/// Where waiting is no cure: a wrong password, no such database, a migration that is
/// missing.
async fn until_ready(store: &Store) -> Result<(), Failure> {
    let mut pause = FIRST_PAUSE;
    let mut told: Option<(String, Instant)> = None;
    loop {
        // The URL may be replaced meanwhile.
        let place = store.place();
        let Some(why) = obstacle(store).await? else {
            if told.is_some() {
                tracing::info!("Postgres at {place} answers");
            }
            return Ok(());
        };
        let is_news = told
            .as_ref()
            .is_none_or(|(last, at)| *last != why || at.elapsed() >= REMINDER);
        if is_news {
            tracing::warn!("waiting for Postgres at {place}: {why}");
            told = Some((why, Instant::now()));
        }
        let mut chance = [0];
        store.entropy().fill(&mut chance);
        let part = f64::midpoint(1.0, f64::from(chance[0]) / f64::from(u8::MAX));
        tokio::time::sleep(pause.mul_f64(part)).await;
        pause = LAST_PAUSE.min(pause * 2);
    }
}

/// Why the database cannot be used yet.
async fn obstacle(store: &Store) -> Result<Option<String>, Failure> {
    match store.probe().await {
        Ok(()) => {}
        Err(NoConnection::Away(why)) => return Ok(Some(why)),
        Err(NoConnection::Refused(why)) => {
            let place = store.place();
            return Err(Failure::new(format_args!(
                "Postgres at {place} refuses us ({why}): correct --database-url or --database-url-file, or what \
                 it names"
            )));
        }
    }
    match store.pending_migrations().await {
        Ok(pending) if pending.is_empty() => Ok(None),
        Ok(pending) => Err(lacks(&pending)),
        // It went away again.
        Err(error @ (StoreError::Unavailable(_) | StoreError::Overloaded(_))) => {
            Ok(Some(causes(&error)))
        }
        Err(error) => Err(error.into()),
    }
}

/// Refuses a database that is not what this version needs.
pub(super) async fn check_migrations(store: &Store) -> Result<(), Failure> {
    let pending = store.pending_migrations().await?;
    if pending.is_empty() {
        return Ok(());
    }
    Err(lacks(&pending))
}

fn lacks(pending: &[String]) -> Failure {
    Failure::new(format_args!(
        "the database lacks {} migrations ({}): apply them with `hitkeep-auth migrate`",
        pending.len(),
        pending.join(", "),
    ))
}
