//! Follows a server's index, for a process that has no way to the database: the client's side
//! of `ReplicationService`. `hitkeep-auth replica` is made of it, and so is
//! [`Authenticator::embedded`](crate::Authenticator::embedded), which is what programs use.
//!
//! [`follow`] keeps a replication with one of several servers, applies what it is sent, and
//! proves with questions how fresh it is; a [`Reporter`] reports the uses that were counted.

use std::{sync::Arc, time::Duration};

mod connect;
mod copy;
mod follower;
mod hints;
mod intake;
mod questions;
mod session;
mod supervisor;
mod usage;
pub mod wire;

use hitkeep_auth_domain::{clock::Entropy, id::ReplicaId, ledger::Recorded};
use tonic::Status;

use crate::{client::LONGEST, target::Target, tls::Certificates};
pub use connect::{Link, NoToken, TokenSource};
use follower::Follower;
pub use intake::{Intake, RefreshNumber, SourceTime, age, nanoseconds};
pub use supervisor::supervise;
pub use usage::{NotPassedOn, Reporter};

/// The servers upstream, and how this process authenticates to them.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// The servers, of which one is followed at a time. At least one.
    pub targets: Vec<Target>,
    /// The token of the service account with the permission `replicate`.
    pub token: TokenSource,
    /// How servers are verified, and the own certificate.
    pub certificates: Arc<Certificates>,
    /// Whether the names of API clients are left out.
    pub without_names: bool,
}

/// Receives what happens, for metrics.
pub trait Observer: Clone + Send + Sync + 'static {
    /// A server is followed.
    fn followed(&self) {}

    /// A report of uses ended so, after that time.
    fn reported(&self, _result: &Result<(), Status>, _took: Duration) {}

    /// The uses of so many clients are not reported.
    fn unreported(&self, _clients: usize) {}
}

impl Observer for () {}

/// One who follows, from its start to its end.
#[derive(Clone)]
pub struct Identity {
    /// Its own id.
    pub id: ReplicaId,
    /// The servers.
    pub upstream: Arc<Upstream>,
    /// The connection to the one that is followed.
    pub link: Arc<Link>,
    /// Where chance comes from.
    pub entropy: Arc<dyn Entropy>,
    /// The staleness that the index must not reach.
    pub max_staleness: Duration,
}

/// Follows one server at a time, and never ends.
pub async fn follow<I: Intake, O: Observer>(who: Identity, intake: I, observer: O) {
    let limits = Limits::of(who.max_staleness);
    Follower::new(who, limits, intake, observer).run().await;
}

/// What reports the uses that are recorded.
pub fn reporter<O: Observer>(who: &Identity, recorded: Recorded, observer: O) -> Reporter<O> {
    Reporter::new(who.id, recorded, Arc::clone(&who.link), observer)
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

    fn of(max_staleness: Duration) -> Self {
        let share = |parts| (max_staleness / parts).clamp(Self::LEAST, Self::MOST);
        Self {
            connect: share(4),
            ping: share(8),
            silence: share(4),
            useless: (max_staleness / 2).clamp(Self::LEAST, LONGEST),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn however_large_the_bound_is_a_limit_can_be_added_to_a_time() {
        let Limits {
            connect,
            ping,
            silence,
            useless,
        } = Limits::of(Duration::MAX);
        for limit in [connect, ping, silence, useless] {
            assert!(Instant::now().checked_add(limit).is_some(), "{limit:?}");
        }
    }
}
