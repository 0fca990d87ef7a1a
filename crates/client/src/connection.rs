//! What calls are sent over: a connection to each server, used in turn, with this program's
//! token.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, header::AUTHORIZATION};
use tokio::time::Instant;
use tonic::{Code, Status, body::Body, transport::Channel};
use tower::{BoxError, Service, ServiceExt as _};

use crate::{
    caller_token::CallerToken,
    connect::Destination,
    grpc_timeout::{self, GRPC_TIMEOUT},
};

/// How long a server is passed over that could not be reached or cannot answer, if there is
/// another one. Then one request tries it, and the others stay away for as long again.
const AVOIDANCE: Duration = Duration::from_secs(1);
/// Who gives up on a call has waited so long at least, or half of the call's own timeout, if it is
/// to count against the server.
const SLOW: Duration = Duration::from_secs(1);

/// A connection to each server, which are used in turn. It authenticates this program, and is
/// what the generated clients in [`pb`](crate::pb) are made of. Cheap to clone.
///
/// It connects when there is something to send. A server that could not be reached, did not
/// answer or was `UNAVAILABLE` is passed over if there is another one, but for one request a
/// second.
#[derive(Clone)]
pub struct Connection(Arc<Shared>);

struct Shared {
    token: Option<CallerToken>,
    servers: Box<[Server]>,
    next: AtomicUsize,
    started_at: Instant,
}

struct Server {
    destination: Destination,
    channel: Channel,
    /// Until when it is passed over, in milliseconds since the start; 0 if it answers.
    avoided_until: AtomicU64,
}

impl Server {
    /// Whether a request may be sent there. Of those that ask when an avoidance is over, one
    /// may.
    fn may_be_tried(&self, now: u64) -> bool {
        let until = self.avoided_until.load(Relaxed);
        let prolong = || {
            let prolonged = now + AVOIDANCE_MILLIS;
            self.avoided_until
                .compare_exchange(until, prolonged, Relaxed, Relaxed)
        };
        until == 0 || until <= now && prolong().is_ok()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "it is a second")]
const AVOIDANCE_MILLIS: u64 = AVOIDANCE.as_millis() as u64;

/// A request on its way. Dropped before it is answered, it counts against the server.
struct Sent<'s> {
    shared: &'s Shared,
    server: &'s Server,
    at: Instant,
    /// From when on giving up counts against the server.
    slow: Duration,
    is_over: bool,
}

impl Sent<'_> {
    /// The server answered with these headers, among which is the status of a call that was
    /// refused: one whose index is stale, for instance, cannot answer the next call either.
    fn answered(mut self, headers: &HeaderMap) {
        let status = Status::from_header_map(headers);
        if status.is_some_and(|status| status.code() == Code::Unavailable) {
            return self.failed();
        }
        self.is_over = true;
        self.server.avoided_until.store(0, Relaxed);
    }

    /// There is no connection, or the server cannot answer.
    fn failed(mut self) {
        self.is_over = true;
        self.avoid();
    }

    fn avoid(&self) {
        let until = self.shared.now() + AVOIDANCE_MILLIS;
        self.server.avoided_until.store(until, Relaxed);
    }
}

impl Drop for Sent<'_> {
    /// A caller that gave up at once had other reasons.
    fn drop(&mut self) {
        if !self.is_over && self.at.elapsed() >= self.slow {
            self.avoid();
        }
    }
}

fn slow(headers: &HeaderMap) -> Duration {
    let timeout = headers
        .get(GRPC_TIMEOUT)
        .and_then(|text| grpc_timeout::read(text.to_str().ok()?));
    timeout.map_or(SLOW, |timeout| SLOW.min(timeout / 2))
}

impl Connection {
    /// There must be at least one destination.
    pub(crate) fn new(token: Option<CallerToken>, destinations: Vec<Destination>) -> Self {
        let server = |destination: Destination| Server {
            channel: destination.clone().connect_lazily(),
            destination,
            avoided_until: AtomicU64::new(0),
        };
        Self(Arc::new(Shared {
            token,
            servers: destinations.into_iter().map(server).collect(),
            next: AtomicUsize::new(0),
            started_at: Instant::now(),
        }))
    }

    pub(crate) fn token(&self) -> Option<&CallerToken> {
        self.0.token.as_ref()
    }

    pub(crate) fn destinations(&self) -> impl ExactSizeIterator<Item = &Destination> {
        self.0.servers.iter().map(|server| &server.destination)
    }
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.started_at.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn pick(&self) -> &Server {
        let first = self.next.fetch_add(1, Relaxed);
        let now = self.now();
        let in_turn = |at| &self.servers[first.wrapping_add(at) % self.servers.len()];
        let mut servers = (0..self.servers.len()).map(in_turn);
        let reachable = servers.find(|server| server.may_be_tried(now));
        reachable.unwrap_or_else(|| in_turn(0))
    }

