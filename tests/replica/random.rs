//! Random changes, by calls and by hand, and outages of all kinds, while everybody who has an
//! index is asked all the time: each answer is what the database said at the answer's
//! revision, and no token is accepted later than the bound allows.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
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
use tokio::{sync::watch, time::sleep};

use crate::{
    asker::{Asker, Form},
    checker::{Answered, State},
    dice::Dice,
    everything::{Everything, STALENESS},
    fixtures::*,
    steps::Driver,
    waiting::within,
};

/// Set it to the seed that a failure printed, to see the same steps again.
const SEED: Option<u64> = None;
const STEPS: usize = 200;
/// After which of them a backup is made, and after which it is restored.
const BACKUP: usize = 60;
const RESTORATION: usize = 100;
/// Between two questions to one of them: as many as there is time for would take the processor
/// from those who are to be caught.
const PAUSE: Duration = Duration::from_millis(1);
/// How many tokens are asked about more often than the others.
const NEWEST: usize = 10;
/// The number of the token that always works.
const WORKS: usize = 0;

/// How long after a change was acknowledged somebody may go by what was before it, whose index
/// may be that old.
pub fn bound(staleness: Duration) -> TimeDelta {
    // The age of an index is counted from before its source was asked; this is for clocks that
    // are read one after the other.
    TimeDelta::from_std(staleness).unwrap() + TimeDelta::seconds(1)
}

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
    /// Told of every call, whether or not there was an answer.
    pub turns: watch::Sender<()>,
    pub stop: AtomicBool,
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

/// Asks somebody about one token after the other, until told to stop.
pub async fn ask(
    number: usize,
    asker: Arc<Asker>,
    shared: Arc<Shared>,
    mut dice: Dice,
) -> Vec<Answered> {
    let mut answers = Vec::new();
    let mut turns = shared.turns.subscribe();
    let mut has_place = true;
    while !shared.stop.load(Ordering::Relaxed) {
        if asker.is_embedded() {
            // It would take all the time there is.
            turns.changed().await.unwrap();
        }
        let (token, text) = {
            let tokens = shared.tokens.lock().unwrap();
            let token = match dice.below(3) {
                // An answer without a revision is placed by those around it.
                _ if !has_place => WORKS,
                0 => dice.below(tokens.len()),
                1 => tokens.len() - 1 - dice.below(NEWEST.min(tokens.len())),
                _ => shared.hot.load(Ordering::Relaxed),
            };
            (token, tokens[token].clone())
        };
        let mut request = introspect(&text);
        if has_place {
            request.check = any_check(&mut dice);
        }
        if dice.percent(10) {
            request.at_least_revision = Some(shared.newest.load(Ordering::Relaxed));
        }
        let sent = now();
        // Otherwise there is an outage.
        if let Ok(told) = asker.ask(&request).await {
            has_place = told.revision.is_some();
            answers.push(Answered {
                asker: number,
                token,
                request,
                sent,
                received: now(),
                told,
            });
            shared.answered.send_replace(());
        }
        if !asker.is_embedded() {
            shared.turns.send_replace(());
            sleep(PAUSE).await;
        }
    }
    answers
}

/// What somebody could have said instead of an answer.
fn lies(truth: &Answered, last: &State) -> Vec<Answered> {
    let lie = |change: fn(&mut pb::IntrospectResponse)| {
        let mut lie = truth.clone();
        change(&mut lie.told.answer);
        lie
    };
    let of_another_revision = |revision: fn(u64) -> u64| {
        let mut lie = truth.clone();
        lie.told.revision = lie.told.revision.map(revision);
        lie
    };
    let mut lies = vec![
        lie(|answer| answer.active = !answer.active),
        lie(|answer| answer.client_name += "?"),
        lie(|answer| answer.instance_role += 10),
        lie(|answer| answer.inactive_reason = pb::InactiveReason::SourceNotAllowed as i32 + 1),
        lie(|answer| answer.site_grants.push(grant(NOBODY, pb::SiteRole::Viewer))),
    ];
    if truth.told.answer.decision.is_some() {
        lies.push(lie(|answer| answer.decision = None));
    }
    if let Some(revision) = truth.told.revision {
        lies.push(of_another_revision(|revision| revision + 1_000_000));
        if truth.request.at_least_revision.is_some() {
            lies.push(of_another_revision(|_| 0));
        }
        if truth.told.answer.active && revision < last.revision {
            // Later than anybody may go by it.
            let mut late = truth.clone();
            late.sent = now() + bound(STALENESS) * 2;
            late.received = late.sent;
            lies.push(late);
        }
    }
    if truth.told.answer.active && truth.told.form == Form::Message {
        lies.push(lie(|answer| {
            answer.max_cache_age.as_mut().unwrap().seconds += 6;
        }));
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
    let mut all = Everything::start().await;
    let askers = all.askers.clone();
    let shared = Arc::new(Shared::default());
    let mut driver = Driver::new(&mut all, Arc::clone(&shared), Dice::new(seed));
    driver.begin().await;
    let mut asking = Vec::new();
    for (number, asker) in askers.iter().enumerate() {
        let dice = Dice::new(seed.wrapping_add(1 + number as u64));
        let asker = ask(number, Arc::clone(asker), Arc::clone(&shared), dice);
        asking.push(tokio::spawn(asker));
    }
    let mut answered = shared.answered.subscribe();
    for step in 0..STEPS {
        answered.mark_unchanged();
        match step {
            BACKUP => driver.back_up().await,
            RESTORATION => driver.restore().await,
            _ => within("a step", driver.step()).await,
        }
        within("an answer", answered.changed()).await.unwrap();
    }
    driver.a_crowd_comes_back().await;
    driver.somebody_reads_slowly().await;
    driver.ask_everybody().await;
    shared.stop.store(true, Ordering::Relaxed);
    shared.turns.send_replace(());
    let (history, mut answers) = driver.end();
    let mut faults: Vec<_> = answers
        .iter()
        .filter_map(|answered| history.fault(answered))
        .collect();
    let mut of_each = Vec::new();
    for asker in asking {
        let given = within("the last answer", asker).await.unwrap();
        faults.extend(history.faults(&given));
        of_each.push(given.len());
        answers.extend(given);
    }
    if all.cluster.has_index().await {
        faults.extend(history.silent_change());
    }
    let active = answers
        .iter()
        .filter(|answered| answered.told.answer.active)
        .count();
    let (all, states) = (answers.len(), history.states.len());
    println!("{all} answers, {active} of them active; {states} states; of each {of_each:?}");
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
            assert!(history.fault(&lie).is_some(), "{:?}", lie.told);
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
