//! Closes idle and stalled connections: one that has no calls for long, and one whose peer
//! does not read its responses. Such a peer may still answer pings, so HTTP/2 keep-alive
//! does not detect it.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

/// When gRPC connections that are idle, stalled or too old are closed.
#[derive(Clone, Copy, Debug)]
pub struct IdleTimeouts {
    /// Without any call. Default 30 min.
    pub idle: Duration,
    /// With a large unary response that the peer does not read, or a stream that must end and
    /// whose peer does not read. Default 30 s.
    pub stalled: Duration,
    /// On a connection past its maximum age, until its streams are ended. Default 1 min.
    pub grace: Duration,
}

impl Default for IdleTimeouts {
    fn default() -> Self {
        Self {
            idle: Duration::from_mins(30),
            stalled: Duration::from_secs(30),
            grace: Duration::from_mins(1),
        }
    }
}

/// How many bytes of incomplete messages one connection may buffer. One message may exceed that,
/// as far as its method allows, while the others take at most half of it. What exceeds it is
/// rejected.
const MAX_BUFFERED: usize = 2 * 1024 * 1024;

/// How many times activity is checked during the shorter of the two timeouts.
const CHECKS_PER_TIMEOUT: u32 = 4;

/// The calls of one connection, and the reasons to end it.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    begun: AtomicU64,
    active: Mutex<ActiveCalls>,
    /// The size of incomplete messages, in bytes.
    buffered: AtomicUsize,
    /// Whether the connection is being closed because its peer does not read a response.
    is_stalled: AtomicBool,
    shutdown: ShutdownFlag,
    /// True once streams must end because the connection reached its maximum age.
    retired: watch::Sender<bool>,
}

/// Whether the server has ended, and with it every unfinished call. All connections of a
/// server share one flag.
#[derive(Clone, Debug, Default)]
pub(crate) struct ShutdownFlag(Arc<AtomicBool>);

/// Sets the flag when it is dropped. It must be dropped before the connections, otherwise
/// their calls would be recorded as cancelled by their callers.
#[derive(Debug, Default)]
pub(crate) struct ShutdownGuard(pub(crate) ShutdownFlag);

impl Drop for ShutdownGuard {
    fn drop(&mut self) {
        self.0.0.store(true, Relaxed);
    }
}

/// Why a call was cut off, if its caller did not cancel it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CutOff {
    /// The server ended: the drain timed out, or a second stop signal came.
    ServerEnded,
    /// The connection was closed because its peer did not read the response of another
    /// call.
    Stalled,
}

#[derive(Debug, Default)]
struct ActiveCalls {
    last: u64,
    /// The calls on the slow path and open streams.
    calls: HashMap<u64, Progress>,
    /// Since when streams must end.
    retired_at: Option<Instant>,
}

/// How far a call in flight has come.
#[derive(Clone, Copy, Debug)]
enum Progress {
    /// The peer has read everything there is so far.
    Read,
    /// The peer has had data of a unary response to read since then.
    UnreadSince(Instant),
    /// A stream of responses, which the peer may read as slowly as it likes.
    Streams,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// No call was begun within the idle timeout.
    Idle,
    /// The peer does not read a response.
    Stalled,
}

impl Activity {
    pub(crate) fn of(shutdown: &ShutdownFlag) -> Self {
        Self {
            shutdown: shutdown.clone(),
            ..Self::default()
        }
    }

    /// Why calls of this connection are being cut off; None if their callers cancelled
    /// them.
    pub(crate) fn cut_off(&self) -> Option<CutOff> {
        if self.shutdown.0.load(Relaxed) {
            return Some(CutOff::ServerEnded);
        }
        self.is_stalled.load(Relaxed).then_some(CutOff::Stalled)
    }

    /// Ends the streams of this connection, which otherwise last as long as their callers
    /// like. One whose peer does not read cannot say that it ends, so it makes the connection
    /// a stalled one.
    pub(crate) fn retire(&self) {
        self.active().retired_at = Some(Instant::now());
        self.retired.send_replace(true);
    }

    /// Becomes true when the streams of this connection must end.
    pub(crate) fn retired(&self) -> watch::Receiver<bool> {
        self.retired.subscribe()
    }

    pub(crate) fn record_call(&self) {
        self.begun.fetch_add(1, Relaxed);
    }

    /// Whether no call was ever begun.
    pub(crate) fn is_unused(&self) -> bool {
        self.begun.load(Relaxed) == 0
    }

    /// Whether calls of the slow path or streams are in flight.
    pub(crate) fn has_calls(&self) -> bool {
        !self.active().calls.is_empty()
    }

    /// Records a call as in flight until the returned guard is dropped.
    pub(crate) fn call(self: &Arc<Self>) -> ActiveCall {
        let mut active = self.active();
        active.last += 1;
        let number = active.last;
        active.calls.insert(number, Progress::Read);
        ActiveCall {
            activity: Arc::clone(self),
            number,
        }
    }

