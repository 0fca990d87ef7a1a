//! Which calls are let in that work on the database.
//!
//! Postgres takes so many at once, and whoever comes beyond that waits. A short burst
//! is worth letting in: it is served a moment later. Where a burst does not end, though,
//! a long queue serves nobody sooner. It makes every call that is let in wait for all
//! those before it, and finishes none more in a second. So a queue may be long for a
//! moment only, and is short where it lasts; "good" and "bad queue" in `CoDel`'s words
//! (RFC 8289, section 3).

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{calls::method::Method, store::Places};

/// How many calls of a kind may be under way for each connection to Postgres where
/// there was a queue for longer than [`Burst::max_duration`]. So many keep Postgres busy;
/// a call that is let in then waits for three others, on average.
const LASTING_CALLS_A_CONNECTION: usize = 4;

/// How many may come at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Burst {
    /// How many calls may be under way, of all kinds.
    pub(super) max_calls: usize,
    /// How long so many may come.
    pub(super) max_duration: Duration,
}

/// What a call does with the database. Each kind has a queue of its own, since writes
/// wait for each other, and those who read need not wait for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It only reads, or does not exist.
    Read,
    /// It may write.
    Write,
}

impl Kind {
    /// What a method does, by the standard names (AIP-131, AIP-132).
    pub(super) fn of(method: Method) -> Self {
        let reads = ["Get", "List", "unknown"];
        if reads.iter().any(|verb| method.name.starts_with(verb)) {
            Self::Read
        } else {
            Self::Write
        }
    }
}

/// Lets calls in, or does not.
#[derive(Debug)]
pub(super) struct Admission {
    burst: Burst,
    /// How many of a kind may be under way where a queue lasts.
    lasting: usize,
    /// How many of them are worked on at once.
    places: Places,
    queues: Mutex<Queues>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Queues {
    reads: Queue,
    writes: Queue,
}

/// Calls of a kind that were let in.
#[derive(Clone, Copy, Debug, Default)]
struct Queue {
    under_way: usize,
    /// Since when some of them have been waiting, without an end.
    since: Option<Instant>,
    /// When one was refused because that had been for too long. For as long again the
    /// queue stays short: a moment in which nobody waits is not the end of a burst.
    refused: Option<Instant>,
}

/// A call that was let in, until it is dropped.
#[derive(Debug)]
pub(super) struct Admitted<'a> {
    admission: &'a Admission,
    kind: Kind,
}

impl Admission {
    pub(super) fn new(burst: Burst, places: Places) -> Self {
        Self {
            burst,
            lasting: places.reads.saturating_mul(LASTING_CALLS_A_CONNECTION),
            places,
            queues: Mutex::default(),
        }
    }

