//! The metrics of TLS.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Protocol, Tls};
use crate::{
    domain::Timestamp,
    telemetry::metrics::{ListenerKind, Metrics},
};

/// Failed handshakes, by protocol.
#[derive(Default)]
pub(super) struct Failures {
    grpc: AtomicU64,
    http: AtomicU64,
}

impl Failures {
    pub(super) fn count(&self, protocol: Protocol) {
        let failures = match protocol {
            Protocol::Grpc => &self.grpc,
            Protocol::Http => &self.http,
        };
        failures.fetch_add(1, Relaxed);
    }
}

// It is exact up to 2^53 seconds.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
fn seconds(time: Timestamp) -> f64 {
    time.timestamp() as f64
}

impl Tls {
    /// Exports the certificate's expiry and the number of failed handshakes.
    pub fn observe(&self, metrics: &Metrics) {
        let tls = self.clone();
        metrics.gauge(
            "hitkeep_auth.tls.certificate.expiry",
            "s",
            "When the server's certificate expires, in seconds since 1970.",
            move || Some(seconds(tls.validity()?.until)),
        );
        let tls = self.clone();
        metrics.gauge(
            "hitkeep_auth.tls.certificate.start",
            "s",
            "From when on the server's certificate is valid, in seconds since 1970.",
            move || Some(seconds(tls.validity()?.from)),
        );
        let tls = self.clone();
        metrics.counters(
            "hitkeep_auth.tls.handshake.failures",
            "{handshake}",
            "Failed handshakes.",
            "listener",
            move || {
                let failures = &tls.shared.failures;
                [
                    (ListenerKind::Grpc.as_str(), failures.grpc.load(Relaxed)),
                    (ListenerKind::Http.as_str(), failures.http.load(Relaxed)),
                ]
            },
        );
    }
}
