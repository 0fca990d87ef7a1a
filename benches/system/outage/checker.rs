//! Asking about tokens whose state is known, all the time, and judging what
//! comes back.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::time::sleep;

use crate::{
    doors::{Answer, Asker},
    support::dice::Dice,
    tokens::{Tokens, Wanted, Watched},
};

/// The pause between two questions on one connection.
const PAUSE: Duration = Duration::from_millis(4);
/// How long the last questions may go unanswered.
const PATIENCE: Duration = Duration::from_secs(30);
/// Wrong answers that are printed.
const PRINTED: u64 = 10;

/// What was found out about one replica, or one of its doors.
pub struct Findings {
    /// Where.
    place: String,
    /// Answers that must not be.
    pub wrong: AtomicU64,
    /// Counts by answer, for tokens that work and for revoked ones.
    answers: Mutex<BTreeMap<String, [u64; 2]>>,
    /// The time of the last definite answer about a token that works.
    answered: AtomicU64,
    /// With the time of its end.
    longest_silence: Mutex<(u64, u64)>,
    longest_acceptance: AtomicU64,
    /// Of each token that was pursued: how long after its revocation it was last accepted.
    acceptances: Mutex<Vec<Duration>>,
}

/// One connection's part of it.
pub struct Checker {
    asker: Asker,
    tokens: Arc<Tokens>,
    findings: Arc<Findings>,
    bound: Duration,
    pursuit: Option<Pursuit>,
}

/// Revoked tokens that were not refused yet. Each is asked about until it is.
#[derive(Default)]
struct Pursuit {
    /// How many were revoked when it last looked.
    revoked: usize,
    /// Those that were revoked first, first; with the longest acceptance of each.
    open: Vec<(Arc<Watched>, Duration)>,
}

impl Findings {
    /// Nothing yet, about what is called that.
    pub fn new(place: String, tokens: &Tokens) -> Self {
        Self {
            place,
            wrong: AtomicU64::new(0),
            answers: Mutex::default(),
            answered: AtomicU64::new(tokens.now()),
            longest_silence: Mutex::default(),
            longest_acceptance: AtomicU64::new(0),
            acceptances: Mutex::default(),
        }
    }

    /// The longest time without a definite answer about a token that works.
    pub fn longest_silence(&self) -> Duration {
        Duration::from_micros(self.longest_silence.lock().expect("nobody panics").0)
    }

    /// How long after the start that ended.
    pub fn longest_silence_ended(&self) -> Duration {
        Duration::from_micros(self.longest_silence.lock().expect("nobody panics").1)
    }

    /// The longest time after its revocation at which a token was accepted.
    pub fn longest_acceptance(&self) -> Duration {
        Duration::from_micros(self.longest_acceptance.load(Ordering::Relaxed))
    }

    /// How long each token was accepted after its revocation, as far as it was pursued
    /// until it was refused.
    pub fn acceptances(&self) -> Vec<Duration> {
        let acceptances = self.acceptances.lock().expect("nobody panics with it");
        acceptances.clone()
    }

    /// Counts an answer about a token that works, or a revoked one.
    pub fn count(&self, answer: &Answer, revoked: bool) {
        let text = match answer {
            Answer::Active => "active".to_owned(),
            Answer::Inactive(reason) => format!("inactive, {reason}"),
            Answer::None(why) | Answer::Failure(why) => why.clone(),
        };
        let mut answers = self.answers.lock().expect("nobody panics with it");
        answers.entry(text).or_default()[usize::from(revoked)] += 1;
    }

    /// Counts an answer that must not be.
    #[expect(clippy::print_stdout, reason = "it prints what it found")]
    pub fn wrong(&self, what: &str) {
        if self.wrong.fetch_add(1, Ordering::Relaxed) < PRINTED {
            println!("wrong, {}: {what}", self.place);
        }
    }

    fn answered(&self, now: u64) {
        let before = self.answered.swap(now, Ordering::Relaxed);
        let mut longest = self.longest_silence.lock().expect("nobody panics with it");
        *longest = (*longest).max((now.saturating_sub(before), now));
    }
}

/// The answers of all replicas together.
pub fn answers(findings: &[Arc<Findings>]) -> BTreeMap<String, [u64; 2]> {
    let mut all: BTreeMap<String, [u64; 2]> = BTreeMap::new();
    for of in findings {
        for (answer, counts) in of.answers.lock().expect("nobody panics").iter() {
            let sums = all.entry(answer.clone()).or_default();
            sums[0] += counts[0];
            sums[1] += counts[1];
        }
    }
    all
}

impl Checker {
    /// One that asks there.
    pub fn new(
        asker: Asker,
        tokens: Arc<Tokens>,
        findings: Arc<Findings>,
        bound: Duration,
    ) -> Self {
        Self {
            asker,
            tokens,
            findings,
            bound,
            pursuit: None,
        }
    }

