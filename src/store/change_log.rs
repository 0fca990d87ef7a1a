//! What the server's log says of a transaction's changes: a line for each as soon as it is
//! committed, whether or not its caller still waits.

use crate::domain::id::ClientId;

/// What a transaction changes, for the server's log: if the database is lost with its audit
/// trail, the log remains. Nothing is logged of a transaction that is rolled back.
#[derive(Debug, Default)]
pub(super) struct ChangeLog {
    changes: Vec<(&'static str, ClientId)>,
    is_committing: bool,
}

impl ChangeLog {
    /// Notes a change: `revoked` an API client.
    pub(super) fn push(&mut self, done: &'static str, client: ClientId) {
        self.changes.push((done, client));
    }

    /// The COMMIT is sent. If this is dropped from now on, because the caller hangs up or the
    /// connection breaks, the changes may be in force.
    pub(super) const fn commit_sent(&mut self) {
        self.is_committing = true;
    }

    /// The transaction is committed.
    pub(super) fn committed(mut self) {
        for (done, client) in self.changes.drain(..) {
            tracing::info!(client.id = %client, "{done} API client {client}");
        }
    }

    /// The transaction was rolled back.
    pub(super) fn rolled_back(mut self) {
        self.changes.clear();
    }
}

impl Drop for ChangeLog {
    fn drop(&mut self) {
        if self.is_committing {
            for (done, client) in &self.changes {
                tracing::info!(
                    client.id = %client,
                    "{done} API client {client}, unless the commit failed: it was not confirmed"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::telemetry::logged::Logged;

    fn change_log(client: ClientId) -> ChangeLog {
        let mut log = ChangeLog::default();
        log.push("revoked", client);
        log
    }

    /// An operator who restores a backup looks for these lines: of what may be in force, one is
    /// there.
    #[test]
    fn a_change_is_logged_unless_it_was_rolled_back() {
        let client = ClientId::from_uuid(Uuid::from_u128(7));
        let line = format!("revoked API client {client}");
        let logged = Logged::from_here();
        drop(change_log(client));
        let mut refused = change_log(client);
        refused.commit_sent();
        refused.rolled_back();
        assert_eq!(logged.lines(), [] as [&str; 0]);
        let mut done = change_log(client);
        done.commit_sent();
        done.committed();
        let lines = logged.lines();
        assert!(lines.len() == 1 && lines[0].contains(&line), "{lines:?}");
        assert!(!lines[0].contains("unless"), "{lines:?}");
        let mut in_doubt = change_log(client);
        in_doubt.commit_sent();
        drop(in_doubt);
        let lines = logged.lines();
        let unconfirmed = format!("{line}, unless the commit failed");
        assert!(
            lines.len() == 2 && lines[1].contains(&unconfirmed),
            "{lines:?}"
        );
    }
}
