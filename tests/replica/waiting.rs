//! Waiting for what nothing tells of: it is asked for again and again, each time
//! with a call or a statement, and given up on only when it must be broken.

use std::time::Duration;

/// How long anything may take before a test gives up on it. Nothing here is
/// about speed: what is has a bound of its own.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until there is an answer.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    };
    within(what, asking).await
}

/// Waits for what comes by itself.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(PATIENCE, future).await;
    done.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}
