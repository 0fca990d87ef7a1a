//! Counts that are kept outside the SDK, because its counters cost more than what they
//! count, or cannot be decremented. The SDK reads them together with the metrics.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
};

use opentelemetry::{KeyValue, metrics::Meter};

use super::{FastMethod, ListenerKind, VerdictReason, counts::Counts};

/// The status code of a successful call.
const OK: i64 = 0;

/// Counts a connection as open until it is dropped.
#[must_use]
pub struct Connected {
    shared: Arc<Shared>,
    listener: ListenerKind,
}

#[derive(Default)]
pub(super) struct Shared {
    /// Calls that are counted one by one.
    calls: Mutex<BTreeMap<Calls, u64>>,
    /// The counts of the fast path.
    pub(super) counts: Counts,
    /// The number of open connections for each listener.
    connections: [AtomicI64; ListenerKind::ALL.len()],
    /// The service and method of each fast-path method.
    fast_methods: OnceLock<[(&'static str, &'static str); FastMethod::ALL.len()]>,
}

/// Identifies a counter: a method and the status code of its calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Calls {
    pub(super) service: &'static str,
    pub(super) method: &'static str,
    pub(super) code: i64,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.shared.connections[self.listener as usize].fetch_sub(1, Relaxed);
    }
}

impl Shared {
    /// Registers the counts with the SDK.
    pub(super) fn observe(shared: &Arc<Self>, meter: &Meter) {
        let of = Arc::clone(shared);
        meter
            .u64_observable_counter("hitkeep_auth.grpc.requests")
            .with_unit("{request}")
            .with_description("gRPC calls that have ended, by status code number.")
            .with_callback(move |observer| {
                for (calls, count) in of.calls() {
                    let labels = [
                        KeyValue::new("rpc.service", calls.service),
                        KeyValue::new("rpc.method", calls.method),
                        KeyValue::new("rpc.grpc.status_code", calls.code),
                    ];
                    observer.observe(count, &labels);
                }
            })
            .build();
        let of = Arc::clone(shared);
        meter
            .u64_observable_counter("hitkeep_auth.verdicts")
            .with_unit("{verdict}")
            .with_description("Answers about tokens, over all endpoints.")
            .with_callback(move |observer| {
                for verdict in VerdictReason::ALL {
                    let reason = [KeyValue::new("reason", verdict.as_str())];
                    observer.observe(of.counts.verdicts(verdict), &reason);
                }
            })
            .build();
        let of = Arc::clone(shared);
        meter
            .u64_observable_counter("hitkeep_auth.legacy_verdicts")
            .with_unit("{verdict}")
            .with_description(
                "The part of the verdicts that is about legacy tokens, which HitKeep issued.",
            )
            .with_callback(move |observer| {
                let known = VerdictReason::ALL.into_iter();
                for verdict in known.filter(|verdict| verdict.is_of_known_token()) {
                    let reason = [KeyValue::new("reason", verdict.as_str())];
                    observer.observe(of.counts.legacy_verdicts(verdict), &reason);
                }
            })
            .build();
        let of = Arc::clone(shared);
        meter
            .i64_observable_up_down_counter("hitkeep_auth.connections")
            .with_unit("{connection}")
            .with_description("Open connections, counted from their acceptance.")
            .with_callback(move |observer| {
                for listener in ListenerKind::ALL {
                    let label = [KeyValue::new("listener", listener.as_str())];
                    let open = of.connections[listener as usize].load(Relaxed);
                    observer.observe(open, &label);
                }
            })
            .build();
    }

    pub(super) fn call(&self, calls: Calls) {
        let counted = self.calls.lock();
        let mut counted = counted.unwrap_or_else(PoisonError::into_inner);
        *counted.entry(calls).or_default() += 1;
    }

    /// Sets the label values of the fast-path counters.
    pub(super) fn name_fast_methods(
        &self,
        names: [(&'static str, &'static str); FastMethod::ALL.len()],
    ) {
        // A second call sets the same names.
        self.fast_methods.set(names).ok();
    }

    /// Counts a connection of that listener until the result is dropped.
    pub(super) fn connected(self: &Arc<Self>, listener: ListenerKind) -> Connected {
        let shared = Arc::clone(self);
        shared.connections[listener as usize].fetch_add(1, Relaxed);
        Connected { shared, listener }
    }

    /// All calls, those of the fast path included.
    fn calls(&self) -> BTreeMap<Calls, u64> {
        let counted = self.calls.lock();
        let mut calls = counted.unwrap_or_else(PoisonError::into_inner).clone();
        for (names, call) in self
            .fast_methods
            .get()
            .into_iter()
            .flatten()
            .zip(FastMethod::ALL)
        {
            let (service, method) = *names;
            let code = OK;
            let fast = Calls {
                service,
                method,
                code,
            };
            *calls.entry(fast).or_default() += self.counts.calls(call);
        }
        calls
    }
}
