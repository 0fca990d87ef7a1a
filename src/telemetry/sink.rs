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
        mpsc::{self, Sender},
    },
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// How much may wait to be written, in bytes. A line that would exceed it is dropped.
const MAX_QUEUED: usize = 4 * 1024 * 1024;
/// How long the process waits at its end for what is queued.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the thread waits if stderr takes nothing at the moment and is not to block.
const WOULD_BLOCK_PAUSE: Duration = Duration::from_millis(10);

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
            .spawn(move || write(lines, &of, target, report))?;
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

/// Writes the lines for as long as there is a sink. `report` is called with how many were
/// dropped, once a line could be written again: a report that is a line itself, and could not be
/// written either, must not lead to the next one.
fn write(
    lines: impl IntoIterator<Item = Queued>,
    state: &State,
    target: impl Write,
    report: impl Fn(u64),
) {
    let mut target = Target {
        target,
        is_torn: false,
    };
    let mut reported = 0;
    for queued in lines {
        let Queued::Line(line) = queued else {
            continue;
        };
        let is_written = target.write_line(&line).is_ok();
        if !is_written {
            state.dropped.fetch_add(1, Relaxed);
        }
        let left = state.queued.fetch_sub(line.len(), Relaxed) - line.len();
        let dropped = state.dropped.load(Relaxed);
        // There is room for the report.
        if is_written && dropped > reported && left == 0 {
            report(dropped - reported);
            reported = dropped;
        }
    }
}

fn report(lines: u64) {
    tracing::warn!(
        lines,
        "log lines were dropped: standard error was not read fast enough, or took none"
    );
}

struct Target<W> {
    target: W,
    /// Whether it has a part of a line whose rest it did not take.
    is_torn: bool,
}

impl<W: Write> Target<W> {
    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_torn {
            self.write_all(b"\n")?;
        }
        self.write_all(line)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this thread does nothing else, and is none of the runtime's"
    )]
    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.target.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = &bytes[written..];
                    self.is_torn = !bytes.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Another process that shares it has made it so.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(WOULD_BLOCK_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
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
    use std::{
        cell::RefCell,
        sync::{Mutex, mpsc::Receiver},
    };

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

    /// Takes as many bytes of each write as is listed, or fails; and then takes everything.
    struct Scripted {
        takes: std::vec::IntoIter<Result<usize, io::ErrorKind>>,
        written: Vec<u8>,
    }

    impl Write for &mut Scripted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let most = self.takes.next().unwrap_or(Ok(bytes.len()))?;
            let taken = most.min(bytes.len());
            self.written.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written of these lines, and what is reported as dropped.
    fn written(
        lines: &[&str],
        takes: Vec<Result<usize, io::ErrorKind>>,
    ) -> (String, u64, Vec<u64>) {
        let mut target = Scripted {
            takes: takes.into_iter(),
            written: Vec::new(),
        };
        let reported = RefCell::new(Vec::new());
        let state = State::default();
        let queued = lines.iter().map(|line| {
            state.queued.fetch_add(line.len(), Relaxed);
            Queued::Line(line.as_bytes().into())
        });
        write(queued, &state, &mut target, |lines| {
            reported.borrow_mut().push(lines);
        });
        let text = String::from_utf8(target.written).unwrap();
        (text, state.dropped.into_inner(), reported.into_inner())
    }

    #[test]
    fn what_was_dropped_is_reported_once_a_line_is_written() {
        let full = || Err(io::ErrorKind::StorageFull);
        let found = written(&["a\n", "b\n"], vec![full(), full()]);
        assert_eq!(found, (String::new(), 2, vec![]));
        let found = written(&["a\n", "b\n", "c\n", "d\n"], vec![full(), full()]);
        assert_eq!(found, ("c\nd\n".to_owned(), 2, vec![2]));
    }

    #[test]
    fn a_line_never_begins_behind_a_part_of_another() {
        let full = || Err(io::ErrorKind::StorageFull);
        let takes = vec![Ok(3), full(), full()];
        let found = written(&["first\n", "second\n", "third\n"], takes);
        assert_eq!(found, ("fir\nthird\n".to_owned(), 2, vec![2]));
    }

    #[test]
    fn what_does_not_block_is_waited_for() {
        let takes = vec![Ok(3), Err(io::ErrorKind::WouldBlock), Ok(1)];
        let found = written(&["first\n", "second\n"], takes);
        assert_eq!(found, ("first\nsecond\n".to_owned(), 0, vec![]));
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