    /// Returns once the connection is idle or stalled.
    pub(crate) async fn close_reason(&self, timeouts: IdleTimeouts) -> CloseReason {
        let mut checks = interval(timeouts.idle.min(timeouts.stalled) / CHECKS_PER_TIMEOUT);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut last, mut idle_since) = (0, Instant::now());
        loop {
            let now = checks.tick().await;
            let begun = self.begun.load(Relaxed);
            let active = self.active();
            let stalls_since = |call: &Progress| match *call {
                Progress::Read => None,
                Progress::UnreadSince(since) => Some(since),
                Progress::Streams => active.retired_at,
            };
            let is_stalled = |since: Instant| now.duration_since(since) >= timeouts.stalled;
            if active
                .calls
                .values()
                .filter_map(stalls_since)
                .any(is_stalled)
            {
                self.is_stalled.store(true, Relaxed);
                return CloseReason::Stalled;
            }
            if begun != last || !active.calls.is_empty() {
                (last, idle_since) = (begun, now);
            } else if now.duration_since(idle_since) >= timeouts.idle {
                return CloseReason::Idle;
            }
        }
    }

    fn active(&self) -> MutexGuard<'_, ActiveCalls> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A guard for a call in flight.
#[derive(Debug)]
pub(crate) struct ActiveCall {
    activity: Arc<Activity>,
    number: u64,
}

impl ActiveCall {
    pub(crate) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    fn record(&self, progress: Progress) {
        self.activity.active().calls.insert(self.number, progress);
    }
}

impl Drop for ActiveCall {
    fn drop(&mut self) {
        self.activity.active().calls.remove(&self.number);
    }
}

/// The incomplete messages of a connection exceed its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection has too many unfinished messages")]
pub(crate) struct TooMuchBuffered;

/// What one call buffers of an incomplete message, counted in its connection's total.
#[derive(Debug)]
pub(crate) struct BufferedBytes {
    activity: Arc<Activity>,
    bytes: usize,
}

impl BufferedBytes {
    /// An empty buffer.
    pub(crate) fn on(activity: &Arc<Activity>) -> Self {
        Self {
            activity: Arc::clone(activity),
            bytes: 0,
        }
    }

    /// Records the new size of the buffer. Fails if it has grown and the connection's total
    /// exceeds the limit.
    pub(crate) fn record(&mut self, bytes: usize) -> Result<(), TooMuchBuffered> {
        let buffered = &self.activity.buffered;
        let Some(more) = bytes.checked_sub(self.bytes) else {
            buffered.fetch_sub(self.bytes - bytes, Relaxed);
            self.bytes = bytes;
            return Ok(());
        };
        self.bytes = bytes;
        if more == 0 {
            return Ok(());
        }
        let total = buffered.fetch_add(more, Relaxed) + more;
        if total > MAX_BUFFERED && total - bytes > MAX_BUFFERED / 2 {
            return Err(TooMuchBuffered);
        }
        Ok(())
    }
}

impl Drop for BufferedBytes {
    fn drop(&mut self) {
        self.activity.buffered.fetch_sub(self.bytes, Relaxed);
    }
}

/// How large the chunks of a response are. The transport polls for a chunk before the peer
/// has room for it, and h2 buffers what does not fit. Handed over as one chunk, a response would
/// leave this body before the peer has read anything, so a stalled peer would go unnoticed.
const CHUNK_BYTES: usize = 16 * 1024;

/// The response body of a call, which is in flight until the body is dropped.
pub(crate) struct TrackedBody<B> {
    body: B,
    call: ActiveCall,
    /// The part of the current frame that was not handed over yet.
    rest: Bytes,
    is_unary: bool,
}

impl<B> TrackedBody<B> {
    /// A unary response, which a client reads as soon as it arrives. The transport polls for
    /// the next chunk only once there is room, which shows whether the peer reads.
    pub(crate) fn unary(body: B, call: ActiveCall) -> Self {
        call.record(Progress::UnreadSince(Instant::now()));
        Self {
            body,
            call,
            rest: Bytes::new(),
            is_unary: true,
        }
    }

