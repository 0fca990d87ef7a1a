//! How connections end that are in use, over memory and with a clock that does not wait.
//! The services behind them are stand-ins, and no database is asked for anything.

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
    fastpath::dispatch::{Dispatch, FastPath},
    grpc::{self, Services},
    replica::{self, Replica, UsageWriter},
    server::layers,
    store::{self, Store},
    telemetry::{logged::Logged, metrics::Metrics, traces::Sampling},
    transport::{
        activity::{Activity, IdleTimeouts},
        age::Ages,
        http2::{self, UNUSED_CLOSE_TIMEOUT},
        workers::Workers,
    },
};

mod ages;
mod floods;

type Connections = http2::GrpcConnections<Box<dyn Fn(&Arc<Activity>) -> Dispatch + Send + Sync>>;

/// Is answered after [`SLOW`].
pub(crate) const WAIT: &str = "/hitkeep.auth.v1.ApiClientService/GetApiClient";
pub(crate) const SLOW: Duration = Duration::from_secs(20);
/// The same, with more than a peer takes that says nothing about it.
const MUCH_LATER: &str = "/hitkeep.auth.v1.ApiClientService/GetApiClientUsage";
/// Is answered at once, with as much.
pub(crate) const MUCH: &str = "/hitkeep.auth.v1.ApiClientService/ListApiClients";
/// The same, as a stream, whose peer may take its time.
pub(crate) const STREAM: &str = "/grpc.health.v1.Health/Watch";

pub(crate) const PATIENCE: IdleTimeouts = IdleTimeouts {
    idle: Duration::from_secs(1000),
    stalled: Duration::from_secs(100),
    grace: Duration::from_secs(50),
};

/// The first words of HTTP/2, and empty settings.
pub(crate) const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Types of its frames, and flags.
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PING: u8 = 6;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;

/// What nobody asks here for anything that matters.
struct Still;

impl Clock for Still {
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

impl Entropy for Still {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(7);
    }
}

fn stand_ins() -> Router {
    let much = || vec![0; 200_000];
    let later = async move || {
        sleep(SLOW).await;
        much()
    };
    let stream = || {
        let much = Frame::data(bytes::Bytes::from(vec![0; 200_000]));
        let answers = tokio_stream::once(Ok::<_, Infallible>(much));
        Body::new(StreamBody::new(answers.chain(tokio_stream::pending())))
    };
    Router::new()
        .route(WAIT, post(async || sleep(SLOW).await))
        .route(MUCH, post(async move || much()))
        .route(MUCH_LATER, post(later))
        .route(STREAM, post(async move || stream()))
}

/// The connections of a server, and what has to live as long.
pub(crate) fn connections() -> (Connections, UsageWriter) {
    connections_of_age(None)
}

/// The same, with the greatest age that they may have.
pub(crate) fn connections_of_age(age: Option<Duration>) -> (Connections, UsageWriter) {
    let still = Arc::new(Still);
    let nowhere = store::Options::new("postgres://nobody@127.0.0.1:1/none");
    let store = Store::new(&nowhere, Arc::clone(&still) as _, still);
    let metrics = Metrics::default();
    // Never ready, so it asks for nothing.
    let ready = pending();
    let (replica, usage) =
        Replica::start_when(ready, &store, replica::Options::default(), &metrics);
    let (_, draining) = watch::channel(false);
    let services = Arc::new(Services::new(
        store.clone(),
        replica,
        metrics.clone(),
        Sampling::default(),
        grpc::Options::default(),
        Duration::from_mins(1),
        draining,
    ));
    let ages = Ages::new(age, store.entropy());
    let trace = from_fn_with_state(Arc::clone(&services), layers::trace);
    let fast_path = Arc::new(FastPath {
        services,
        router: stand_ins().layer(trace),
        runtime: tokio::runtime::Handle::current(),
    });
    let dispatch =
        move |activity: &Arc<Activity>| Dispatch::new(Arc::clone(&fast_path), Arc::clone(activity));
    let connections = Connections::new(
        Box::new(dispatch),
        Workers::current(),
        10,
        PATIENCE,
        ages,
        metrics,
    );
    (connections, usage)
}

/// Serves one connection more.
async fn serve(connections: &mut Connections, theirs: DuplexStream) {
    let incoming = tokio_stream::once(Ok::<_, Infallible>(theirs));
    connections.accept(pin!(incoming)).await;
}

/// A peer that has greeted, and says and takes no more than it is told to.
pub(crate) struct Raw {
    pub(crate) reads: ReadHalf<DuplexStream>,
    pub(crate) writes: WriteHalf<DuplexStream>,
    /// The number of its next call.
    pub(crate) next: u8,
}

impl Raw {
    pub(crate) async fn greet(connections: &mut Connections) -> Self {
        let (ours, theirs) = tokio::io::duplex(1024 * 1024);
        serve(connections, theirs).await;
        let (reads, mut writes) = tokio::io::split(ours);
        writes.write_all(GREETING).await.unwrap();
        Self {
            reads,
            writes,
            next: 1,
        }
    }

