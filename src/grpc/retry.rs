//! When a caller that was refused because of load may call again.
//!
//! Callers that are refused together must not return together, and clients of gRPC add no
//! jitter to a delay that the server names (gRFC A6). So each refusal names another delay.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use tonic::metadata::MetadataMap;

/// The trailer by which gRPC's own retry policies wait, in milliseconds (gRFC A6).
const PUSHBACK: &str = "grpc-retry-pushback-ms";
/// How far apart the delays are, as a part of the range of `u32`: its golden section, of which
/// the multiples fill the range evenly, however many there are.
const STEP: u32 = 0x9E37_79B9;

/// Delays between a minimum and twice that.
#[derive(Debug)]
pub(super) struct RetryDelays {
    min: Duration,
    next: AtomicU32,
}

impl RetryDelays {
    pub(super) const fn from(min: Duration) -> Self {
        let next = AtomicU32::new(0);
        Self { min, next }
    }

    pub(super) fn next(&self) -> Duration {
        let part = self.next.fetch_add(STEP, Ordering::Relaxed);
        self.min + self.min.mul_f64(f64::from(part) / f64::from(u32::MAX))
    }
}

/// Tells clients that have a retry policy how long to wait.
pub(super) fn push_back(trailers: &mut MetadataMap, delay: Duration) {
    let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
    trailers.insert(PUSHBACK, millis.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_callers_are_spread_evenly() {
        let min = Duration::from_secs(1);
        let delays = RetryDelays::from(min);
        let mut tenths = [0_u32; 10];
        for _ in 0..1000 {
            let delay = delays.next();
            assert!((min..=2 * min).contains(&delay), "{delay:?}");
            let tenth = delay.saturating_sub(min).as_millis().min(999) / 100;
            tenths[usize::try_from(tenth).unwrap()] += 1;
        }
        assert!(
            tenths.iter().all(|count| (99..=101).contains(count)),
            "{tenths:?}"
        );
    }
}
