//! Health as it changes, and the signals that end the process.

use std::{sync::Arc, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc},
    time::timeout,
};

use super::health::{Ability, Reporter};
use crate::replica::Replica;

/// How often health is looked at, where nothing else gives cause to.
const HEALTH_INTERVAL: Duration = Duration::from_millis(500);

impl Ability {
    fn of(replica: &Replica) -> Self {
        Self {
            introspects: replica.require_fresh().is_ok(),
            manages: replica.progress().borrow().reaches_database(),
        }
    }
}

/// Reports what can be done right now.
pub(super) fn report_health(replica: &Replica, health: &Reporter) -> Ability {
    let ability = Ability::of(replica);
    health.report(ability);
    ability
}

/// Keeps the report true, and says in the log when it changes. Until aborted.
pub(super) async fn watch_health(replica: Replica, health: Arc<Reporter>, mut last: Ability) {
    let mut progress = replica.progress();
    loop {
        // Each step of the feed may change it, and so does the time by itself.
        if let Ok(Err(_)) = timeout(HEALTH_INTERVAL, progress.changed()).await {
            return;
        }
        let ability = report_health(&replica, &health);
        if ability.introspects != last.introspects {
            tell("introspection", ability.introspects);
        }
        if ability.manages != last.manages {
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
