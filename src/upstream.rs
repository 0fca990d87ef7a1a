//! Follows another server's index, for a process that has no way to the database. The way to
//! do that is `client::follow`, which programs use as well; here it feeds a replica.

use std::{sync::Arc, time::Duration};

use tonic::Status;

pub use crate::client::{
    follow::{NoToken, TokenSource, Upstream},
    target::{BadTarget, Target},
    tls::{Authorities, Certificates},
};
use crate::{
    client::follow::{
        Identity, Link, NotPassedOn, Observer, follow as follow_servers, reporter,
        wire::to_usage_report,
    },
    domain::{
        clock::{Clock, Entropy},
        id::ReplicaId,
        ledger::Recorded,
    },
    grpc::{
        error::{ApiError, Violation},
        replication::{UsageDestination, UsageReport},
    },
    live_index::{IndexOptions, LiveIndex, UsageWriter},
    telemetry::metrics::{FeedConnection, Metrics, WriteResult},
};

/// The parts of a process that follows a server.
pub(crate) struct Following {
    /// The index.
    pub(crate) index: LiveIndex,
    /// Writes what is counted here.
    pub(crate) usage: UsageWriter,
    /// Passes on what replicas of this process counted.
    pub(crate) reports: Arc<dyn UsageDestination>,
}

/// Starts to follow. It ends with the last handle to the index.
pub(crate) fn follow(
    upstream: Upstream,
    clock: Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
    options: IndexOptions,
    metrics: &Metrics,
) -> Following {
    for target in upstream
        .targets
        .iter()
        .filter(|target| target.is_readable())
    {
        tracing::warn!(
            "the connection to {target} is not encrypted: who listens on the way has the token"
        );
    }
    let who = Identity {
        id: ReplicaId::mint(clock.now(), &**entropy),
        upstream: Arc::new(upstream),
        link: Arc::new(Link::default()),
        entropy: Arc::clone(entropy),
        max_staleness: options.max_staleness,
    };
    let counted = Counted(metrics.clone());
    let feed = {
        let (who, counted) = (who.clone(), counted.clone());
        move |intake| follow_servers(who.clone(), intake, counted.clone())
    };
    let (index, recorded): (_, Recorded) = LiveIndex::fed_by(clock, options, metrics, feed);
    let reporter = reporter(&who, recorded, counted);
    let interval = options.usage.flush_interval;
    let usage = UsageWriter::start(|stopped| reporter.run(interval, stopped));
    Following {
        index,
        usage,
        reports: Arc::new(Forwarder { link: who.link }),
    }
}

/// Counts what happens.
#[derive(Clone)]
struct Counted(Metrics);

impl Observer for Counted {
    fn followed(&self) {
        self.0.feed_connected(FeedConnection::Upstream);
    }

    fn reported(&self, result: &Result<(), Status>, took: Duration) {
        self.0.flush(WriteResult::from(result), took);
    }

    fn unreported(&self, clients: usize) {
        self.0.pending_usage(clients);
    }
}

/// Passes on what replicas of this process report, with their own ids and numbers.
struct Forwarder {
    link: Arc<Link>,
}

#[tonic::async_trait]
impl UsageDestination for Forwarder {
    async fn report(&self, report: UsageReport) -> Result<(), ApiError> {
        let UsageReport {
            replica,
            number,
            usage,
        } = report;
        let sent = to_usage_report(replica, number, &usage);
        self.link.pass_on(sent).await.map_err(|failed| {
            if !matches!(failed, NotPassedOn::NoServer) {
                tracing::warn!("a replica's report was not passed on: {failed}");
            }
            match failed {
                // The replica that counted them must not send them again and again: its later
                // uses wait behind them.
                NotPassedOn::Refused(_) => ApiError::InvalidFields(vec![Violation {
                    field: "clients".to_owned(),
                    description: "the server upstream refuses them".to_owned(),
                }]),
                NotPassedOn::NoServer | NotPassedOn::Failed(_) => ApiError::UpstreamUnavailable,
            }
        })
    }
}
