//! A connection's bytes, encrypted or not, with the timeout of the HTTP/2 preface and a
//! lingering close: a peer that connects and stays silent is closed, and a peer that is
//! still sending when we close can read our last bytes.

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
use tokio_util::either::Either;

use super::{tls::Peer, workers::Unregistered};

/// How long the preface may take. After it, keep-alive pings detect a dead peer.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// The preface, and the header of the SETTINGS frame.
const PREFACE_BYTES: usize = 24 + 9;
/// How long the connection is still read after we closed our side, unless the peer closes
/// its own first.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// How much of the discarded input is read at a time.
const DRAIN_BUFFER_BYTES: usize = 4096;

/// An HTTP/2 connection with a preface timeout and a lingering close.
pub(crate) struct LingeringIo<IO> {
    bytes: MaybeTls<IO>,
    /// How many bytes of the preface are missing, and its timeout; None once it has
    /// arrived.
    preface: Option<(usize, Pin<Box<Sleep>>)>,
    /// The timeout of the lingering close, once our side is closed.
    linger: Option<Pin<Box<Sleep>>>,
}

/// A connection's bytes: plain on the left, or over TLS on the right.
pub(crate) type MaybeTls<IO> = Either<IO, Box<TlsStream<IO>>>;

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
                let why = "no HTTP/2 preface came";
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

    /// Closes our side, and reads until the peer closes its own.
    ///
    /// A socket that is closed with unread input resets the connection. The peer may then
    /// lose what it has not read yet: the last responses, and the GOAWAY frame, without
    /// which it cannot tell a call that never began from one that was lost.
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

/// Registers a connection with this runtime, and does the TLS handshake if it needs one.
pub(crate) async fn open<C: Unregistered>(
    connection: C,
) -> io::Result<(MaybeTls<C::Io>, Option<Peer>)> {
    let tls = connection.tls().cloned();
    let io = connection.register()?;
    let Some(tls) = tls else {
        return Ok((Either::Left(io), None));
    };
    let (stream, peer) = tls.accept(io).await?;
    Ok((Either::Right(Box::new(stream)), peer))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_incomplete_preface_times_out() {
        for said in [0, 1, PREFACE_BYTES - 1] {
            let (mut theirs, ours) = duplex(1024);
            theirs.write_all(&vec![0; said]).await.unwrap();
            let mut read = Vec::new();
            let error = LingeringIo::new(Either::Left(ours))
                .read_to_end(&mut read)
                .await
                .unwrap_err();
            assert_eq!((error.kind(), read.len()), (io::ErrorKind::TimedOut, said));
        }
    }

    /// h2 then writes a large message from where it is.
    #[tokio::test]
    async fn several_pieces_are_written_at_once() {
        let (_theirs, ours) = duplex(1);
        assert!(LingeringIo::new(Either::Left(ours)).is_write_vectored());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_may_be_silent_after_the_preface() {
        let (mut theirs, ours) = duplex(1024);
        let mut wire = LingeringIo::new(Either::Left(ours));
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
    async fn a_peer_that_is_still_sending_reads_the_last_bytes() {
        let (mut theirs, ours) = duplex(16);
        let mut wire = LingeringIo::new(Either::Left(ours));
        wire.write_all(b"the last").await.unwrap();
        let linger = tokio::spawn(async move { wire.shutdown().await });
        // More than the buffer holds, so that the server has to read it.
        theirs.write_all(&[0; 1000]).await.unwrap();
        let mut received = Vec::new();
        theirs.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"the last");
        theirs.write_all(&[0; 1000]).await.unwrap();
        assert!(!linger.is_finished());
        drop(theirs);
        linger.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_lingering_close_times_out() {
        let (mut theirs, ours) = duplex(16);
        let mut wire = LingeringIo::new(Either::Left(ours));
        let begun = tokio::time::Instant::now();
        let sending = tokio::spawn(async move {
            while theirs.write_all(&[0; 16]).await.is_ok() {
                sleep(Duration::from_millis(10)).await;
            }
        });
        wire.shutdown().await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), LINGER_TIMEOUT.as_secs());
        drop(wire);
        sending.await.unwrap();
    }
}
