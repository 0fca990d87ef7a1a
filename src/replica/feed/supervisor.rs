//! What sees to it that the database is followed, whatever becomes of those who do it.

use std::time::Duration;

use tokio::{task::JoinSet, time::sleep};

/// How long to wait before tasks that broke off are started anew: what made them panic
/// may be there again at once.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts tasks that never end, and starts all of them anew where one ends none the
/// less: so it panicked, and what it knew is not to be trusted any more. Answers go on
/// meanwhile from the last version that was given out, within its bound.
#[expect(clippy::infinite_loop, reason = "it is a task, and aborted")]
pub(super) async fn supervise(mut start: impl FnMut() -> JoinSet<()>, broken_off: impl Fn()) {
    loop {
        let mut tasks = start();
        if let Some(Err(error)) = tasks.join_next().await {
            tracing::error!(
                %error,
                "following the database broke off, and is begun anew: this is a defect"
            );
        }
        tasks.shutdown().await;
        broken_off();
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tasks_that_panic_are_started_anew() {
        let (started, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let mut number = 0;
        let start = move || {
            number += 1;
            let (number, started) = (number, started.clone());
            let mut tasks = JoinSet::new();
            let other = started.clone();
            tasks.spawn(async move {
                // Dropped where it is aborted.
                let _other = other;
                std::future::pending::<()>().await;
            });
            tasks.spawn(async move {
                started.send(number).unwrap();
                assert!(number == 3, "it breaks off");
                std::future::pending::<()>().await;
            });
            tasks
        };
        let (broken, breaks) = tokio::sync::watch::channel(0);
        let broken_off = move || broken.send_modify(|times| *times += 1);
        let begun = Instant::now();
        let task = tokio::spawn(supervise(start, broken_off));
        for number in 1..=3 {
            assert_eq!(heard.recv().await, Some(number));
        }
        assert_eq!(begun.elapsed(), PAUSE * 2);
        assert_eq!(*breaks.borrow(), 2);
        // Nothing of it goes on without it.
        task.abort();
        assert_eq!(heard.recv().await, None);
    }
}
