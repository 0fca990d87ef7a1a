//! Failovers, one after the other, while everybody asks at every door. In each of them
//! the primary is demoted while it runs, its standby is promoted, and the address that
//! one replica knows is re-pointed, in different orders: once the address goes on
//! leading to the old primary for longer than replicas may answer from memory.
//!
//! Besides what is judged in an outage: a replica knows what it has just acknowledged,
//! or says that it cannot tell.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::{
    task::JoinSet,
    time::{sleep, sleep_until},
};

use crate::{
    Options,
    checker::{self, Checker, Findings},
    doors::{Asker, Door},
    pair::Pair,
    proxy::Proxy,
    support::{
        figures::{Samples, Table},
        population,
        service::{Caller, Service},
    },
    tokens::Tokens,
    witness::{Acknowledged, Witness},
    writer::Writer,
};

/// What is done in a failover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The primary becomes read-only, and goes on answering.
    Demote,
    /// The standby begins to take writes.
    Promote,
    /// New connections through the proxy lead to the new primary. Open ones stay.
    Repoint,
}

/// What is done, each with the seconds before it.
type Steps = [(Step, f64); 3];

/// The failovers, in turns. The bound is added to the last pause of the longest.
const FAILOVERS: [Steps; 5] = [
    [
        (Step::Demote, 0.0),
        (Step::Promote, 0.3),
        (Step::Repoint, 0.0),
    ],
    [
        (Step::Demote, 0.0),
        (Step::Repoint, 0.2),
        (Step::Promote, 1.0),
    ],
    [
        (Step::Promote, 0.0),
        (Step::Demote, 0.5),
        (Step::Repoint, 0.5),
    ],
    [
        (Step::Demote, 0.0),
        (Step::Promote, 0.5),
        (Step::Repoint, 2.0),
    ],
    [
        (Step::Repoint, 0.0),
        (Step::Promote, 1.0),
        // Until then, who was there before sees nothing but a primary.
        (Step::Demote, 2.5),
    ],
];
const LONGEST: usize = 3;
/// How long the old primary goes on answering after that.
const LINGERS: Duration = Duration::from_secs(2);
/// How long it may take to make a standby of it; for the time between failovers alone.
const TURNING: Duration = Duration::from_secs(3);
/// The least time between two failovers.
const LEAST_CALM: Duration = Duration::from_secs(1);
/// Writers of each replica: one that waits for an answer does not see when the next
/// change would have been accepted.
const WRITERS: usize = 2;

/// A failover that was made.
struct Failover {
    /// When its first step was taken.
    begun: u64,
    /// When its last one was.
    ended: u64,
    /// Its steps, in words.
    steps: String,
}

/// A replica, and what was found out about it.
struct Observed {
    service: Service,
    /// By door, in their order.
    doors: Vec<Arc<Findings>>,
    /// About what it acknowledged itself.
    own: Arc<Findings>,
    acknowledged: Acknowledged,
}

