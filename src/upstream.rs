//! Follows another server's index, for a process that has no way to the database: the
//! client's side of `ReplicationService`.
//!
//! [`follow`] starts a task that keeps a replication with one of several servers upstream,
//! applies what it is sent, and proves with questions how fresh it is; and one that reports
//! the uses that were counted here.

use std::{sync::Arc, time::Duration};

mod connect;
mod copy;
mod follower;
mod questions;
mod session;
mod usage;

pub use crate::client::{
    target::{BadTarget, Target},
    tls::Certificates,
};
use crate::{
    domain::{
        clock::{Clock, Entropy},
        id::ReplicaId,
        ledger::Recorded,
    },
    grpc::replication::UsageDestination,
    replica::{Replica, ReplicaOptions, UsageWriter},
    telemetry::metrics::Metrics,
};
use connect::Link;
pub use connect::{NoToken, TokenSource};
use follower::Follower;
use usage::{Forwarder, Reporter};

/// The servers upstream, and how this process authenticates to them.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// The servers, of which one is followed at a time. At least one.
    pub targets: Vec<Target>,
    /// The token of the service account with the permission `replicate`.
    pub token: TokenSource,
    /// How servers are verified, and the own certificate.
    pub certificates: Certificates,
    /// Whether the names of API clients are left out.
    pub without_names: bool,
}

/// The parts of a process that follows a server.
pub(crate) struct Following {
    /// The index.
    pub(crate) replica: Replica,
    /// Writes what is counted here.
    pub(crate) usage: UsageWriter,
    /// Passes on what replicas of this process counted.
    pub(crate) reports: Arc<dyn UsageDestination>,
}

/// Starts to follow. It ends with the last handle to the replica.
pub(crate) fn follow(
    upstream: Upstream,
    clock: Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
    options: ReplicaOptions,
    metrics: &Metrics,
) -> Following {
    let id = ReplicaId::mint(clock.now(), &**entropy);
    let limits = Limits::of(&options);
    let link = Arc::new(Link::default());
    let upstream = Arc::new(upstream);
    let feed = {
        let (link, entropy, metrics) = (Arc::clone(&link), Arc::clone(entropy), metrics.clone());
        move |intake| {
            let (upstream, link) = (Arc::clone(&upstream), Arc::clone(&link));
            let (entropy, metrics) = (Arc::clone(&entropy), metrics.clone());
            Follower::new(id, upstream, limits, link, entropy, intake, metrics).run()
        }
    };
    let (replica, recorded): (_, Recorded) = Replica::fed_by(clock, options, metrics, feed);
    let reporter = Reporter::new(id, recorded, Arc::clone(&link), metrics.clone());
    let usage = UsageWriter::start(|stopped| reporter.run(options.usage, stopped));
    Following {
        replica,
        usage,
        reports: Arc::new(Forwarder::new(link)),
    }
}

/// Timeouts, all well inside the bound on staleness: what fails is noticed, and another
/// server asked, before the index is too old.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Of connecting, with TLS.
    connect: Duration,
    /// Between two pings of HTTP/2, and from a ping to its answer.
    ping: Duration,
    /// Without a message on the stream, though there is a question.
    silence: Duration,
    /// Without proof that the index is fresh, if another server may have it.
    useless: Duration,
}

impl Limits {
    /// The shortest timeout: none is due to a busy machine.
    const LEAST: Duration = Duration::from_millis(200);
    /// The longest timeout of what fails, however large the bound is.
    const MOST: Duration = Duration::from_secs(10);

    fn of(options: &ReplicaOptions) -> Self {
        let share = |parts| (options.max_staleness / parts).clamp(Self::LEAST, Self::MOST);
        Self {
            connect: share(4),
            ping: share(8),
            silence: share(4),
            useless: (options.max_staleness / 2).max(Self::LEAST),
        }
    }
}