    /// Lets a call in, unless there are too many.
    pub(super) fn admit(&self, kind: Kind, now: Instant) -> Option<Admitted<'_>> {
        self.with(|queues| {
            let under_way = queues.reads.under_way + queues.writes.under_way;
            let places = self.places_of(kind);
            let queue = queues.of(kind);
            if queue.under_way >= self.lasting && queue.is_to_be_short(now, self.burst.max_duration)
            {
                queue.refused = Some(now);
                return None;
            }
            if under_way >= self.burst.max_calls {
                return None;
            }
            queue.under_way += 1;
            if queue.under_way > places {
                queue.since.get_or_insert(now);
            }
            Some(())
        })?;
        // Made out of the lock, which it takes where it is dropped.
        Some(Admitted {
            admission: self,
            kind,
        })
    }

    const fn places_of(&self, kind: Kind) -> usize {
        match kind {
            Kind::Read => self.places.reads,
            Kind::Write => self.places.writes,
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Queues) -> T) -> T {
        // Nothing in between can be left half done.
        work(&mut self.queues.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Queues {
    const fn of(&mut self, kind: Kind) -> &mut Queue {
        match kind {
            Kind::Read => &mut self.reads,
            Kind::Write => &mut self.writes,
        }
    }
}

impl Queue {
    /// Whether there was a queue for too long, or was just before.
    fn is_to_be_short(&self, now: Instant, max_duration: Duration) -> bool {
        let age = |moment| now.saturating_duration_since(moment);
        self.since.is_some_and(|since| age(since) >= max_duration)
            || self
                .refused
                .is_some_and(|refused| age(refused) < max_duration)
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        let places = self.admission.places_of(self.kind);
        self.admission.with(|queues| {
            let queue = queues.of(self.kind);
            queue.under_way -= 1;
            if queue.under_way <= places {
                queue.since = None;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_DURATION: Duration = Duration::from_secs(1);

    /// With 2 connections, of which writes have one: 8 of a kind where a queue lasts.
    fn admission(max_calls: usize) -> Admission {
        let burst = Burst {
            max_calls,
            max_duration: MAX_DURATION,
        };
        let places = Places {
            reads: 2,
            writes: 1,
        };
        Admission::new(burst, places)
    }

    /// As many as are let in, of so many.
    fn come(admission: &Admission, kind: Kind, calls: usize, now: Instant) -> Vec<Admitted<'_>> {
        let admitted = (0..calls).map(|_| admission.admit(kind, now));
        admitted.flatten().collect()
    }

    #[test]
    fn a_crowd_is_let_in_for_a_moment_and_no_longer() {
        let admission = admission(20);
        let begun = Instant::now();
        let mut inside = come(&admission, Kind::Read, 30, begun);
        assert_eq!(inside.len(), 20);
        // Just as long as it may, those that leave are followed by others.
        inside.truncate(10);
        let just_before = begun + MAX_DURATION - Duration::from_nanos(1);
        inside.extend(come(&admission, Kind::Read, 30, just_before));
        assert_eq!(inside.len(), 20);
        // From then on only as many as a queue has that lasts.
        let later = begun + MAX_DURATION;
        for (left, followed) in [(9, 9), (8, 8), (7, 8), (3, 8)] {
            inside.truncate(left);
            inside.extend(come(&admission, Kind::Read, 30, later));
            assert_eq!(inside.len(), followed, "{left} were left");
        }
    }

    #[test]
    fn where_nobody_waits_any_more_a_crowd_may_come_again() {
        for (left, followed) in [(3, 8), (2, 20)] {
            let admission = admission(20);
            let begun = Instant::now();
            let mut inside = come(&admission, Kind::Read, 20, begun);
            inside.truncate(left);
            let later = begun + MAX_DURATION;
            inside.extend(come(&admission, Kind::Read, 30, later));
            assert_eq!(inside.len(), followed, "{left} were left");
        }
    }

    #[test]
    fn a_crowd_that_was_refused_has_ended_after_a_while_without() {
        let admission = admission(20);
        let begun = Instant::now();
        let inside = come(&admission, Kind::Read, 20, begun);
        let refused = begun + MAX_DURATION;
        assert!(admission.admit(Kind::Read, refused).is_none());
        // All of them are gone for a moment, and that is all.
        drop(inside);
        let just_before = refused + MAX_DURATION - Duration::from_nanos(1);
        let inside = come(&admission, Kind::Read, 30, just_before);
        assert_eq!(inside.len(), 8);
        // Which were refused again.
        drop(inside);
        let later = just_before + MAX_DURATION - Duration::from_nanos(1);
        assert_eq!(come(&admission, Kind::Read, 8, later).len(), 8);
        let later = just_before + MAX_DURATION;
        assert_eq!(come(&admission, Kind::Read, 30, later).len(), 20);
    }

    #[test]
    fn as_many_as_a_lasting_queue_has_may_come_for_ever() {
        let admission = admission(20);
        let begun = Instant::now();
        let mut inside = come(&admission, Kind::Write, 8, begun);
        for second in 0..100 {
            inside.pop();
            inside.extend(admission.admit(Kind::Write, begun + MAX_DURATION * second));
            assert_eq!(inside.len(), 8);
        }
    }

    #[test]
    fn those_who_write_leave_room_for_those_who_read() {
        let admission = admission(20);
        let begun = Instant::now();
        let mut writes = come(&admission, Kind::Write, 30, begun);
        assert_eq!(writes.len(), 20);
        assert!(admission.admit(Kind::Read, begun).is_none());
        writes.truncate(8);
        let later = begun + MAX_DURATION;
        assert!(admission.admit(Kind::Write, later).is_none());
        assert_eq!(come(&admission, Kind::Read, 30, later).len(), 12);
    }

    #[test]
    fn methods_are_known_by_their_verbs() {
        let kind = |service: &str, method: &str| {
            let path = format!("/hitkeep.auth.v1.{service}/{method}");
            Kind::of(Method::of(&path))
        };
        for method in ["GetApiClient", "ListApiClients", "GetApiClientUsage"] {
            assert_eq!(kind("ApiClientService", method), Kind::Read, "{method}");
        }
        for method in ["CreateApiClient", "RotateApiClient", "DeleteApiClient"] {
            assert_eq!(kind("ApiClientService", method), Kind::Write, "{method}");
        }
        assert_eq!(kind("AuditService", "ListAuditEvents"), Kind::Read);
        assert_eq!(
            kind("DirectoryService", "ApplyDirectoryChanges"),
            Kind::Write
        );
        assert_eq!(kind("DirectoryService", "NoSuchMethod"), Kind::Read);
    }
}