/// Counts the wrong answers.
pub async fn measure(options: &Options) -> u64 {
    let pair = Pair::start().await;
    let database = pair.primary.database();
    let known = population::fill(&database, crate::CLIENTS, crate::KNOWN).await;
    let caller = Caller::create(&database);
    let (proxy, through) = Proxy::start(&database);
    let bound = humantime::format_duration(options.bound).to_string();
    let settings = [
        "--max-clients-per-owner",
        "1000000",
        "--max-staleness",
        &bound,
        "--http-listen",
        "127.0.0.1:0",
    ];
    let tokens = Arc::new(Tokens::new(known));
    let mut replicas = Vec::new();
    for number in 0..options.replicas {
        // The last one knows the address that is re-pointed; the others know both servers.
        let url = if number + 1 == options.replicas {
            &*through
        } else {
            pair.url()
        };
        let service = Service::start(url, &settings);
        service.serving().await;
        let findings = |at: &str| {
            let place = format!("{at} of replica {number}");
            Arc::new(Findings::new(place, &tokens))
        };
        let doors = Door::ALL.iter().map(|door| findings(door.title()));
        replicas.push(Observed {
            service,
            doors: doors.collect(),
            own: findings("any door"),
            acknowledged: Acknowledged::default(),
        });
    }
    let mut at_work = JoinSet::new();
    for (number, replica) in replicas.iter().enumerate() {
        for (at, door) in Door::ALL.into_iter().enumerate() {
            let asker = Asker::at(door, &replica.service, &caller).await;
            let findings = Arc::clone(&replica.doors[at]);
            let checker = Checker::new(asker, Arc::clone(&tokens), findings, options.bound);
            at_work.spawn(checker.pursuing().run(number * Door::ALL.len() + at));
        }
        for writer in 0..WRITERS {
            let (own, acknowledged) = (&replica.own, &replica.acknowledged);
            let (own, acknowledged) = (Arc::clone(own), Arc::clone(acknowledged));
            let witness = Witness::at(&replica.service, &caller, own, acknowledged).await;
            let channel = replica.service.connect().await;
            let writes = Writer::new(channel, caller.clone(), Arc::clone(&tokens));
            at_work.spawn(writes.watched_by(witness).run(number * WRITERS + writer));
        }
    }
    let (_pair, failovers) = fail_over(pair, &proxy, &tokens, options).await;
    tokens.end();
    at_work.join_all().await;
    ask_everything(&replicas, &caller, &tokens).await;
    report(&replicas, &tokens, &failovers, options);
    let of = |findings: &Arc<Findings>| findings.wrong.load(Ordering::Relaxed);
    let of_replica = |of_one: &Observed| of_one.doors.iter().map(of).sum::<u64>() + of(&of_one.own);
    replicas.iter().map(of_replica).sum()
}

/// Makes the failovers within the duration, or a little more where they take longer.
async fn fail_over(
    mut pair: Pair,
    proxy: &Proxy,
    tokens: &Tokens,
    options: &Options,
) -> (Pair, Vec<Failover>) {
    let begun = Instant::now();
    let planned: Vec<Steps> = (0..options.failovers)
        .map(|number| steps(number, options))
        .collect();
    let mut made = Vec::new();
    for (number, steps) in planned.iter().enumerate() {
        let rest = &planned[number..];
        let busy: Duration = rest.iter().map(takes).sum();
        let calm = options.duration.saturating_sub(begun.elapsed() + busy);
        let share = u32::try_from(rest.len() + 1).expect("a few");
        sleep((calm / share).max(LEAST_CALM)).await;
        let begun = tokens.now();
        let steps = take(steps, &pair, proxy).await;
        let failover = Failover {
            begun,
            ended: tokens.now(),
            steps,
        };
        println!(
            "{:5.1} s: {}",
            Duration::from_micros(failover.begun).as_secs_f64(),
            failover.steps
        );
        made.push(failover);
        sleep(LINGERS).await;
        pair = pair.turned().await;
    }
    sleep(LEAST_CALM).await;
    sleep_until((begun + options.duration).into()).await;
    (pair, made)
}

/// The steps of a failover of that number.
fn steps(number: usize, options: &Options) -> Steps {
    let mut steps = FAILOVERS[number % FAILOVERS.len()];
    if number % FAILOVERS.len() == LONGEST {
        steps[2].1 += options.bound.as_secs_f64();
    }
    steps
}

/// How long a failover takes, until the old primary is a standby.
fn takes(steps: &Steps) -> Duration {
    let pauses: f64 = steps.iter().map(|(_, pause)| pause).sum();
    Duration::from_secs_f64(pauses) + LINGERS + TURNING
}

/// Takes the steps, and says when each was done.
async fn take(steps: &Steps, pair: &Pair, proxy: &Proxy) -> String {
    let begun = Instant::now();
    let mut told = Vec::new();
    for (step, pause) in steps {
        sleep(Duration::from_secs_f64(*pause)).await;
        let what = match step {
            Step::Demote => {
                pair.primary.demote().await;
                "demoted"
            }
            Step::Promote => {
                pair.standby.promote().await;
                "promoted"
            }
            Step::Repoint => {
                proxy.repoint(&pair.standby.database());
                "re-pointed"
            }
        };
        told.push(format!("{what} {:.1}", begun.elapsed().as_secs_f64()));
    }
    told.join(", ")
}

