//! Tells the supervisor of the process, such as systemd, what the server is doing: `sd_notify(3)`.
//! Ready means the same as for `/readyz`. Without `NOTIFY_SOCKET`, nothing is sent.

use sd_notify::{NotifyState, notify};

/// The supervisor, if there is one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Supervisor {
    notified: bool,
}

impl Supervisor {
    /// Sends nothing unless `notified`.
    pub(super) const fn new(notified: bool) -> Self {
        Self { notified }
    }

    /// Whether the server can introspect from now on. A supervisor heeds the first `READY=1`;
    /// after an outage, only the status is news to it.
    pub(super) fn introspection(self, serves: bool) {
        if serves {
            let status = NotifyState::Status("introspection serves");
            self.send(&[NotifyState::Ready, status]);
        } else {
            self.send(&[NotifyState::Status("introspection does not serve")]);
        }
    }

    /// The drain begins.
    pub(super) fn stopping(self) {
        self.send(&[
            NotifyState::Stopping,
            NotifyState::Status("finishing the calls in flight"),
        ]);
    }

    fn send(self, states: &[NotifyState<'_>]) {
        if !self.notified {
            return;
        }
        if let Err(error) = notify(states) {
            tracing::warn!(%error, "the supervisor at NOTIFY_SOCKET could not be notified: {error}");
        }
    }
}
