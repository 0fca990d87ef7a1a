//! How old connections become. One that is in use would stay for ever, and a server that is
//! added later would get nothing of what clients ask on it.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::domain::clock::Entropy;

/// How far the age of one connection is from that of another, at most and either way, as
/// a share of it: those that were opened together do not end together.
const JITTER: f64 = 0.1;

/// The greatest ages of the connections of one listener.
#[derive(Debug)]
pub(crate) struct Ages {
    /// None where they have no end.
    greatest: Option<Duration>,
    /// The state of the generator that spreads them (`SplitMix64`). It keeps no secret.
    state: AtomicU64,
}

impl Ages {
    /// About that; draws nothing where they have no end.
    pub(crate) fn new(greatest: Option<Duration>, entropy: &dyn Entropy) -> Self {
        let mut seed = [0; 8];
        if greatest.is_some() {
            entropy.fill(&mut seed);
        }
        Self {
            greatest,
            state: AtomicU64::new(u64::from_le_bytes(seed)),
        }
    }

    /// That of the next connection.
    pub(crate) fn draw(&self) -> Option<Duration> {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let greatest = self.greatest?;
        let mut mixed = self.state.fetch_add(STEP, Relaxed).wrapping_add(STEP);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let random = u32::try_from(mixed >> 32).expect("it has 32 bits left");
        let share = f64::from(random) / f64::from(u32::MAX);
        Some(greatest.mul_f64(1.0 - JITTER + 2.0 * JITTER * share))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Drawn(u8);

    impl Entropy for Drawn {
        fn fill(&self, buffer: &mut [u8]) {
            buffer.fill(self.0);
        }
    }

    #[test]
    fn ages_are_spread_evenly_about_the_greatest() {
        let ages = Ages::new(Some(Duration::from_secs(1000)), &Drawn(7));
        let drawn: Vec<_> = (0..1000).filter_map(|_| ages.draw()).collect();
        let range = Duration::from_mins(15)..=Duration::from_secs(1100);
        assert!(drawn.iter().all(|age| range.contains(age)));
        for tenth in 0..10 {
            let from = Duration::from_secs(900 + 20 * tenth);
            let within = from..from + Duration::from_secs(20);
            let count = drawn.iter().filter(|age| within.contains(age)).count();
            assert!((60..=140).contains(&count), "{within:?}: {count}");
        }
        // Another process has others.
        let others = Ages::new(Some(Duration::from_secs(1000)), &Drawn(8));
        assert_ne!(others.draw(), Some(drawn[0]));
    }

    #[test]
    fn there_may_be_no_end() {
        struct Nothing;
        impl Entropy for Nothing {
            fn fill(&self, _: &mut [u8]) {
                panic!("nothing is to be drawn");
            }
        }
        assert_eq!(Ages::new(None, &Nothing).draw(), None);
    }
}
