//! The limit of open files, which connections count against. Where it is reached, nothing
//! can be connected any more: no caller to the server, nor the server to its database.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What is open besides connections of callers and those of the pool: listeners, the
/// feed's two connections, what threads wait with, exporters, files that are read.
const OTHERS: u64 = 100;

/// Makes room for that many connections, as far as this process may, and says where that
/// is not far enough.
pub(super) fn make_room(connections: usize, pool_size: usize) {
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

/// Raises the limit to the highest that this process may have, and says what it is; `None`
/// is no limit. The usual one, 1024, is low for the sake of programs that call `select`,
/// of which this is none.
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
