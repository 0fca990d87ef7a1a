//! Which core something runs on. Threads and processes inherit it from the
//! thread that starts them, so a server is put on a core by starting it from a
//! thread that is there.

use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores that this process may use, by number.
pub fn available() -> Vec<usize> {
    let set = sched_getaffinity(None).expect("the system says where we run");
    (0..CpuSet::MAX_CPU)
        .filter(|core| set.is_set(*core))
        .collect()
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
