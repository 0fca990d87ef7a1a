//! HTTP/2 spoken by hand: what a peer may do at once, the server has to bear.

use hitkeep_auth::domain::caller::CallerPermission::Introspect;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::{fixtures::*, harness::TestApp, layers::framed};

pub const STREAM: &str = "/hitkeep.auth.v1.IntrospectionService/IntrospectStream";
/// What is on its way at once: more than a server lets anybody send.
const DUPLEX_BYTES: usize = 64 * 1024 * 1024;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Kinds of frames, their flags, and a setting (RFC 9113).
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const SETTINGS: u8 = 4;
pub const WINDOW_UPDATE: u8 = 8;
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
const INITIAL_WINDOW_SIZE: u16 = 4;
/// The windows that there are at first, and the largest that there can be.
const FIRST_WINDOW: usize = 65_535;
const LARGEST_WINDOW: usize = (1 << 31) - 1;

/// A connection.
pub struct Peer {
    pub io: DuplexStream,
    /// What may be sent on it, and on each stream, until the server says more.
    window: usize,
    pub stream_window: usize,
}

pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

fn number(bytes: &[u8]) -> usize {
    let number = u32::from_be_bytes(bytes.try_into().unwrap());
    number.try_into().unwrap()
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// The headers of a call, none of them compressed (RFC 7541, section 6.2.2).
pub fn headers(path: &str, token: &str) -> Vec<u8> {
    let bearer = format!("Bearer {token}");
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "test.invalid"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("authorization", &bearer),
    ];
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            let length = u8::try_from(text.len()).unwrap();
            assert!(length < 127, "a longer one is written in another way");
            block.push(length);
            block.extend(text.bytes());
        }
    }
    block
}

impl Peer {
    /// Connects, and hears what may be sent.
    pub async fn connect(app: &TestApp) -> Self {
        let (mut io, theirs) = tokio::io::duplex(DUPLEX_BYTES);
        app.connect(theirs);
        let setting = [
            &INITIAL_WINDOW_SIZE.to_be_bytes()[..],
            &u32::try_from(LARGEST_WINDOW).unwrap().to_be_bytes(),
        ];
        let more = u32::try_from(LARGEST_WINDOW - FIRST_WINDOW).unwrap();
        let said = [
            PREFACE,
            &frame(SETTINGS, 0, 0, &setting.concat()),
            &frame(WINDOW_UPDATE, 0, 0, &more.to_be_bytes()),
        ];
        io.write_all(&said.concat()).await.unwrap();
        let mut peer = Self {
            io,
            window: FIRST_WINDOW,
            stream_window: FIRST_WINDOW,
        };
        let (mut set, mut widened) = (false, false);
        while !(set && widened) {
            let heard = peer.hear().await;
            match heard.kind {
                SETTINGS if heard.flags & ACK == 0 => {
                    for setting in heard.payload.chunks(6) {
                        if setting[..2] == INITIAL_WINDOW_SIZE.to_be_bytes() {
                            peer.stream_window = number(&setting[2..]);
                        }
                    }
                    let ack = frame(SETTINGS, ACK, 0, &[]);
                    peer.io.write_all(&ack).await.unwrap();
                    set = true;
                }
                WINDOW_UPDATE => {
                    peer.window += number(&heard.payload);
                    widened = true;
                }
                _ => {}
            }
        }
        peer
    }

    pub async fn hear(&mut self) -> Frame {
        let mut head = [0; 9];
        self.io.read_exact(&mut head).await.unwrap();
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; number(&[0, a, b, c])];
        self.io.read_exact(&mut payload).await.unwrap();
        Frame {
            kind,
            flags,
            stream: u32::from_be_bytes(stream),
            payload,
        }
    }
}

/// What guards HTTP/2 against floods of small frames ends the connection, with all
/// calls on it. But clients write each request into a frame of its own, and thousands
/// of them before they read the first answer.
#[tokio::test]
async fn all_requests_that_may_be_sent_at_once_are_answered() {
    let app = TestApp::start().await;
    let token = app.token(Introspect).to_owned();
    // The shortest requests that there can be, on one stream, and those with a token,
    // on as many as one may expect.
    for (text, streams) in [("", 1), ("x", 1), (&token, 16)] {
        let request = framed(&introspect(text));
        let answer = app.sidecar().await.introspect(introspect(text)).await;
        let answer = framed(&answer.unwrap());
        let mut peer = Peer::connect(&app).await;
        let requests = peer.stream_window / request.len();
        assert!(streams * peer.stream_window <= peer.window);
        let mut said = Vec::new();
        let ids = (0..streams).map(|number| u32::try_from(2 * number + 1).unwrap());
        for stream in ids {
            said.extend(frame(
                HEADERS,
                END_HEADERS,
                stream,
                &headers(STREAM, &token),
            ));
            let one = frame(DATA, 0, stream, &request);
            said.extend(one.repeat(requests));
            said.extend(frame(DATA, END_STREAM, stream, &[]));
        }
        peer.io.write_all(&said).await.unwrap();
        let (mut answered, mut ended) = (0, 0);
        while ended < streams {
            let heard = peer.hear().await;
            match heard.kind {
                DATA => answered += heard.payload.len(),
                HEADERS => ended += usize::from(heard.flags & END_STREAM != 0),
                WINDOW_UPDATE | SETTINGS => {}
                kind => panic!("{kind} on {}: {:?}", heard.stream, heard.payload),
            }
        }
        assert_eq!(answered, streams * requests * answer.len(), "{text:?}");
    }
}
