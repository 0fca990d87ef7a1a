//! Where Postgres is: a URL, or a file that holds it.

use std::path::PathBuf;

use clap::Args;

use super::secrets::{SecretError, SecretFile};
use crate::store::{self, DatabaseUrl, MalformedUrl};

/// Where Postgres is.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct DatabaseArgs {
    /// Database URL, as `postgres://USER:PASSWORD@HOST/DATABASE`
    #[arg(
        long,
        env = "HITKEEP_AUTH_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    database_url: Option<String>,
    /// File that holds the database URL and nothing else, instead of --database-url
    #[arg(long, env = "HITKEEP_AUTH_DATABASE_URL_FILE", value_name = "FILE")]
    database_url_file: Option<PathBuf>,
}

impl std::fmt::Debug for DatabaseArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // There is a password in the URL.
        f.write_str("DatabaseArgs")
    }
}

/// A file that holds a database URL.
#[derive(Clone, Debug)]
pub struct DatabaseUrlFile(SecretFile);

/// Why there is no database URL.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseUrlError {
    /// The one on the command line, or in the environment, cannot be used.
    #[error(transparent)]
    Given(MalformedUrl),
    /// There is none in the file.
    #[error("there is no database URL: {0}")]
    NoSecret(SecretError),
    /// The one in the file cannot be used.
    #[error("{}: {why}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// Why.
        why: MalformedUrl,
    },
}

impl DatabaseUrlFile {
    /// Reads the URL. Blocks for as long as the file system does.
    ///
    /// # Errors
    /// Where the file holds none that can be used.
    pub fn read(&self) -> Result<DatabaseUrl, DatabaseUrlError> {
        let text = self.0.read().map_err(DatabaseUrlError::NoSecret)?;
        DatabaseUrl::parse(&text).map_err(|why| DatabaseUrlError::InFile {
            path: self.0.path().to_owned(),
            why,
        })
    }
}

impl DatabaseArgs {
    /// The file that holds the URL, where there is one.
    pub fn file(&self) -> Option<DatabaseUrlFile> {
        let path = self.database_url_file.clone()?;
        Some(DatabaseUrlFile(SecretFile::new(path)))
    }

    /// Where Postgres is.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn url(&self) -> Result<DatabaseUrl, DatabaseUrlError> {
        if let Some(file) = self.file() {
            return file.read();
        }
        let url = self.database_url.as_deref();
        let url = url.expect("one of the two is required");
        DatabaseUrl::parse(url).map_err(DatabaseUrlError::Given)
    }

    /// A store for a command that does one thing.
    pub fn store(&self) -> Result<store::Options, DatabaseUrlError> {
        Ok(store::Options {
            pool_size: 1,
            ..store::Options::new(self.url()?)
        })
    }
}
