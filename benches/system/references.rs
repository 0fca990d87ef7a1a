//! The servers that `introspect` and `check` compare with, once more: in a program that is
//! linked with this service's own allocator, where those benchmarks have the system's. What
//! a reference gains by it is what the allocator is worth, and what is left between the
//! reference and the service is the service's code.
//!
//! It measures nothing by itself. The two benchmarks build it and start it.

#![expect(
    clippy::print_stdout,
    reason = "whoever starts it by hand is told what it is"
)]
#![expect(unreachable_pub, reason = "a benchmark has no outside")]

use std::process::ExitCode;

#[expect(dead_code, reason = "here they only serve")]
#[path = "check/servers.rs"]
mod check;
#[expect(dead_code, reason = "here they only serve")]
#[path = "introspect/servers.rs"]
mod introspect;
#[path = "../support.rs"]
mod support;

use support::comparison;

/// The service's own.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match comparison::name().as_deref() {
        None => println!("SKIPPED: `introspect` and `check` start these servers"),
        Some(name) => {
            if let Some(kind) = introspect::Kind::named(name) {
                kind.be();
            } else if let Some(kind) = check::Kind::named(name) {
                kind.be();
            } else {
                println!("no server is called {name:?}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