    /// Begins a call, with nothing in it.
    pub(crate) async fn call(&mut self, path: &str) {
        // HPACK: POST and http by their numbers, the path and the authority as they are.
        let mut block = vec![0x83, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
        block.extend_from_slice(path.as_bytes());
        block.extend_from_slice(b"\x01\x04test");
        let length = u8::try_from(block.len()).unwrap();
        // All of its headers, and its end.
        let head = [0, 0, length, HEADERS, 0x05, 0, 0, 0, self.next];
        self.next += 2;
        self.writes.write_all(&head).await.unwrap();
        self.writes.write_all(&block).await.unwrap();
    }

    /// The next frame: its type, its flags, the number of its call, and what is in it.
    pub(crate) async fn frame(&mut self) -> Option<(u8, u8, u8, Vec<u8>)> {
        let mut head = [0; 9];
        self.reads.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, .., call] = head;
        let length = u32::from_be_bytes([0, a, b, c]);
        let mut content = vec![0; usize::try_from(length).unwrap()];
        self.reads.read_exact(&mut content).await.unwrap();
        Some((kind, flags, call, content))
    }

    /// Reads until the first call has ended, or the connection has. True where it was the
    /// call.
    pub(crate) async fn is_answered(&mut self) -> bool {
        while let Some((kind, flags, call, _)) = self.frame().await {
            if kind <= HEADERS && flags & END_STREAM != 0 && call == 1 {
                return true;
            }
        }
        false
    }

    /// Answers pings until the connection ends, and so is taken for one that is there.
    pub(crate) async fn answer_pings(&mut self) {
        while let Some((kind, flags, _, content)) = self.frame().await {
            if kind == PING && flags & ACK == 0 {
                let head = [0, 0, 8, PING, ACK, 0, 0, 0, 0];
                // Where it has just ended, that is seen when the next is read.
                self.writes
                    .write_all(&[&head[..], &content].concat())
                    .await
                    .ok();
            }
        }
    }
}

/// In which everything is done that can be.
const MOMENT: Duration = Duration::from_millis(1);

/// Lets everybody do what can be done by now.
pub(crate) async fn settle() {
    sleep(MOMENT).await;
}

/// Ends them. Gives how long that took.
fn drain(connections: Connections) -> JoinHandle<Duration> {
    let begun = Instant::now();
    tokio::spawn(async move {
        connections.drain().await;
        begun.elapsed()
    })
}

#[tokio::test(start_paused = true)]
async fn who_has_called_nothing_has_a_second_to_leave() {
    let (mut connections, _usage) = connections();
    let mut peer = Raw::greet(&mut connections).await;
    settle().await;
    let took = drain(connections).await.unwrap();
    assert!(!peer.is_answered().await);
    let expected = UNUSED_CLOSE_TIMEOUT..UNUSED_CLOSE_TIMEOUT + Duration::from_millis(10);
    assert!(expected.contains(&took), "{took:?}");
}

/// It was told that the server ends, and may not have heard of it yet.
#[tokio::test(start_paused = true)]
async fn a_call_that_begins_in_that_second_is_finished() {
    let (mut connections, _usage) = connections();
    let mut peer = Raw::greet(&mut connections).await;
    settle().await;
    let drained = drain(connections);
    let late = UNUSED_CLOSE_TIMEOUT * 99 / 100;
    sleep(late).await;
    peer.call(WAIT).await;
    assert!(peer.is_answered().await, "the connection was ended");
    drop(peer);
    let took = drained.await.unwrap();
    assert!(took >= late + SLOW, "{took:?}");
}

/// It takes nothing of an answer, from before the end or from then on, so it is ended.
#[tokio::test(start_paused = true)]
async fn who_takes_nothing_does_not_hold_up_the_end_for_ever() {
    for (path, from) in [(MUCH, Duration::ZERO), (MUCH_LATER, SLOW)] {
        let (mut connections, _usage) = connections();
        let mut peer = Raw::greet(&mut connections).await;
        peer.call(path).await;
        settle().await;
        // The answer may have begun to wait before.
        let drained = drain(connections);
        let ended = timeout(PATIENCE.stalled * 2, peer.answer_pings()).await;
        ended.expect("it is ended by then");
        let took = MOMENT + drained.await.unwrap();
        // It is looked at four times in that time.
        let looks = PATIENCE.stalled / 4;
        let least = from + PATIENCE.stalled;
        assert!((least..=least + looks).contains(&took), "{path}: {took:?}");
    }
}

/// How a call ends that nobody waits for: what is done to it meanwhile, and the lines of
/// the log about it.
async fn cut_off(path: &str, mut cut: impl AsyncFnMut(Raw, Connections)) -> Vec<String> {
    let logged = Logged::from_here();
    let (mut connections, _usage) = connections();
    let mut peer = Raw::greet(&mut connections).await;
    peer.call(path).await;
    settle().await;
    cut(peer, connections).await;
    settle().await;
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
async fn who_hangs_up_did_so_himself() {
    let lines = cut_off(WAIT, async |peer, _connections| {
        drop(peer);
        settle().await;
    })
    .await;
    let [line] = &lines[..] else {
        panic!("one line: {lines:?}")
    };
    for text in ["INFO", WAIT, "CANCELLED", "its caller went away"] {
        assert!(line.contains(text), "{text}: {line}");
    }
}

/// What else was under way on the connection of one that takes nothing.
#[tokio::test(start_paused = true)]
async fn a_call_that_ends_with_a_useless_connection_is_told_so() {
    let lines = cut_off(MUCH, async |mut peer, _connections| {
        // It is looked at when that time has passed, and is ended then.
        let before = timeout(PATIENCE.stalled * 9 / 10, peer.answer_pings()).await;
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
