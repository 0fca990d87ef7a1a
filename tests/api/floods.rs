//! What HTTP/2 has against floods, and what clients do that are in trouble: a connection
//! outlives the calls that were given up on it, and does not outlive an attack.

use hitkeep_auth::{
    domain::caller::CallerPermission::{Introspect, Manage},
    pb,
};
use tokio::io::AsyncWriteExt;
use tonic_types::StatusExt;

use crate::{
    fixtures::*,
    frames::{DATA, END_HEADERS, END_STREAM, HEADERS, Peer, STREAM, WINDOW_UPDATE, frame, headers},
    harness::TestApp,
    layers::{framed, raw_as},
};

const INTROSPECT: &str = "/hitkeep.auth.v1.IntrospectionService/Introspect";
const STATUS: &str = "/hitkeep.auth.v1.IntrospectionService/GetIndexStatus";
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;
const STREAM_CLOSED: u32 = 5;
const REFUSED_STREAM: u32 = 7;
/// Calls that may be under way on a connection.
const MAX_STREAMS: u32 = 1024;
/// What clients send ahead on a stream, in frames.
const SMALL_FRAMES: usize = 15;

/// A client with a stream of introspections, and what else it does on that connection.
struct Client {
    peer: Peer,
    token: String,
    next: u32,
}

impl Client {
    /// Has asked one thing on its stream, and was answered.
    async fn start(app: &TestApp) -> Self {
        let token = app.token(Introspect).to_owned();
        let mut client = Self {
            peer: Peer::connect(app).await,
            token,
            next: 3,
        };
        let begun = frame(HEADERS, END_HEADERS, 1, &headers(STREAM, &client.token));
        client.say(&begun).await;
        client.goes_on().await;
        client
    }

    async fn say(&mut self, frames: &[u8]) {
        self.peer.io.write_all(frames).await.unwrap();
    }

    fn stream(&mut self) -> u32 {
        self.next += 2;
        self.next - 2
    }

    /// A call that is begun, in its frames.
    fn begun(&mut self, path: &str, message: &impl prost::Message) -> (u32, Vec<u8>) {
        let stream = self.stream();
        let head = frame(HEADERS, END_HEADERS, stream, &headers(path, &self.token));
        let data = frame(DATA, END_STREAM, stream, &framed(message));
        (stream, [head, data].concat())
    }

    /// Asks one more thing on the stream, and is answered; a new call is, too. Nothing says
    /// that the connection ends.
    async fn goes_on(&mut self) {
        let more = frame(DATA, 0, 1, &framed(&introspect("x")));
        let (call, begun) = self.begun(INTROSPECT, &introspect("y"));
        self.say(&[more, begun].concat()).await;
        let (mut answered, mut ended) = (false, false);
        while !(answered && ended) {
            let heard = self.peer.hear().await;
            assert_ne!(
                heard.kind,
                GOAWAY,
                "{}",
                String::from_utf8_lossy(&heard.payload)
            );
            let is_end = heard.flags & END_STREAM != 0;
            answered |= heard.stream == 1 && heard.kind == DATA;
            assert!(heard.stream != 1 || !is_end, "the stream has ended");
            ended |= heard.stream == call && is_end;
        }
    }

    /// The error that the server ends the connection with.
    async fn goaway(&mut self) -> (u32, String) {
        loop {
            let heard = self.peer.hear().await;
            if heard.kind == GOAWAY {
                let code = u32::from_be_bytes(heard.payload[4..8].try_into().unwrap());
                let why = String::from_utf8(heard.payload[8..].to_vec()).unwrap();
                return (code, why);
            }
        }
    }
}

fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

/// The server was stopped for a while: it finds all of them at once.
#[tokio::test]
async fn calls_that_are_given_up_at_once_fail_alone() {
    let app = TestApp::start().await;
    let mut client = Client::start(&app).await;
    for calls in [100, MAX_STREAMS, 2500] {
        for (path, token) in [
            (INTROSPECT, client.token.clone()),
            (STATUS, client.token.clone()),
            (INTROSPECT, app.token(Manage).to_owned()),
        ] {
            let mut said = Vec::new();
            for _ in 0..calls {
                let stream = client.stream();
                said.extend(frame(HEADERS, END_HEADERS, stream, &headers(path, &token)));
                said.extend(frame(DATA, END_STREAM, stream, &framed(&introspect("x"))));
                said.extend(reset(stream, CANCEL));
            }
            client.say(&said).await;
            client.goes_on().await;
        }
    }
}

