//! Where log lines go: into a bounded queue, from which a thread writes them to stderr. If what
//! reads stderr stops reading, such as a stuck log collector or a paused terminal, that costs log
//! lines, and no answer waits for it.
//!
//! `tracing-appender` has the same, but at the end prints on stderr if its queue is full, and so
//! would wait for the very reader that has stopped.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc::{self, Receiver, Sender},
    },
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// How much may wait to be written, in bytes. A line that would exceed it is dropped.
const MAX_QUEUED: usize = 4 * 1024 * 1024;
/// How long the process waits at its end for what is queued.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Takes log lines and never waits. All clones share one queue.
#[derive(Clone, Debug)]
pub(crate) struct LogSink {
    queue: Sender<Queued>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The bytes in the queue.
    queued: AtomicUsize,
    /// The lines that were not written.
    dropped: AtomicU64,
}

enum Queued {
    Line(Box<[u8]>),
    /// All before it is written once this sender is dropped.
    #[expect(dead_code, reason = "the sender is only dropped")]
    Flush(Sender<()>),
}

impl LogSink {
    /// A sink whose lines a new thread writes.
    ///
    /// # Errors
    /// If there can be no further thread.
    pub(super) fn to(target: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, lines) = mpsc::channel();
        let state = Arc::<State>::default();
        let of = Arc::clone(&state);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write(&lines, &of, target))?;
        Ok(Self { queue, state })
    }

    /// How many lines were dropped because the queue was full or could not be written.
    pub(super) fn dropped(&self) -> u64 {
        self.state.dropped.load(Relaxed)
    }

    fn push(&self, line: &[u8]) {
        let State { queued, dropped } = &*self.state;
        let length = line.len();
        if queued.fetch_add(length, Relaxed) + length > MAX_QUEUED
            || self.queue.send(Queued::Line(line.into())).is_err()
        {
            queued.fetch_sub(length, Relaxed);
            dropped.fetch_add(1, Relaxed);
        }
    }

    /// Waits until what was logged so far is written, for at most `limit`.
    fn flush(&self, limit: Duration) {
        let (written, is_written) = mpsc::channel();
        if self.queue.send(Queued::Flush(written)).is_ok() {
            // Either the sender is dropped, or the time is over.
            let ended = is_written.recv_timeout(limit);
            debug_assert!(ended.is_err(), "nothing is sent");
        }
    }
}

/// Writes the lines for as long as there is a sink.
fn write(lines: &Receiver<Queued>, state: &State, mut target: impl Write) {
    let mut reported = 0;
    for queued in lines {
        let Queued::Line(line) = queued else {
            continue;
        };
        if target.write_all(&line).is_err() {
            state.dropped.fetch_add(1, Relaxed);
        }
        let left = state.queued.fetch_sub(line.len(), Relaxed) - line.len();
        let dropped = state.dropped.load(Relaxed);
        // Only once there is room for the report.
        if dropped > reported && left == 0 {
            let lines = dropped - reported;
            reported = dropped;
            tracing::warn!(
                lines,
                "log lines were dropped: standard error was not read fast enough"
            );
        }
    }
}

impl<'a> MakeWriter<'a> for LogSink {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// The subscriber writes each line as a whole.
impl Write for &LogSink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Has the queued log lines written when it is dropped, within a second.
#[derive(Debug)]
pub(crate) struct FlushAtEnd(pub(super) LogSink);

impl Drop for FlushAtEnd {
    fn drop(&mut self) {
        self.0.flush(FLUSH_TIMEOUT);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Writes nothing until it may.
    struct Stuck {
        released: Receiver<()>,
        is_released: bool,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if !self.is_released {
                self.released.recv().unwrap();
                self.is_released = true;
            }
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A line of a mebibyte.
    fn line(letter: u8) -> Vec<u8> {
        let mut line = vec![letter; 1024 * 1024 - 1];
        line.push(b'\n');
        line
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let written = Arc::default();
        let (release, released) = mpsc::channel();
        let sink = LogSink::to(Stuck {
            released,
            is_released: false,
            written: Arc::clone(&written),
        });
        let sink = sink.unwrap();
        for letter in *b"abcdef" {
            (&sink).write_all(&line(letter)).unwrap();
        }
        // The one that is being written still counts.
        assert_eq!(sink.dropped(), 2);
        release.send(()).unwrap();
        sink.flush(Duration::MAX);
        let written = written.lock().unwrap();
        assert!(*written == b"abcd".map(line).concat());
    }

    #[test]
    fn a_flush_does_not_wait_for_what_is_stuck() {
        let (_release, released) = mpsc::channel();
        let sink = LogSink::to(Stuck {
            released,
            is_released: false,
            written: Arc::default(),
        });
        let sink = sink.unwrap();
        (&sink).write_all(b"x\n").unwrap();
        sink.flush(Duration::ZERO);
        assert_eq!(sink.dropped(), 0);
    }
}
