//! Time and randomness as arguments. Production has one implementation of
//! each, in `crate::system`; tests move theirs by hand.

use super::Timestamp;

/// What time it is, by the database's clock.
///
/// Expiry must not depend on which replica is asked, so the database's clock
/// rules: whoever has just read it hands it in, and goes by what comes back.
pub trait Clock: Send + Sync + 'static {
    /// The database's time as well as it is known here, without asking it.
    fn now(&self) -> Timestamp;

    /// Takes note of what the database's clock said a moment ago, and gives the
    /// time to go by. In production these are the same.
    fn adopt(&self, database: Timestamp) -> Timestamp;
}

/// A source of random bytes that nobody can predict.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `buffer`, all of it.
    ///
    /// # Panics
    /// Where the operating system has no randomness to give: without it no
    /// secret can be made, and a weak one is worse than none.
    fn fill(&self, buffer: &mut [u8]);
}
