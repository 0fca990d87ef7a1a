//! A load generator for gRPC that costs so little that one core of it keeps any
//! server on another core busy: frames by hand over plain sockets, one thread,
//! headers as tonic's client writes them. It counts an answer as good where it
//! is whole and begins with `active = true`; what else must be in it is checked
//! with a real client before and after.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    time::{ClockId, clock_gettime},
};

#[path = "load/connection.rs"]
mod connection;
#[path = "load/frames.rs"]
pub mod frames;

use super::{
    calls,
    cores::work_of,
    dice::Dice,
    population::Known,
    service::{Caller, Service},
};
use connection::Connection;

/// How long to wait for answers at a time.
const WAIT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// How calls use streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A stream for each call.
    Unary,
    /// All calls of a connection one after the other on one stream, which stays
    /// open, without waiting for the answers to those before.
    Stream,
}

impl Style {
    /// The method that is called so.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Unary => "/hitkeep.auth.v1.IntrospectionService/Introspect",
            Self::Stream => "/hitkeep.auth.v1.IntrospectionService/IntrospectStream",
        }
    }
}

/// What is called, and how.
#[derive(Clone)]
pub struct Target {
    /// Where.
    pub address: SocketAddr,
    /// The process that answers.
    pub pid: u32,
    /// The headers.
    pub blocks: frames::Blocks,
    /// The messages, with gRPC's head in front of each, sent in turn.
    pub messages: Vec<Vec<u8>>,
    /// How calls use streams.
    pub style: Style,
}

impl Target {
    /// Introspections of those clients' tokens, by that caller.
    pub async fn of(service: &Service, caller: &Caller, style: Style, known: &[Known]) -> Self {
        let message = |client: &Known| calls::framed(&calls::introspect(&client.token));
        Self {
            address: service.address(),
            pid: service.pid(),
            blocks: frames::Blocks::of(caller, style.path()).await,
            messages: known.iter().map(message).collect(),
            style,
        }
    }

    /// The same calls to another server.
    pub fn at(&self, address: SocketAddr, pid: u32) -> Self {
        Self {
            address,
            pid,
            ..self.clone()
        }
    }
}

/// How many calls at once.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Connections.
    pub connections: usize,
    /// Calls at once on each.
    pub calls: usize,
}

/// What came of as many calls as could be made.
#[derive(Clone, Copy, Debug)]
pub struct Saturation {
    /// Good answers a second.
    pub rate: f64,
    /// Good answers for each second that the server was at work, by the kernel's
    /// count: the rate on a core that nobody else disturbs, if it has one.
    pub rate_at_work: f64,
    /// Answers that were not good.
    pub failures: u64,
    /// How much of the time the server was at work. Well below 1 it was kept
    /// from it: by others, or by waiting for something.
    pub server_busy: f64,
    /// How much of the time the generator itself was busy. Near 1 it measured
    /// itself.
    pub busy: f64,
}

/// How long calls took.
pub struct Timed {
    /// How long each took, from the moment at which it was to be made.
    pub latencies: Vec<Duration>,
    /// Answers that were not good.
    pub failures: u64,
}

/// What was answered.
pub struct Answers {
    counting: bool,
    good: u64,
    failures: u64,
    latencies: Option<Vec<Duration>>,
}

impl Answers {
    fn new() -> Self {
        Self {
            counting: false,
            good: 0,
            failures: 0,
            latencies: None,
        }
    }

    fn into_timed(self) -> Timed {
        Timed {
            latencies: self.latencies.unwrap_or_default(),
            failures: self.failures,
        }
    }

    fn add(&mut self, since: Instant, is_good: bool) {
        if !is_good {
            self.failures += 1;
        } else if self.counting {
            self.good += 1;
            if let Some(latencies) = &mut self.latencies {
                latencies.push(since.elapsed());
            }
        }
    }
}

/// Keeps that many calls under way, and counts the answers of that time.
pub fn saturate(
    target: &Target,
    shape: Shape,
    warm_up: Duration,
    time: Duration,
) -> io::Result<Saturation> {
    drive(target, shape, warm_up, time, &mut Answers::new())
}

/// Does the same, and says how long each of them took. A call is made as soon as
/// the one before it was answered, so these say what a caller of such a load sees,
/// and nothing of what happens when calls do not wait for each other.
pub fn timed(
    target: &Target,
    shape: Shape,
    warm_up: Duration,
    time: Duration,
) -> io::Result<(Saturation, Timed)> {
    let mut answers = Answers::new();
    answers.latencies = Some(Vec::new());
    let saturation = drive(target, shape, warm_up, time, &mut answers)?;
    Ok((saturation, answers.into_timed()))
}

