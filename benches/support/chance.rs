//! Numbers that look random and are the same in every run (`SplitMix64`).

/// A sequence of them.
pub struct Chance(u64);

impl Chance {
    /// One of many sequences.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (number >> 31)
    }

    /// One below that limit, which is above 0.
    pub fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).expect("a length");
        usize::try_from(self.next() % limit).expect("below a length")
    }

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
