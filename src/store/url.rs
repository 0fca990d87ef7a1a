//! The database URL, or libpq's key=value settings. It contains a password and is never
//! logged.
//!
//! tokio-postgres parses most of it. TLS and the choice among several servers are parsed
//! here, because tokio-postgres supports only a part of libpq's settings for them.

use std::fmt;

mod settings;
mod target;

pub(super) use target::{Server, Target};

/// A database URL with its password, which its `Debug` hides.
#[derive(Clone)]
pub struct DatabaseUrl(String);

/// Why a URL cannot be used. The messages never quote it, since it may contain a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedUrl {
    /// It cannot be parsed, or has an unknown setting.
    #[error(
        "the database URL cannot be read: it must be like postgres://USER:PASSWORD@HOST/DATABASE"
    )]
    Unreadable,
    /// A libpq setting, or its value, is not supported.
    #[error("the database URL's {0} cannot be used: it, or its value, is not known here")]
    Setting(&'static str),
    /// A password file is set, which would be ignored.
    #[error(
        "the database URL's passfile is not read: put the whole URL into a file, and name that \
         with --database-url-file"
    )]
    PassFile,
    /// An unescaped `@` in the password, so that the rest of the password would count as the
    /// host, and be logged.
    #[error("the database URL has an @ too many: one in a password must be written as %40")]
    StrayAt,
    /// The value of `sslmode` is unknown.
    #[error(
        "the database URL's sslmode must be one of disable, allow, prefer, require, verify-ca and \
         verify-full"
    )]
    SslMode,
    /// Verification is required without authorities.
    #[error(
        "the database URL's sslmode needs sslrootcert: a file with the authorities that are \
         trusted, or the word system"
    )]
    NoAuthorities,
    /// The system's authorities sign for any host, so that the name must be verified.
    #[error("the database URL's sslrootcert=system needs sslmode=verify-full")]
    SystemUnverified,
    /// Only one of the client certificate and its key is set.
    #[error("the database URL's sslcert and sslkey belong together: give both, or neither")]
    HalfIdentity,
    /// The setting excludes the primary, which the service writes to.
    #[error(
        "the database URL's target_session_attrs must be read-write, primary or any: this service \
         writes"
    )]
    NotForWriting,
}

impl DatabaseUrl {
    /// Checks a URL, or settings in the key=value form.
    pub fn parse(text: &str) -> Result<Self, MalformedUrl> {
        Target::parse(text).map(|_| Self(text.to_owned()))
    }

    /// The URL with its password.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<T: Into<String>> From<T> for DatabaseUrl {
    /// Wraps a URL without parsing it; a malformed one fails to connect.
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseUrl")
    }
}
