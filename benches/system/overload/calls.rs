//! The calls, made with tonic's client over several connections, and what came of
//! each. Where they come at random moments, whoever makes them waits for none of
//! them: a server that answers late gets the next ones all the same.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use hitkeep_auth::pb::{
    GetApiClientRequest, api_client_service_client::ApiClientServiceClient,
    introspection_service_client::IntrospectionServiceClient,
};
use tokio::task::JoinSet;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;

use crate::support::{
    calls::introspect,
    dice::Dice,
    figures::Samples,
    population::Known,
    service::{Caller, Service},
};

/// What is called.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// `GetApiClient`, which asks Postgres.
    Get,
    /// `Introspect`, which does not.
    Introspect,
}

/// Calls of a kind, and their connections.
pub struct Calls {
    kind: Kind,
    channels: Vec<Channel>,
    caller: Caller,
    known: Arc<[Known]>,
}

/// What was said to a call.
enum Answer {
    /// What it asked for.
    Accepted,
    /// UNAVAILABLE, because of OVERLOADED.
    Refused,
    /// Anything else, which is wrong.
    Other(String),
}

/// What was said to many.
#[derive(Default)]
pub struct Tally {
    /// How long each call took that got what it asked for, from the moment at which
    /// it was to be made.
    pub accepted: Vec<Duration>,
    /// The same, of those that were refused because of too much at once.
    pub refused: Vec<Duration>,
    /// How many got any other answer, by what that was.
    pub others: BTreeMap<String, u64>,
    /// How late each call was made.
    pub late: Vec<Duration>,
    /// How long the server was at work meanwhile, by the kernel's count, and how long
    /// that took.
    pub work: Duration,
    pub elapsed: Duration,
}

/// A call that was answered.
struct Done {
    /// Of which of the loads.
    load: usize,
    is_counted: bool,
    answer: Answer,
    took: Duration,
    late: Duration,
}

impl Calls {
    /// Calls to that server.
    pub async fn to(
        service: &Service,
        kind: Kind,
        connections: usize,
        caller: &Caller,
        known: &Arc<[Known]>,
    ) -> Arc<Self> {
        let mut channels = Vec::new();
        for _ in 0..connections {
            channels.push(service.connect().await);
        }
        Arc::new(Self {
            kind,
            channels,
            caller: caller.clone(),
            known: Arc::clone(known),
        })
    }

    async fn make(&self, number: usize) -> Answer {
        let channel = self.channels[number % self.channels.len()].clone();
        let client = &self.known[number % self.known.len()];
        let is_right = match self.kind {
            Kind::Get => {
                let request = GetApiClientRequest {
                    actor: Some(client.actor.clone()),
                    id: client.id.clone(),
                };
                let request = self.caller.says(request);
                let mut service = ApiClientServiceClient::new(channel);
                let answer = service.get_api_client(request).await;
                let found = answer.map(|answer| answer.into_inner().api_client);
                found.map(|found| found.is_some_and(|found| found.id == client.id))
            }
            Kind::Introspect => {
                let request = self.caller.says(introspect(&client.token));
                let mut service = IntrospectionServiceClient::new(channel);
                let answer = service.introspect(request).await;
                let answer = answer.map(tonic::Response::into_inner);
                answer.map(|answer| answer.active && answer.client_id == client.id)
            }
        };
        match is_right {
            Ok(true) => Answer::Accepted,
            Ok(false) => Answer::Other("OK, with what was not asked for".to_owned()),
            Err(status) => Answer::of(&status),
        }
    }
}

impl Answer {
    fn of(status: &Status) -> Self {
        let details = status.get_error_details();
        let reason = details.error_info().map_or("", |info| &*info.reason);
        if status.code() == Code::Unavailable && reason == "OVERLOADED" {
            return Self::Refused;
        }
        Self::Other(format!(
            "{:?} {reason}: {}",
            status.code(),
            status.message()
        ))
    }
}

