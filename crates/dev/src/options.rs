//! What can be chosen of a private Postgres.

use std::path::PathBuf;

/// Whether the server's data must survive a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Commits survive a power failure.
    Kept,
    /// The data is deleted with the server, so no write waits for the disk.
    ThrownAway,
}

/// The options of a private server.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server's own folder, which is created if it is missing.
    pub folder: PathBuf,
    /// Whether the data must survive a crash.
    pub durability: Durability,
    /// The folder of initdb and postgres; searched for if not given.
    pub programs: Option<PathBuf>,
    /// Where to install the programs if there are none. The user that the server runs as must be
    /// able to read this folder.
    pub cache: Option<PathBuf>,
}
