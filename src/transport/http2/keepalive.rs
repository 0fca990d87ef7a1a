//! Pings for a connection that is silent. A peer that does not answer is gone.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

/// How long a connection is silent before it gets a ping.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long the peer has to answer a ping.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer did not answer a ping")]
pub(super) struct KeepAliveTimedOut;

/// The pings of one connection.
pub(super) struct KeepAlive {
    pings: PingPong,
    /// Until the next ping, or until its answer is overdue.
    timer: Pin<Box<Sleep>>,
    read_at: Instant,
    is_answer_due: bool,
}

impl KeepAlive {
    pub(super) fn new(pings: PingPong) -> Self {
        Self {
            pings,
            timer: Box::pin(sleep(KEEPALIVE_INTERVAL)),
            read_at: Instant::now(),
            is_answer_due: false,
        }
    }

    /// Records that something was read just now.
    pub(super) fn record_read(&mut self) {
        self.read_at = Instant::now();
    }

    /// Sends a ping when one is due. Ready when the peer is gone; then it is not polled
    /// again.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<KeepAliveTimedOut> {
        loop {
            if self.is_answer_due {
                match self.pings.poll_pong(context) {
                    Poll::Ready(Ok(_)) => {
                        self.is_answer_due = false;
                        self.record_read();
                        self.timer.as_mut().reset(self.read_at + KEEPALIVE_INTERVAL);
                    }
                    // The connection has ended, and says so itself.
                    Poll::Ready(Err(_)) => return Poll::Pending,
                    Poll::Pending => {
                        ready!(self.timer.as_mut().poll(context));
                        return Poll::Ready(KeepAliveTimedOut);
                    }
                }
            }
            ready!(self.timer.as_mut().poll(context));
            let now = Instant::now();
            let due = self.read_at + KEEPALIVE_INTERVAL;
            if due > now {
                self.timer.as_mut().reset(due);
            } else if self.pings.send_ping(Ping::opaque()).is_ok() {
                self.is_answer_due = true;
                self.timer.as_mut().reset(now + KEEPALIVE_TIMEOUT);
            } else {
                // The connection is ending.
                self.timer.as_mut().reset(now + KEEPALIVE_INTERVAL);
            }
        }
    }
}
