//! Watches the readiness of the server: reports it, and logs its changes.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{
    health::{Readiness, Reporter, Scope},
    supervisor::Supervisor,
};
use crate::replica::Replica;

/// How often readiness is checked if the feed reports no progress.
const HEALTH_INTERVAL: Duration = Duration::from_millis(500);

impl Readiness {
    fn of(replica: &Replica, scope: Scope) -> Self {
        let reaches = || replica.progress().borrow().reaches_database();
        Self {
            introspects: replica.require_fresh().is_ok(),
            manages: scope == Scope::Everything && reaches(),
        }
    }
}

pub(super) fn report_health(replica: &Replica, scope: Scope, health: &Reporter) -> Readiness {
    let readiness = Readiness::of(replica, scope);
    health.report(readiness);
    readiness
}

/// Keeps the report up to date.
pub(super) struct Watch {
    pub(super) replica: Replica,
    pub(super) scope: Scope,
    pub(super) health: Arc<Reporter>,
    pub(super) supervisor: Supervisor,
    pub(super) last: Readiness,
}

impl Watch {
    /// Reports and logs changes. Runs until aborted.
    pub(super) async fn run(self) {
        let mut last = self.last;
        let mut progress = self.replica.progress();
        loop {
            // Readiness may change with each step of the feed, and merely with time.
            if let Ok(Err(_)) = timeout(HEALTH_INTERVAL, progress.changed()).await {
                return;
            }
            let readiness = report_health(&self.replica, self.scope, &self.health);
            if readiness.introspects != last.introspects {
                log_change("introspection", readiness.introspects);
                self.supervisor.introspection(readiness.introspects);
            }
            if readiness.manages != last.manages {
                log_change("management", readiness.manages);
            }
            last = readiness;
        }
    }
}

fn log_change(what: &str, serving: bool) {
    if serving {
        tracing::info!("{what} serves");
    } else {
        tracing::warn!("{what} does not serve");
    }
}
