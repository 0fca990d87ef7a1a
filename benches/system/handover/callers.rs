//! Callers that ask all the time, as gRPC's clients do it: over a connection to one
//! of the servers, and over one to the next where a call was not taken.
//!
//! A server that ends tells each connection up to which call it goes on (GOAWAY).
//! What came after it was never looked at, and may be asked again elsewhere, also
//! where it must not be done twice: most clients do that by themselves, tonic's
//! leaves it to its user. A call that was taken must be answered, and well.

use std::{
    collections::BTreeMap,
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hitkeep_auth::{
    pb::introspection_service_client::IntrospectionServiceClient, store::error::causes,
};
use tokio::task::JoinSet;
use tonic::{
    Code, ConnectError, Status,
    transport::{Channel, Endpoint},
};

use crate::support::{calls::introspect, population::Known, service::Caller};

/// How long a call may go untaken before that is a failure.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause before the next server is tried, where a connection was refused.
const PAUSE: Duration = Duration::from_millis(2);
/// What went wrong, in so many different words at most.
const KINDS: usize = 20;

/// What callers share.
pub struct Asked {
    pub caller: Caller,
    pub known: Vec<Known>,
    /// Set at the end.
    pub is_over: AtomicBool,
}

/// Connections to several servers, of which one is used.
pub struct Line {
    servers: Vec<Channel>,
    used: AtomicUsize,
}

/// What came of the calls.
#[derive(Default)]
pub struct Outcomes {
    /// Those that were answered as they should be.
    pub answered: u64,
    /// How often a call was made that no server took, by why. Each was made again.
    pub untaken: BTreeMap<&'static str, u64>,
    /// Those that went wrong, by how.
    pub failed: BTreeMap<String, u64>,
    /// The longest that one took, with all its tries.
    pub longest: Duration,
    /// Connections that were made for calls, beside those that stay.
    pub connected: u64,
}

impl Line {
    /// Connections to those servers, of which that one is used at first.
    pub async fn to(servers: &[Endpoint], first: usize) -> Arc<Self> {
        let mut channels = Vec::new();
        for endpoint in servers {
            channels.push(endpoint.connect().await.expect("the server accepts"));
        }
        Arc::new(Self {
            used: AtomicUsize::new(first % channels.len()),
            servers: channels,
        })
    }
}

impl Outcomes {
    /// Adds those of another.
    pub fn merge(&mut self, other: Self) {
        self.answered += other.answered;
        self.connected += other.connected;
        self.longest = self.longest.max(other.longest);
        for (why, count) in other.untaken {
            *self.untaken.entry(why).or_default() += count;
        }
        for (how, count) in other.failed {
            self.fail(how, count);
        }
    }

    /// Calls that failed.
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    fn fail(&mut self, how: String, times: u64) {
        let is_room = self.failed.len() < KINDS || self.failed.contains_key(&how);
        let how = if is_room { how } else { "others".to_owned() };
        *self.failed.entry(how).or_default() += times;
    }

    fn count(&mut self, made: Result<(), Status>, since: Instant) {
        match made {
            Ok(()) => self.answered += 1,
            Err(status) => self.fail(told(&status), 1),
        }
        self.longest = self.longest.max(since.elapsed());
    }
}

/// Starts so many callers on each of the lines, each with one call at a time.
pub fn start(
    callers: &mut JoinSet<Outcomes>,
    asked: &Arc<Asked>,
    lines: &[Arc<Line>],
    each: usize,
) {
    let mut number = 0;
    for line in lines {
        for _ in 0..each {
            callers.spawn(ask(Arc::clone(asked), Arc::clone(line), number));
            number += 1;
        }
    }
}

/// Asks over a line until it is over.
async fn ask(asked: Arc<Asked>, line: Arc<Line>, mut number: usize) -> Outcomes {
    let mut outcomes = Outcomes::default();
    while !asked.is_over.load(Ordering::Relaxed) {
        let since = Instant::now();
        let made = loop {
            let at = line.used.load(Ordering::Relaxed);
            let Err(status) = call(&asked, line.servers[at].clone(), number).await else {
                break Ok(());
            };
            let Some(why) = untaken(&status).filter(|_| since.elapsed() < PATIENCE) else {
                break Err(status);
            };
            *outcomes.untaken.entry(why).or_default() += 1;
            // Unless another call has gone on already.
            let next = (at + 1) % line.servers.len();
            let gone_on =
                line.used
                    .compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
            if gone_on.is_ok() && why == NO_CONNECTION {
                tokio::time::sleep(PAUSE).await;
            }
        };
        outcomes.count(made, since);
        number += 1;
    }
    outcomes
}

/// Asks until it is over, over a new connection after each few calls. Nothing may
/// go untaken.
pub async fn come_anew(asked: Arc<Asked>, server: Endpoint, calls: usize) -> Outcomes {
    let mut outcomes = Outcomes::default();
    while !asked.is_over.load(Ordering::Relaxed) {
        let since = Instant::now();
        let channel = match server.connect().await {
            Ok(channel) => channel,
            Err(error) => {
                outcomes.fail(format!("no connection: {}", causes(&error)), 1);
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        outcomes.connected += 1;
        outcomes.longest = outcomes.longest.max(since.elapsed());
        for number in 0..calls {
            let since = Instant::now();
            outcomes.count(call(&asked, channel.clone(), number).await, since);
        }
    }
    outcomes
}

async fn call(asked: &Asked, channel: Channel, number: usize) -> Result<(), Status> {
    let client = &asked.known[number % asked.known.len()];
    let request = asked.caller.says(introspect(&client.token));
    let mut service = IntrospectionServiceClient::new(channel);
    let answer = service.introspect(request).await?.into_inner();
    if answer.active && answer.client_id == client.id {
        Ok(())
    } else {
        Err(Status::new(Code::Ok, "not what was asked for"))
    }
}

const NO_CONNECTION: &str = "no connection: nobody listens";
const NOT_SENT: &str = "not sent: the connection was ending";
const PAST_THE_END: &str = "sent, but past the last one that GOAWAY names";

/// Why no server took a call, where none did.
fn untaken(status: &Status) -> Option<&'static str> {
    let mut next = Error::source(status);
    while let Some(cause) = next {
        if cause.is::<ConnectError>() {
            return Some(NO_CONNECTION);
        }
        // hyper gives the request back.
        let hyper = cause.downcast_ref::<hyper::Error>();
        if hyper.is_some_and(hyper::Error::is_canceled) {
            return Some(NOT_SENT);
        }
        if let Some(error) = cause.downcast_ref::<h2::Error>() {
            let is_orderly = error.reason() == Some(h2::Reason::NO_ERROR);
            let is_refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
            let untaken = (error.is_go_away() && is_orderly) || (error.is_reset() && is_refused);
            return (untaken && error.is_remote()).then_some(PAST_THE_END);
        }
        next = cause.source();
    }
    None
}

fn told(status: &Status) -> String {
    format!(
        "{:?}: {}; {}",
        status.code(),
        status.message(),
        causes(status)
    )
}
