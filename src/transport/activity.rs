//! Whether a connection is of any use: one on which nobody calls anything for long, or
//! whose peer does not take its answers, is not kept. To pings such a peer may well
//! answer, so HTTP/2's own keep-alive does not find it.

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
use hyper::body::{Body, Frame};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

/// For how long connections are kept that are of no use, or old.
#[derive(Clone, Copy, Debug)]
pub struct IdleTimeouts {
    /// With no call. Default 30 min.
    pub idle: Duration,
    /// With an answer of one message, and a large one, of which the peer takes nothing.
    /// Default 30 s.
    pub stalled: Duration,
    /// On an old connection, until its streams are ended. Default 1 min.
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

/// How much is kept of one connection's messages that have not come whole, in bytes: enough
/// small ones, and for a method that takes larger ones, one of the largest besides. A call
/// that needs more is refused.
const fn max_kept(largest: usize) -> usize {
    const SMALL: usize = 2 * 1024 * 1024;
    if largest > SMALL {
        SMALL + largest
    } else {
        SMALL
    }
}

/// How often a connection is looked at, in a time after which it may be ended.
const LOOKS: u32 = 4;

/// What goes on on a connection.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    /// The calls that were begun.
    begun: AtomicU64,
    active: Mutex<ActiveCalls>,
    /// How much is kept of messages that have not come whole, in bytes.
    kept: AtomicUsize,
    /// Whether it is ended because its peer does not take an answer.
    is_stalled: AtomicBool,
    server: ServerEnd,
    /// True once its streams are to end, since it is old.
    retired: watch::Sender<bool>,
}

/// Whether the server has ended, and with it every call that was not finished by then.
/// All connections of a server share one.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServerEnd(Arc<AtomicBool>);

/// Says so when it is dropped. Whoever has it must drop it before what calls end with, or
/// they would take it for their callers' doing.
#[derive(Debug, Default)]
pub(crate) struct ServerEndGuard(pub(crate) ServerEnd);

impl Drop for ServerEndGuard {
    fn drop(&mut self) {
        self.0.0.store(true, Relaxed);
    }
}

/// Who cut a call off, where it was not its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CutOff {
    /// The server, which ended: the drain took too long, or it was told again to stop.
    ServerEnded,
    /// The connection was ended because its peer did not take another call's answer.
    Stalled,
}

#[derive(Debug, Default)]
struct ActiveCalls {
    last: u64,
    /// The calls that are not answered at once, and since when the peer was to take
    /// what there is of the answer; none while it has taken everything.
    calls: HashMap<u64, Option<Instant>>,
}

/// Why a connection is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// Nothing was called for too long.
    Idle,
    /// Its peer does not take an answer.
    Stalled,
}

impl Activity {
    pub(crate) fn of(server: &ServerEnd) -> Self {
        Self {
            server: server.clone(),
            ..Self::default()
        }
    }

    /// Who cuts its calls off; nobody where it is their callers who went away.
    pub(crate) fn cut_off(&self) -> Option<CutOff> {
        if self.server.0.load(Relaxed) {
            return Some(CutOff::ServerEnded);
        }
        self.is_stalled.load(Relaxed).then_some(CutOff::Stalled)
    }

    /// Ends the streams on it, which would go on for as long as their callers like.
    pub(crate) fn retire(&self) {
        self.retired.send_replace(true);
    }

    /// Becomes true when streams on it are to end.
    pub(crate) fn retired(&self) -> watch::Receiver<bool> {
        self.retired.subscribe()
    }

    /// Notes that a call begins.
    pub(crate) fn record_call(&self) {
        self.begun.fetch_add(1, Relaxed);
    }

    /// Whether nothing was ever called.
    pub(crate) fn is_unused(&self) -> bool {
        self.begun.load(Relaxed) == 0
    }

    /// Notes a call that takes longer, until what it gives is dropped.
    pub(crate) fn call(self: &Arc<Self>) -> ActiveCall {
        let mut active = self.active();
        active.last += 1;
        let number = active.last;
        active.calls.insert(number, None);
        ActiveCall {
            activity: Arc::clone(self),
            number,
        }
    }

    /// Comes back once the connection is of no use.
    pub(crate) async fn close_reason(&self, patience: IdleTimeouts) -> CloseReason {
        let mut looks = interval(patience.idle.min(patience.stalled) / LOOKS);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut last, mut idle_since) = (0, Instant::now());
        loop {
            let now = looks.tick().await;
            let begun = self.begun.load(Relaxed);
            let active = self.active();
            let is_stalled = |since: &Instant| now.duration_since(*since) >= patience.stalled;
            if active.calls.values().flatten().any(is_stalled) {
                self.is_stalled.store(true, Relaxed);
                return CloseReason::Stalled;
            }
            if begun != last || !active.calls.is_empty() {
                (last, idle_since) = (begun, now);
            } else if now.duration_since(idle_since) >= patience.idle {
                return CloseReason::Idle;
            }
        }
    }

    fn active(&self) -> MutexGuard<'_, ActiveCalls> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call under way.
