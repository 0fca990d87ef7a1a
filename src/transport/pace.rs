//! How much of a connection is read at a time. HTTP/2 reads for as long as there is
//! something to read, and begins the calls in it only then; so a peer that sends much at
//! once, as after a server was stopped for a second, could fill the queue of calls that
//! were given up again, and h2 ends a connection whose queue is full, with every call on it.
//!
//! A connection therefore reads in turns, between which its calls begin and end. And it
//! reads nothing from a peer that does not take what it is sent: h2 keeps a note for each
//! call that it refuses, until that note was written.

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

/// How much is read in a turn; one read, of a frame at most, may go beyond it.
const TURN_BYTES: usize = 16 * 1024;

/// How long a peer may take nothing of what it is sent. A ping that is not answered ends a
/// connection as soon, but not one on which there is no room left for the ping.
const WRITE_TIMEOUT: Duration = Duration::from_secs(40);

/// How many calls of one connection may have been reset by their caller before they began.
/// It is beyond what fits into a turn, where the frames of one take 24 bytes at least, so
/// that it is never reached: whatever was reset is over before more is read.
pub(super) const MAX_PENDING_RESETS: usize = 2048;

/// What a connection may still read in this turn, in bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct ReadBudget(Arc<AtomicUsize>);

impl ReadBudget {
    /// Polls what serves the connection, in a turn of its own.
    pub(super) fn poll<F: Future>(
        &self,
        served: Pin<&mut F>,
        context: &mut Context<'_>,
    ) -> Poll<F::Output> {
        self.0.store(TURN_BYTES, Relaxed);
        served.poll(context)
    }

    fn is_over(&self) -> bool {
        self.0.load(Relaxed) == 0
    }

    /// Only the connection's own task counts, so nothing is lost between the two.
    fn note(&self, read: usize) {
        let left = self.0.load(Relaxed);
        self.0.store(left.saturating_sub(read), Relaxed);
    }
}

/// A connection that is read in turns.
pub(super) struct Paced<IO> {
    io: IO,
    turn: ReadBudget,
    /// Until when the peer may take what was written, where it has yet to.
    blocked: Option<Pin<Box<Sleep>>>,
    /// Whether reading waits for that.
    is_held: bool,
}

impl<IO> Paced<IO> {
    pub(super) const fn new(io: IO, turn: ReadBudget) -> Self {
        Self {
            io,
            turn,
            blocked: None,
            is_held: false,
        }
    }

    fn on_write<T>(
        &mut self,
        context: &mut Context<'_>,
        attempt: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if attempt.is_ready() {
            self.blocked = None;
            if std::mem::take(&mut self.is_held) {
                context.waker().wake_by_ref();
            }
            return attempt;
        }
        let timeout = self
            .blocked
            .get_or_insert_with(|| Box::pin(sleep(WRITE_TIMEOUT)));
        ready!(timeout.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Paced<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.blocked.is_some() {
            // Who goes on writing wakes the task, and with it this.
            self.is_held = true;
            return Poll::Pending;
        }
        if self.turn.is_over() {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(context, buffer);
        self.turn.note(buffer.filled().len() - before);
        polled
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Paced<IO> {
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

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
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

    /// Reads what it can, and says how much that was in each turn.
    async fn turns(mut paced: Paced<tokio::io::DuplexStream>, turn: ReadBudget) -> Vec<usize> {
        let mut turns = Vec::new();
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
                poll_fn(|context| Poll::Ready(turn.poll(reads.as_mut(), context).is_ready())).await;
            turns.push(read);
            if ended {
                return turns;
            }
        }
    }

    #[tokio::test]
    async fn what_came_is_read_in_turns() {
        let (mut theirs, ours) = duplex(100_000);
        theirs.write_all(&vec![7; 40_000]).await.unwrap();
        drop(theirs);
        let turn = ReadBudget::default();
        // The last read of a turn goes beyond it by less than what it reads at once.
        let turns = turns(Paced::new(ours, turn.clone()), turn).await;
        assert_eq!(turns, [17_000, 17_000, 6000]);
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[tokio::test]
    async fn who_takes_nothing_is_not_heard() {
        let (mut theirs, ours) = duplex(100);
        theirs.write_all(&[7; 50]).await.unwrap();
        let turn = ReadBudget::default();
        let mut paced = Paced::new(ours, turn.clone());
        turn.0.store(TURN_BYTES, Relaxed);
        let woken = Arc::new(Woken::default());
        let waker = Arc::clone(&woken).into();
        let mut context = Context::from_waker(&waker);
        let mut space = [0; 50];
        let mut heard = ReadBuf::new(&mut space);
        let write = |paced: &mut Paced<_>, context: &mut Context<'_>| {
            Pin::new(paced).poll_write(context, &[1; 100])
        };
        assert!(write(&mut paced, &mut context).is_ready());
        // There is no more room.
        assert!(write(&mut paced, &mut context).is_pending());
        let read = Pin::new(&mut paced).poll_read(&mut context, &mut heard);
        assert!(read.is_pending() && heard.filled().is_empty());
        theirs.read_exact(&mut [0; 100]).await.unwrap();
        let before = woken.0.load(Relaxed);
        assert!(write(&mut paced, &mut context).is_ready());
        assert!(woken.0.load(Relaxed) > before, "nobody would read");
        let read = Pin::new(&mut paced).poll_read(&mut context, &mut heard);
        assert!(read.is_ready());
        assert_eq!(heard.filled(), [7; 50]);
    }
}
