//! What a command is at, for a person who waits for it: on standard error, on a line that is
//! overwritten, and only if that is a terminal. A program that reads the output gets nothing of
//! it.

use std::{
    io::{self, IsTerminal, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::task::JoinHandle;

/// A command that is done sooner shows nothing: a line that comes and goes is only a flicker.
const QUIET: Duration = Duration::from_secs(1);
/// Goes to the beginning of the line, and clears it.
const CLEAR: &str = "\r\x1b[K";

/// Shows on a terminal what is being done. The line is cleared when it is dropped, so that an
/// error message begins on a line of its own.
pub(super) struct Progress {
    /// None without a terminal.
    line: Option<Arc<Mutex<Line>>>,
    /// What shows the line after a while.
    timer: Option<JoinHandle<()>>,
}

struct Line {
    out: Box<dyn Write + Send>,
    what: Option<String>,
    /// Whether the command has taken long enough to show it.
    is_due: bool,
    /// Whether there is something to clear.
    is_shown: bool,
}

impl Progress {
    /// Progress that is shown at once, of a command that always takes a while.
    pub(super) fn at_once() -> Self {
        Self {
            line: terminal().map(|out| Line::new(out, true)),
            timer: None,
        }
    }

    /// Progress of what is mostly done in a moment: nothing is shown within the first second.
    pub(super) fn of(what: &str) -> Self {
        match terminal() {
            Some(out) => Self::later(out, what),
            None => Self {
                line: None,
                timer: None,
            },
        }
    }

    fn later(out: Box<dyn Write + Send>, what: &str) -> Self {
        let line = Line::new(out, false);
        lock(&line).say(what);
        let waiting = Arc::clone(&line);
        let timer = tokio::spawn(async move {
            tokio::time::sleep(QUIET).await;
            lock(&waiting).fall_due();
        });
        Self {
            line: Some(line),
            timer: Some(timer),
        }
    }

    /// What is being done from here on.
    pub(super) fn say(&self, what: &str) {
        if let Some(line) = &self.line {
            lock(line).say(what);
        }
    }

    /// Makes room for something else, until there is more to say.
    pub(super) fn clear(&self) {
        if let Some(line) = &self.line {
            lock(line).clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(timer) = &self.timer {
            timer.abort();
        }
        self.clear();
    }
}

impl Line {
    fn new(out: Box<dyn Write + Send>, is_due: bool) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            out,
            what: None,
            is_due,
            is_shown: false,
        }))
    }

    fn say(&mut self, what: &str) {
        self.what = Some(format!("{CLEAR}{what} …"));
        self.show();
    }

    fn fall_due(&mut self) {
        self.is_due = true;
        self.show();
    }

    fn show(&mut self) {
        if let Some(what) = &self.what
            && self.is_due
        {
            self.is_shown = true;
            // If stderr is closed, there is nowhere to report it.
            drop(self.out.write_all(what.as_bytes()));
            drop(self.out.flush());
        }
    }

    fn clear(&mut self) {
        self.what = None;
        if self.is_shown {
            self.is_shown = false;
            drop(self.out.write_all(CLEAR.as_bytes()));
            drop(self.out.flush());
        }
    }
}

/// Standard error, if a person sees it.
fn terminal() -> Option<Box<dyn Write + Send>> {
    let stderr = io::stderr();
    stderr
        .is_terminal()
        .then(|| Box::new(stderr) as Box<dyn Write + Send>)
}

/// A line of progress is good whatever happened to the thread that wrote the one before.
fn lock(line: &Mutex<Line>) -> MutexGuard<'_, Line> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a terminal was sent.
    #[derive(Clone, Default)]
    struct Sent(Arc<Mutex<Vec<u8>>>);

    impl Sent {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Sent {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The clock moves on by itself while the test waits for the timer.
    async fn a_second_passes(progress: &mut Progress) {
        progress.timer.take().unwrap().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_a_second_is_shown_from_then_on() {
        let sent = Sent::default();
        let mut progress = Progress::later(Box::new(sent.clone()), "reading");
        progress.say("writing");
        assert_eq!(sent.text(), "");
        a_second_passes(&mut progress).await;
        assert_eq!(sent.text(), "\r\x1b[Kwriting …");
        progress.say("done");
        let shown = "\r\x1b[Kwriting …\r\x1b[Kdone …";
        assert_eq!(sent.text(), shown);
        progress.clear();
        drop(progress);
        // It is cleared once.
        assert_eq!(sent.text(), format!("{shown}\r\x1b[K"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_cleared_before_it_is_shown_leaves_no_trace() {
        let sent = Sent::default();
        let mut progress = Progress::later(Box::new(sent.clone()), "reading");
        progress.clear();
        a_second_passes(&mut progress).await;
        drop(progress);
        assert_eq!(sent.text(), "");
    }
}
