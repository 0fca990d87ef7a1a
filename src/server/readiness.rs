//! Watches the readiness of the server: reports it, and logs its changes.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tonic_health::pb::health_server::{Health, HealthServer};

use super::{
    health::{self, Readiness, Reporter, Scope},
    supervisor::Supervisor,
};
use crate::live_index::{FeedProgress, LiveIndex};

/// How often readiness is checked if the feed reports no progress.
const HEALTH_INTERVAL: Duration = Duration::from_millis(500);

impl Readiness {
    fn of(index: &LiveIndex, scope: Scope) -> Self {
        let reaches = || index.progress().borrow().reaches_database();
        Self {
            introspects: index.require_fresh().is_ok(),
            manages: scope == Scope::Everything && reaches(),
        }
    }
}

/// The reports to health and to the supervisor, until the server shuts down.
pub(super) struct Reporting {
    health: Arc<Reporter>,
    supervisor: Supervisor,
    watch: JoinHandle<()>,
}

impl Reporting {
    /// Reports the readiness now, and every change of it. The health service answers with the
    /// last report.
    pub(super) fn start(
        index: LiveIndex,
        scope: Scope,
        supervisor: Supervisor,
    ) -> (Self, HealthServer<impl Health>) {
        let (health, service) = health::service(scope);
        let health = Arc::new(health);
        let mut watch = Watch::new(index, scope, Arc::clone(&health), supervisor);
        watch.report();
        let reporting = Self {
            health,
            supervisor,
            watch: tokio::spawn(watch.run()),
        };
        (reporting, service)
    }

    /// Reports that the server serves no more. The streams of health's watchers end when what
    /// it returns is dropped.
    pub(super) async fn stop(self) -> Arc<Reporter> {
        self.watch.abort();
        // The task must have ended, or it could overwrite the last report.
        self.watch.await.ok();
        self.health.report(Readiness::NONE);
        self.supervisor.stopping();
        self.health
    }
}

/// Keeps the report up to date.
struct Watch {
    index: LiveIndex,
    progress: watch::Receiver<FeedProgress>,
    scope: Scope,
    health: Arc<Reporter>,
    supervisor: Supervisor,
    /// What was reported last; `None` before the first report.
    last: Option<Readiness>,
}

impl Watch {
    fn new(index: LiveIndex, scope: Scope, health: Arc<Reporter>, supervisor: Supervisor) -> Self {
        Self {
            progress: index.progress(),
            index,
            scope,
            health,
            supervisor,
            last: None,
        }
    }

    /// Reports the readiness, and logs its changes: also that a server serves from the first
    /// report on, because its index was loaded before.
    fn report(&mut self) {
        let readiness = Readiness::of(&self.index, self.scope);
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

    /// Reports every change since the last report. Runs until aborted.
    async fn run(mut self) {
        loop {
            // Readiness may change with each step of the feed, and merely with time.
            if let Ok(Err(_)) = timeout(HEALTH_INTERVAL, self.progress.changed()).await {
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
    use std::{env, ffi::OsString, fs, os::unix::net::UnixDatagram, process};

    use tokio::time::Instant;

    use super::*;
    use crate::{
        client::follow::{Intake as _, SourceTime},
        domain::{Position, clock::Clock, index::Writer},
        live_index::IndexOptions,
        system::SystemClock,
        telemetry::{logged::Logged, metrics::Metrics},
    };

    /// A server whose index was loaded before the first report: the log says that it serves, and
    /// so does the supervisor hear it, once.
    #[tokio::test]
    async fn a_server_that_serves_from_the_first_report_on_says_so() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let asked_at = clock.elapsed();
        let long = Duration::from_hours(1);
        let options = IndexOptions {
            max_staleness: long,
            refresh_timeout: long,
            ..IndexOptions::default()
        };
        let (index, _recorded) = LiveIndex::fed_by(
            clock,
            options,
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
        index.loaded_view(Instant::now() + long).await.unwrap();
        let path = env::temp_dir().join(format!("hka-readiness-{}", process::id()));
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let notify_socket: &'static OsString = Box::leak(Box::new(path.into_os_string()));
        let (health, _service) = health::service(Scope::Index);
        let supervisor = Supervisor::at(Some(notify_socket));
        let mut watch = Watch::new(index, Scope::Index, Arc::new(health), supervisor);
        let logged = Logged::from_here();
        watch.report();
        watch.report();
        fs::remove_file(notify_socket).unwrap();
        let lines = logged.lines();
        let [line] = &*lines else { panic!("{lines:?}") };
        assert!(line.ends_with("introspection serves"), "{line}");
        let mut buffer = [0; 100];
        let length = socket.recv(&mut buffer).unwrap();
        assert!(buffer[..length].starts_with(b"READY=1\n"));
        assert!(socket.recv(&mut buffer).is_err(), "it was told twice");
    }
}
