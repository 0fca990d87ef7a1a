//! Draining and closing connections that are in use, over in-memory streams and with a
//! paused clock. The services are stubs, and there is no database.

use std::{convert::Infallible, future::pending, pin::pin, sync::Arc, time::Duration};

use axum::{Router, body::Body, middleware::from_fn_with_state, routing::post};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf},
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_stream::StreamExt;

use crate::{
    domain::{
        Timestamp,
        clock::{Clock, Entropy},
    },
    fastpath::{FastPath, dispatch::Dispatch},
    grpc::{self, Services},
    live_index::{self, LiveIndex, UsageWriter},
    server::layers,
    store::{self, Store},
    telemetry::{logged::Logged, metrics::Metrics, traces::Sampling},
    transport::{
        activity::{Activity, IdleTimeouts},
        age::Ages,
        http2::{self, UNCONFIRMED_CLOSE_TIMEOUT, UNUSED_CLOSE_TIMEOUT},
        workers::Workers,
    },
};

mod ages;
mod floods;

type Connections = http2::GrpcConnections<Box<dyn Fn(&Arc<Activity>) -> Dispatch + Send + Sync>>;

/// Responds after [`SLOW`].
pub(crate) const WAIT: &str = "/hitkeep.auth.v1.ApiClientService/GetApiClient";
pub(crate) const SLOW: Duration = Duration::from_secs(20);
/// The same, with a response that exceeds the peer's flow-control window.
const SLOW_LARGE: &str = "/hitkeep.auth.v1.ApiClientService/GetApiClientUsage";
/// Responds immediately, with a response of that size.
pub(crate) const LARGE: &str = "/hitkeep.auth.v1.ApiClientService/ListApiClients";
/// The same as a stream, which its peer may read slowly.
pub(crate) const STREAM: &str = "/grpc.health.v1.Health/Watch";

pub(crate) const TIMEOUTS: IdleTimeouts = IdleTimeouts {
    idle: Duration::from_secs(1000),
    stalled: Duration::from_secs(100),
    grace: Duration::from_secs(50),
};

/// The HTTP/2 preface, and an empty SETTINGS frame.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Frame types and flags.
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PING: u8 = 6;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;

/// A clock and entropy whose values do not matter here.
struct FixedSource;

impl Clock for FixedSource {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn adopt(&self, now: Timestamp) -> Timestamp {
        now
    }

    fn calibrate(&self, _: Timestamp, _: Duration) {}

    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }
}

impl Entropy for FixedSource {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(7);
    }
}

fn stub_services() -> Router {
    let large = || vec![0; 200_000];
    let later = async move || {
        sleep(SLOW).await;
        large()
    };
    let stream = || {
        let large = Frame::data(bytes::Bytes::from(vec![0; 200_000]));
        let answers = tokio_stream::once(Ok::<_, Infallible>(large));
        Body::new(StreamBody::new(answers.chain(tokio_stream::pending())))
    };
    Router::new()
        .route(WAIT, post(async || sleep(SLOW).await))
        .route(LARGE, post(async move || large()))
        .route(SLOW_LARGE, post(later))
        .route(STREAM, post(async move || stream()))
}

/// The connections of a server, and a value that must live as long.
pub(crate) fn connections() -> (Connections, UsageWriter) {
    connections_of_age(None)
}

/// The same, with a maximum age.
pub(crate) fn connections_of_age(age: Option<Duration>) -> (Connections, UsageWriter) {
    let source = Arc::new(FixedSource);
    let nowhere = store::StoreOptions::new("postgres://nobody@127.0.0.1:1/none");
    let store = Store::new(&nowhere, Arc::clone(&source) as _, source);
    let metrics = Metrics::default();
    // Never ready, so the database is not used.
    let ready = pending();
    let (index, usage) =
        LiveIndex::start_when(ready, &store, live_index::IndexOptions::default(), &metrics);
    let (_, draining) = watch::channel(false);
    let services = Arc::new(Services::new(
        grpc::Origin::Database(store.clone()),
        index,
        metrics.clone(),
        Sampling::default(),
        grpc::ServiceOptions::default(),
        Duration::from_mins(1),
        draining,
    ));
    let ages = Ages::new(age, store.entropy());
    let trace = from_fn_with_state(Arc::clone(&services), layers::trace);
    let fast_path = Arc::new(FastPath {
        services,
        router: stub_services().layer(trace),
        runtime: tokio::runtime::Handle::current(),
    });
    let dispatch =
        move |activity: &Arc<Activity>| Dispatch::new(Arc::clone(&fast_path), Arc::clone(activity));
    let connections = Connections::new(
        Box::new(dispatch),
        Workers::current(),
        10,
        TIMEOUTS,
        ages,
        metrics,
    );
    (connections, usage)
}