    async fn send(
        &self,
        mut request: http::Request<Body>,
    ) -> Result<http::Response<Body>, BoxError> {
        // Another program's, if metadata is passed on: the service would take two for none.
        request.headers_mut().remove(AUTHORIZATION);
        if let Some(token) = &self.token {
            let header = token.header().await;
            request.headers_mut().insert(AUTHORIZATION, header);
        }
        let server = self.pick();
        let sent = Sent {
            shared: self,
            server,
            at: Instant::now(),
            slow: slow(request.headers()),
            is_over: false,
        };
        let mut channel = server.channel.clone();
        let answer = async { channel.ready().await?.call(request).await };
        match answer.await {
            Ok(answer) => {
                sent.answered(answer.headers());
                Ok(answer)
            }
            Err(error) => {
                sent.failed();
                Err(error.into())
            }
        }
    }
}

impl Service<http::Request<Body>> for Connection {
    type Response = http::Response<Body>;
    type Error = BoxError;
    type Future =
        Pin<Box<dyn Future<Output = Result<http::Response<Body>, BoxError>> + Send + 'static>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // A server is picked for each call, and its readiness waited for then.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move { shared.send(request).await })
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let targets = self.destinations().map(|to| &to.target);
        f.debug_list().entries(targets).finish()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::connect::Timeouts;

    fn shared() -> Arc<Shared> {
        let destination = |address: &str| Destination {
            target: address.parse().unwrap(),
            certificates: Arc::default(),
            timeouts: Timeouts {
                connect: AVOIDANCE,
                ping_interval: AVOIDANCE,
                ping: AVOIDANCE,
            },
        };
        let destinations = ["unix:/nowhere/a", "unix:/nowhere/b"].map(destination);
        Connection::new(None, destinations.into()).0
    }

    impl Shared {
        /// Which servers so many requests are sent to.
        fn picks<const N: usize>(&self) -> [bool; N] {
            [(); N].map(|()| std::ptr::eq(self.pick(), &raw const self.servers[1]))
        }

        fn send_to_first(&self) -> Sent<'_> {
            Sent {
                shared: self,
                server: &self.servers[0],
                at: Instant::now(),
                slow: SLOW,
                is_over: false,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_fails_is_tried_once_a_second() {
        let shared = shared();
        assert_eq!(shared.picks(), [false, true, false, true]);
        advance(AVOIDANCE).await;
        shared.send_to_first().failed();
        for _ in 0..3 {
            assert_eq!(shared.picks(), [true; 4]);
            advance(AVOIDANCE).await;
            assert_eq!(shared.picks(), [false, true, true, true]);
        }
        shared.send_to_first().answered(&HeaderMap::new());
        assert_eq!(shared.picks(), [false, true, false, true]);
    }

    /// A call with a short deadline is over before that of connecting.
    #[test]
    fn half_of_a_short_deadline_counts_against_a_server() {
        let slow_with = |timeout: &'static str| {
            let value = http::HeaderValue::from_static(timeout);
            slow(&HeaderMap::from_iter([(
                http::HeaderName::from_static(GRPC_TIMEOUT),
                value,
            )]))
        };
        assert_eq!(slow_with("15S"), SLOW);
        assert_eq!(slow_with("500m"), Duration::from_millis(250));
        assert_eq!(slow(&HeaderMap::new()), SLOW);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_unavailable_is_avoided() {
        let shared = shared();
        advance(AVOIDANCE).await;
        for (code, picks) in [
            (Code::NotFound, [false, true, false, true]),
            (Code::Unavailable, [true; 4]),
            (Code::Ok, [false, true, false, true]),
        ] {
            let refused = Status::new(code, "").into_http::<()>();
            shared.send_to_first().answered(refused.headers());
            assert_eq!(shared.picks(), picks, "{code:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_answer_is_avoided() {
        let shared = shared();
        let impatient = shared.send_to_first();
        advance(SLOW / 2).await;
        drop(impatient);
        assert_eq!(shared.picks(), [false, true]);
        let patient = shared.send_to_first();
        advance(SLOW).await;
        drop(patient);
        assert_eq!(shared.picks(), [true, true]);
        // There is no other one.
        let second = Sent {
            server: &shared.servers[1],
            ..shared.send_to_first()
        };
        second.failed();
        assert_eq!(shared.picks(), [false, true]);
    }
}
