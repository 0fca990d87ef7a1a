//! Restarts the tasks that feed an index if one of them panics.

use std::time::Duration;

use tokio::{task::JoinSet, time::sleep};

/// The pause before a restart: the cause of the panic may persist.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts tasks that never end. If one ends all the same, it panicked, and all of them are
/// restarted, since their state is no longer trusted. Meanwhile, the last published version
/// of the index goes on answering until it is stale.
#[expect(clippy::infinite_loop, reason = "it is a task, and aborted")]
pub async fn supervise(mut start: impl FnMut() -> JoinSet<()>, on_stop: impl Fn()) {
    loop {
        let mut tasks = start();
        if let Some(Err(error)) = tasks.join_next().await {
            tracing::error!(
                %error,
                "a task that feeds the index panicked and is restarted: this is a defect"
            );
        }
        tasks.shutdown().await;
        on_stop();
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tasks_that_panic_are_restarted() {
        let (started, mut received) = tokio::sync::mpsc::unbounded_channel();
        let mut number = 0;
        let start = move || {
            number += 1;
            let (number, started) = (number, started.clone());
            let mut tasks = JoinSet::new();
            let other = started.clone();
            tasks.spawn(async move {
                // Dropped when the task is aborted.
                let _other = other;
                std::future::pending::<()>().await;
            });
            tasks.spawn(async move {
                started.send(number).unwrap();
                assert!(number == 3, "the task panics");
                std::future::pending::<()>().await;
            });
            tasks
        };
        let (stopped, stops) = tokio::sync::watch::channel(0);
        let on_stop = move || stopped.send_modify(|times| *times += 1);
        let begun = Instant::now();
        let task = tokio::spawn(supervise(start, on_stop));
        for number in 1..=3 {
            assert_eq!(received.recv().await, Some(number));
        }
        assert_eq!(begun.elapsed(), PAUSE * 2);
        assert_eq!(*stops.borrow(), 2);
        // Its tasks end with the supervisor.
        task.abort();
        assert_eq!(received.recv().await, None);
    }
}
