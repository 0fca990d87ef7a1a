//! One direction of an HTTP/2 connection, cut at the borders of its frames, so that those of
//! some streams can be held back while others pass.
//!
//! What HTTP/2 does not allow is not done: the frames of one stream stay in their order, and
//! so do all header blocks of a connection, since each is compressed by what came before it.

use std::collections::{BTreeSet, VecDeque};

/// Length, type, flags and stream.
const HEAD: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
/// The flag of the last frame of a header block.
const END_HEADERS: u8 = 4;

/// What is on its way.
#[derive(Default)]
pub struct Frames {
    /// The beginning of a frame.
    rest: Vec<u8>,
    waiting: VecDeque<Frame>,
}

/// A frame; a header block with all of its own.
struct Frame {
    stream: u32,
    is_headers: bool,
    bytes: Vec<u8>,
}

impl Frames {
    /// Takes what was read.
    pub fn add(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        while let Some(length) = unit(&self.rest) {
            let rest = self.rest.split_off(length);
            let bytes = std::mem::replace(&mut self.rest, rest);
            let stream = bytes[5..HEAD].try_into().expect("four bytes");
            self.waiting.push_back(Frame {
                stream: u32::from_be_bytes(stream) & !(1 << 31),
                is_headers: matches!(bytes[3], HEADERS | CONTINUATION),
                bytes,
            });
        }
    }

    /// Takes out what may pass now, and leaves what is held back and what must not overtake
    /// that.
    pub fn take(&mut self, is_held: impl Fn(u32) -> bool) -> Vec<u8> {
        let mut passing = Vec::new();
        let mut blocked = BTreeSet::new();
        let mut blocks_headers = false;
        self.waiting.retain(|frame| {
            let stays = is_held(frame.stream)
                || blocked.contains(&frame.stream)
                || blocks_headers && frame.is_headers;
            if stays {
                blocked.insert(frame.stream);
                blocks_headers |= frame.is_headers;
            } else {
                passing.extend_from_slice(&frame.bytes);
            }
            stays
        });
        passing
    }

    /// Takes out the first of those that wait, as many as that.
    pub fn take_first(&mut self, frames: usize) -> Vec<u8> {
        let frames = frames.min(self.waiting.len());
        let first = self.waiting.drain(..frames);
        first.flat_map(|frame| frame.bytes).collect()
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

/// How long the first frame is, with the rest of a header block that it begins. `None` if it
/// is not all there.
fn unit(bytes: &[u8]) -> Option<usize> {
    let mut end = 0;
    loop {
        let head = bytes.get(end..end + HEAD)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let is_headers = matches!(head[3], HEADERS | CONTINUATION);
        let is_last = !is_headers || head[4] & END_HEADERS != 0;
        end += HEAD + length;
        if is_last {
            return (bytes.len() >= end).then_some(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: u8 = 0;
    const SETTINGS: u8 = 4;

    /// A frame whose content is its number.
    fn frame(kind: u8, flags: u8, stream: u32, number: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, 1, kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.push(number);
        frame
    }

    /// The numbers of some frames.
    fn numbers(frames: &[u8]) -> Vec<u8> {
        let frames = frames.chunks(HEAD + 1);
        frames.map(|frame| frame[HEAD]).collect()
    }

    #[test]
    fn what_is_held_is_overtaken_as_far_as_that_is_allowed() {
        let mut frames = Frames::default();
        let sent = [
            frame(SETTINGS, 0, 0, 1),
            frame(HEADERS, 0, 3, 2),
            frame(CONTINUATION, END_HEADERS, 3, 3),
            frame(DATA, 0, 1, 4),
            frame(DATA, 0, 3, 5),
            // The trailers of the first stream, which no other header block overtakes.
            frame(HEADERS, END_HEADERS, 1, 6),
            frame(DATA, 0, 3, 7),
            frame(HEADERS, END_HEADERS, 3, 8),
            frame(DATA, 0, 0, 9),
        ];
        // However it comes.
        for byte in sent.concat() {
            frames.add(&[byte]);
        }
        let passed = frames.take(|stream| stream == 1);
        assert_eq!(numbers(&passed), [1, 2, 3, 5, 7, 9]);
        assert_eq!(frames.waiting(), 3);
        assert_eq!(numbers(&frames.take_first(1)), [4]);
        assert_eq!(numbers(&frames.take(|_| false)), [6, 8]);
        assert_eq!(frames.waiting(), 0);
    }
}
