//! The limit of open files, which includes connections. At the limit, neither callers can
//! connect to the server, nor the server to its database.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files other than callers' and pooled connections: listeners, the feed's two connections,
/// the event queues of threads, exporters, and files that are read.
const OTHERS: u64 = 100;

/// Raises the limit of open files for that many connections as far as possible, and logs a
/// warning if it is too low.
pub(super) fn ensure_limit(connections: usize, pool_size: usize) {
    let limit = raise();
    let needed = needed(connections, pool_size);
    if let Some(limit) = limit.filter(|limit| *limit < needed) {
        tracing::warn!(
            limit,
            needed,
            "the limit of open files is {limit}, and {connections} connections \
             (--max-connections on each listener) with {pool_size} to Postgres need {needed}: raise \
             the hard limit (ulimit -Hn, LimitNOFILE=), or lower --max-connections"
        );
    }
}

/// The hard limit, to which `serve` raises the limit, and how many files so many connections
/// need. `None` means unlimited.
pub(super) fn limit_and_need(connections: usize, pool_size: usize) -> (Option<u64>, u64) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    (maximum, needed(connections, pool_size))
}

/// Raises the limit to the hard limit and returns it; `None` means unlimited. The usual soft
/// limit of 1024 exists for programs that call `select`, which this one does not.
fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let highest = Rlimit {
        current: maximum,
        maximum,
    };
    match setrlimit(Resource::Nofile, highest) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files cannot be raised: {error}");
            current
        }
    }
}

fn needed(connections: usize, pool_size: usize) -> u64 {
    let connections = connections.saturating_add(pool_size);
    u64::try_from(connections).map_or(u64::MAX, |connections| connections.saturating_add(OTHERS))
}
