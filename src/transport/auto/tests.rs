//! Connections of the HTTP listener over in-memory streams, with a paused clock.

use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::domain::clock::Entropy;

/// How long a slow response takes.
const SLOW: Duration = Duration::from_secs(20);

/// The client's end of a connection that is being served.
fn connected(router: axum::Router, bytes: usize) -> (DuplexStream, HttpConnections) {
    connected_of_age(router, bytes, None)
}

fn connected_of_age(
    router: axum::Router,
    bytes: usize,
    age: Option<Duration>,
) -> (DuplexStream, HttpConnections) {
    let ages = Ages::new(age, &Sevens);
    let mut connections = HttpConnections::new(router, Metrics::default(), 10, ages);
    let (ours, theirs) = tokio::io::duplex(bytes);
    let incoming = tokio_stream::once(Ok::<_, Infallible>(std::future::ready(Ok(theirs))));
    // The first poll accepts the connection; no other one comes.
    let accepted = connections.accept(pin!(incoming)).now_or_never();
    assert_eq!(accepted, None);
    (ours, connections)
}

struct Sevens;

impl Entropy for Sevens {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(7);
    }
}

/// The head of the next response; its body is read as well.
async fn head(connection: &mut DuplexStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(connection.read_u8().await.unwrap());
    }
    connection.read_exact(&mut vec![0; 100_000]).await.unwrap();
    String::from_utf8(text).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_first_request_past_the_maximum_age_closes_its_connection() {
    let age = Duration::from_mins(5);
    let (mut connection, _connections) = connected_of_age(router(), 1024 * 1024, Some(age));
    let begun = Instant::now();
    let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    while begun.elapsed() + Duration::from_mins(1) < age.mul_f64(0.9) {
        connection.write_all(request).await.unwrap();
        let head = head(&mut connection).await;
        assert!(!head.contains("connection: close"), "{head}");
        sleep(Duration::from_mins(1)).await;
    }
    // A connection that passes its maximum age while idle stays open, since its peer
    // may be about to send a request.
    sleep(Duration::from_mins(2)).await;
    connection.write_all(request).await.unwrap();
    let head = head(&mut connection).await;
    assert!(head.contains("connection: close"), "{head}");
    assert_eq!(rest(connection).await, "");
}

fn router() -> axum::Router {
    let large = axum::routing::get(|| async { "x".repeat(100_000) });
    axum::Router::new().route("/", large)
}

/// Everything that the server sends until it closes the connection.
async fn rest(mut connection: DuplexStream) -> String {
    let mut text = String::new();
    connection.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_closed() {
    for beginning in ["", "PRI * HTTP/2", "GET / HTTP/1.1\r\nhost: x\r\n"] {
        let (mut connection, _connections) = connected(router(), 1024);
        connection.write_all(beginning.as_bytes()).await.unwrap();
        let begun = Instant::now();
        assert_eq!(rest(connection).await, "");
        let took = begun.elapsed();
        let expected = READ_TIMEOUT..READ_TIMEOUT + Duration::from_secs(1);
        assert!(expected.contains(&took), "{beginning:?}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_trickled_head_is_closed() {
    let (ours, _connections) = connected(router(), 1024);
    let (reader, mut writer) = tokio::io::split(ours);
    let begun = Instant::now();
    let trickle = tokio::spawn(async move {
        writer.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
        while writer.write_all(b"y").await.is_ok() {
            sleep(Duration::from_secs(1)).await;
        }
    });
    let mut reader = reader;
    let mut text = String::new();
    reader.read_to_string(&mut text).await.unwrap();
    trickle.await.unwrap();
    let took = begun.elapsed();
    let expected = READ_TIMEOUT..READ_TIMEOUT + Duration::from_secs(5);
    assert!(expected.contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stalled_peer_is_closed() {
    let (mut connection, mut connections) = connected(router(), 1024);
    connection
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let begun = Instant::now();
    connections.set.next_ended().await;
    let took = begun.elapsed();
    let expected = WRITE_TIMEOUT..WRITE_TIMEOUT + Duration::from_secs(1);
    assert!(expected.contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_and_steady_peer_is_served() {
    let (mut connection, _connections) = connected(router(), 1024);
    let request = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    for byte in request {
        connection.write_all(&[*byte]).await.unwrap();
        sleep(Duration::from_secs(1)).await;
    }
    let mut length = 0;
    let mut buffer = [0; 1024];
    loop {
        sleep(WRITE_TIMEOUT / 2).await;
        match connection.read(&mut buffer).await.unwrap() {
            0 => break,
            read => length += read,
        }
    }
    assert!(length > 100_000, "{length}");
}

/// A request in flight is waited for, and what begins to arrive behind it is not.
#[tokio::test(start_paused = true)]
async fn a_request_that_does_not_arrive_does_not_block_the_drain() {
    for (before, expected) in [
        ("", UNFINISHED_CLOSE_TIMEOUT),
        ("GET /slow HTTP/1.1\r\nhost: x\r\n\r\n", SLOW),
    ] {
        let slow = axum::routing::get(async || sleep(SLOW).await);
        let (mut connection, connections) = connected(router().route("/slow", slow), 1024);
        let begun = Instant::now();
        let requests = format!("{before}GET / HT");
        connection.write_all(requests.as_bytes()).await.unwrap();
        sleep(Duration::from_millis(1)).await;
        let text = tokio::spawn(rest(connection));
        connections.drain().await;
        let took = begun.elapsed();
        let range = expected..=expected + Duration::from_secs(1);
        assert!(range.contains(&took), "{before:?}: {took:?}");
        assert_ne!(text.await.unwrap().is_empty(), expected == SLOW);
    }
}
