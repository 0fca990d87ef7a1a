//! Which core something runs on. Threads and processes inherit it from the
//! thread that starts them, so a server is put on a core by starting it from a
//! thread that is there.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores that this process may use, by number.
pub fn available() -> Vec<usize> {
    let set = sched_getaffinity(None).expect("the system says where we run");
    (0..CpuSet::MAX_CPU)
        .filter(|core| set.is_set(*core))
        .collect()
}

/// Puts this thread on one core, with all that it starts from now on.
pub fn stay_on(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).expect("the core is one of ours");
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
