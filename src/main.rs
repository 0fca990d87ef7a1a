//! Arguments, telemetry, run, exit code.

use std::process::ExitCode;

use clap::Parser;
use hitkeep_auth::{cli, config::Cli};

fn main() -> ExitCode {
    cli::run(&Cli::parse())
}
