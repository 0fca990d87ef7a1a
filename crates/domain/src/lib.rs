//! The domain types and the access rules, which `docs/access-rules.md` describes.
//!
//! Pure: no function here waits, reads a clock, draws a random number or depends on
//! Postgres or gRPC, so that whatever has to judge a token can do it with this crate: a
//! server, a replica, or a client that holds the index itself. `now` and randomness are arguments. What an API client may do, and
//! which actors may change it, is decided here and nowhere else.

#![forbid(unsafe_code)]
#![deny(missing_docs)] // the client re-exports these types

pub mod access;
pub mod audit;
pub mod caller;
pub mod certificate;
pub mod client;
pub mod clock;
pub mod directory;
pub mod event;
pub mod explanation;
pub mod id;
pub mod imports;
pub mod index;
pub mod introspection;
pub mod ledger;
pub mod proxy_auth;
pub mod refusal;
pub mod replay;
pub mod role;
pub mod site_rule;
pub mod source;
pub mod state;
pub mod token;
pub mod usage;

/// A point in time in UTC, in microseconds: the resolution of Postgres.
pub type Timestamp = chrono::DateTime<chrono::Utc>;

/// The number of a committed state of the database. Every committed change of data that
/// Introspect answers from increments it, even if no answer changes. Never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// A revision in one history of one database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The id of the database.
    pub database: uuid::Uuid,
    /// The number of the revision.
    pub revision: Revision,
    /// Distinguishes histories: after a backup is restored, the same revision numbers are
    /// assigned again.
    pub nonce: uuid::Uuid,
}

impl Position {
    /// A position that no database has: what nothing is known of.
    pub const UNKNOWN: Self = Self {
        database: uuid::Uuid::nil(),
        revision: Revision(0),
        nonce: uuid::Uuid::nil(),
    };
}