#[derive(Debug)]
pub(crate) struct ActiveCall {
    activity: Arc<Activity>,
    number: u64,
}

impl ActiveCall {
    /// What goes on on its connection.
    pub(crate) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// Notes since when the peer is to take something.
    fn waits(&self, since: Option<Instant>) {
        self.activity.active().calls.insert(self.number, since);
    }
}

impl Drop for ActiveCall {
    fn drop(&mut self) {
        self.activity.active().calls.remove(&self.number);
    }
}

/// A connection keeps more of unfinished messages than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection has too many unfinished messages")]
pub(crate) struct TooMuchBuffered;

/// What one call keeps of a message that has not come whole, as its connection counts it.
#[derive(Debug)]
pub(crate) struct BufferedBytes {
    activity: Arc<Activity>,
    bytes: usize,
    /// The most that may be kept on the connection.
    most: usize,
}

impl BufferedBytes {
    /// Nothing so far, of a message of at most that many bytes.
    pub(crate) fn on(activity: &Arc<Activity>, largest: usize) -> Self {
        Self {
            activity: Arc::clone(activity),
            bytes: 0,
            most: max_kept(largest),
        }
    }

    /// Notes how much it is now. An error if that is more than its connection may keep.
    pub(crate) fn note(&mut self, bytes: usize) -> Result<(), TooMuchBuffered> {
        if bytes == self.bytes {
            return Ok(());
        }
        let kept = &self.activity.kept;
        let all = if let Some(more) = bytes.checked_sub(self.bytes) {
            kept.fetch_add(more, Relaxed) + more
        } else {
            kept.fetch_sub(self.bytes - bytes, Relaxed);
            0
        };
        self.bytes = bytes;
        if all > self.most {
            return Err(TooMuchBuffered);
        }
        Ok(())
    }
}

impl Drop for BufferedBytes {
    fn drop(&mut self) {
        self.activity.kept.fetch_sub(self.bytes, Relaxed);
    }
}

/// How much of an answer is given away at a time. hyper asks for one piece before there
/// is room for it, and h2 keeps what does not fit: in one piece, an answer is gone from
/// here before its peer has taken anything, so a small one is never seen to be stuck.
const PIECE: usize = 16 * 1024;

/// The answer of a call that is under way until then.
pub(crate) struct TrackedBody<B> {
    body: B,
    call: ActiveCall,
    /// What was not given away yet.
    rest: Bytes,
    is_due: bool,
}

impl<B> TrackedBody<B> {
    /// One message, which every client takes as soon as it comes. More of it is asked for
    /// once there is room, so it is seen whether the peer takes it.
    pub(crate) fn single(body: B, call: ActiveCall) -> Self {
        call.waits(Some(Instant::now()));
        Self {
            body,
            call,
            rest: Bytes::new(),
            is_due: true,
        }
    }

    /// A stream, of which the peer takes as much as it likes, and no more is made.
    pub(crate) const fn streaming(body: B, call: ActiveCall) -> Self {
        Self {
            body,
            call,
            rest: Bytes::new(),
            is_due: false,
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
        if !self.is_due {
            return Pin::new(&mut self.body).poll_frame(context);
        }
        if self.rest.is_empty() {
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) if frame.is_data() => {
                    self.rest = frame.into_data().unwrap_or_default();
                }
                other => {
                    let waits = matches!(&other, Poll::Ready(Some(Ok(_))));
                    self.call.waits(waits.then(Instant::now));
                    return other;
                }
            }
        }
        let length = self.rest.len().min(PIECE);
        self.call.waits(Some(Instant::now()));
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt, StreamBody};
    use tokio::time::sleep;
    use tokio_stream::wrappers::UnboundedReceiverStream;

    use super::*;

    const PATIENCE: IdleTimeouts = IdleTimeouts {
        idle: Duration::from_secs(1000),
        stalled: Duration::from_secs(100),
        grace: Duration::from_secs(10),
    };

    /// How the connection ends, and after how many seconds.
    async fn end(activity: &Activity) -> (CloseReason, u64) {
        let begun = Instant::now();
        let end = activity.close_reason(PATIENCE).await;
        (end, begun.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn without_calls_it_ends() {
        let activity = Activity::default();
        assert_eq!(end(&activity).await, (CloseReason::Idle, 1000));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_keeps_it() {
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
    async fn so_does_one_that_takes_long() {
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
    async fn an_answer_that_is_not_taken_ends_it() {
        let activity = Arc::new(Activity::default());
        let (send, frames) = tokio::sync::mpsc::unbounded_channel();
        let frames = UnboundedReceiverStream::new(frames);
        let body = StreamBody::new(frames);
        let mut answers = TrackedBody::single(body, activity.call());
        let reads = async {
            // Whoever waits for more takes everything, however long it takes to come.
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
}