impl Tally {
    fn add(&mut self, done: Done) {
        // What must not be is wrong at any time.
        if let Answer::Other(what) = done.answer {
            *self.others.entry(what).or_default() += 1;
        } else if done.is_counted {
            self.late.push(done.late);
            match done.answer {
                Answer::Accepted => self.accepted.push(done.took),
                _ => self.refused.push(done.took),
            }
        }
    }

    /// Adds what was found in another round.
    pub fn merge(&mut self, other: Self) {
        self.accepted.extend(other.accepted);
        self.refused.extend(other.refused);
        self.late.extend(other.late);
        self.work += other.work;
        self.elapsed += other.elapsed;
        for (what, count) in other.others {
            *self.others.entry(what).or_default() += count;
        }
    }

    /// How many got an answer that must not be.
    pub fn wrong(&self) -> u64 {
        self.others.values().sum()
    }
}

/// A percentile in milliseconds, or nothing where nothing was measured.
pub fn percentile(all: &[Duration], per_mille: usize) -> String {
    if all.is_empty() {
        return "-".to_owned();
    }
    let time = Samples::of(all.to_vec()).per_mille(per_mille);
    crate::support::figures::milliseconds(time)
}

/// Keeps that many calls under way.
pub async fn closed(
    calls: &Arc<Calls>,
    at_once: usize,
    warm_up: Duration,
    time: Duration,
) -> Tally {
    let begun = Instant::now();
    let (counts, end) = (begun + warm_up, begun + warm_up + time);
    let mut under_way = JoinSet::new();
    for first in 0..at_once {
        let calls = Arc::clone(calls);
        under_way.spawn(async move {
            let mut tally = Tally::default();
            let mut number = first;
            loop {
                let since = Instant::now();
                if since >= end {
                    return tally;
                }
                let answer = calls.make(number).await;
                number += at_once;
                let now = Instant::now();
                tally.add(Done {
                    load: 0,
                    is_counted: (counts..end).contains(&now),
                    answer,
                    took: now - since,
                    late: Duration::ZERO,
                });
            }
        });
    }
    let mut all = Tally::default();
    while let Some(tally) = under_way.join_next().await {
        all.merge(tally.expect("it does not panic"));
    }
    all
}

/// Makes so many calls of each kind a second on average, at random moments.
pub async fn open(loads: &[(&Arc<Calls>, f64)], warm_up: Duration, time: Duration) -> Vec<Tally> {
    let begun = Instant::now();
    let (counts, end) = (begun + warm_up, begun + warm_up + time);
    let mut tallies: Vec<_> = loads.iter().map(|_| Tally::default()).collect();
    let mut chances: Vec<_> = (1..).map(Dice::new).take(loads.len()).collect();
    let mut due = vec![begun; loads.len()];
    let mut made = 0;
    let mut under_way = JoinSet::new();
    loop {
        let now = Instant::now();
        if now >= end {
            break;
        }
        for (load, (calls, rate)) in loads.iter().enumerate() {
            while due[load] <= now {
                let (calls, since, number) = (Arc::clone(calls), due[load], made);
                under_way.spawn(async move {
                    let late = since.elapsed();
                    let answer = calls.make(number).await;
                    Done {
                        load,
                        is_counted: since >= counts,
                        answer,
                        took: since.elapsed(),
                        late,
                    }
                });
                made += 1;
                due[load] += Duration::from_secs_f64(chances[load].exponential() / rate);
            }
        }
        while let Some(done) = under_way.try_join_next() {
            let done = done.expect("it does not panic");
            tallies[done.load].add(done);
        }
        // A timer would be late by a millisecond, which is longer than an answer takes.
        tokio::task::yield_now().await;
    }
    while let Some(done) = under_way.join_next().await {
        let done = done.expect("it does not panic");
        tallies[done.load].add(done);
    }
    tallies
}
