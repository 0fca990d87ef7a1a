//! When each server may be asked again. One that has too much to do says how long it wants to be
//! left alone, and is not asked before that, whatever waits here.

use std::time::Duration;

use tokio::time::Instant;

/// The shortest time for which a server is left alone: one that names none must not be asked
/// without a pause.
const LEAST: Duration = Duration::from_millis(50);
/// The longest, apart from what chance adds.
const MOST: Duration = Duration::from_mins(1);

/// For each server, when it may be asked again; `None` if it never named a delay.
#[derive(Debug)]
pub(super) struct RetryHints(Vec<Option<Instant>>);

impl RetryHints {
    /// No server named a delay yet.
    pub(super) fn none(servers: usize) -> Self {
        Self(vec![None; servers])
    }

    /// Takes the delay that a server named. Chance adds up to half of it: others that it refused
    /// may have got the same.
    pub(super) fn take(&mut self, server: usize, delay: Duration, chance: u8) {
        let delay = delay.clamp(LEAST, MOST);
        let added = delay.mul_f64(f64::from(chance) / f64::from(u8::MAX) / 2.0);
        self.0[server] = Some(Instant::now() + delay + added);
    }

    /// The first server, from this one on, that may be asked now. If none may, the one that may
    /// be asked first, and when.
    pub(super) fn next(&self, from: usize) -> (usize, Instant) {
        let now = Instant::now();
        let in_turn = (from..self.0.len()).chain(0..from);
        let times = in_turn.map(|server| (server, self.0[server].map_or(now, |at| at.max(now))));
        let next = times.min_by_key(|(_, time)| *time);
        next.expect("there is at least one server")
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_delay_is_a_lower_bound() {
        let second = Duration::from_secs(1);
        for (named, chance, expected) in [
            (second, 0, second),
            (second, u8::MAX, second.mul_f64(1.5)),
            (Duration::ZERO, 0, LEAST),
            (Duration::from_hours(1), 0, MOST),
            (Duration::MAX, u8::MAX, MOST.mul_f64(1.5)),
        ] {
            let mut hints = RetryHints::none(1);
            hints.take(0, named, chance);
            let (_, at) = hints.next(0);
            assert_eq!(at - Instant::now(), expected, "{named:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn others_are_asked_meanwhile() {
        let mut hints = RetryHints::none(3);
        for from in 0..3 {
            assert_eq!(hints.next(from), (from, Instant::now()));
        }
        let second = Duration::from_secs(1);
        hints.take(1, second * 3, 0);
        assert_eq!(hints.next(1), (2, Instant::now()));
        hints.take(2, second, 0);
        assert_eq!(hints.next(1), (0, Instant::now()));
        hints.take(0, second * 2, 0);
        assert_eq!(hints.next(1), (2, Instant::now() + second));
        advance(second * 2).await;
        // Both may be asked, and it is the turn of one of them.
        assert_eq!(hints.next(1), (2, Instant::now()));
        assert_eq!(hints.next(0), (0, Instant::now()));
    }
}
