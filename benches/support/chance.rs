//! Dice that only benchmarks need.

use super::dice::Dice;

impl Dice {
    /// Puts things into another order.
    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for last in (1..all.len()).rev() {
            all.swap(last, self.below(last + 1));
        }
    }

    /// A waiting time between events that happen once a second on average,
    /// whenever they like, in seconds.
    pub fn exponential(&mut self) -> f64 {
        let high = u32::try_from(self.next() >> 32).expect("half of the bits");
        // Never 0, which would be for ever.
        let share = (f64::from(high) + 1.0) / (f64::from(u32::MAX) + 1.0);
        -share.ln()
    }
}
