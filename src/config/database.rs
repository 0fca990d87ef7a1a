//! The database URL, given directly or in a file.

use std::path::{Path, PathBuf};

use clap::Args;

use super::secrets::{SecretError, SecretFile};
use crate::store::{self, DatabaseUrl, MalformedUrl};

/// The database URL, or the file that contains it.
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
        // The URL contains a password.
        f.write_str("DatabaseArgs")
    }
}

/// A file that contains a database URL.
#[derive(Clone, Debug)]
pub struct DatabaseUrlFile(SecretFile);

/// Why there is no valid database URL.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseUrlError {
    /// The URL from the command line or the environment is invalid.
    #[error(transparent)]
    Given(MalformedUrl),
    #[error("there is no database URL: {0}")]
    Secret(SecretError),
    #[error("{}: {why}", path.display())]
    InFile { path: PathBuf, why: MalformedUrl },
}

impl DatabaseUrlFile {
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Reads the URL. Blocks on the file system.
    ///
    /// # Errors
    /// If the file does not contain a valid URL.
    pub fn read(&self) -> Result<DatabaseUrl, DatabaseUrlError> {
        let text = self.0.read().map_err(DatabaseUrlError::Secret)?;
        DatabaseUrl::parse(&text).map_err(|why| DatabaseUrlError::InFile {
            path: self.0.path().to_owned(),
            why,
        })
    }
}

impl DatabaseArgs {
    /// The file with the URL, if one is configured.
    pub fn file(&self) -> Option<DatabaseUrlFile> {
        let path = self.database_url_file.clone()?;
        Some(DatabaseUrlFile(SecretFile::new(path)))
    }

    /// The database URL.
    ///
    /// # Errors
    /// If it cannot be read or is invalid.
    pub fn url(&self) -> Result<DatabaseUrl, DatabaseUrlError> {
        if let Some(file) = self.file() {
            return file.read();
        }
        let url = self.database_url.as_deref();
        let url = url.expect("one of the two is required");
        DatabaseUrl::parse(url).map_err(DatabaseUrlError::Given)
    }

    /// The options of a store for a short-lived command.
    pub fn store(&self) -> Result<store::StoreOptions, DatabaseUrlError> {
        Ok(store::StoreOptions {
            pool_size: 1,
            ..store::StoreOptions::new(self.url()?)
        })
    }
}
