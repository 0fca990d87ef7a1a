//! Health as it changes, and the signals that end the process.

use std::{sync::Arc, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc},
    time::timeout,
};
use tonic::server::NamedService;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    grpc::Services,
    pb::{
        api_client_service_server::ApiClientServiceServer,
        audit_service_server::AuditServiceServer, directory_service_server::DirectoryServiceServer,
        envoy::service::auth::v3::authorization_server::AuthorizationServer,
        introspection_service_server::IntrospectionServiceServer,
    },
    replica::Replica,
};

/// How often health is looked at, where nothing else gives cause to.
const HEALTH_INTERVAL: Duration = Duration::from_millis(500);
/// What answers from the index: the server as a whole, since that is what most ask
/// it for, introspection, and Envoy's check.
const FROM_INDEX: [&str; 3] = [
    "",
    IntrospectionServiceServer::<Services>::NAME,
    AuthorizationServer::<Services>::NAME,
];
/// What works on the database.
const ON_DATABASE: [&str; 3] = [
    ApiClientServiceServer::<Services>::NAME,
    DirectoryServiceServer::<Services>::NAME,
    AuditServiceServer::<Services>::NAME,
];

/// What the server can do right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ability {
    /// Whether introspection can answer.
    introspects: bool,
    /// Whether the database answers.
    manages: bool,
}

impl Ability {
    fn of(replica: &Replica) -> Self {
        Self {
            introspects: replica.require_fresh().is_ok(),
            manages: replica.progress().borrow().reaches_database(),
        }
    }
}

/// Reports what can be done right now.
pub(super) async fn report_health(replica: &Replica, health: &HealthReporter) -> Ability {
    let ability = Ability::of(replica);
    set(health, &FROM_INDEX, ability.introspects).await;
    set(health, &ON_DATABASE, ability.manages).await;
    ability
}

/// Keeps the report true, and says in the log when it changes. Until aborted.
/// Only a change is reported: those who watch are sent whatever is reported.
pub(super) async fn watch_health(replica: Replica, health: HealthReporter, mut last: Ability) {
    let mut progress = replica.progress();
    loop {
        // Each step of the feed may change it, and so does the time by itself.
        if let Ok(Err(_)) = timeout(HEALTH_INTERVAL, progress.changed()).await {
            return;
        }
        let ability = Ability::of(&replica);
        if ability.introspects != last.introspects {
            set(&health, &FROM_INDEX, ability.introspects).await;
            tell("introspection", ability.introspects);
        }
        if ability.manages != last.manages {
            set(&health, &ON_DATABASE, ability.manages).await;
            tell("management", ability.manages);
        }
        last = ability;
    }
}

fn tell(what: &str, serving: bool) {
    if serving {
        tracing::info!("{what} serves");
    } else {
        tracing::warn!("{what} does not serve");
    }
}

/// Reports `NOT_SERVING`, and ends the streams of those who watch: a drain would
/// wait for them.
pub(super) async fn end_health(mut health: HealthReporter) {
    for services in [&FROM_INDEX[..], &ON_DATABASE] {
        set(&health, services, false).await;
        for service in services {
            health.clear_service_status(service).await;
        }
    }
}

async fn set(health: &HealthReporter, services: &[&str], serving: bool) {
    let status = if serving {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    };
    for service in services {
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

/// SIGHUP, as word for what reads files again.
///
/// # Errors
/// Where the handler cannot be set.
pub fn hangups() -> std::io::Result<Arc<Notify>> {
    let mut hangup = signal(SignalKind::hangup())?;
    let told = Arc::new(Notify::new());
    let tells = Arc::clone(&told);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            tells.notify_one();
        }
    });
    Ok(told)
}
