//! How a call is made: its deadline, and when it is repeated.

use std::{
    error::Error,
    iter,
    sync::atomic::{AtomicI32, Ordering::Relaxed},
    time::Duration,
};

use hitkeep_auth_domain::clock::Entropy;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{
    Code, ConnectError, Extensions, Request, Response, Status, TimeoutExpired,
    metadata::MetadataMap,
};
use tonic_types::StatusExt;

use crate::{
    grpc_timeout::{self, GRPC_TIMEOUT},
    system::SystemEntropy,
};

/// How often a call is sent at most.
const ATTEMPTS: u32 = 3;
/// The pause before a call is repeated, which doubles each time. Half of it is random.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Keeps repeated calls from adding to what overloads a service: failures cost twice what
/// successes earn, and with less than half of all credit nothing is repeated.
#[derive(Debug)]
pub(crate) struct RetryBudget(AtomicI32);

impl RetryBudget {
    const FULL: i32 = 200;

    fn earn(&self) {
        let earned = |credit: i32| (credit < Self::FULL).then(|| credit + 1);
        // Full already.
        self.0.fetch_update(Relaxed, Relaxed, earned).ok();
    }

    /// Whether a failed call may be repeated.
    fn spend(&self) -> bool {
        let spent = |credit: i32| Some((credit - 2).max(0));
        let before = self.0.fetch_update(Relaxed, Relaxed, spent);
        before.unwrap_or_default() > Self::FULL / 2
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self(AtomicI32::new(Self::FULL))
    }
}

/// What a call does if it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It changes nothing, or is recognised by its `request_id`: it is repeated if no server is
    /// available, or the connection ended before the reply was whole.
    Safe,
    /// It is repeated only if it certainly did not reach a server.
    Unsent,
}

/// Makes a call within the time that its metadata gives it, or else `timeout`.
pub(crate) async fn call<Q, A, F>(
    request: Request<Q>,
    default_timeout: Duration,
    repeat: Repeat,
    budget: &RetryBudget,
    send: impl Fn(Request<Q>) -> F,
) -> Result<A, Status>
where
    Q: Clone,
    F: Future<Output = Result<Response<A>, Status>>,
{
    let (metadata, _, message) = request.into_parts();
    let timeout = given_timeout(&metadata).unwrap_or(default_timeout);
    let deadline = Instant::now() + timeout;
    let mut pause = FIRST_PAUSE;
    let mut attempt = 1;
    loop {
        let mut sent =
            Request::from_parts(metadata.clone(), Extensions::default(), message.clone());
        // The service then knows when to give up, and says why.
        sent.set_timeout(deadline.saturating_duration_since(Instant::now()));
        let late = || Status::deadline_exceeded("the service did not answer in time");
        let failed = match timeout_at(deadline, send(sent)).await {
            Ok(Ok(answer)) => {
                budget.earn();
                return Ok(answer.into_inner());
            }
            // The transport has the same deadline, and another name for it.
            Ok(Err(status)) if status.code() == Code::Cancelled && Instant::now() >= deadline => {
                return Err(late());
            }
            Ok(Err(status)) => status,
            Err(_) => return Err(late()),
        };
        let may_repeat = match repeat {
            Repeat::Safe => failed.code() == Code::Unavailable || is_cut_off(&failed),
            Repeat::Unsent => failed.code() == Code::Unavailable && is_unsent(&failed),
        };
        if !may_repeat || attempt == ATTEMPTS || !budget.spend() {
            return Err(failed);
        }
        let named = failed.get_details_retry_info();
        let named = named.and_then(|info| info.retry_delay);
        let wait = jittered(pause).max(named.map_or(Duration::ZERO, prolonged));
        // What would be too late is not worth the wait.
        if wait >= deadline.saturating_duration_since(Instant::now()) {
            return Err(failed);
        }
        sleep(wait).await;
        pause *= 2;
        attempt += 1;
    }
}

/// Whether a call failed because there was no connection to send it over.
fn is_unsent(status: &Status) -> bool {
    is_caused_by::<ConnectError>(status)
}

/// Whether a call failed because its connection ended, or its stream was reset: by GOAWAY, for
/// instance. Depending on how it ended, the transport has several codes for that. Only a status
/// that was made here has a source.
fn is_cut_off(status: &Status) -> bool {
    let is_code_of_transport = matches!(
        status.code(),
        Code::Cancelled | Code::Unknown | Code::Internal
    );
    is_code_of_transport && status.source().is_some() && !is_caused_by::<TimeoutExpired>(status)
}

fn is_caused_by<E: Error + 'static>(status: &Status) -> bool {
    iter::successors(status.source(), |&error| error.source()).any(<dyn Error>::is::<E>)
}

/// Between half of a time and all of it.
pub(crate) fn jittered(time: Duration) -> Duration {
    let mut chance = [0];
    SystemEntropy.fill(&mut chance);
    time.mul_f64(f64::midpoint(
        1.0,
        f64::from(chance[0]) / f64::from(u8::MAX),
    ))
}

