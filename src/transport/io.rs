//! A connection's bytes, encrypted or not, and how long its first ones and its last
//! ones may take: who connects and says nothing is not kept, and who is still talking
//! when we have said all is heard out.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};
use tokio_rustls::server::TlsStream;

use super::{tls::Peer, workers::Unregistered};

/// How long the first words of HTTP/2 may take. From then on, whoever does not answer
/// to a ping is not kept.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long they are: the preface, and the settings frame's header.
const PREFACE_BYTES: usize = 24 + 9;
/// How long a connection that we have ended is still read, where its peer does not end
/// it as well.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// How much of what is not looked at is read at once.
const DRAIN_BUFFER_BYTES: usize = 4096;

/// A connection of HTTP/2.
pub(crate) struct LingeringIo<IO> {
    bytes: MaybeTls<IO>,
    /// What is still missing of the preface, and how long it may take.
    preface: Option<(usize, Pin<Box<Sleep>>)>,
    /// How long the peer still has, once we have said our last.
    linger: Option<Pin<Box<Sleep>>>,
}

/// A connection's bytes.
pub(crate) enum MaybeTls<IO> {
    Plain(IO),
    Encrypted(Box<TlsStream<IO>>),
}

impl<IO> LingeringIo<IO> {
    pub(crate) fn new(bytes: MaybeTls<IO>) -> Self {
        let preface = Some((PREFACE_BYTES, Box::pin(sleep(PREFACE_TIMEOUT))));
        Self {
            bytes,
            preface,
            linger: None,
        }
    }
}

macro_rules! either {
    ($bytes:expr, $one:ident => $asked:expr) => {
        match $bytes.get_mut() {
            Self::Plain($one) => $asked,
            Self::Encrypted($one) => $asked,
        }
    };
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for MaybeTls<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, io => Pin::new(io).poll_read(context, buffer))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for MaybeTls<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, io => Pin::new(io).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, io => Pin::new(io).poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(io) => io.is_write_vectored(),
            Self::Encrypted(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, io => Pin::new(io).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, io => Pin::new(io).poll_shutdown(context))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for LingeringIo<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.bytes).poll_read(context, buffer);
        if let Some((missing, timeout)) = &mut self.preface {
            if polled.is_pending() {
                ready!(timeout.as_mut().poll(context));
                let why = "it was opened, and then nothing came";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
            }
            *missing = missing.saturating_sub(buffer.filled().len() - before);
            if *missing == 0 {
                self.preface = None;
            }
        }
        polled
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for LingeringIo<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.bytes).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.bytes).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.bytes.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_flush(context)
    }

    /// Says that nothing more comes, and reads until the peer says so too.
    ///
    /// A connection that is closed while its peer is talking is reset. The peer then may
    /// lose what it has not read yet: the last answers, and the word up to which call we
    /// went on, without which it cannot tell a call that was never begun from one that
    /// was lost.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.bytes).poll_shutdown(context))?;
            self.linger = Some(Box::pin(sleep(LINGER_TIMEOUT)));
        }
        loop {
            let timeout = self.linger.as_mut().expect("it was set above");
            if timeout.as_mut().poll(context).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut space = [MaybeUninit::uninit(); DRAIN_BUFFER_BYTES];
            let mut discarded = ReadBuf::uninit(&mut space);
            let read = Pin::new(&mut self.bytes).poll_read(context, &mut discarded);
            if ready!(read).is_err() || discarded.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// Makes a connection one of this runtime, and encrypts it where it is to be.
pub(crate) async fn open<C: Unregistered>(
    connection: C,
) -> io::Result<(MaybeTls<C::Io>, Option<Peer>)> {
    let tls = connection.tls().cloned();
    let io = connection.here()?;
    let Some(tls) = tls else {
        return Ok((MaybeTls::Plain(io), None));
    };
    let (stream, peer) = tls.accept(io).await?;
    Ok((MaybeTls::Encrypted(Box::new(stream)), peer))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_says_too_little_is_not_waited_for() {
        for said in [0, 1, PREFACE_BYTES - 1] {
            let (mut theirs, ours) = duplex(1024);
            theirs.write_all(&vec![0; said]).await.unwrap();
            let mut read = Vec::new();
            let error = LingeringIo::new(MaybeTls::Plain(ours))
                .read_to_end(&mut read)
                .await
                .unwrap_err();
            assert_eq!((error.kind(), read.len()), (io::ErrorKind::TimedOut, said));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_greeted_may_be_silent() {
        let (mut theirs, ours) = duplex(1024);
        let mut wire = LingeringIo::new(MaybeTls::Plain(ours));
        theirs.write_all(&[0; 20]).await.unwrap();
        theirs.write_all(&[0; PREFACE_BYTES - 20]).await.unwrap();
        wire.read_exact(&mut [0; PREFACE_BYTES]).await.unwrap();
        let mut silence = Box::pin(async move { wire.read_u8().await });
        let long = tokio::time::timeout(PREFACE_TIMEOUT * 10, &mut silence).await;
        assert!(long.is_err(), "{long:?}");
        theirs.write_u8(7).await.unwrap();
        assert_eq!(silence.await.unwrap(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_still_talking_at_the_end_is_heard_out() {
        let (mut theirs, ours) = duplex(16);
        let mut wire = LingeringIo::new(MaybeTls::Plain(ours));
        wire.write_all(b"the last").await.unwrap();
        let linger = tokio::spawn(async move { wire.shutdown().await });
        // More than there is room for, so that somebody has to read it.
        theirs.write_all(&[0; 1000]).await.unwrap();
        let mut heard = Vec::new();
        theirs.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"the last");
        theirs.write_all(&[0; 1000]).await.unwrap();
        assert!(!linger.is_finished());
        drop(theirs);
        linger.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_come_to_an_end_is_not_waited_for() {
        let (mut theirs, ours) = duplex(16);
        let mut wire = LingeringIo::new(MaybeTls::Plain(ours));
        let begun = tokio::time::Instant::now();
        let talking = tokio::spawn(async move {
            while theirs.write_all(&[0; 16]).await.is_ok() {
                sleep(Duration::from_millis(10)).await;
            }
        });
        wire.shutdown().await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), LINGER_TIMEOUT.as_secs());
        drop(wire);
        talking.await.unwrap();
    }
}
