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

use http::header::AUTHORIZATION;
use tokio::time::Instant;
use tonic::{body::Body, transport::Channel};
use tower::{BoxError, Service, ServiceExt as _};

use crate::{caller_token::CallerToken, connect::Destination};

/// How long a server is passed over that could not be reached, if there is another one.
const AVOIDANCE: Duration = Duration::from_secs(1);

/// A connection to each server, which are used in turn. It authenticates this program, and is
/// what the generated clients in [`pb`](crate::pb) are made of. Cheap to clone.
///
/// It connects when there is something to send. A server that could not be reached is passed
/// over for a second, if there is another one.
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
    /// Until when it is passed over, in milliseconds since the start.
    avoided_until: AtomicU64,
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
        let reachable = servers.find(|server| server.avoided_until.load(Relaxed) <= now);
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
        let mut channel = server.channel.clone();
        let sent = async { channel.ready().await?.call(request).await };
        sent.await.map_err(|error| {
            let until = self.now() + u64::try_from(AVOIDANCE.as_millis()).unwrap_or_default();
            server.avoided_until.store(until, Relaxed);
            error.into()
        })
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