/// Serves one more connection.
async fn serve(connections: &mut Connections, theirs: DuplexStream) {
    let incoming = tokio_stream::once(Ok::<_, Infallible>(theirs));
    connections.accept(pin!(incoming)).await;
}

/// A client that has sent its preface, and otherwise sends and reads only what a test makes
/// it.
pub(crate) struct RawClient {
    pub(crate) reads: ReadHalf<DuplexStream>,
    pub(crate) writes: WriteHalf<DuplexStream>,
    /// The stream id of its next call.
    pub(crate) next: u8,
}

impl RawClient {
    pub(crate) async fn connect(connections: &mut Connections) -> Self {
        let (ours, theirs) = tokio::io::duplex(1024 * 1024);
        serve(connections, theirs).await;
        let (reads, mut writes) = tokio::io::split(ours);
        writes.write_all(PREFACE).await.unwrap();
        Self {
            reads,
            writes,
            next: 1,
        }
    }

    /// Begins a call with an empty request.
    pub(crate) async fn call(&mut self, path: &str) {
        // HPACK: POST and http as indexed fields, the path and the authority as literals.
        let mut block = vec![0x83, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
        block.extend_from_slice(path.as_bytes());
        block.extend_from_slice(b"\x01\x04test");
        let length = u8::try_from(block.len()).unwrap();
        // END_HEADERS and END_STREAM.
        let head = [0, 0, length, HEADERS, 0x05, 0, 0, 0, self.next];
        self.next += 2;
        self.writes.write_all(&head).await.unwrap();
        self.writes.write_all(&block).await.unwrap();
    }

    /// The next frame: its type, flags, stream id and payload.
    pub(crate) async fn frame(&mut self) -> Option<(u8, u8, u8, Vec<u8>)> {
        let mut head = [0; 9];
        self.reads.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, .., call] = head;
        let length = u32::from_be_bytes([0, a, b, c]);
        let mut content = vec![0; usize::try_from(length).unwrap()];
        self.reads.read_exact(&mut content).await.unwrap();
        Some((kind, flags, call, content))
    }

    /// Reads until the first call or the connection has ended. True if the call has.
    pub(crate) async fn is_answered(&mut self) -> bool {
        while let Some((kind, flags, call, _)) = self.frame().await {
            if kind <= HEADERS && flags & END_STREAM != 0 && call == 1 {
                return true;
            }
        }
        false
    }

    /// Answers pings until the connection ends, so that the server takes the peer for
    /// alive.
    pub(crate) async fn answer_pings(&mut self) {
        while let Some((kind, flags, _, content)) = self.frame().await {
            if kind == PING && flags & ACK == 0 {
                let head = [0, 0, 8, PING, ACK, 0, 0, 0, 0];
                // If the connection has just ended, the next read notices it.
                self.writes
                    .write_all(&[&head[..], &content].concat())
                    .await
                    .ok();
            }
        }
    }
}

/// Long enough for all tasks to run until they wait.
const MOMENT: Duration = Duration::from_millis(1);

/// Lets all tasks run until they wait.
pub(crate) async fn run_tasks() {
    sleep(MOMENT).await;
}

/// Drains the connections, and returns how long that took.
fn drain(connections: Connections) -> JoinHandle<Duration> {
    let begun = Instant::now();
    tokio::spawn(async move {
        connections.drain().await;
        begun.elapsed()
    })
}

#[tokio::test(start_paused = true)]
async fn an_unused_connection_is_closed_after_its_timeout() {
    let (mut connections, _usage) = connections();
    let mut peer = RawClient::connect(&mut connections).await;
    run_tasks().await;
    let took = drain(connections).await.unwrap();
    assert!(!peer.is_answered().await);
    let expected = UNUSED_CLOSE_TIMEOUT..UNUSED_CLOSE_TIMEOUT + Duration::from_millis(10);
    assert!(expected.contains(&took), "{took:?}");
}

