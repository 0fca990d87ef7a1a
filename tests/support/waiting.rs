//! Waiting for what nothing tells of: it is asked for again and again, each time
//! with a call or a statement, and given up on only when it must be broken.

use std::{fmt::Debug, time::Duration};

use tokio::time::{Instant, sleep, timeout};

/// How long anything may take before a test gives up on it. Nothing here is
/// about speed: what is has a bound of its own.
const PATIENCE: Duration = Duration::from_mins(2);

/// Between two questions. Tests run beside each other, and one that asks without
/// a pause takes the processor from what it waits for.
const INTERVAL: Duration = Duration::from_millis(2);

/// Asks until there is an answer; meanwhile there is what stands in its way.
pub async fn until<T, E: Debug>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, E>) -> T {
    let begun = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(why) => assert!(
                begun.elapsed() < PATIENCE,
                "waited in vain: {what}: {why:?}"
            ),
        }
        sleep(INTERVAL).await;
    }
}

/// A condition, for `until`.
pub fn wanted(holds: bool) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err("not yet") }
}

/// Waits for what comes by itself.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = timeout(PATIENCE, future).await;
    done.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}