fn drive(
    target: &Target,
    shape: Shape,
    warm_up: Duration,
    time: Duration,
    answers: &mut Answers,
) -> io::Result<Saturation> {
    let mut connections = open(target, shape.connections)?;
    let begun = Instant::now();
    let mut now = begun;
    let mut busy = thread_time();
    let mut work = Duration::ZERO;
    while now < begun + warm_up + time {
        for connection in &mut connections {
            while connection.in_flight() < shape.calls && connection.call(target, now) {}
            connection.send()?;
        }
        wait(&connections)?;
        for connection in &mut connections {
            connection.receive(target.style, answers)?;
        }
        now = Instant::now();
        if !answers.counting && now >= begun + warm_up {
            answers.counting = true;
            busy = thread_time();
            work = work_of(target.pid);
        }
    }
    let work = work_of(target.pid).saturating_sub(work).as_secs_f64();
    let counted = now.duration_since(begun + warm_up).as_secs_f64();
    Ok(Saturation {
        rate: rate(answers.good, counted),
        rate_at_work: rate(answers.good, work),
        failures: answers.failures,
        server_busy: work / counted,
        busy: thread_time().saturating_sub(busy).as_secs_f64() / counted,
    })
}

/// Makes so many calls, and waits for all the answers. Gives how many were not good.
pub fn exactly(target: &Target, shape: Shape, calls: u64) -> io::Result<u64> {
    let mut connections = open(target, shape.connections)?;
    let mut answers = Answers::new();
    answers.counting = true;
    let mut made = 0;
    while answers.good + answers.failures < calls {
        for connection in &mut connections {
            while made < calls
                && connection.in_flight() < shape.calls
                && connection.call(target, Instant::now())
            {
                made += 1;
            }
            connection.send()?;
        }
        wait(&connections)?;
        for connection in &mut connections {
            connection.receive(target.style, &mut answers)?;
        }
    }
    Ok(answers.failures)
}

/// Makes calls at times that do not depend on the answers: so many a second on
/// average, at random moments. A call that cannot be made in time is made later,
/// and its latency counts from when it was to be made.
pub fn steady(
    target: &Target,
    shape: Shape,
    calls_per_second: f64,
    warm_up: Duration,
    time: Duration,
) -> io::Result<Timed> {
    let mut connections = open(target, shape.connections)?;
    let mut answers = Answers::new();
    answers.latencies = Some(Vec::new());
    let mut chance = Dice::new(1);
    let begun = Instant::now();
    let mut now = begun;
    let mut due = begun;
    let mut turn = 0;
    while now < begun + warm_up + time {
        answers.counting = due >= begun + warm_up;
        while due <= now {
            // Round robin; a connection that is full passes its turn on.
            let free = (0..connections.len())
                .map(|step| (turn + step) % shape.connections)
                .find(|at| match target.style {
                    Style::Unary => connections[*at].in_flight() < connections[*at].max_streams(),
                    Style::Stream => true,
                });
            let Some(at) = free else { break };
            if !connections[at].call(target, due) {
                break;
            }
            turn = at + 1;
            due += Duration::from_secs_f64(chance.exponential() / calls_per_second);
        }
        for connection in &mut connections {
            connection.send()?;
            connection.receive(target.style, &mut answers)?;
        }
        now = Instant::now();
    }
    Ok(answers.into_timed())
}

fn open(target: &Target, count: usize) -> io::Result<Vec<Connection>> {
    let connections = (0..count).map(|_| Connection::open(target.address));
    connections.collect()
}

/// Waits until there is something to read, or to send on.
fn wait(connections: &[Connection]) -> io::Result<()> {
    let events = |connection: &Connection| {
        if connection.is_held_up() {
            PollFlags::IN | PollFlags::OUT
        } else {
            PollFlags::IN
        }
    };
    let mut sockets: Vec<_> = connections
        .iter()
        .map(|connection| PollFd::new(&connection.socket, events(connection)))
        .collect();
    poll(&mut sockets, Some(&WAIT))?;
    Ok(())
}

/// How long this thread was at work.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("time goes forward")
}

fn rate(count: u64, seconds: f64) -> f64 {
    f64::from(u32::try_from(count).expect("fewer than four billion")) / seconds
}
