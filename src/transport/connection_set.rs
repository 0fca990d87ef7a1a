//! The open connections of one listener: how many there may be, and how they end.

use std::pin::Pin;

use tokio::{sync::watch, task::JoinSet};
use tokio_stream::{Stream, StreamExt};

/// The tasks that serve the connections of one listener. Dropped, all of them end at once.
pub(super) struct ConnectionSet {
    tasks: JoinSet<()>,
    listener: &'static str,
    max: usize,
    /// Whether the log has a line about the limit that is still true.
    is_logged: bool,
    /// True once no call may be begun any more.
    closing: watch::Sender<bool>,
}

impl ConnectionSet {
    /// For at most `max` connections at once.
    pub(super) fn new(listener: &'static str, max: usize) -> Self {
        Self {
            tasks: JoinSet::new(),
            listener,
            max,
            is_logged: false,
            closing: watch::Sender::new(false),
        }
    }

    /// Becomes true when the connections are to end, and no call may be begun on them.
    pub(super) fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Has each connection served that comes in, until no more come. Beyond the limit they
    /// are closed at once, so that their clients try another server.
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
                    Some(Err(error)) => tracing::debug!(%error, "a connection was lost at once"),
                    None => return,
                },
                // Only to forget those that have ended.
                Some(_) = self.tasks.join_next() => {}
            }
        }
    }

    /// Tells every connection that no call may be begun on it, and waits for those under
    /// way.
    pub(super) async fn drain(&mut self) {
        self.closing.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }

    /// Waits for the end of a connection.
    #[cfg(test)]
    pub(super) async fn next_ended(&mut self) {
        let ended = self.tasks.join_next().await;
        ended
            .expect("there is one")
            .expect("it neither panics nor is aborted");
    }

    /// Whether there may be one more connection.
    fn may_add(&mut self) -> bool {
        while self.tasks.try_join_next().is_some() {}
        let is_full = self.tasks.len() >= self.max;
        // Only once a tenth of them has ended is the next time worth a line: if one comes for
        // each that ends, the log would be full of it.
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

    /// Connects as often as is allowed, and then some more.
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
        // A line is due again only after a tenth of the connections has ended: here with
        // the three, and with all of them.
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
