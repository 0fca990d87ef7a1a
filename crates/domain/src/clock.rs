//! Time and randomness as arguments. Production has one implementation of each, in
//! `crate::system`; tests set theirs by hand.

use std::time::Duration;

use super::Timestamp;

/// The time by the database's clock.
///
/// Expiry must not depend on the server that answers, so the database's clock is
/// authoritative: code that has just read it passes it in and uses the returned time.
pub trait Clock: Send + Sync + 'static {
    /// The best local estimate of the database's time, without a query.
    fn now(&self) -> Timestamp;

    /// Takes the time just read from the database and returns the time to use. In production,
    /// the two are the same.
    fn adopt(&self, database: Timestamp) -> Timestamp;

    /// Calibrates the estimate with a time that the database returned. The round trip took
    /// `waited`; the database read its clock at some moment within it.
    fn calibrate(&self, database: Timestamp, waited: Duration);

    /// How long this clock has been running. It is monotonic, whatever happens to the
    /// machine's wall clock, and continues during suspend.
    fn elapsed(&self) -> Duration;

    /// Both [`now`](Self::now) and [`elapsed`](Self::elapsed), of one moment. Every answer from
    /// an index needs both, and a clock that derives one from the other reads the machine's once.
    fn read(&self) -> (Timestamp, Duration) {
        (self.now(), self.elapsed())
    }
}

/// A cryptographically secure source of random bytes.
pub trait Entropy: Send + Sync + 'static {
    /// Fills all of `buffer`.
    ///
    /// # Panics
    /// If the operating system has no randomness to give: a weak secret is worse than none.
    fn fill(&self, buffer: &mut [u8]);
}