    /// A stream. Its peer may read as slowly as it likes: no further message is made until
    /// it has.
    pub(crate) fn streaming(body: B, call: ActiveCall) -> Self {
        call.record(Progress::Streams);
        Self {
            body,
            call,
            rest: Bytes::new(),
            is_unary: false,
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for TrackedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if !self.is_unary {
            return Pin::new(&mut self.body).poll_frame(context);
        }
        if self.rest.is_empty() {
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) if frame.is_data() => {
                    self.rest = frame.into_data().unwrap_or_default();
                }
                other => {
                    self.call.record(match &other {
                        Poll::Ready(Some(Ok(_))) => Progress::UnreadSince(Instant::now()),
                        _ => Progress::Read,
                    });
                    return other;
                }
            }
        }
        let length = self.rest.len().min(CHUNK_BYTES);
        self.call.record(Progress::UnreadSince(Instant::now()));
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    /// Of a unary response, the length is in the message itself.
    fn size_hint(&self) -> SizeHint {
        if self.is_unary {
            SizeHint::default()
        } else {
            self.body.size_hint()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt, StreamBody};
    use tokio::time::sleep;
    use tokio_stream::wrappers::UnboundedReceiverStream;

    use super::*;

    const TIMEOUTS: IdleTimeouts = IdleTimeouts {
        idle: Duration::from_secs(1000),
        stalled: Duration::from_secs(100),
        grace: Duration::from_secs(10),
    };

    /// Why the connection is closed, and after how many seconds.
    async fn end(activity: &Activity) -> (CloseReason, u64) {
        let begun = Instant::now();
        let end = activity.close_reason(TIMEOUTS).await;
        (end, begun.elapsed().as_secs())
    }

    #[test]
    fn one_message_may_be_large_and_the_others_together_are_not() {
        const MIB: usize = 1024 * 1024;
        let activity = Arc::new(Activity::default());
        let buffer = || BufferedBytes::on(&activity);
        let (mut large, mut second) = (buffer(), buffer());
        assert_eq!(large.record(4 * MIB), Ok(()));
        assert_eq!(second.record(MIB), Err(TooMuchBuffered));
        drop(second);
        let (mut small, mut other) = (buffer(), buffer());
        assert_eq!(small.record(MIB / 2), Err(TooMuchBuffered));
        // Of two, the one that would exceed the limit is rejected unless the other is small.
        assert_eq!(large.record(MIB / 2), Ok(()));
        assert_eq!(other.record(MIB), Ok(()));
        assert_eq!(other.record(4 * MIB), Ok(()));
        assert_eq!(large.record(MIB), Err(TooMuchBuffered));
        drop((large, small, other));
        assert_eq!(activity.buffered.load(Relaxed), 0);
        let many: Vec<_> = (0..100)
            .map(|_| {
                let mut one = buffer();
                one.record(64 * 1024).map(|()| one)
            })
            .collect();
        assert_eq!(many.iter().flatten().count(), 32);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_closed() {
        let activity = Activity::default();
        assert_eq!(end(&activity).await, (CloseReason::Idle, 1000));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_keeps_its_connection_open() {
        let activity = Arc::new(Activity::default());
        let calls = async {
            for _ in 0..5 {
                sleep(Duration::from_mins(15)).await;
                activity.record_call();
            }
        };
        let ((), (end, after)) = tokio::join!(calls, end(&activity));
        assert_eq!(end, CloseReason::Idle);
        assert!((5500..=5525).contains(&after), "{after}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_call_keeps_its_connection_open() {
        let activity = Arc::new(Activity::default());
        let call = async {
            activity.record_call();
            let call = activity.call();
            sleep(Duration::from_mins(150)).await;
            drop(call);
        };
        let ((), (end, after)) = tokio::join!(call, end(&activity));
        assert_eq!(end, CloseReason::Idle);
        assert!((9975..=10_025).contains(&after), "{after}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_unread_response_closes_its_connection() {
        let activity = Arc::new(Activity::default());
        let (send, frames) = tokio::sync::mpsc::unbounded_channel();
        let frames = UnboundedReceiverStream::new(frames);
        let body = StreamBody::new(frames);
        let mut answers = TrackedBody::unary(body, activity.call());
        let reads = async {
            // A poll for the next frame means that the peer has read everything, however
            // long that frame takes to come.
            let next = answers.frame();
            let comes = async {
                sleep(Duration::from_secs(5001)).await;
                let frame = Frame::data(Bytes::from_static(b"x"));
                send.send(Ok::<_, Infallible>(frame)).unwrap();
            };
            let (frame, ()) = tokio::join!(next, comes);
            frame.unwrap().unwrap();
        };
        let ((), (end, after)) = tokio::join!(reads, end(&activity));
        assert_eq!(end, CloseReason::Stalled);
        assert!((5100..=5130).contains(&after), "{after}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_cannot_end_closes_its_connection() {
        let activity = Arc::new(Activity::default());
        let body = StreamBody::new(tokio_stream::pending::<Result<Frame<Bytes>, Infallible>>());
        let stream = TrackedBody::streaming(body, activity.call());
        let grows_old = async {
            sleep(Duration::from_secs(5000)).await;
            activity.retire();
        };
        let ((), (end, after)) = tokio::join!(grows_old, end(&activity));
        drop(stream);
        assert_eq!(end, CloseReason::Stalled);
        assert!((5100..=5130).contains(&after), "{after}");
    }
}
