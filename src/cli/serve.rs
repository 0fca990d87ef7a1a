//! `serve`: the service with an external Postgres.

use std::{
    convert::Infallible,
    future::pending,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{
    Failure,
    descriptors::{self, Descriptors},
    open,
    rotation::UrlReloader,
};
use crate::{
    config::{ServeArgs, ServingArgs},
    events::{self, Deliverer, Webhook},
    server::{Backend, Ended, Options, Server, signals},
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

/// The first and the longest delay before Postgres is tried again. Half of each delay is
/// random, because all servers of an installation wait for the same Postgres.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// How often the log repeats that the server is waiting.
const REMINDER: Duration = Duration::from_mins(1);

/// The limit of the last export, unless the drain timeout is shorter. The export comes last,
/// and an unresponsive collector must not delay a restart.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(3);

pub(super) async fn run(args: &ServeArgs, telemetry: Telemetry) -> Result<Ended, Failure> {
    let (options, database, webhook) = (args.server()?, args.store()?, args.events.webhook()?);
    let mut stop = signals::termination()?;
    let listeners = listen(&args.serving, &options, database.pool_size, &telemetry).await?;
    let store = open(&database);
    if let Some(file) = args.database.file() {
        let reloader = UrlReloader {
            file,
            store: store.clone(),
            last_error: None,
        };
        tokio::spawn(reloader.run(args.secret_poll_interval, signals::hangups()?));
    }
    let deliverer = webhook
        .map(|webhook| deliverer(webhook, &options, &store, &telemetry))
        .transpose()?;
    // A standby takes no writes: there, events are those that other servers write.
    let begins_events = deliverer.is_some() && !args.allows_standby();
    let (report_ready, is_ready) = oneshot::channel();
    let (report_usable, is_usable) = oneshot::channel();
    let delivery = deliverer.map(|deliverer| Delivery::start(deliverer, is_usable));
    let delivery = delivery.transpose()?;
    let ready = async {
        // A server that will not become ready ends soon.
        if is_ready.await.is_err() {
            pending::<()>().await;
        }
    };
    let check = async {
        wait_until_ready(&store, begins_events).await?;
        // The receiver is gone only if the server has ended.
        report_ready.send(()).ok();
        // Without a webhook, no task waits for it.
        report_usable.send(()).ok();
        pending::<Result<Infallible, Failure>>().await
    };
    let ended = tokio::select! {
        // In this order: the listeners' addresses are logged first.
        biased;
        served = serve(ready, store.clone(), listeners, options, telemetry, &mut stop) => served,
        Err(failure) = check => Err(failure),
    };
    if let Some(delivery) = delivery {
        delivery.finish(&ended, &mut stop).await;
    }
    ended
}

/// Prepares the delivery of events.
fn deliverer(
    webhook: Webhook,
    options: &Options,
    store: &Store,
    telemetry: &Telemetry,
) -> Result<Deliverer, Failure> {
    let defaults = events::DeliveryOptions::default();
    let options = events::DeliveryOptions {
        drain_timeout: defaults.drain_timeout.min(options.drain_timeout),
        ..defaults
    };
    Ok(Deliverer::new(
        webhook,
        options,
        store.clone(),
        &telemetry.metrics,
    )?)
}

/// The task that delivers events, beside the server. It starts no attempt after the first stop
/// signal, and ends no later than calls in flight may.
struct Delivery {
    task: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl Delivery {
    /// Delivers once the database is usable.
    fn start(deliverer: Deliverer, usable: oneshot::Receiver<()>) -> Result<Self, Failure> {
        let mut signals = signals::termination()?;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let stop = async move {
                tokio::select! {
                    _ = signals.recv() => {}
                    // Also if it is dropped.
                    _ = stopped => {}
                }
            };
            let mut stop = Box::pin(stop);
            tokio::select! {
                () = &mut stop => return,
                usable = usable => if usable.is_err() {
                    return;
                },
            }
            deliverer.run(stop).await;
        });
        Ok(Self { task, stop })
    }

    /// Stops, and waits for the end of attempts in flight, unless another signal comes or has
    /// cut off the server.
    async fn finish(mut self, ended: &Result<Ended, Failure>, stop: &mut mpsc::Receiver<()>) {
        self.stop.send(()).ok();
        let interrupted = async {
            if !matches!(ended, Ok(Ended::Interrupted)) {
                stop.recv().await;
            }
        };
        tokio::select! {
            // In this order: if nothing is in flight, nothing is sent again either.
            biased;
            ended = &mut self.task => if let Err(error) = ended {
                tracing::error!(%error, "the delivery of events failed");
            },
            () = interrupted => {
                self.task.abort();
                tracing::warn!("another stop signal: an event in flight may be sent again");
            }
        }
    }
}

/// Opens the listeners with their TLS, whose files are watched, and makes sure that there are
/// enough file descriptors.
pub(super) async fn listen(
    args: &ServingArgs,
    options: &Options,
    others: usize,
    telemetry: &Telemetry,
) -> Result<ServeListeners, Failure> {
    let listeners = 1 + usize::from(!args.http_listen.is_empty());
    let connections = options.max_connections.saturating_mul(listeners);
    descriptors::ensure_limit(Descriptors {
        connections,
        pool_size: others,
        threads: options.threads,
    });
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
    let listeners = ServeListeners::open(&args.listen, http.as_slice(), tls).await?;
    // Handled without TLS as well: an operator who sends SIGHUP does not mean to end the process.
    let hangups = signals::hangups()?;
    if let Some(watcher) = watcher {
        let clock = Arc::new(SystemClock::default());
        tokio::spawn(watcher.run(args.tls.tls_poll_interval, hangups, clock));
    }
    Ok(listeners)
}

pub(super) struct ServeListeners {
    pub(super) grpc: Listeners,
    pub(super) http: Option<Listeners>,
}

impl ServeListeners {
    pub(super) fn log_addresses(&self) -> Result<(), Failure> {
        if let Some(http) = &self.http {
            for address in http.addresses()? {
                tracing::info!(%address, "serving HTTP on {address}");
            }
        }
        for address in self.grpc.addresses()? {
            tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "serving on {address}");
        }
        Ok(())
    }

    /// Opens the listeners for gRPC and HTTP. For HTTP, it uses the first of the alternatives
    /// whose addresses are all free.
    ///
    /// # Errors
    /// If an address cannot be opened; the message says what to do.
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

/// Serves until a message on `stop`. Each further one ends what the server waits for then, and
/// finally the last export.
pub(super) async fn serve(
    ready: impl Future<Output = ()> + Send + 'static,
    store: Store,
    listeners: ServeListeners,
    options: Options,
    telemetry: Telemetry,
    stop: &mut mpsc::Receiver<()>,
) -> Result<Ended, Failure> {
    listeners.log_addresses()?;
    let ready = Box::pin(ready);
    let server = Server {
        backend: Backend::Database { store, ready },
        options,
        metrics: telemetry.metrics.clone(),
        sampling: telemetry.sampling.clone(),
        grpc: listeners.grpc.incoming(),
        http: stream::iter(listeners.http).flat_map(Listeners::incoming),
    };
    let ended = server.run(stop).await;
    export_last(ended, stop, &options, telemetry).await;
    Ok(ended)
}

/// Logs how the server ended, and exports the last telemetry. A signal that has cut off the
/// server, or comes during the export, ends it: its sender is waiting.
pub(super) async fn export_last(
    ended: Ended,
    stop: &mut mpsc::Receiver<()>,
    options: &Options,
    telemetry: Telemetry,
) {
    match ended {
        Ended::Drained => tracing::info!("stopped: every call in flight was finished"),
        Ended::TimedOut | Ended::Interrupted => {
            tracing::warn!("stopped before every call in flight was finished");
        }
    }
    let interrupted = async {
        if ended != Ended::Interrupted {
            stop.recv().await;
        }
    };
    tokio::select! {
        // In this order: if nothing is exported, nothing is lost either.
        biased;
        () = telemetry.stop(EXPORT_TIMEOUT.min(options.drain_timeout)) => {}
        () = interrupted => tracing::warn!("another stop signal: not all telemetry was exported"),
    }
}

/// Waits until the database is available and has the expected schema, and has events written if
/// this process is to deliver them. Postgres may start later than this process, or be failing
/// over.
///
/// # Errors
/// If waiting does not help: a wrong password, a missing database or a missing migration.
async fn wait_until_ready(store: &Store, begins_events: bool) -> Result<(), Failure> {
    let mut pause = FIRST_PAUSE;
    let mut logged: Option<(String, Instant)> = None;
    loop {
        // The URL may be replaced while waiting.
        let place = store.place();
        let Some(why) = obstacle(store, begins_events).await? else {
            if logged.is_some() {
                tracing::info!("Postgres at {place} is available");
            }
            return Ok(());
        };
        let is_new = logged
            .as_ref()
            .is_none_or(|(last, at)| *last != why || at.elapsed() >= REMINDER);
        if is_new {
            tracing::warn!("waiting for Postgres at {place}: {why}");
            logged = Some((why, Instant::now()));
        }
        let mut chance = [0];
        store.entropy().fill(&mut chance);
        let part = f64::midpoint(1.0, f64::from(chance[0]) / f64::from(u8::MAX));
        tokio::time::sleep(pause.mul_f64(part)).await;
        pause = LAST_PAUSE.min(pause * 2);
    }
}

/// Why the database cannot be used yet.
async fn obstacle(store: &Store, begins_events: bool) -> Result<Option<String>, Failure> {
    match store.probe().await {
        Ok(()) => {}
        Err(NoConnection::Unreachable(why)) => return Ok(Some(why)),
        Err(NoConnection::Refused(why)) => {
            let place = store.place();
            return Err(Failure::new(format_args!(
                "Postgres at {place} refuses us ({why}): correct --database-url or --database-url-file, or what \
                 it names"
            )));
        }
    }
    let usable = async {
        let pending = store.pending_migrations().await?;
        if pending.is_empty() && begins_events {
            store.begin_events().await?;
        }
        Ok(pending)
    };
    match usable.await {
        Ok(pending) if pending.is_empty() => Ok(None),
        Ok(pending) => Err(missing_migrations(&pending)),
        // It became unavailable again, or takes no writes yet.
        Err(error @ (StoreError::Unavailable(_) | StoreError::Overloaded(_))) => {
            Ok(Some(causes(&error)))
        }
        Err(error) => Err(error.into()),
    }
}

/// Refuses a database that lacks migrations.
pub(super) async fn check_migrations(store: &Store) -> Result<(), Failure> {
    let pending = store.pending_migrations().await?;
    if pending.is_empty() {
        return Ok(());
    }
    Err(missing_migrations(&pending))
}

fn missing_migrations(pending: &[String]) -> Failure {
    Failure::new(format_args!(
        "the database lacks {} ({}): run `hitkeep-auth migrate`",
        super::counted(pending.len(), "migration"),
        pending.join(", "),
    ))
}
