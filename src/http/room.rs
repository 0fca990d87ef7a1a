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
