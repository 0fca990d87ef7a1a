//! Time and randomness as arguments. Production has one implementation of
//! each, in `crate::system`; tests move theirs by hand.

use std::time::Duration;

use super::Timestamp;

/// What time it is, by the database's clock.
///
/// Expiry must not depend on which replica is asked, so the database's clock
/// rules: whoever has just read it hands it in, and goes by what comes back.
pub trait Clock: Send + Sync + 'static {
    /// The database's time as well as it is known here, without asking it.
    fn now(&self) -> Timestamp;

    /// Takes what the database's clock said a moment ago, and gives the time to go
    /// by. In production these are the same.
    fn adopt(&self, database: Timestamp) -> Timestamp;

    /// Takes note of what the database's clock said in an answer that was waited
    /// for that long: at some moment within it, the database's clock read that.
    fn calibrate(&self, database: Timestamp, waited: Duration);

    /// How long this clock has been going. Never goes back, whatever is done to
    /// the machine's time of day, and goes on while the machine is suspended.
    fn elapsed(&self) -> Duration;
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
