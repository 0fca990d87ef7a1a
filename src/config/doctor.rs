//! Options of `doctor`.

use clap::Args;

use super::{OutputArgs, ServeArgs};

/// Options of `doctor`: those of `serve`, so that it finds what `serve` would find.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The options of the server that is checked.
    #[command(flatten)]
    pub serve: ServeArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}
