//! What a peer can make the server keep that says much and takes nothing of what it is
//! told: no more than it reads in a turn.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::*;

const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
/// What there is room for on the way, in each direction.
const ROOM: usize = 4096;
/// The most that is taken: what is on the way, and what is read until the answers to it
/// have filled the way back and h2's own buffer.
const MOST: usize = 256 * 1024;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// The headers of a call of that path, which ends with them.
fn call(stream: u32, path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
    block.extend_from_slice(path.as_bytes());
    block.extend_from_slice(b"\x01\x04test");
    frame(HEADERS, 0x05, stream, &block)
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

/// Makes its parts, which are numbered.
type Flood = Box<dyn Fn(u32) -> Vec<u8>>;

/// How much is taken of a flood, whose parts are numbered, until nothing more is.
async fn taken(flood: impl Fn(u32) -> Vec<u8>) -> usize {
    let (mut connections, _usage) = connections();
    let (mut ours, theirs) = tokio::io::duplex(ROOM);
    serve(&mut connections, theirs).await;
    ours.write_all(GREETING).await.unwrap();
    let mut said = 0;
    for number in 0..u32::MAX {
        let part = flood(number);
        match timeout(Duration::from_secs(5), ours.write_all(&part)).await {
            Ok(Ok(())) => said += part.len(),
            // It ends the connection, or does not listen.
            Ok(Err(_)) | Err(_) => break,
        }
        assert!(said <= MOST, "part {number}");
    }
    // It does not wait for it for ever either.
    let gone = timeout(Duration::from_mins(2), async {
        while ours.write_all(&[0]).await.is_ok() {}
    });
    gone.await.expect("the connection is ended");
    said
}

#[tokio::test(start_paused = true)]
async fn who_takes_no_answers_is_not_heard() {
    let invalid = |stream| {
        // Without a path it is no call, and is refused by h2 itself.
        frame(HEADERS, 0x05, stream, &[0x83, 0x86])
    };
    let window = |stream| {
        let more = (u32::MAX >> 1).to_be_bytes();
        let call = call(stream, STREAM);
        [call, frame(WINDOW_UPDATE, 0, stream, &more)].concat()
    };
    let floods: [(&str, Flood); 5] = [
        ("pings", Box::new(|_| frame(PING, 0, 0, &[7; 8]))),
        ("settings", Box::new(|_| frame(SETTINGS, 0, 0, &[]))),
        ("no calls", Box::new(move |number| invalid(2 * number + 1))),
        (
            "too many calls",
            Box::new(|number| call(2 * number + 1, WAIT)),
        ),
        ("windows", Box::new(move |number| window(2 * number + 1))),
    ];
    for (name, flood) in floods {
        let taken = taken(flood).await;
        assert!(taken >= ROOM, "{name}: {taken}");
    }
}

/// Rapid reset (CVE-2023-44487): calls that are given up as soon as they were begun count
/// for nothing, so there is no end of them. None is left when more is read, and others are
/// served meanwhile.
#[tokio::test(start_paused = true)]
async fn calls_that_are_reset_at_once_leave_nothing() {
    let (mut connections, _usage) = connections();
    let (ours, theirs) = tokio::io::duplex(1024 * 1024);
    serve(&mut connections, theirs).await;
    let (mut reads, mut writes) = tokio::io::split(ours);
    let flood = async move {
        writes.write_all(GREETING).await.unwrap();
        for burst in 0..10_u32 {
            let calls = (0..2000).map(|number| 2 * (2000 * burst + number) + 1);
            let said: Vec<u8> = calls
                .flat_map(|stream| [call(stream, WAIT), reset(stream)].concat())
                .collect();
            writes.write_all(&said).await.expect("it is not ended");
        }
        writes
    };
    let hears = tokio::spawn(async move {
        let mut heard = Vec::new();
        reads.read_to_end(&mut heard).await.unwrap();
        heard
    });
    let mut other = Raw::greet(&mut connections).await;
    let begun = Instant::now();
    let (writes, answered) = tokio::join!(flood, async {
        other.call(WAIT).await;
        other.is_answered().await
    });
    assert!(answered);
    assert!(begun.elapsed() < SLOW * 2, "{:?}", begun.elapsed());
    // Nothing is under way, so it is idle, and ends as such.
    drop(writes);
    connections.drain().await;
    hears.await.unwrap();
}