/// A call is refused by its headers, and its message comes later, when h2 has forgotten
/// it: of the calls that the server ended, it remembers the last 50.
#[tokio::test]
async fn messages_of_refused_calls_do_no_harm() {
    let app = TestApp::start().await;
    let mut client = Client::start(&app).await;
    let stranger = headers(INTROSPECT, "hks_nobody");
    for _ in 0..15 {
        let streams: Vec<u32> = (0..200).map(|_| client.stream()).collect();
        let begun = streams.iter();
        let begun = begun.flat_map(|stream| frame(HEADERS, END_HEADERS, *stream, &stranger));
        client.say(&begun.collect::<Vec<_>>()).await;
        let mut refused = 0;
        while refused < streams.len() {
            let heard = client.peer.hear().await;
            refused += usize::from(heard.kind == HEADERS && heard.flags & END_STREAM != 0);
        }
        let message = framed(&introspect("x"));
        let late = streams.iter();
        let late = late.flat_map(|stream| frame(DATA, END_STREAM, *stream, &message));
        client.say(&late.collect::<Vec<_>>()).await;
        client.goes_on().await;
    }
}

/// More calls than there may be at once are refused, each by itself and for the time being.
#[tokio::test]
async fn calls_beyond_the_limit_are_refused_alone() {
    let app = TestApp::start().await;
    let mut client = Client::start(&app).await;
    // The stream that there is, and as many as leave room for one call more.
    let open = MAX_STREAMS - 2;
    let too_many = 3 * MAX_STREAMS;
    let streams: Vec<u32> = (0..open).map(|_| client.stream()).collect();
    let path = headers(STREAM, &client.token);
    let begun = streams.iter();
    let begun = begun.flat_map(|stream| frame(HEADERS, END_HEADERS, *stream, &path));
    client.say(&begun.collect::<Vec<_>>()).await;
    client.goes_on().await;
    let one_more = client.stream();
    let mut said = frame(HEADERS, END_HEADERS, one_more, &path);
    for _ in 0..too_many {
        let (_, begun) = client.begun(INTROSPECT, &introspect("x"));
        said.extend(begun);
    }
    client.say(&said).await;
    let mut refused = 0;
    while refused < too_many {
        let heard = client.peer.hear().await;
        assert_ne!(heard.kind, GOAWAY, "after {refused}");
        if heard.kind == RST_STREAM {
            // Its message comes after that.
            let code = u32::from_be_bytes(heard.payload.try_into().unwrap());
            assert!([REFUSED_STREAM, STREAM_CLOSED].contains(&code), "{code}");
            refused += u32::from(code == REFUSED_STREAM);
        }
    }
    client.say(&reset(one_more, CANCEL)).await;
    client.goes_on().await;
}

/// Headers may come in pieces, as many as they need; an end has to come.
#[tokio::test]
async fn headers_without_an_end_end_the_connection() {
    let app = TestApp::start().await;
    let mut client = Client::start(&app).await;
    let block = headers(INTROSPECT, &client.token);
    let call = client.stream();
    let (first, rest) = block.split_at(10);
    let mut said = frame(HEADERS, 0, call, first);
    let pieces: Vec<_> = rest.chunks(rest.len().div_ceil(5)).collect();
    assert_eq!(pieces.len(), 5);
    for (number, piece) in pieces.iter().enumerate() {
        let flags = if number == 4 { END_HEADERS } else { 0 };
        said.extend(frame(CONTINUATION, flags, call, piece));
    }
    said.extend(frame(DATA, END_STREAM, call, &framed(&introspect("x"))));
    client.say(&said).await;
    client.goes_on().await;
    let endless = client.stream();
    let mut said = frame(HEADERS, 0, endless, &block);
    said.extend(frame(CONTINUATION, 0, endless, &[]).repeat(10_000));
    client.say(&said).await;
    let (code, why) = client.goaway().await;
    assert_eq!((code, &*why), (ENHANCE_YOUR_CALM, "too_many_continuations"));
}

