//! The maximum age of connections. A connection in use would otherwise stay open without
//! end, and a server that is added later would get none of its client's calls.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::domain::clock::Entropy;

/// The largest deviation from the configured age, as a share of it. It keeps connections
/// that were opened together from closing together.
const JITTER: f64 = 0.1;

/// Draws the maximum ages of the connections of one listener.
#[derive(Debug)]
pub(crate) struct Ages {
    /// None if connections have no maximum age.
    max: Option<Duration>,
    /// The state of the `SplitMix64` generator for the jitter, which needs no cryptographic
    /// strength.
    state: AtomicU64,
}

impl Ages {
    /// Draws a seed unless `max` is None.
    pub(crate) fn new(max: Option<Duration>, entropy: &dyn Entropy) -> Self {
        let mut seed = [0; 8];
        if max.is_some() {
            entropy.fill(&mut seed);
        }
        Self {
            max,
            state: AtomicU64::new(u64::from_le_bytes(seed)),
        }
    }

    /// The maximum age of the next connection.
    pub(crate) fn draw(&self) -> Option<Duration> {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let max = self.max?;
        let mut mixed = self.state.fetch_add(STEP, Relaxed).wrapping_add(STEP);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let random = u32::try_from(mixed >> 32).expect("it has 32 bits left");
        let share = f64::from(random) / f64::from(u32::MAX);
        Some(max.mul_f64(1.0 - JITTER + 2.0 * JITTER * share))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct FixedEntropy(u8);

    impl Entropy for FixedEntropy {
        fn fill(&self, buffer: &mut [u8]) {
            buffer.fill(self.0);
        }
    }

    #[test]
    fn ages_are_spread_evenly_around_the_maximum() {
        let ages = Ages::new(Some(Duration::from_secs(1000)), &FixedEntropy(7));
        let drawn: Vec<_> = (0..1000).filter_map(|_| ages.draw()).collect();
        let range = Duration::from_mins(15)..=Duration::from_secs(1100);
        assert!(drawn.iter().all(|age| range.contains(age)));
        for tenth in 0..10 {
            let from = Duration::from_secs(900 + 20 * tenth);
            let within = from..from + Duration::from_secs(20);
            let count = drawn.iter().filter(|age| within.contains(*age)).count();
            assert!((60..=140).contains(&count), "{within:?}: {count}");
        }
        // Another seed gives other ages.
        let others = Ages::new(Some(Duration::from_secs(1000)), &FixedEntropy(8));
        assert_ne!(others.draw(), Some(drawn[0]));
    }

    #[test]
    fn connections_may_have_no_maximum_age() {
        struct NoEntropy;
        impl Entropy for NoEntropy {
            fn fill(&self, _: &mut [u8]) {
                panic!("no seed is needed");
            }
        }
        assert_eq!(Ages::new(None, &NoEntropy).draw(), None);
    }
}
