//! Admission control for calls that use the database.
//!
//! Postgres works on a limited number of calls at a time, and further ones queue. A short
//! burst is worth queueing, since it is served a moment later. But while a burst lasts, a
//! long queue does not raise the throughput: it only makes each admitted call wait for all
//! those before it. So a queue may be long for a short time, and must be short if it
//! persists: `CoDel`'s good and bad queue (RFC 8289, section 3).

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::method::Method;

/// How many calls of a kind are admitted for each connection to Postgres once a queue has
/// lasted longer than [`Burst::max_duration`]. That many keep Postgres busy, and an
/// admitted call waits for three others on average.
const SUSTAINED_CALLS_PER_CONNECTION: usize = 4;

/// The size and duration of a tolerated burst.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Burst {
    /// The limit of concurrent calls of all kinds.
    pub(crate) max_calls: usize,
    /// How long a queue may last.
    pub(crate) max_duration: Duration,
}

/// How many calls of each kind Postgres works on at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capacity {
    pub(crate) reads: usize,
    pub(crate) writes: usize,
}

/// How many admitted calls of each kind are in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InFlight {
    pub(crate) reads: usize,
    pub(crate) writes: usize,
}

/// Whether a call writes. Each kind has a queue of its own, since writes wait for one
/// another, and reads need not wait for writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallKind {
    /// It only reads, or the method does not exist.
    Read,
    Write,
}

impl CallKind {
    /// Decided by the standard method names (AIP-131, AIP-132).
    pub(crate) fn of(method: Method) -> Self {
        let reads = ["Get", "List", "unknown"];
        if reads.iter().any(|verb| method.name.starts_with(verb)) {
            Self::Read
        } else {
            Self::Write
        }
    }
}

/// Admits or sheds calls.
#[derive(Debug)]
pub(crate) struct Admission {
    burst: Burst,
    /// How many calls of a kind are admitted while a queue persists.
    sustained_limit: usize,
    capacity: Capacity,
    queues: Mutex<Queues>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Queues {
    reads: Queue,
    writes: Queue,
}

/// The admitted calls of a kind.
#[derive(Clone, Copy, Debug, Default)]
struct Queue {
    in_flight: usize,
    /// Since when there has been a queue without interruption.
    queued_since: Option<Instant>,
    /// When a call was last shed because a queue persisted. The limit stays low for
    /// `max_duration` from then: a moment without a queue does not mean that the burst is
    /// over.
    shed_at: Option<Instant>,
}

/// A permit for an admitted call, until it is dropped.
#[derive(Debug)]
pub(crate) struct AdmissionPermit<'a> {
    admission: &'a Admission,
    kind: CallKind,
}

impl Admission {
    pub(crate) fn new(burst: Burst, capacity: Capacity) -> Self {
        Self {
            burst,
            sustained_limit: capacity
                .reads
                .saturating_mul(SUSTAINED_CALLS_PER_CONNECTION),
            capacity,
            queues: Mutex::default(),
        }
    }