/// When all is well again, everything is asked once more, at each door.
async fn ask_everything(replicas: &[Observed], caller: &Caller, tokens: &Arc<Tokens>) {
    let mut asked = JoinSet::new();
    for replica in replicas {
        replica.service.serving().await;
        for (door, findings) in Door::ALL.into_iter().zip(&replica.doors) {
            let asker = Asker::at(door, &replica.service, caller).await;
            let (tokens, findings) = (Arc::clone(tokens), Arc::clone(findings));
            asked.spawn(async move {
                let asked = checker::ask_everything(asker, tokens, Arc::clone(&findings));
                findings.wrong.fetch_add(asked.await, Ordering::Relaxed);
            });
        }
    }
    asked.join_all().await;
}

fn report(replicas: &[Observed], tokens: &Tokens, failovers: &[Failover], options: &Options) {
    let changes = tokens.changes();
    println!(
        "{} replicas, of which the last one is behind the address that is re-pointed; \
         {} creations and {} revocations acknowledged, {} changes without an acknowledgement",
        options.replicas, changes.created, changes.revoked, changes.unknown
    );
    report_writes(replicas, failovers);
    let mut table = Table::new(&["door", "answer", "to tokens that work", "to revoked tokens"]);
    let mut row = |door: &str, findings: &[Arc<Findings>]| {
        for (answer, [good, revoked]) in checker::answers(findings) {
            table.row([
                door.to_owned(),
                answer,
                good.to_string(),
                revoked.to_string(),
            ]);
        }
    };
    for (at, door) in Door::ALL.into_iter().enumerate() {
        row(door.title(), &at_door(replicas, at));
    }
    let own: Vec<_> = replicas.iter().map(|of| Arc::clone(&of.own)).collect();
    row("all, at once, where it was changed", &own);
    table.print();
    report_doors(replicas);
    println!("bound on acceptance: {:?}", options.bound);
}

fn at_door(replicas: &[Observed], at: usize) -> Vec<Arc<Findings>> {
    let findings = replicas.iter().map(|of| Arc::clone(&of.doors[at]));
    findings.collect()
}

/// When each replica acknowledged changes again, after each failover had begun.
fn report_writes(replicas: &[Observed], failovers: &[Failover]) {
    let mut columns = vec!["failover".to_owned()];
    columns.extend((0..replicas.len()).map(|number| format!("replica {number} writes again")));
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let mut table = Table::new(&columns);
    for failover in failovers {
        let mut cells = vec![failover.steps.clone()];
        for replica in replicas {
            let acknowledged = replica.acknowledged.lock().expect("nobody panics");
            cells.push(
                written_again(&acknowledged, failover).map_or("never".to_owned(), |after| {
                    seconds(Duration::from_micros(after))
                }),
            );
        }
        table.cells(cells);
    }
    table.print();
}

/// How long after a failover's begin the longest time without an acknowledgement ended
/// that began before its last step was taken.
fn written_again(acknowledged: &[u64], failover: &Failover) -> Option<u64> {
    let Failover { begun, ended, .. } = *failover;
    let pairs = acknowledged.windows(2).map(|pair| (pair[0], pair[1]));
    let within = pairs.filter(|(last, first)| *first > begun && *last < ended);
    let longest = within.max_by_key(|(last, first)| first - last);
    longest.map(|(_, first)| first - begun)
}

/// What callers feel at each door.
fn report_doors(replicas: &[Observed]) {
    let mut columns: Vec<String> = ["door", "revoked tokens", "accepted: p50", "p99", "max"]
        .map(str::to_owned)
        .into();
    columns.extend((0..replicas.len()).map(|number| format!("longest silence of {number}")));
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let mut table = Table::new(&columns);
    for (at, door) in Door::ALL.into_iter().enumerate() {
        let findings = at_door(replicas, at);
        let acceptances: Vec<_> = findings.iter().flat_map(|of| of.acceptances()).collect();
        let mut cells = vec![door.title().to_owned(), acceptances.len().to_string()];
        let samples = Samples::of(acceptances);
        let longest = findings.iter().map(|of| of.longest_acceptance());
        let max = longest.fold(samples.max(), Duration::max);
        cells.extend([samples.median(), samples.p99(), max].map(seconds));
        cells.extend(findings.iter().map(|of| {
            let ended = of.longest_silence_ended().as_secs_f64();
            format!("{}, at {ended:.0}", seconds(of.longest_silence()))
        }));
        table.cells(cells);
    }
    table.print();
}

fn seconds(time: Duration) -> String {
    format!("{:.3} s", time.as_secs_f64())
}
