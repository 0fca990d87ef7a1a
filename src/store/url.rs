//! Where Postgres is, as operators write it: a URL, or settings in the key=value
//! form, as libpq reads them. It holds a password and is shown to nobody.
//!
//! tokio-postgres reads most of it. What is about TLS, and which of several servers
//! is meant, is read here, because it knows only some of what libpq does.

use std::fmt;

mod settings;
mod target;

pub(super) use target::{Server, Target};

/// Where Postgres is, and with which password: its `Debug` shows nothing.
#[derive(Clone)]
pub struct DatabaseUrl(String);

/// What is wrong with a URL. It is not repeated: it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedUrl {
    /// It is no URL, or an unknown setting is in it.
    #[error(
        "the database URL cannot be read: it must be like postgres://USER:PASSWORD@HOST/DATABASE"
    )]
    Unreadable,
    /// A setting of libpq's that is not known here, or has such a value.
    #[error("the database URL's {0} cannot be used: it, or its value, is not known here")]
    Setting(&'static str),
    /// It names a file with passwords, which would not be read.
    #[error(
        "the database URL's passfile is not read: put the whole URL into a file, and name that \
         with --database-url-file"
    )]
    PassFile,
    /// What is behind the password's own is taken for the host, and would be shown.
    #[error("the database URL has an @ too many: one in a password must be written as %40")]
    StrayAt,
    /// There is no such mode.
    #[error(
        "the database URL's sslmode must be one of disable, allow, prefer, require, verify-ca and \
         verify-full"
    )]
    SslMode,
    /// Nobody vouches for the server.
    #[error(
        "the database URL's sslmode needs sslrootcert: a file with the authorities that are \
         trusted, or the word system"
    )]
    NoAuthorities,
    /// The system's authorities vouch for everybody.
    #[error("the database URL's sslrootcert=system needs sslmode=verify-full")]
    SystemUnverified,
    /// One of the two is missing.
    #[error("the database URL's sslcert and sslkey belong together: give both, or neither")]
    HalfIdentity,
    /// This service writes.
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

    /// The URL itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<T: Into<String>> From<T> for DatabaseUrl {
    /// Takes a URL that is known to be good; one that is not fails to connect.
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseUrl")
    }
}