    /// Admits a call, or returns None if it must be shed.
    pub(crate) fn admit(&self, kind: CallKind, now: Instant) -> Option<AdmissionPermit<'_>> {
        self.with(|queues| {
            let in_flight = queues.reads.in_flight + queues.writes.in_flight;
            let capacity = self.capacity_of(kind);
            let queue = queues.of(kind);
            if queue.in_flight >= self.sustained_limit
                && queue.is_persistent(now, self.burst.max_duration)
            {
                queue.shed_at = Some(now);
                return None;
            }
            if in_flight >= self.burst.max_calls {
                return None;
            }
            queue.in_flight += 1;
            if queue.in_flight > capacity {
                queue.queued_since.get_or_insert(now);
            }
            Some(())
        })?;
        // Made outside of the lock, since dropping it takes the lock.
        Some(AdmissionPermit {
            admission: self,
            kind,
        })
    }

    /// How many admitted calls of each kind are in flight.
    pub(crate) fn in_flight(&self) -> InFlight {
        self.with(|queues| InFlight {
            reads: queues.reads.in_flight,
            writes: queues.writes.in_flight,
        })
    }

    /// The limit of calls in flight, over both kinds.
    pub(crate) const fn max_calls(&self) -> usize {
        self.burst.max_calls
    }

    const fn capacity_of(&self, kind: CallKind) -> usize {
        match kind {
            CallKind::Read => self.capacity.reads,
            CallKind::Write => self.capacity.writes,
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Queues) -> T) -> T {
        // A panic cannot leave the queues in an inconsistent state.
        work(&mut self.queues.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Queues {
    const fn of(&mut self, kind: CallKind) -> &mut Queue {
        match kind {
            CallKind::Read => &mut self.reads,
            CallKind::Write => &mut self.writes,
        }
    }
}

impl Queue {
    /// Whether a queue has persisted for too long, or did so recently.
    fn is_persistent(&self, now: Instant, max_duration: Duration) -> bool {
        let age = |moment| now.saturating_duration_since(moment);
        self.queued_since
            .is_some_and(|since| age(since) >= max_duration)
            || self
                .shed_at
                .is_some_and(|shed_at| age(shed_at) < max_duration)
    }
}

impl Drop for AdmissionPermit<'_> {
    fn drop(&mut self) {
        let capacity = self.admission.capacity_of(self.kind);
        self.admission.with(|queues| {
            let queue = queues.of(self.kind);
            queue.in_flight -= 1;
            if queue.in_flight <= capacity {
                queue.queued_since = None;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_DURATION: Duration = Duration::from_secs(1);

    /// With two connections, one of them for writes: the sustained limit is 8 calls of a
    /// kind.
    fn admission(max_calls: usize) -> Admission {
        let burst = Burst {
            max_calls,
            max_duration: MAX_DURATION,
        };
        let permits = Capacity {
            reads: 2,
            writes: 1,
        };
        Admission::new(burst, permits)
    }

    /// Attempts that many calls, and returns the permits of those that were admitted.
    fn admit_many(
        admission: &Admission,
        kind: CallKind,
        calls: usize,
        now: Instant,
    ) -> Vec<AdmissionPermit<'_>> {
        let admitted = (0..calls).map(|_| admission.admit(kind, now));
        admitted.flatten().collect()
    }

    #[test]
    fn a_burst_is_admitted_for_its_maximum_duration() {
        let admission = admission(20);
        let begun = Instant::now();
        let mut permits = admit_many(&admission, CallKind::Read, 30, begun);
        assert_eq!(permits.len(), 20);
        // Until the maximum duration, calls that end are replaced.
        permits.truncate(10);
        let just_before = begun + MAX_DURATION - Duration::from_nanos(1);
        permits.extend(admit_many(&admission, CallKind::Read, 30, just_before));
        assert_eq!(permits.len(), 20);
        // From then on, only up to the sustained limit.
        let later = begun + MAX_DURATION;
        for (left, followed) in [(9, 9), (8, 8), (7, 8), (3, 8)] {
            permits.truncate(left);
            permits.extend(admit_many(&admission, CallKind::Read, 30, later));
            assert_eq!(permits.len(), followed, "{left} were left");
        }
    }

    #[test]
    fn without_a_queue_a_new_burst_is_admitted() {
        for (left, followed) in [(3, 8), (2, 20)] {
            let admission = admission(20);
            let begun = Instant::now();
            let mut permits = admit_many(&admission, CallKind::Read, 20, begun);
            permits.truncate(left);
            let later = begun + MAX_DURATION;
            permits.extend(admit_many(&admission, CallKind::Read, 30, later));
            assert_eq!(permits.len(), followed, "{left} were left");
        }
    }

    #[test]
    fn the_sustained_limit_outlasts_a_shed_burst() {
        let admission = admission(20);
        let begun = Instant::now();
        let permits = admit_many(&admission, CallKind::Read, 20, begun);
        let refused = begun + MAX_DURATION;
        assert!(admission.admit(CallKind::Read, refused).is_none());
        // The queue is empty, but only for a moment.
        drop(permits);
        let just_before = refused + MAX_DURATION - Duration::from_nanos(1);
        let permits = admit_many(&admission, CallKind::Read, 30, just_before);
        assert_eq!(permits.len(), 8);
        // Calls were shed again.
        drop(permits);
        let later = just_before + MAX_DURATION - Duration::from_nanos(1);
        assert_eq!(admit_many(&admission, CallKind::Read, 8, later).len(), 8);
        let later = just_before + MAX_DURATION;
        assert_eq!(admit_many(&admission, CallKind::Read, 30, later).len(), 20);
    }

    #[test]
    fn the_sustained_limit_is_always_admitted() {
        let admission = admission(20);
        let begun = Instant::now();
        let mut permits = admit_many(&admission, CallKind::Write, 8, begun);
        for second in 0..100 {
            permits.pop();
            permits.extend(admission.admit(CallKind::Write, begun + MAX_DURATION * second));
            assert_eq!(permits.len(), 8);
        }
    }

    #[test]
    fn writes_leave_capacity_for_reads() {
        let admission = admission(20);
        let begun = Instant::now();
        let mut writes = admit_many(&admission, CallKind::Write, 30, begun);
        assert_eq!(writes.len(), 20);
        assert!(admission.admit(CallKind::Read, begun).is_none());
        writes.truncate(8);
        let later = begun + MAX_DURATION;
        assert!(admission.admit(CallKind::Write, later).is_none());
        let reads = admit_many(&admission, CallKind::Read, 30, later);
        assert_eq!(reads.len(), 12);
        let in_flight = |reads, writes| InFlight { reads, writes };
        assert_eq!(admission.in_flight(), in_flight(12, 8));
        drop(writes);
        assert_eq!(admission.in_flight(), in_flight(12, 0));
        drop(reads);
        assert_eq!(admission.in_flight(), in_flight(0, 0));
    }

    #[test]
    fn call_kinds_follow_from_method_names() {
        let kind = |service: &str, method: &str| {
            let path = format!("/hitkeep.auth.v1.{service}/{method}");
            CallKind::of(Method::of(&path))
        };
        for method in ["GetApiClient", "ListApiClients", "GetApiClientUsage"] {
            assert_eq!(kind("ApiClientService", method), CallKind::Read, "{method}");
        }
        for method in ["CreateApiClient", "RotateApiClient", "DeleteApiClient"] {
            assert_eq!(
                kind("ApiClientService", method),
                CallKind::Write,
                "{method}"
            );
        }
        assert_eq!(kind("AuditService", "ListAuditEvents"), CallKind::Read);
        assert_eq!(
            kind("DirectoryService", "ApplyDirectoryChanges"),
            CallKind::Write
        );
        assert_eq!(kind("DirectoryService", "NoSuchMethod"), CallKind::Read);
    }
}
