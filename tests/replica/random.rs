//! Random changes, by calls and by hand, while every replica is asked without
//! pause: each answer is what the database said at the answer's revision.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use chrono::TimeDelta;
use hitkeep_auth::{
    domain::{
        Timestamp,
        clock::{Clock, Entropy},
    },
    pb,
    system::{SystemClock, SystemEntropy},
};
use tokio::sync::watch;

use crate::{
    checker::{Answered, History, State},
    cluster::Cluster,
    dice::Dice,
    fixtures::*,
    follower::{Follower, Settings},
    gateway::Gateway,
    harness::Caller,
    index::BOUND,
    steps::Driver,
    waiting::within,
};

/// Set it to the seed that a failure printed, to see the same steps again.
const SEED: Option<u64> = None;
const REPLICAS: usize = 3;
const STEPS: usize = 300;
/// How many tokens are asked about more often than the others.
const NEWEST: usize = 10;

/// What those who ask and the one who changes things have in common.
#[derive(Default)]
pub struct Shared {
    /// Every token that was ever issued, by its number.
    pub tokens: Mutex<Vec<String>>,
    /// The newest revision that was acknowledged.
    pub newest: AtomicU64,
    /// The number of the token that is about to be changed, or was last.
    pub hot: AtomicUsize,
    /// Told of every answer.
    answered: watch::Sender<()>,
    stop: AtomicBool,
}

pub fn now() -> Timestamp {
    SystemClock::default().now()
}

/// A check, or none.
pub fn any_check(dice: &mut Dice) -> Option<pb::PermissionCheck> {
    let site = *dice.one_of(&[SITE, SITE, SECOND_SITE, OTHER_SITE]);
    let (site, permission) = match dice.below(5) {
        0 => return None,
        1 => (site, "site.view"),
        2 => (site, "site.manage_goals"),
        3 => (site, "site.delete"),
        _ => ("", "instance.view_audit"),
    };
    check("", site, permission).check
}

/// Asks one replica about one token after the other, until told to stop.
async fn ask(
    replica: usize,
    sidecar: Caller,
    shared: Arc<Shared>,
    mut dice: Dice,
) -> Vec<Answered> {
    let mut answers = Vec::new();
    while !shared.stop.load(Ordering::Relaxed) {
        let (token, text) = {
            let tokens = shared.tokens.lock().unwrap();
            let token = match dice.below(3) {
                0 => dice.below(tokens.len()),
                1 => tokens.len() - 1 - dice.below(NEWEST.min(tokens.len())),
                _ => shared.hot.load(Ordering::Relaxed),
            };
            (token, tokens[token].clone())
        };
        let mut request = introspect(&text);
        request.check = any_check(&mut dice);
        if dice.percent(10) {
            request.at_least_revision = Some(shared.newest.load(Ordering::Relaxed));
        }
        let sent = now();
        match sidecar.introspect(request.clone()).await {
            Ok(answer) => {
                answers.push(Answered {
                    replica,
                    token,
                    request,
                    sent,
                    received: now(),
                    answer,
                });
                shared.answered.send_replace(());
            }
            // Its connection to the database was severed a moment ago.
            Err(status) => assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}"),
        }
    }
    answers
}

/// An answer, and what it could have said instead.
fn lies(truth: &Answered, last: &State) -> Vec<Answered> {
    let lie = |change: fn(&mut pb::IntrospectResponse)| {
        let mut lie = truth.clone();
        change(&mut lie.answer);
        lie
    };
    let mut lies = vec![
        lie(|answer| answer.active = !answer.active),
        lie(|answer| answer.client_name += "?"),
        lie(|answer| answer.instance_role += 10),
        lie(|answer| answer.inactive_reason = pb::InactiveReason::SourceNotAllowed as i32 + 1),
        lie(|answer| answer.site_grants.push(grant(NOBODY, pb::SiteRole::Viewer))),
        lie(|answer| answer.revision += 1_000_000),
    ];
    if truth.request.check.is_some() {
        lies.push(lie(|answer| answer.decision = None));
    }
    if truth.request.at_least_revision.is_some() {
        lies.push(lie(|answer| answer.revision = 0));
    }
    if truth.answer.active {
        lies.push(lie(|answer| {
            answer.max_cache_age.as_mut().unwrap().seconds += 6;
        }));
    }
    if truth.answer.active && truth.answer.revision < last.revision {
        // Later than any replica may go by it.
        let mut late = truth.clone();
        late.sent = last.acknowledged + TimeDelta::from_std(2 * BOUND).unwrap();
        late.received = late.sent;
        lies.push(late);
    }
    lies
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_what_the_database_said_at_its_revision() {
    let seed = SEED.unwrap_or_else(|| {
        let mut bytes = [0; 8];
        SystemEntropy.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    });
    println!("SEED = {seed}");
    let cluster = Cluster::start(REPLICAS).await;
    let shared = Arc::new(Shared::default());
    let mut driver = Driver::new(&cluster, Arc::clone(&shared), Dice::new(seed));
    driver.begin().await;
    let mut asking = Vec::new();
    for (number, replica) in cluster.replicas.iter().enumerate() {
        let dice = Dice::new(seed.wrapping_add(1 + number as u64));
        let asker = ask(number, replica.sidecar.clone(), Arc::clone(&shared), dice);
        asking.push(tokio::spawn(asker));
    }
    // One more has no database, and follows the first of them.
    let gateway = Gateway::to(&cluster.replicas[0].connections);
    let follower = Follower::start(&cluster, &[&gateway], Settings::default()).await;
    let dice = Dice::new(seed.wrapping_add(1 + REPLICAS as u64));
    let asker = ask(
        REPLICAS,
        follower.sidecar.clone(),
        Arc::clone(&shared),
        dice,
    );
    asking.push(tokio::spawn(asker));
    let mut answered = shared.answered.subscribe();
    for _ in 0..STEPS {
        answered.mark_unchanged();
        within("a step", driver.step()).await;
        within("an answer", answered.changed()).await.unwrap();
    }
    shared.stop.store(true, Ordering::Relaxed);
    let (history, mut answers) = driver.end();
    let mut faults = Vec::new();
    for asker in asking {
        let given = within("the last answer", asker).await.unwrap();
        faults.extend(History::backwards(&given));
        answers.extend(given);
    }
    faults.extend(
        answers
            .iter()
            .filter_map(|answered| history.fault(answered)),
    );
    if cluster.has_index().await {
        faults.extend(history.silent_change());
    }
    let active = answers
        .iter()
        .filter(|answered| answered.answer.active)
        .count();
    let (all, states) = (answers.len(), history.states.len());
    println!("{all} answers, {active} of them active; {states} states");
    let count = faults.len();
    let first: Vec<_> = faults.into_iter().take(3).collect();
    assert_eq!(
        count,
        0,
        "of {all} answers are wrong; the first:\n{}",
        first.join("\n\n")
    );
    // The checker itself: a lie about any answer is found.
    for answered in answers.iter().step_by(97) {
        for lie in lies(answered, history.states.last().unwrap()) {
            assert!(history.fault(&lie).is_some(), "{:?}", lie.answer);
        }
    }
    // Otherwise this would have shown nothing. Each step was followed by an answer. How
    // many more there are says how fast the machine is, so what they have to contain is no
    // share of them, but follows from what the dice choose in so many steps.
    assert!(all >= STEPS, "{all} answers in {STEPS} steps");
    let few = STEPS / 10;
    assert!(states > STEPS / 2, "{states} states");
    assert!(active > few, "{active} of {all} answers were active");
    assert!(all - active > few, "{active} of {all} answers were active");
}