/// The peer is gone without a word, such as with its machine. Calls that are in flight are waited
/// for, whether or not it confirms the GOAWAY; after them, it has five seconds.
#[tokio::test(start_paused = true)]
async fn a_peer_that_is_gone_does_not_block_the_drain() {
    let (mut connections, _usage) = connections();
    let mut peer = RawClient::connect(&mut connections).await;
    peer.call(WAIT).await;
    run_tasks().await;
    let drained = drain(connections);
    assert!(peer.is_answered().await);
    let took = drained.await.unwrap();
    assert!(
        (SLOW..=SLOW + UNCONFIRMED_CLOSE_TIMEOUT).contains(&took),
        "{took:?}"
    );
}

/// The peer was sent a GOAWAY, but may not have read it yet.
#[tokio::test(start_paused = true)]
async fn a_call_that_begins_within_that_timeout_is_finished() {
    let (mut connections, _usage) = connections();
    let mut peer = RawClient::connect(&mut connections).await;
    run_tasks().await;
    let drained = drain(connections);
    let late = UNUSED_CLOSE_TIMEOUT * 99 / 100;
    sleep(late).await;
    peer.call(WAIT).await;
    assert!(peer.is_answered().await, "the connection was ended");
    drop(peer);
    let took = drained.await.unwrap();
    assert!(took >= late + SLOW, "{took:?}");
}

/// The peer stops reading a response, before the drain or during it, so its connection is
/// closed.
#[tokio::test(start_paused = true)]
async fn a_stalled_peer_does_not_block_the_drain() {
    for (path, from) in [(LARGE, Duration::ZERO), (SLOW_LARGE, SLOW)] {
        let (mut connections, _usage) = connections();
        let mut peer = RawClient::connect(&mut connections).await;
        peer.call(path).await;
        run_tasks().await;
        // The response may have been pending before the drain.
        let drained = drain(connections);
        let ended = timeout(TIMEOUTS.stalled * 2, peer.answer_pings()).await;
        ended.expect("it is ended by then");
        let took = MOMENT + drained.await.unwrap();
        // Activity is checked four times within the timeout.
        let check_interval = TIMEOUTS.stalled / 4;
        let least = from + TIMEOUTS.stalled;
        assert!(
            (least..=least + check_interval).contains(&took),
            "{path}: {took:?}"
        );
    }
}

/// The log lines of a call that is cut off while `cut` does something to its connection.
async fn cut_off(path: &str, mut cut: impl AsyncFnMut(RawClient, Connections)) -> Vec<String> {
    let logged = Logged::from_here();
    let (mut connections, _usage) = connections();
    let mut peer = RawClient::connect(&mut connections).await;
    peer.call(path).await;
    run_tasks().await;
    cut(peer, connections).await;
    run_tasks().await;
    let lines = logged.lines().into_iter();
    lines.filter(|line| line.contains("failed")).collect()
}

#[tokio::test(start_paused = true)]
async fn a_call_that_the_server_cuts_off_is_not_its_callers_fault() {
    for path in [WAIT, STREAM] {
        let lines = cut_off(path, async |_peer, connections| {
            let drained = timeout(SLOW / 2, connections.drain()).await;
            drained.expect_err("it is not finished by then");
        })
        .await;
        let [line] = &lines[..] else {
            panic!("one line: {lines:?}")
        };
        for text in [
            "WARN",
            path,
            "UNAVAILABLE",
            "SHUTTING_DOWN",
            "the server cut it off",
        ] {
            assert!(line.contains(text), "{text}: {line}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_its_caller_cancels_is_logged_as_such() {
    let lines = cut_off(WAIT, async |peer, _connections| {
        drop(peer);
        run_tasks().await;
    })
    .await;
    let [line] = &lines[..] else {
        panic!("one line: {lines:?}")
    };
    for text in ["INFO", WAIT, "CANCELLED", "its caller went away"] {
        assert!(line.contains(text), "{text}: {line}");
    }
}

/// Another call was in flight on the connection of a stalled peer.
#[tokio::test(start_paused = true)]
async fn a_call_on_a_stalled_connection_is_logged_as_such() {
    let lines = cut_off(LARGE, async |mut peer, _connections| {
        // The check after the timeout closes the connection.
        let before = timeout(TIMEOUTS.stalled * 9 / 10, peer.answer_pings()).await;
        before.expect_err("it goes on until then");
        peer.call(WAIT).await;
        peer.answer_pings().await;
    })
    .await;
    let [line] = &lines[..] else {
        panic!("one line: {lines:?}")
    };
    for text in ["INFO", WAIT, "CANCELLED", "the peer did not take"] {
        assert!(line.contains(text), "{text}: {line}");
    }
}
