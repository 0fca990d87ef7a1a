//! What is done to the bytes between a client and the server.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, ReadHalf, WriteHalf,
    copy, split,
};

use crate::dice::Dice;

/// Reads and writes in pieces of any size up to one, and lets others go first at times.
pub struct Cut {
    io: DuplexStream,
    dice: Dice,
    most: usize,
    /// In how many of a hundred cases.
    yields: usize,
}

impl Cut {
    pub fn new(io: DuplexStream, mut dice: Dice) -> Self {
        Self {
            io,
            most: *dice.one_of(&[1, 10, 100, 16_384]),
            yields: *dice.one_of(&[0, 20]),
            dice,
        }
    }

    /// The size of the next piece.
    fn piece(&mut self, context: &Context<'_>) -> Poll<usize> {
        let Self { yields, most, .. } = *self;
        if self.dice.percent(yields) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(1 + self.dice.below(most))
    }
}

impl AsyncRead for Cut {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let size = ready!(self.piece(context)).min(buffer.remaining());
        let mut piece = vec![0; size];
        let mut piece = ReadBuf::new(&mut piece);
        ready!(Pin::new(&mut self.io).poll_read(context, &mut piece))?;
        buffer.put_slice(piece.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Cut {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let size = ready!(self.piece(context)).min(bytes.len());
        Pin::new(&mut self.io).poll_write(context, &bytes[..size])
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// The length of a connection's preface, and of the head of a frame (RFC 9113).
const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;

/// Carries what a client sends to the server, not all of it as it was, until the client ends
/// it; and what the server says to the client, until the server ends it.
pub async fn mangle(client: DuplexStream, server: DuplexStream, dice: Dice) {
    let (from_client, mut to_client) = split(client);
    let (mut from_server, to_server) = split(server);
    let sent = async {
        // Either side may have gone.
        drop(send(from_client, to_server, dice).await);
    };
    let received = async {
        drop(copy(&mut from_server, &mut to_client).await);
        drop(to_client.shutdown().await);
    };
    tokio::join!(sent, received);
}

async fn send(
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    mut dice: Dice,
) -> io::Result<()> {
    let mut preface = [0; PREFACE_BYTES];
    from.read_exact(&mut preface).await?;
    if dice.percent(3) {
        flip(&mut preface, &mut dice);
    }
    to.write_all(&preface).await?;
    // How many of a hundred frames are changed.
    let changed = *dice.one_of(&[2, 10, 40]);
    let mut kept = Vec::new();
    loop {
        let mut frame = vec![0; HEAD_BYTES];
        if from.read_exact(&mut frame).await.is_err() {
            return to.shutdown().await;
        }
        let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]);
        frame.resize(HEAD_BYTES + usize::try_from(length).unwrap(), 0);
        from.read_exact(&mut frame[HEAD_BYTES..]).await?;
        if dice.percent(changed) {
            match dice.below(6) {
                0 => flip(&mut frame, &mut dice),
                1 => continue,
                2 => frame = frame.repeat(1 + dice.below(20)),
                3 => {
                    // It comes after the next one.
                    kept = frame;
                    continue;
                }
                4 => frame.extend(invented(&mut dice)),
                _ => {
                    to.write_all(&frame[..dice.below(frame.len())]).await?;
                    return to.shutdown().await;
                }
            }
        }
        frame.append(&mut kept);
        to.write_all(&frame).await?;
    }
}

fn flip(bytes: &mut [u8], dice: &mut Dice) {
    let at = dice.below(bytes.len());
    bytes[at] ^= 1 << dice.below(8);
}

/// A frame of any kind with any flags, on one of the first streams.
fn invented(dice: &mut Dice) -> Vec<u8> {
    let any = |dice: &mut Dice| u8::try_from(dice.below(256)).unwrap();
    let length = dice.below(64);
    let kind = u8::try_from(dice.below(12)).unwrap();
    let stream = u8::try_from(dice.below(10)).unwrap();
    let length_byte = u8::try_from(length).unwrap();
    let mut frame = vec![0, 0, length_byte, kind, any(dice), 0, 0, 0, stream];
    frame.extend((0..length).map(|_| any(dice)));
    frame
}
