//! The open connections of one listener: their limit, and how they are drained.

use std::pin::Pin;

use tokio::{sync::watch, task::JoinSet};
use tokio_stream::{Stream, StreamExt};

/// The tasks that serve the connections of one listener. Dropping it aborts them all.
pub(super) struct ConnectionSet {
    tasks: JoinSet<()>,
    listener: &'static str,
    max: usize,
    /// Whether reaching the limit was logged since the last time it was cleared.
    is_logged: bool,
    /// True once no new call may begin.
    closing: watch::Sender<bool>,
}

impl ConnectionSet {
    /// For at most `max` concurrent connections.
    pub(super) fn new(listener: &'static str, max: usize) -> Self {
        Self {
            tasks: JoinSet::new(),
            listener,
            max,
            is_logged: false,
            closing: watch::Sender::new(false),
        }
    }

    /// Becomes true when connections must end and no new call may begin on them.
    pub(super) fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Serves each incoming connection until there are no more. Beyond the limit, new
    /// connections are closed immediately, so that clients try another server.
    pub(super) async fn accept<C, E: std::fmt::Display>(
        &mut self,
        mut incoming: Pin<&mut impl Stream<Item = Result<C, E>>>,
        mut serve: impl FnMut(C, &mut JoinSet<()>),
    ) {
        loop {
            tokio::select! {
                connection = incoming.next() => match connection {
                    Some(Ok(connection)) if self.may_add() => serve(connection, &mut self.tasks),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => tracing::debug!(%error, "a connection could not be accepted"),
                    None => return,
                },
                // Only removes tasks that have finished.
                Some(_) = self.tasks.join_next() => {}
            }
        }
    }

    /// Stops new calls on every connection and waits for those in flight.
    pub(super) async fn drain(&mut self) {
        self.closing.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }

    #[cfg(test)]
    pub(super) async fn next_ended(&mut self) {
        let ended = self.tasks.join_next().await;
        ended
            .expect("there is one")
            .expect("it neither panics nor is aborted");
    }

    /// Whether one more connection is within the limit.
    fn may_add(&mut self) -> bool {
        while self.tasks.try_join_next().is_some() {}
        let is_full = self.tasks.len() >= self.max;
        // The line is due again only after a tenth of the connections has ended. Otherwise
        // a listener at its limit would log one for each connection that ends and is
        // replaced.
        self.is_logged &= self.tasks.len() + self.max / 10 >= self.max;
        if is_full && !self.is_logged {
            self.is_logged = true;
            let (listener, connections) = (self.listener, self.max);
            tracing::warn!(
                listener,
                connections,
                "{listener}: the connection limit is reached, and new connections are closed"
            );
        }
        !is_full
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::task::AbortHandle;

    use super::*;
    use crate::telemetry::logged::Logged;

    /// Adds connections up to the limit, and tries a few more.
    fn fill(set: &mut ConnectionSet, open: &mut Vec<AbortHandle>) {
        while set.may_add() {
            open.push(set.tasks.spawn(pending()));
        }
        assert!(!set.may_add() && !set.may_add());
    }

    #[tokio::test]
    async fn reaching_the_limit_is_logged_once() {
        let logged = Logged::from_here();
        let mut set = ConnectionSet::new("grpc", 20);
        let mut open: Vec<AbortHandle> = Vec::new();
        // The line is due again only after a tenth of the connections has ended: here after
        // three of them, and after all.
        for (leave, logged_lines) in [(0, 1), (1, 1), (2, 1), (3, 2), (2, 2), (20, 3)] {
            for gone in open.drain(..leave) {
                gone.abort();
                set.tasks.join_next().await;
            }
            fill(&mut set, &mut open);
            assert_eq!(open.len(), 20);
            let lines = logged.lines();
            assert_eq!(lines.len(), logged_lines, "{leave} left: {lines:?}");
        }
        for line in logged.lines() {
            assert!(
                line.contains("WARN") && line.contains("connections=20"),
                "{line}"
            );
            assert!(
                line.contains("grpc: the connection limit is reached"),
                "{line}"
            );
        }
    }

    #[tokio::test]
    async fn below_the_limit_nothing_is_logged() {
        let logged = Logged::from_here();
        let mut set = ConnectionSet::new("grpc", 20);
        for _ in 0..20 {
            assert!(set.may_add());
            set.tasks.spawn(pending());
        }
        assert_eq!(logged.lines(), [""; 0]);
    }
}
