//! Prost's codec, with buffers that fit these messages.
//!
//! A stream keeps its encode buffer for as long as it lives, as large as the largest run of
//! messages that was written to it at once. With tonic's settings that is up to 128 KiB for
//! each replica that ever took a snapshot, however little it is sent afterwards.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// What a buffer has at first, and grows by when a compressed message is read. Nearly every
/// message is smaller.
const BUFFER: usize = 1024;
/// So many bytes are handed to HTTP/2 at once: no more messages are added to them. At least a
/// quarter of a frame of the usual size, so that a run of small answers still shares frames.
const HANDED_OVER: usize = 4096;

/// A codec of `application/grpc+proto`.
pub struct SmallBuffers<T, U>(PhantomData<fn(T) -> U>);

impl<T, U> Default for SmallBuffers<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallBuffers<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER, HANDED_OVER))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER, HANDED_OVER))
    }
}
