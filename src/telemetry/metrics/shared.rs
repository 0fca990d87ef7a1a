//! What is counted beside the SDK, because that takes longer than what is counted, or has
//! to be counted down again. The SDK looks at it when somebody reads the metrics.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
};

use opentelemetry::{KeyValue, metrics::Meter};

use super::{FastMethod, Listener, Verdict, counts::Counts};

/// The code of a call that went well.
const OK: i64 = 0;

/// A connection that is counted for as long as this is kept.
#[must_use]
pub struct Connected {
    shared: Arc<Shared>,
    listener: Listener,
}

/// The counts.
#[derive(Default)]
pub(super) struct Shared {
    /// Calls that are counted one by one.
    calls: Mutex<BTreeMap<Calls, u64>>,
    /// What is counted too often for that.
    pub(super) counts: Counts,
    /// How many connections there are, of each of [`Listener`].
    connections: [AtomicI64; Listener::ALL.len()],
    /// The service and the method of each of [`FastMethod`].
    hot: OnceLock<[(&'static str, &'static str); FastMethod::ALL.len()]>,
}

/// Calls of a method that ended with a code.
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
    /// Has the SDK look at the counts.
    pub(super) fn observe(shared: &Arc<Self>, meter: &Meter) {
        let of = Arc::clone(shared);
        meter
            .u64_observable_counter("hitkeep_auth.grpc.requests")
            .with_unit("{request}")
            .with_description("gRPC calls that have ended, by the code they ended with.")
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
            .with_description("What was said of tokens, over all ways to ask.")
            .with_callback(move |observer| {
                for verdict in Verdict::ALL {
                    let reason = [KeyValue::new("reason", verdict.word())];
                    observer.observe(of.counts.verdicts(verdict), &reason);
                }
            })
            .build();
        let of = Arc::clone(shared);
        meter
            .i64_observable_up_down_counter("hitkeep_auth.connections")
            .with_unit("{connection}")
            .with_description("Connections that there are, by the listener they came in at.")
            .with_callback(move |observer| {
                for listener in Listener::ALL {
                    let label = [KeyValue::new("listener", listener.word())];
                    let open = of.connections[listener as usize].load(Relaxed);
                    observer.observe(open, &label);
                }
            })
            .build();
    }

    /// Counts a call.
    pub(super) fn call(&self, calls: Calls) {
        let counted = self.calls.lock();
        let mut counted = counted.unwrap_or_else(PoisonError::into_inner);
        *counted.entry(calls).or_default() += 1;
    }

    /// Says what the calls are called that are counted apart.
    pub(super) fn name_fast_methods(
        &self,
        names: [(&'static str, &'static str); FastMethod::ALL.len()],
    ) {
        // Whoever comes second says the same.
        self.hot.set(names).ok();
    }

    /// Counts a connection that came in there, until it ends.
    pub(super) fn connected(self: &Arc<Self>, listener: Listener) -> Connected {
        let shared = Arc::clone(self);
        shared.connections[listener as usize].fetch_add(1, Relaxed);
        Connected { shared, listener }
    }

    /// All calls, however they were counted.
    fn calls(&self) -> BTreeMap<Calls, u64> {
        let counted = self.calls.lock();
        let mut calls = counted.unwrap_or_else(PoisonError::into_inner).clone();
        for (names, call) in self.hot.get().into_iter().flatten().zip(FastMethod::ALL) {
            let (service, method) = *names;
            let code = OK;
            let hot = Calls {
                service,
                method,
                code,
            };
            *calls.entry(hot).or_default() += self.counts.calls(call);
        }
        calls
    }
}