#[tokio::test]
async fn headers_far_beyond_their_limit_end_the_connection() {
    let app = TestApp::start().await;
    let mut client = Client::start(&app).await;
    // One that fills a frame, into HPACK's table once, and then again and again from there:
    // a byte each.
    let call = client.stream();
    let mut block = vec![0x40, 1, b'x', 0x7f];
    block.extend([0xa1, 0x1e]);
    block.extend([b'x'; 4000]);
    block.extend([0xbe; 12_000]);
    client.say(&frame(HEADERS, END_HEADERS, call, &block)).await;
    let (code, why) = client.goaway().await;
    assert_eq!(
        (code, &*why),
        (ENHANCE_YOUR_CALM, "header_list_way_too_large")
    );
}

/// An empty frame takes nothing of a window. Clients end their calls with one.
#[tokio::test]
async fn empty_frames_without_end_end_the_connection() {
    let app = TestApp::start().await;
    let mut client = Client::start(&app).await;
    for _ in 0..10 {
        let mut said = Vec::new();
        for _ in 0..100 {
            let call = client.stream();
            let head = headers(INTROSPECT, &client.token);
            said.extend(frame(HEADERS, END_HEADERS, call, &head));
            said.extend(frame(DATA, 0, call, &framed(&introspect("x"))));
            said.extend(frame(DATA, END_STREAM, call, &[]));
        }
        client.say(&said).await;
        client.goes_on().await;
    }
    client.say(&frame(DATA, 0, 1, &[]).repeat(10_000)).await;
    let (code, why) = client.goaway().await;
    assert_eq!((code, &*why), (ENHANCE_YOUR_CALM, "too_many_data_frames"));
}

/// Each has to be kept until it is read, and here that has to wait.
#[tokio::test]
async fn small_frames_that_are_not_read_end_the_connection() {
    let app = TestApp::start().await;
    let mut client = Client::start(&app).await;
    let ahead = pb::IntrospectRequest {
        at_least_revision: Some(1_000_000),
        ..introspect("x")
    };
    let waits = framed(&ahead);
    // A client with as many streams as there may be, each with some requests on its way.
    let streams: Vec<u32> = (0..MAX_STREAMS - 2).map(|_| client.stream()).collect();
    let head = headers(STREAM, &client.token);
    let more = framed(&introspect("x"));
    let mut said = Vec::new();
    for stream in &streams {
        said.extend(frame(HEADERS, END_HEADERS, *stream, &head));
        said.extend(frame(DATA, 0, *stream, &waits));
        said.extend(frame(DATA, 0, *stream, &more).repeat(SMALL_FRAMES));
    }
    client.say(&said).await;
    client.goes_on().await;
    // One that sends as much as it may, a byte at a time.
    for stream in &streams {
        let flood = frame(DATA, 0, *stream, &[0]).repeat(client.peer.stream_window / 2);
        // Where it has ended already, it is not taken.
        client.peer.io.write_all(&flood).await.ok();
    }
    let (code, why) = client.goaway().await;
    assert_eq!((code, &*why), (ENHANCE_YOUR_CALM, "too_many_data_frames"));
}

#[tokio::test]
async fn windows_that_make_no_sense_end_the_connection() {
    let app = TestApp::start().await;
    for (stream, more, error) in [
        (0, 0, PROTOCOL_ERROR),
        (1, 0, PROTOCOL_ERROR),
        (0, u32::MAX >> 1, FLOW_CONTROL_ERROR),
    ] {
        let mut client = Client::start(&app).await;
        let window = frame(WINDOW_UPDATE, 0, stream, &more.to_be_bytes());
        client.say(&window).await;
        assert_eq!(client.goaway().await.0, error, "{stream} {more}");
    }
}

