//! Arguments, telemetry, run, exit code.

use std::process::ExitCode;

use hitkeep_auth::{cli, config::Cli};

/// Half of what it costs to answer with a million clients is to reach them in memory, and
/// this one lays them in huge pages: see `.cargo/config.toml`.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    cli::run(&Cli::read())
}
