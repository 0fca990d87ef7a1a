//! Which core something runs on. Threads and processes inherit it from the
//! thread that starts them, so a server is put on a core by starting it from a
//! thread that is there.

use std::{fmt, time::Duration};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::runtime::Runtime;

use super::postgres::{Durability, Postgres};

/// The cores that this process may use, by number.
pub fn available() -> Vec<usize> {
    let set = sched_getaffinity(None).expect("the system says where we run");
    (0..CpuSet::MAX_CPU)
        .filter(|core| set.is_set(*core))
        .collect()
}

/// Who gets which cores while it is measured what a server can do.
pub struct Cores {
    pub server: Vec<usize>,
    pub generator: usize,
    /// For Postgres, and for whoever sets it all up.
    pub others: Vec<usize>,
}

/// Shares the cores out, with that many for the server. Where there are too few,
/// several get the same, and the figures suffer.
pub fn shared_out(for_server: usize) -> Cores {
    let all = available();
    let server: Vec<_> = all.iter().copied().take(for_server.max(1)).collect();
    let rest = all.get(server.len()..).unwrap_or_default();
    let generator = rest.first().or(all.last()).copied();
    let others = rest.get(1..).filter(|rest| !rest.is_empty());
    Cores {
        server,
        generator: generator.expect("there is a core"),
        others: others.unwrap_or(&all).to_vec(),
    }
}

/// The same where the generator is what must not be late: it has a core of its own,
/// even where the server then has to share its with Postgres.
pub fn around_generator(for_server: usize) -> Cores {
    let shared = shared_out(for_server);
    let mut rest = available();
    let generator = rest.pop().expect("there is a core");
    if !shared.server.contains(&shared.generator) || rest.is_empty() {
        return shared;
    }
    Cores {
        server: rest.clone(),
        generator,
        others: rest,
    }
}

impl Cores {
    /// Starts what sets a benchmark up, beside the server and the load generator.
    pub fn start_others(&self) -> (Postgres, Runtime) {
        let postgres = on(&self.others, || Postgres::start(Durability::ThrownAway));
        let runtime = on(&self.others, || Runtime::new().expect("a runtime starts"));
        (postgres, runtime)
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            server,
            generator,
            others,
        } = self;
        let is_apart = !server.contains(generator) && !others.iter().any(|at| server.contains(at));
        let doubt = if is_apart {
            ""
        } else {
            "; too few, so that the figures are not worth much"
        };
        write!(
            f,
            "cores: {server:?} for the server, {generator} for the load generator, {others:?} for \
             the rest{doubt}"
        )
    }
}

/// Does something on a thread that stays on those cores: what it starts stays
/// there too.
pub fn on<T: Send>(cores: &[usize], work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let pinned = scope.spawn(|| {
            let mut set = CpuSet::new();
            for core in cores {
                set.set(*core);
            }
            sched_setaffinity(None, &set).expect("the cores are ours");
            work()
        });
        pinned.join().expect("it does not panic")
    })
}

/// How long a process was at work so far, by the kernel's count, which goes in
/// hundredths of a second.
pub fn work_of(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    let stat = stat.expect("Linux tells of its processes");
    // After the name, which can be anything, come the fields from the third on:
    // the 14th and 15th are its own time and the kernel's for it.
    let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks
        .map(|ticks| ticks.parse::<u64>().expect("a number"))
        .sum();
    Duration::from_millis(ticks * 10)
}
