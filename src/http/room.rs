//! The connections of one listener, of which there may be only so many.

use tokio::task::JoinSet;

/// What serves the connections, and room for more. Dropped, all of them end at once.
pub(crate) struct Room {
    /// A task for each.
    pub(crate) tasks: JoinSet<()>,
    listener: &'static str,
    max: usize,
    /// Whether it was said that there are as many as there may be.
    is_told: bool,
}

impl Room {
    /// For no more than `max` at once.
    pub(crate) fn new(listener: &'static str, max: usize) -> Self {
        Self {
            tasks: JoinSet::new(),
            listener,
            max,
            is_told: false,
        }
    }

    /// Whether there may be one more.
    pub(crate) fn has_place(&mut self) -> bool {
        while self.tasks.try_join_next().is_some() {}
        let is_full = self.tasks.len() >= self.max;
        // Once a tenth of them has gone, it is another time: where one comes for each that
        // goes, the log would be full of it.
        self.is_told &= self.tasks.len() + self.max / 10 >= self.max;
        if is_full && !self.is_told {
            self.is_told = true;
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

    /// Lets as many in as there is room for, and then some more come.
    fn fill(room: &mut Room, there: &mut Vec<AbortHandle>) {
        while room.has_place() {
            there.push(room.tasks.spawn(pending()));
        }
        assert!(!room.has_place() && !room.has_place());
    }

    #[tokio::test]
    async fn that_there_is_no_room_is_told_once() {
        let logged = Logged::from_here();
        let mut room = Room::new("grpc", 20);
        let mut there: Vec<AbortHandle> = Vec::new();
        // One goes and one comes, and then two: less than the tenth that makes it another
        // time. The third time is one, and the last again.
        for (leave, told) in [(0, 1), (1, 1), (2, 1), (3, 2), (2, 2), (20, 3)] {
            for gone in there.drain(..leave) {
                gone.abort();
                room.tasks.join_next().await;
            }
            fill(&mut room, &mut there);
            assert_eq!(there.len(), 20);
            let lines = logged.lines();
            assert_eq!(lines.len(), told, "{leave} left: {lines:?}");
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
    async fn where_there_is_room_nothing_is_told() {
        let logged = Logged::from_here();
        let mut room = Room::new("grpc", 20);
        for _ in 0..20 {
            assert!(room.has_place());
            room.tasks.spawn(pending());
        }
        assert_eq!(logged.lines(), [""; 0]);
    }
}
