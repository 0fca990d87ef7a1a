//! The limit of open files, which includes connections. At the limit, neither callers can
//! connect to the server, nor the server to its database.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files other than callers' and pooled connections and those of I/O threads: listeners, the
/// feed's two connections, the event queue of the shared runtime, exporters, and files that are
/// read.
const OTHERS: u64 = 100;

/// The files of one I/O thread: its event queue (epoll, which is opened twice), what wakes it (an
/// eventfd), and the socket that signals arrive on.
const PER_THREAD: usize = 4;

/// What a server needs open files for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptors {
    /// Connections of callers, on all listeners.
    pub(super) connections: usize,
    /// Connections to Postgres, or to servers upstream.
    pub(super) pool_size: usize,
    /// I/O threads.
    pub(super) threads: usize,
}

/// Raises the limit of open files as far as possible, and logs a warning if it is too low.
pub(super) fn ensure_limit(descriptors: Descriptors) {
    let limit = raise();
    let needed = descriptors.needed();
    let Descriptors {
        connections,
        pool_size,
        threads,
    } = descriptors;
    if let Some(limit) = limit.filter(|limit| *limit < needed) {
        tracing::warn!(
            limit,
            needed,
            "the limit of open files is {limit}, and {connections} connections \
             (--max-connections on each listener) with {pool_size} to Postgres, on {threads} \
             --threads, need {needed}: raise the hard limit (ulimit -Hn, LimitNOFILE=), or lower \
             --max-connections"
        );
    }
}

/// The hard limit, to which `serve` raises the limit, and how many files are needed. `None` means
/// unlimited.
pub(super) fn limit_and_need(descriptors: Descriptors) -> (Option<u64>, u64) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    (maximum, descriptors.needed())
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

impl Descriptors {
    fn needed(self) -> u64 {
        let of_threads = self.threads.saturating_mul(PER_THREAD);
        let counted = self.connections.saturating_add(self.pool_size);
        let counted = counted.saturating_add(of_threads);
        u64::try_from(counted).map_or(u64::MAX, |counted| counted.saturating_add(OTHERS))
    }
}
