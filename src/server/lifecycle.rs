//! Health as it changes, and the signals that end the process.

use std::time::Duration;

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{sleep, timeout},
};
use tonic::server::NamedService;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    grpc::Services,
    pb::{
        api_client_service_server::ApiClientServiceServer,
        audit_service_server::AuditServiceServer, directory_service_server::DirectoryServiceServer,
        introspection_service_server::IntrospectionServiceServer,
    },
    store::Store,
};

/// How often the database is asked whether introspection can answer.
const HEALTH_INTERVAL: Duration = Duration::from_secs(2);
/// The server as a whole, and each service by its name.
const SERVICES: [&str; 5] = [
    "",
    ApiClientServiceServer::<Services>::NAME,
    IntrospectionServiceServer::<Services>::NAME,
    DirectoryServiceServer::<Services>::NAME,
    AuditServiceServer::<Services>::NAME,
];

/// Reports SERVING if introspection can answer right now.
pub(super) async fn report_health(store: &Store, health: &HealthReporter) -> ServingStatus {
    let status = status(store).await;
    set_all(health, status).await;
    status
}

/// Keeps the report true, and says in the log when it changes. Until aborted.
/// Only a change is reported: those who watch are sent whatever is reported.
#[expect(clippy::infinite_loop, reason = "it is a task, and aborted")]
pub(super) async fn watch_health(store: Store, health: HealthReporter, mut last: ServingStatus) {
    loop {
        sleep(HEALTH_INTERVAL).await;
        let status = status(&store).await;
        if status != last {
            tracing::warn!("health is now {status}");
            set_all(&health, status).await;
            last = status;
        }
    }
}

async fn status(store: &Store) -> ServingStatus {
    // A database that does not answer is as good as none.
    match timeout(HEALTH_INTERVAL, store.look_up(None)).await {
        Ok(Ok(_)) => ServingStatus::Serving,
        Ok(Err(_)) | Err(_) => ServingStatus::NotServing,
    }
}

/// Reports `NOT_SERVING`, and ends the streams of those who watch: a drain would
/// wait for them.
pub(super) async fn end_health(mut health: HealthReporter) {
    set_all(&health, ServingStatus::NotServing).await;
    for service in SERVICES {
        health.clear_service_status(service).await;
    }
}

async fn set_all(health: &HealthReporter, status: ServingStatus) {
    for service in SERVICES {
        health.set_service_status(service, status).await;
    }
}

/// SIGTERM and SIGINT, as messages for [`super::serve`].
///
/// # Errors
/// Where the handlers cannot be set.
pub fn signals() -> std::io::Result<mpsc::Receiver<()>> {
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