    /// The same, but one that asks about each revoked token until it is refused.
    pub fn pursuing(mut self) -> Self {
        self.pursuit = Some(Pursuit::default());
        self
    }

    /// Asks until it is over. Of ten questions seven are about tokens that
    /// work; half of all are about the newest ones. Where there are tokens to
    /// pursue, three of those seven are about them instead.
    pub async fn run(mut self, number: usize) {
        let mut chance = Dice::new(u64::try_from(number).expect("a few"));
        while !self.tokens.is_over() {
            let kind = chance.below(10);
            if !(kind >= 5 && self.pursue(&mut chance).await) {
                let tokens = &self.tokens;
                let (token, revoked) = match kind {
                    0..4 => (Some(tokens.working(Wanted::Any, &mut chance)), false),
                    4..7 => (Some(tokens.working(Wanted::Newest, &mut chance)), false),
                    7 => (tokens.revoked(Wanted::Any, &mut chance), true),
                    _ => (tokens.revoked(Wanted::Newest, &mut chance), true),
                };
                if let Some(token) = token {
                    self.ask(&token, revoked).await;
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// Asks about a token that was not refused yet, where there is one: the one that was
    /// revoked first as often as any of them.
    async fn pursue(&mut self, chance: &mut Dice) -> bool {
        let Some(pursuit) = &mut self.pursuit else {
            return false;
        };
        let new = self.tokens.revoked_after(pursuit.revoked);
        pursuit.revoked += new.len();
        let new = new.into_iter().map(|token| (token, Duration::ZERO));
        pursuit.open.extend(new);
        let at = match pursuit.open.len() {
            0 => return false,
            _ if chance.below(2) == 0 => 0,
            all => chance.below(all),
        };
        let token = Arc::clone(&pursuit.open[at].0);
        let asked = self.tokens.now();
        let answer = self.ask(&token, true).await;
        let Some(pursuit) = &mut self.pursuit else {
            return false;
        };
        match answer {
            Answer::Active => {
                pursuit.open[at].1 = Tokens::lateness(&token, asked).unwrap_or_default();
            }
            Answer::Inactive(_) => {
                let (_, accepted) = pursuit.open.remove(at);
                let mut all = self.findings.acceptances.lock().expect("nobody panics");
                all.push(accepted);
            }
            Answer::None(_) | Answer::Failure(_) => {}
        }
        true
    }

    async fn ask(&mut self, token: &Watched, revoked: bool) -> Answer {
        let asked = self.tokens.now();
        let answer = self.asker.ask(&token.client).await;
        self.findings.count(&answer, revoked);
        match &answer {
            Answer::Active => {
                if let Some(late) = Tokens::lateness(token, asked) {
                    let micros = u64::try_from(late.as_micros()).expect("a benchmark ends");
                    let longest = &self.findings.longest_acceptance;
                    longest.fetch_max(micros, Ordering::Relaxed);
                    if late > self.bound {
                        let what = format!("accepted {late:?} after its revocation");
                        self.findings.wrong(&what);
                    }
                }
            }
            Answer::Inactive(reason) => {
                if Tokens::must_work(token) {
                    let age = self.tokens.age(token);
                    let what = format!("inactive, {reason}: but it works, and is {age:?} old");
                    self.findings.wrong(&what);
                }
            }
            Answer::Failure(what) => self.findings.wrong(what),
            Answer::None(_) => return answer,
        }
        if !revoked {
            self.findings.answered(self.tokens.now());
        }
        answer
    }
}

/// Asks about every token once more, when all is well again, until there is an
/// answer. Counts those that are wrong.
pub async fn ask_everything(mut asker: Asker, tokens: Arc<Tokens>, findings: Arc<Findings>) -> u64 {
    let mut wrong = 0;
    let begun = Instant::now();
    let [working, revoked] = tokens.all();
    for (token, works) in working
        .iter()
        .map(|token| (token, true))
        .chain(revoked.iter().map(|token| (token, false)))
    {
        let is_right = loop {
            match asker.ask(&token.client).await {
                Answer::Active => break works,
                Answer::Inactive(_) => break !works,
                Answer::None(_) if begun.elapsed() < PATIENCE => sleep(PAUSE).await,
                Answer::None(_) | Answer::Failure(_) => break false,
            }
        };
        if !is_right {
            let state = if works { "working" } else { "revoked" };
            findings.wrong(&format!("in the end a {state} token is not answered so"));
            wrong += 1;
        }
    }
    // They were counted by `wrong` as well.
    findings.wrong.fetch_sub(wrong, Ordering::Relaxed);
    wrong
}
