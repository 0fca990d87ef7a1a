//! One connection of the load generator: frames by hand, calls in flight, and
//! the windows of both sides. It knows nothing of time; whoever drives it says
//! what each call is to be known by, and gets that back when it is answered.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Instant,
};

use super::{
    Answers, Style, Target,
    frames::{
        ACK, DATA, END_HEADERS, END_STREAM, FIRST_WINDOW, GOAWAY, HEAD, HEADERS, Head, PING,
        PREFACE, RST_STREAM, SETTING_INITIAL_WINDOW_SIZE, SETTING_MAX_CONCURRENT_STREAMS, SETTINGS,
        WHOLE_WINDOW, WINDOW_UPDATE, number, put,
    },
};

/// Calls that are remembered by their number; older ones must be answered.
const SLOTS: usize = 1 << 16;
/// How much is received before the server is told that it was.
const RECEIVED: u32 = 1 << 24;
/// What is read at once, at most: more than the largest frame there can be,
/// which is 16 KiB.
const CHUNK: usize = 1 << 16;
/// The longest frame that may be sent to whoever has not allowed longer ones.
const LONGEST_FRAME: usize = 1 << 14;
/// The number of a connection's first stream, which is the one that is shared.
const SHARED: u32 = 1;
/// The message's head in gRPC: whether it is compressed, and its length.
const MESSAGE_HEAD: usize = 5;

/// A connection with its calls.
pub struct Connection {
    pub socket: TcpStream,
    /// What was read and is not yet a whole frame, and how much that is.
    inbox: Vec<u8>,
    filled: usize,
    outbox: Vec<u8>,
    sent: usize,
    /// What may still be sent, on the whole connection and at first on a stream.
    window: i64,
    stream_window: i64,
    received: u32,
    /// Streams that the server lets us have at once.
    max_streams: usize,
    next_stream: u32,
    /// The message that is sent next.
    next_message: usize,
    slots: Vec<Slot>,
    in_flight: usize,
    /// The stream on which all calls go, where they share one.
    shared: Shared,
}

/// A stream with many calls on it, one after the other.
#[derive(Default)]
struct Shared {
    is_open: bool,
    /// What may still be sent on it.
    window: i64,
    /// Messages that are in no frame yet. They leave together: a client that is
    /// busy writes many into one.
    messages: Vec<u8>,
    /// When each call under way was to be made, oldest first.
    since: VecDeque<Instant>,
    /// The answer that is being read.
    answer: Slot,
    received: u32,
}

/// A call under way.
#[derive(Clone, Copy, Default)]
struct Slot {
    /// 0: none.
    stream: u32,
    /// When it was to be made.
    since: Option<Instant>,
    /// What was read of the answer's message.
    read: usize,
    /// The beginning of the message: its head, and two bytes.
    begin: [u8; MESSAGE_HEAD + 2],
}

impl Slot {
    /// Takes the answer's part of what was received, and gives the rest.
    fn read<'p>(&mut self, piece: &'p [u8]) -> &'p [u8] {
        let wanted = match self.length() {
            Some(length) => length - self.read,
            None => MESSAGE_HEAD - self.read,
        };
        let (taken, rest) = piece.split_at(piece.len().min(wanted));
        for (place, byte) in self.begin.iter_mut().skip(self.read).zip(taken) {
            *place = *byte;
        }
        self.read += taken.len();
        rest
    }

    fn is_whole(&self) -> bool {
        self.length() == Some(self.read)
    }

    /// The length of the message and its head, where they were read.
    fn length(&self) -> Option<usize> {
        let length = || number(&self.begin[1..]) as usize;
        (self.read >= MESSAGE_HEAD).then(|| MESSAGE_HEAD + length())
    }

    /// Whether the message is whole, and begins as a good one does: with
    /// `active = true`, or for a check, with a status that is OK.
    fn is_good(&self) -> bool {
        let begin = &self.begin[MESSAGE_HEAD..];
        self.is_whole() && (begin == [8, 1] || begin == [0x0a, 0])
    }
}

