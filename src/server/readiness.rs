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

/// Keeps the report up to date.
pub(super) struct Watch {
    pub(super) replica: Replica,
    pub(super) scope: Scope,
    pub(super) health: Arc<Reporter>,
    pub(super) supervisor: Supervisor,
    /// What was reported last; `None` before the first report.
    pub(super) last: Option<Readiness>,
}

impl Watch {
    /// Reports the readiness, and logs its changes: also that a server serves from the first
    /// report on, because its index was loaded before.
    pub(super) fn report(&mut self) {
        let readiness = Readiness::of(&self.replica, self.scope);
        self.health.report(readiness);
        let last = self.last.replace(readiness);
        if last.is_none_or(|last| last.introspects != readiness.introspects) {
            self.supervisor.introspection(readiness.introspects);
        }
        let last = last.unwrap_or(Readiness::NONE);
        if readiness.introspects != last.introspects {
            log_change("introspection", readiness.introspects);
        }
        if readiness.manages != last.manages {
            log_change("management", readiness.manages);
        }
    }

    /// Reports every change. Runs until aborted.
    pub(super) async fn run(mut self) {
        let mut progress = self.replica.progress();
        // Something may have changed since the last report.
        progress.mark_changed();
        loop {
            // Readiness may change with each step of the feed, and merely with time.
            if let Ok(Err(_)) = timeout(HEALTH_INTERVAL, progress.changed()).await {
                return;
            }
            self.report();
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{super::health, *};
    use crate::{
        client::follow::{Intake as _, SourceTime},
        domain::{Position, clock::Clock, index::Writer},
        replica::ReplicaOptions,
        system::SystemClock,
        telemetry::{logged::Logged, metrics::Metrics},
    };

    #[tokio::test]
    async fn a_server_that_serves_from_the_first_report_on_says_so() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let asked_at = clock.elapsed();
        let (replica, _recorded) = Replica::fed_by(
            clock,
            ReplicaOptions::default(),
            &Metrics::default(),
            move |intake| async move {
                let staleness = Duration::ZERO;
                let version = Writer::default().version(Position::UNKNOWN);
                intake.publish_whole(
                    version,
                    &SourceTime {
                        asked_at,
                        staleness,
                    },
                );
                std::future::pending::<()>().await;
            },
        );
        let deadline = Instant::now() + Duration::from_mins(1);
        replica.loaded_view(deadline).await.unwrap();
        let (health, _service) = health::service(Scope::Index);
        let mut watch = Watch {
            replica,
            scope: Scope::Index,
            health: Arc::new(health),
            supervisor: Supervisor::at(None),
            last: None,
        };
        let logged = Logged::from_here();
        for _ in 0..2 {
            watch.report();
            let lines = logged.lines();
            let [line] = &*lines else { panic!("{lines:?}") };
            assert!(line.ends_with("introspection serves"), "{line}");
        }
    }
}
