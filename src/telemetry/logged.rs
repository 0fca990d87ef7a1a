//! Captures the log during tests that assert log lines.

use std::{
    io::{self, Write},
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use tracing::{
    Dispatch,
    subscriber::{DefaultGuard, NoSubscriber, set_default},
};

/// Captures this thread's log until it is dropped. A `tokio::test` has its own thread.
pub(crate) struct Logged {
    log: Log,
    _while: DefaultGuard,
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps a second subscriber, which wants nothing, for as long as the process lives.
///
/// While there is only one, tracing asks the thread that comes to an event first whether it has
/// a subscriber, and remembers the answer for all threads: another test, without one, would
/// silence the event for the test that captures it. Of several subscribers, it asks all.
pub(crate) fn keep_second_subscriber() {
    static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::default()));
    LazyLock::force(&SECOND);
}

impl Logged {
    pub(crate) fn from_here() -> Self {
        keep_second_subscriber();
        let log = Log::default();
        let into = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || into.clone())
            .with_ansi(false)
            .finish();
        Self {
            log,
            _while: set_default(subscriber),
        }
    }

    /// The captured lines, at INFO and above.
    pub(crate) fn lines(&self) -> Vec<String> {
        let log = self.log.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&log);
        text.lines().map(str::to_owned).collect()
    }
}

#[test]
fn an_event_that_happened_elsewhere_first_is_captured() {
    fn happen() {
        tracing::warn!("it happened");
    }
    let logged = Logged::from_here();
    std::thread::spawn(happen).join().unwrap();
    assert_eq!(logged.lines(), [] as [&str; 0]);
    happen();
    assert_eq!(logged.lines().len(), 1);
}