impl Connection {
    /// Connects, and says what a client says first.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let mut outbox = PREFACE.to_vec();
        let mut setting = SETTING_INITIAL_WINDOW_SIZE.to_be_bytes().to_vec();
        setting.extend_from_slice(&WHOLE_WINDOW.to_be_bytes());
        put(&mut outbox, SETTINGS, 0, 0, &setting);
        let more = WHOLE_WINDOW - FIRST_WINDOW;
        put(&mut outbox, WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        Ok(Self {
            socket,
            inbox: vec![0; CHUNK],
            filled: 0,
            outbox,
            sent: 0,
            window: FIRST_WINDOW.into(),
            stream_window: FIRST_WINDOW.into(),
            received: 0,
            max_streams: 100,
            next_stream: 1,
            next_message: 0,
            slots: vec![Slot::default(); SLOTS],
            in_flight: 0,
            shared: Shared::default(),
        })
    }

    /// Calls under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Calls that may be under way at once, each on a stream of its own.
    pub fn max_streams(&self) -> usize {
        self.max_streams
    }

    /// Begins a call, unless the server's windows or limits forbid it now.
    pub fn call(&mut self, target: &Target, since: Instant) -> bool {
        let message = &target.messages[self.next_message];
        let length = i64::try_from(message.len()).expect("a short message");
        if self.window < length {
            return false;
        }
        match target.style {
            Style::Unary if self.in_flight >= self.max_streams => return false,
            Style::Unary => {
                let stream = self.open_stream(target);
                put(&mut self.outbox, DATA, END_STREAM, stream, message);
                let slot = &mut self.slots[slot_of(stream)];
                assert_eq!(slot.stream, 0, "a call was left behind by {SLOTS} others");
                *slot = Slot {
                    stream,
                    since: Some(since),
                    ..Slot::default()
                };
            }
            Style::Stream => {
                if !self.shared.is_open {
                    self.open_stream(target);
                    self.shared.is_open = true;
                    self.shared.window = self.stream_window;
                }
                let shared = &mut self.shared;
                if shared.window < length {
                    return false;
                }
                shared.window -= length;
                shared.messages.extend_from_slice(message);
                shared.since.push_back(since);
            }
        }
        self.window -= length;
        self.next_message = (self.next_message + 1) % target.messages.len();
        self.in_flight += 1;
        true
    }

    fn open_stream(&mut self, target: &Target) -> u32 {
        let stream = self.next_stream;
        let block = if stream == SHARED {
            &target.blocks.first
        } else {
            &target.blocks.later
        };
        put(&mut self.outbox, HEADERS, END_HEADERS, stream, block);
        self.next_stream += 2;
        stream
    }

    /// Whether something waits for the socket to take it.
    pub fn is_held_up(&self) -> bool {
        self.sent < self.outbox.len()
    }

