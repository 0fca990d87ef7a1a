//! Limits how much of a connection is read at a time. h2 reads frames for as long as there
//! is input, and hands their calls over only afterwards. A peer that sends a lot in
//! one go (for example after the server was paused for a second) could fill h2's queue of
//! calls that were reset again, and h2 ends a connection whose queue is full, with every
//! call on it.
//!
//! A connection therefore has a read budget for each poll, and its calls begin and end
//! between polls. It also stops reading from a peer that does not read: h2 buffers an
//! `RST_STREAM` frame for each call that it refuses, until the frame is written.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// The read budget of one poll; the last read, of at most one frame, may exceed it.
const BUDGET_BYTES: usize = 16 * 1024;

/// How long a peer may read nothing of what it is sent. An unanswered ping ends a
/// connection just as soon, but not a connection whose buffers have no room for the ping.
const WRITE_TIMEOUT: Duration = Duration::from_secs(40);

/// How many calls of one connection may have been reset by their caller before they began.
/// A reset call takes at least 24 bytes of frames, so the read budget is too small for that
/// many, and the limit is never reached: a reset call is gone before more is read.
pub(super) const MAX_PENDING_RESETS: usize = 2048;

/// How many bytes the connection may still read during this poll.
#[derive(Clone, Debug, Default)]
pub(super) struct ReadBudget(Arc<AtomicUsize>);

impl ReadBudget {
    /// Polls the connection's future with a fresh budget.
    pub(super) fn poll<F: Future>(
        &self,
        served: Pin<&mut F>,
        context: &mut Context<'_>,
    ) -> Poll<F::Output> {
        self.0.store(BUDGET_BYTES, Relaxed);
        served.poll(context)
    }

    /// Whether anything was read during this poll.
    pub(super) fn has_read(&self) -> bool {
        self.0.load(Relaxed) < BUDGET_BYTES
    }

    fn is_exhausted(&self) -> bool {
        self.0.load(Relaxed) == 0
    }

    /// Only the connection's own task counts, so the load and the store need not be one
    /// operation.
    fn consume(&self, read: usize) {
        let left = self.0.load(Relaxed);
        self.0.store(left.saturating_sub(read), Relaxed);
    }
}

/// A connection with a read budget.
pub(super) struct PacedIo<IO> {
    io: IO,
    budget: ReadBudget,
    /// The timeout of a write that is pending.
    write_timeout: Option<Pin<Box<Sleep>>>,
    /// Whether a read waits for the pending write.
    read_is_waiting: bool,
    has_written: bool,
}

impl<IO> PacedIo<IO> {
    pub(super) const fn new(io: IO, budget: ReadBudget) -> Self {
        Self {
            io,
            budget,
            write_timeout: None,
            read_is_waiting: false,
            has_written: false,
        }
    }

    fn on_write<T>(
        &mut self,
        context: &mut Context<'_>,
        attempt: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.has_written = true;
        if attempt.is_ready() {
            self.write_timeout = None;
            if std::mem::take(&mut self.read_is_waiting) {
                context.waker().wake_by_ref();
            }
            return attempt;
        }
        let timeout = self
            .write_timeout
            .get_or_insert_with(|| Box::pin(sleep(WRITE_TIMEOUT)));
        ready!(timeout.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for PacedIo<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.write_timeout.is_some() {
            // The write that completes wakes the task, which then reads again.
            self.read_is_waiting = true;
            return Poll::Pending;
        }
        if self.budget.is_exhausted() {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(context, buffer);
        self.budget.consume(buffer.filled().len() - before);
        polled
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for PacedIo<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.on_write(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(context, slices);
        self.on_write(context, written)
    }

    /// h2 asks when a connection begins, and for each write. If the first answer is yes, it
    /// leaves data of 256 bytes and more where it is, and writes each piece of it by itself:
    /// one system call for every answer. If it is no, it copies up to 1 KiB into its buffer,
    /// which leaves with one write. Larger pieces are written in place all the same.
    fn is_write_vectored(&self) -> bool {
        self.has_written && self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(context);
        self.on_write(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin, task::Wake};

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// Reads everything, and returns how many bytes each poll read.
    async fn bytes_per_poll(
        mut paced: PacedIo<tokio::io::DuplexStream>,
        budget: ReadBudget,
    ) -> Vec<usize> {
        let mut polls = Vec::new();
        loop {
            let mut read = 0;
            let mut space = [0; 1000];
            let mut reads = pin!(async {
                loop {
                    match paced.read(&mut space).await.unwrap() {
                        0 => return,
                        some => read += some,
                    }
                }
            });
            let ended =
                poll_fn(|context| Poll::Ready(budget.poll(reads.as_mut(), context).is_ready()))
                    .await;
            polls.push(read);
            if ended {
                return polls;
            }
        }
    }

    #[tokio::test]
    async fn each_poll_reads_within_the_budget() {
        let (mut theirs, ours) = duplex(100_000);
        theirs.write_all(&vec![7; 40_000]).await.unwrap();
        drop(theirs);
        let budget = ReadBudget::default();
        // The last read of a poll exceeds the budget by less than the size of the read.
        let polls = bytes_per_poll(PacedIo::new(ours, budget.clone()), budget).await;
        assert_eq!(polls, [17_000, 17_000, 6000]);
    }

    #[derive(Default)]
    struct WakeCount(AtomicUsize);

    impl Wake for WakeCount {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_is_not_read_from() {
        let (mut theirs, ours) = duplex(100);
        theirs.write_all(&[7; 50]).await.unwrap();
        let budget = ReadBudget::default();
        let mut paced = PacedIo::new(ours, budget.clone());
        budget.0.store(BUDGET_BYTES, Relaxed);
        let woken = Arc::new(WakeCount::default());
        let waker = Arc::clone(&woken).into();
        let mut context = Context::from_waker(&waker);
        let mut space = [0; 50];
        let mut received = ReadBuf::new(&mut space);
        let write = |paced: &mut PacedIo<_>, context: &mut Context<'_>| {
            Pin::new(paced).poll_write(context, &[1; 100])
        };
        assert!(write(&mut paced, &mut context).is_ready());
        // The buffer is full.
        assert!(write(&mut paced, &mut context).is_pending());
        let read = Pin::new(&mut paced).poll_read(&mut context, &mut received);
        assert!(read.is_pending() && received.filled().is_empty());
        theirs.read_exact(&mut [0; 100]).await.unwrap();
        let before = woken.0.load(Relaxed);
        assert!(write(&mut paced, &mut context).is_ready());
        assert!(woken.0.load(Relaxed) > before, "the read was not woken");
        let read = Pin::new(&mut paced).poll_read(&mut context, &mut received);
        assert!(read.is_ready());
        assert_eq!(received.filled(), [7; 50]);
    }
}