/// A call whose window is too large fails by itself, and what was done for it ends with it
/// (CVE-2025-8671).
#[tokio::test]
async fn calls_with_too_large_a_window_fail_alone() {
    let app = TestApp::start().await;
    let mut client = Client::start(&app).await;
    for _ in 0..3 {
        let mut said = Vec::new();
        for _ in 0..MAX_STREAMS {
            let call = client.stream();
            let head = headers(STREAM, &client.token);
            said.extend(frame(HEADERS, END_HEADERS, call, &head));
            let window = (u32::MAX >> 1).to_be_bytes();
            said.extend(frame(WINDOW_UPDATE, 0, call, &window));
        }
        client.say(&said).await;
        client.goes_on().await;
    }
}

/// A message may be announced, and not come: what is kept of such on one connection is
/// limited, and neither a call that comes whole nor another connection is any worse off.
#[tokio::test]
async fn half_messages_are_kept_up_to_a_limit() {
    let app = TestApp::start().await;
    let mut client = Client::start(&app).await;
    let announced = 60 * 1024_u32;
    let sent = usize::try_from(announced).unwrap() - 1024;
    let half = [&[0][..], &announced.to_be_bytes(), &vec![0; sent]].concat();
    let mut streams = Vec::new();
    for path in [INTROSPECT, STREAM, STATUS] {
        for _ in 0..50 {
            let call = client.stream();
            let mut said = frame(HEADERS, END_HEADERS, call, &headers(path, &client.token));
            for part in half.chunks(16 * 1024) {
                said.extend(frame(DATA, 0, call, part));
            }
            client.say(&said).await;
            streams.push(call);
        }
    }
    // Of 150, 34 are kept, with 60 KiB each.
    let mut refused = 0;
    while refused < 110 {
        let heard = client.peer.hear().await;
        assert_ne!(heard.kind, GOAWAY);
        refused += usize::from(heard.kind == HEADERS && heard.flags & END_STREAM != 0);
    }
    client.goes_on().await;
    Client::start(&app).await.goes_on().await;
    let gone: Vec<u8> = streams
        .iter()
        .flat_map(|call| reset(*call, CANCEL))
        .collect();
    client.say(&gone).await;
    client.goes_on().await;
    // There is room again: they are waited for.
    let call = client.stream();
    let head = frame(
        HEADERS,
        END_HEADERS,
        call,
        &headers(INTROSPECT, &client.token),
    );
    let message = framed(&introspect("x"));
    let (first, rest) = message.split_at(6);
    let first = frame(DATA, 0, call, first);
    client.say(&[head, first].concat()).await;
    client.goes_on().await;
    client.say(&frame(DATA, END_STREAM, call, rest)).await;
    loop {
        let heard = client.peer.hear().await;
        if heard.stream == call && heard.kind == DATA {
            break;
        }
    }
}

/// Of an introspection, a batch, and any other call, at the edge. What Envoy gets for a check is
/// no error.
#[tokio::test]
async fn messages_have_a_limit_of_their_methods() {
    let app = TestApp::start().await;
    for (path, permission, limit) in [
        (INTROSPECT, Introspect, 64 * 1024),
        (STATUS, Introspect, 64 * 1024),
        (
            "/hitkeep.auth.v1.IntrospectionService/BatchIntrospect",
            Introspect,
            1024 * 1024,
        ),
        (
            "/hitkeep.auth.v1.ApiClientService/GetApiClient",
            Manage,
            4 * 1024 * 1024,
        ),
    ] {
        for (length, fits) in [(limit, true), (limit + 1, false)] {
            // An unknown field fills it: its key and its length take five bytes
            // or six.
            let mut message = vec![0xfa, 0x7f];
            let rest = length - 2 - if length > 2 << 20 { 4 } else { 3 };
            prost::encoding::encode_varint(u64::try_from(rest).unwrap(), &mut message);
            message.resize(message.len() + rest, 0);
            assert_eq!(message.len(), length);
            let announced = u32::try_from(message.len()).unwrap().to_be_bytes();
            let body = [&[0][..], &announced, &message].concat();
            let answered = raw_as(&app, permission, path, &[], &body).await;
            let is_unreadable = answered.get_details_bad_request().is_some_and(|bad| {
                bad.field_violations
                    .iter()
                    .any(|field| field.field == "the message")
            });
            assert_eq!(!is_unreadable, fits, "{path} {length}: {answered:?}");
        }
    }
}
