//! A peer that sends a lot and reads nothing makes the server buffer no more than its read
//! budget.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::*;

const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
/// The capacity of the in-memory stream, in each direction.
const CAPACITY: usize = 4096;
/// The most that the server may read: what is buffered in the stream, and what it reads
/// until the responses have filled the stream and h2's own buffer.
const MAX_READ: usize = 256 * 1024;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// The HEADERS frame of a call with `END_STREAM`.
fn call(stream: u32, path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
    block.extend_from_slice(path.as_bytes());
    block.extend_from_slice(b"\x01\x04test");
    frame(HEADERS, 0x05, stream, &block)
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

/// Makes the frames of a flood, given their number.
type Flood = Box<dyn Fn(u32) -> Vec<u8>>;

/// How many bytes of a flood the server reads until it stops reading.
async fn bytes_read(flood: impl Fn(u32) -> Vec<u8>) -> usize {
    let (mut connections, _usage) = connections();
    let (mut ours, theirs) = tokio::io::duplex(CAPACITY);
    serve(&mut connections, theirs).await;
    ours.write_all(PREFACE).await.unwrap();
    let mut sent = 0;
    for number in 0..u32::MAX {
        let part = flood(number);
        match timeout(Duration::from_secs(5), ours.write_all(&part)).await {
            Ok(Ok(())) => sent += part.len(),
            // The server closed the connection, or has stopped reading.
            Ok(Err(_)) | Err(_) => break,
        }
        assert!(sent <= MAX_READ, "part {number}");
    }
    // The server also closes the connection after a timeout.
    let gone = timeout(Duration::from_mins(2), async {
        while ours.write_all(&[0]).await.is_ok() {}
    });
    gone.await.expect("the connection is ended");
    sent
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_is_not_read_from() {
    let invalid = |stream| {
        // Without a path it is malformed, and h2 itself refuses it.
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
        (
            "malformed calls",
            Box::new(move |number| invalid(2 * number + 1)),
        ),
        (
            "too many calls",
            Box::new(|number| call(2 * number + 1, WAIT)),
        ),
        ("windows", Box::new(move |number| window(2 * number + 1))),
    ];
    for (name, flood) in floods {
        let read = bytes_read(flood).await;
        assert!(read >= CAPACITY, "{name}: {read}");
    }
}

/// Rapid reset (CVE-2023-44487): calls that are reset as soon as they were begun do not
/// count towards the stream limit, so there may be any number of them. All are gone before
/// more is read, and other connections are served meanwhile.
#[tokio::test(start_paused = true)]
async fn calls_that_are_reset_immediately_leave_nothing() {
    let (mut connections, _usage) = connections();
    let (ours, theirs) = tokio::io::duplex(1024 * 1024);
    serve(&mut connections, theirs).await;
    let (mut reads, mut writes) = tokio::io::split(ours);
    let flood = async move {
        writes.write_all(PREFACE).await.unwrap();
        for burst in 0..10_u32 {
            let calls = (0..2000).map(|number| 2 * (2000 * burst + number) + 1);
            let sent: Vec<u8> = calls
                .flat_map(|stream| [call(stream, WAIT), reset(stream)].concat())
                .collect();
            writes.write_all(&sent).await.expect("it is not ended");
        }
        writes
    };
    let reader = tokio::spawn(async move {
        let mut received = Vec::new();
        reads.read_to_end(&mut received).await.unwrap();
        received
    });
    let mut other = RawClient::connect(&mut connections).await;
    let begun = Instant::now();
    let (writes, answered) = tokio::join!(flood, async {
        other.call(WAIT).await;
        other.is_answered().await
    });
    assert!(answered);
    assert!(begun.elapsed() < SLOW * 2, "{:?}", begun.elapsed());
    // No call is in flight, so the connection is drained as an idle one.
    drop(writes);
    connections.drain().await;
    reader.await.unwrap();
}
