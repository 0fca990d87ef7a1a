//! The contract's words as types, and its rules as functions of them.
//!
//! Pure: nothing in here waits, reads a clock, draws a random number or knows
//! of Postgres and gRPC. `now` and randomness are arguments. What an API
//! client may do, and who may change it, is decided here and nowhere else.

pub mod access;
pub mod audit;
pub mod caller;
pub mod certificate;
pub mod client;
pub mod clock;
pub mod directory;
pub mod explanation;
pub mod id;
pub mod introspection;
pub mod refusal;
pub mod replay;
pub mod role;
pub mod site_rule;
pub mod token;
pub mod usage;

/// A point in time, in UTC, to the microsecond: what Postgres keeps.
pub type Timestamp = chrono::DateTime<chrono::Utc>;

/// The number of a committed state of the database: one higher with every
/// committed change of what Introspect answers from, whether or not any answer is
/// another one for it. Never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);