/// A delay that a server named, and up to half as long again: it may have named the same to
/// others.
fn prolonged(delay: Duration) -> Duration {
    let added = jittered(delay).saturating_sub(delay / 2);
    delay.saturating_add(added)
}

/// The timeout that [`Request::set_timeout`] has set, or another program whose metadata are passed
/// on.
fn given_timeout(metadata: &MetadataMap) -> Option<Duration> {
    grpc_timeout::read(metadata.get(GRPC_TIMEOUT)?.to_str().ok()?)
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, io};

    use tonic_types::ErrorDetails;

    use super::*;

    /// Makes a call that always fails so, and says how often it was sent.
    async fn attempts(repeat: Repeat, code: Code, budget: &RetryBudget) -> u32 {
        attempts_with(repeat, || Status::new(code, ""), budget).await
    }

    /// The same, where it fails with that status.
    async fn attempts_with(
        repeat: Repeat,
        status: impl Fn() -> Status,
        budget: &RetryBudget,
    ) -> u32 {
        let sent = Cell::new(0);
        let send = |_: Request<()>| {
            sent.set(sent.get() + 1);
            let failed = status();
            async move { Err::<Response<()>, _>(failed) }
        };
        let timeout = Duration::from_secs(10);
        let failed = call(Request::new(()), timeout, repeat, budget, send).await;
        assert_eq!(failed.unwrap_err().code(), status().code());
        sent.get()
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_is_safe_is_repeated() {
        let budget = RetryBudget::default();
        assert_eq!(attempts(Repeat::Safe, Code::Unavailable, &budget).await, 3);
        assert_eq!(
            attempts(Repeat::Unsent, Code::Unavailable, &budget).await,
            1
        );
        for code in [
            Code::Internal,
            Code::Unknown,
            Code::Cancelled,
            Code::Unauthenticated,
            Code::Aborted,
        ] {
            assert_eq!(attempts(Repeat::Safe, code, &budget).await, 1);
        }
        let cut_off = || Status::from_error(Box::new(io::Error::from(io::ErrorKind::BrokenPipe)));
        assert_eq!(attempts_with(Repeat::Safe, cut_off, &budget).await, 3);
        assert_eq!(attempts_with(Repeat::Unsent, cut_off, &budget).await, 1);
        let late = || Status::from_error(Box::new(TimeoutExpired(())));
        assert_eq!(late().code(), Code::Cancelled);
        assert_eq!(attempts_with(Repeat::Safe, late, &budget).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_all_the_time_is_not_repeated() {
        let budget = RetryBudget::default();
        let mut sent = 0;
        for _ in 0..100 {
            sent += attempts(Repeat::Safe, Code::Unavailable, &budget).await;
        }
        assert!(sent < 160, "{sent}");
    }

    /// Makes a call that is refused with that delay, and succeeds if it is sent again. How long
    /// that took, and how it ended.
    async fn refused(delay: Duration, timeout: Duration) -> (Duration, Result<(), Status>) {
        let sent = Cell::new(0);
        let send = |_: Request<()>| {
            sent.set(sent.get() + 1);
            let is_first = sent.get() == 1;
            async move {
                if is_first {
                    let details = ErrorDetails::with_retry_info(Some(delay));
                    return Err(Status::with_error_details(Code::Unavailable, "", details));
                }
                Ok(Response::new(()))
            }
        };
        let (budget, begun) = (RetryBudget::default(), Instant::now());
        let ended = call(Request::new(()), timeout, Repeat::Safe, &budget, send).await;
        (begun.elapsed(), ended)
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_wants_a_pause_gets_it() {
        let (delay, timeout) = (Duration::from_secs(1), Duration::from_secs(3));
        let (took, ended) = refused(delay, timeout).await;
        assert!(ended.is_ok());
        // Timers are as fine as a millisecond.
        let longest = delay.mul_f64(1.5) + Duration::from_millis(1);
        assert!((delay..=longest).contains(&took), "{took:?}");
        // One that names no time is not asked at once.
        let (took, _) = refused(Duration::ZERO, timeout).await;
        assert!(took >= FIRST_PAUSE / 2, "{took:?}");
        // What would be too late is known at once.
        for delay in [timeout, Duration::from_hours(1_000_000)] {
            let (took, ended) = refused(delay, timeout).await;
            assert_eq!(ended.unwrap_err().code(), Code::Unavailable);
            assert_eq!(took, Duration::ZERO);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_service_is_a_deadline() {
        let budget = RetryBudget::default();
        let mut request = Request::new(());
        request.set_timeout(Duration::from_millis(1500));
        let begun = Instant::now();
        let send = |_| std::future::pending::<Result<Response<()>, Status>>();
        let failed = call(request, Duration::from_secs(9), Repeat::Safe, &budget, send).await;
        assert_eq!(failed.unwrap_err().code(), Code::DeadlineExceeded);
        assert_eq!(begun.elapsed(), Duration::from_millis(1500));
    }
}