    /// Sends what there is to be sent, as far as the socket takes it.
    pub fn send(&mut self) -> io::Result<()> {
        for messages in self.shared.messages.chunks(LONGEST_FRAME) {
            put(&mut self.outbox, DATA, 0, SHARED, messages);
        }
        self.shared.messages.clear();
        while self.sent < self.outbox.len() {
            match self.socket.write(&self.outbox[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.outbox.clear();
        self.sent = 0;
        Ok(())
    }

    /// Reads what there is, once, and says what was answered.
    pub fn receive(&mut self, style: Style, answers: &mut Answers) -> io::Result<()> {
        match self.socket.read(&mut self.inbox[self.filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.filled += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
        let mut inbox = std::mem::take(&mut self.inbox);
        let mut rest = &inbox[..self.filled];
        while rest.len() >= HEAD {
            let head = Head::read(&rest[..HEAD]);
            let Some(payload) = rest.get(HEAD..HEAD + head.length) else {
                break;
            };
            self.frame(head, payload, style, answers)?;
            rest = &rest[HEAD + head.length..];
        }
        let used = self.filled - rest.len();
        inbox.copy_within(used..self.filled, 0);
        self.filled -= used;
        self.inbox = inbox;
        Ok(())
    }

    fn frame(
        &mut self,
        head: Head,
        payload: &[u8],
        style: Style,
        answers: &mut Answers,
    ) -> io::Result<()> {
        let ends = head.flags & END_STREAM != 0;
        match head.kind {
            DATA => {
                self.count_received(head, style);
                self.data(head.stream, payload, style, answers);
                if ends {
                    self.end(head.stream, answers);
                }
            }
            HEADERS if ends => self.end(head.stream, answers),
            RST_STREAM => self.end(head.stream, answers),
            SETTINGS if head.flags & ACK == 0 => {
                self.settings(payload);
                put(&mut self.outbox, SETTINGS, ACK, 0, &[]);
            }
            PING if head.flags & ACK == 0 => put(&mut self.outbox, PING, ACK, 0, payload),
            WINDOW_UPDATE => {
                let more = i64::from(number(payload));
                match head.stream {
                    0 => self.window += more,
                    // Where each call has a stream of its own, none is ever used up.
                    _ => self.shared.window += more,
                }
            }
            GOAWAY => return Err(io::ErrorKind::ConnectionAborted.into()),
            _ => {}
        }
        Ok(())
    }

    fn settings(&mut self, payload: &[u8]) {
        for setting in payload.chunks_exact(6) {
            let value = number(&setting[2..]);
            match u16::from_be_bytes([setting[0], setting[1]]) {
                SETTING_MAX_CONCURRENT_STREAMS => self.max_streams = value as usize,
                SETTING_INITIAL_WINDOW_SIZE => {
                    self.shared.window += i64::from(value) - self.stream_window;
                    self.stream_window = value.into();
                }
                _ => {}
            }
        }
    }

    /// Gives the server its window back.
    fn count_received(&mut self, head: Head, style: Style) {
        let length = u32::try_from(head.length).expect("a short frame");
        self.received += length;
        if self.received >= RECEIVED {
            let received = self.received.to_be_bytes();
            put(&mut self.outbox, WINDOW_UPDATE, 0, 0, &received);
            self.received = 0;
        }
        if style == Style::Stream {
            self.shared.received += length;
            if self.shared.received >= RECEIVED {
                let received = self.shared.received.to_be_bytes();
                put(&mut self.outbox, WINDOW_UPDATE, 0, SHARED, &received);
                self.shared.received = 0;
            }
        }
    }

    /// Takes in a piece of an answer. On a stream that goes on, the end of the
    /// message is the end of the call.
    fn data(&mut self, stream: u32, mut piece: &[u8], style: Style, answers: &mut Answers) {
        while !piece.is_empty() {
            match style {
                Style::Unary => {
                    let slot = &mut self.slots[slot_of(stream)];
                    if slot.stream != stream || slot.is_whole() {
                        return;
                    }
                    piece = slot.read(piece);
                }
                Style::Stream => {
                    let Shared { since, answer, .. } = &mut self.shared;
                    piece = answer.read(piece);
                    if answer.is_whole() {
                        let since = since.pop_front().expect("there is one for each answer");
                        answers.add(since, answer.is_good());
                        *answer = Slot::default();
                        self.in_flight -= 1;
                    }
                }
            }
        }
    }

    /// The stream is over, and so is its call, or all of them.
    fn end(&mut self, stream: u32, answers: &mut Answers) {
        let slot = &mut self.slots[slot_of(stream)];
        if let Some(since) = slot.since.take_if(|_| slot.stream == stream) {
            answers.add(since, slot.is_good());
            slot.stream = 0;
            self.in_flight -= 1;
        }
        for since in self.shared.since.drain(..) {
            answers.add(since, false);
            self.in_flight -= 1;
        }
    }
}

fn slot_of(stream: u32) -> usize {
    (stream / 2) as usize % SLOTS
}
