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

use hitkeep_auth::pb::introspection_service_client::IntrospectionServiceClient;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;

use crate::{
    support::{calls, chance::Chance, service::Caller},
    tokens::{Tokens, Wanted, Watched},
};

/// How long an answer is waited for.
const DEADLINE: Duration = Duration::from_secs(2);
/// How long the server may take beyond that before it is a failure of its own.
const GRACE: Duration = Duration::from_secs(1);
/// The pause between two questions on one connection.
const PAUSE: Duration = Duration::from_millis(4);
/// How long the last questions may go unanswered.
const PATIENCE: Duration = Duration::from_secs(30);
/// Wrong answers that are printed.
const PRINTED: u64 = 10;

/// What was found out about one replica.
pub struct Findings {
    /// Answers that must not be.
    pub wrong: AtomicU64,
    /// Counts by answer, for tokens that work and for revoked ones.
    answers: Mutex<BTreeMap<String, [u64; 2]>>,
    /// The time of the last definite answer about a token that works.
    answered: AtomicU64,
    longest_silence: AtomicU64,
    longest_acceptance: AtomicU64,
}

/// One connection's part of it.
pub struct Checker {
    service: IntrospectionServiceClient<Channel>,
    caller: Caller,
    tokens: Arc<Tokens>,
    findings: Arc<Findings>,
    bound: Duration,
}

/// What was said about a token.
enum Answer {
    Active,
    Inactive(String),
    /// Allowed: the service cannot tell.
    None(String),
    /// The service did what it must not do.
    Failure(String),
}

impl Findings {
    /// Nothing yet.
    pub fn new(tokens: &Tokens) -> Self {
        Self {
            wrong: AtomicU64::new(0),
            answers: Mutex::default(),
            answered: AtomicU64::new(tokens.now()),
            longest_silence: AtomicU64::new(0),
            longest_acceptance: AtomicU64::new(0),
        }
    }

    /// The longest time without a definite answer about a token that works.
    pub fn longest_silence(&self) -> Duration {
        Duration::from_micros(self.longest_silence.load(Ordering::Relaxed))
    }

    /// The longest time after its revocation at which a token was accepted.
    pub fn longest_acceptance(&self) -> Duration {
        Duration::from_micros(self.longest_acceptance.load(Ordering::Relaxed))
    }

    fn count(&self, answer: &Answer, revoked: bool) {
        let text = match answer {
            Answer::Active => "active".to_owned(),
            Answer::Inactive(reason) => format!("inactive, {reason}"),
            Answer::None(why) | Answer::Failure(why) => why.clone(),
        };
        let mut answers = self.answers.lock().expect("nobody panics with it");
        answers.entry(text).or_default()[usize::from(revoked)] += 1;
    }

    #[expect(clippy::print_stdout, reason = "it prints what it found")]
    fn wrong(&self, what: &str) {
        if self.wrong.fetch_add(1, Ordering::Relaxed) < PRINTED {
            println!("wrong: {what}");
        }
    }

    fn answered(&self, now: u64) {
        let before = self.answered.swap(now, Ordering::Relaxed);
        let silence = now.saturating_sub(before);
        self.longest_silence.fetch_max(silence, Ordering::Relaxed);
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
    /// One that asks over that connection.
    pub fn new(
        channel: Channel,
        caller: Caller,
        tokens: Arc<Tokens>,
        findings: Arc<Findings>,
        bound: Duration,
    ) -> Self {
        Self {
            service: IntrospectionServiceClient::new(channel),
            caller,
            tokens,
            findings,
            bound,
        }
    }

    /// Asks until it is over. Of ten questions seven are about tokens that
    /// work; half of all are about the newest ones.
    pub async fn run(mut self, number: usize) {
        let mut chance = Chance::new(u64::try_from(number).expect("a few"));
        while !self.tokens.is_over() {
            let tokens = &self.tokens;
            let (token, revoked) = match chance.below(10) {
                0..4 => (Some(tokens.working(Wanted::Any, &mut chance)), false),
                4..7 => (Some(tokens.working(Wanted::Newest, &mut chance)), false),
                7 => (tokens.revoked(Wanted::Any, &mut chance), true),
                _ => (tokens.revoked(Wanted::Newest, &mut chance), true),
            };
            if let Some(token) = token {
                self.ask(&token, revoked).await;
            }
            sleep(PAUSE).await;
        }
    }

    async fn ask(&mut self, token: &Watched, revoked: bool) {
        let asked = self.tokens.now();
        let answer = ask(&mut self.service, &self.caller, token).await;
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
                    let what = format!("inactive, {reason}: but it works");
                    self.findings.wrong(&what);
                }
            }
            Answer::Failure(what) => self.findings.wrong(what),
            Answer::None(_) => return,
        }
        if !revoked {
            self.findings.answered(self.tokens.now());
        }
    }
}

/// Asks about every token once more, when all is well again, until there is an
/// answer. Counts those that are wrong.
pub async fn ask_everything(
    channel: Channel,
    caller: &Caller,
    tokens: &Tokens,
    findings: &Findings,
) -> u64 {
    let mut service = IntrospectionServiceClient::new(channel);
    let mut wrong = 0;
    let begun = Instant::now();
    let [working, revoked] = tokens.all();
    for (token, works) in working
        .iter()
        .map(|token| (token, true))
        .chain(revoked.iter().map(|token| (token, false)))
    {
        let is_right = loop {
            match ask(&mut service, caller, token).await {
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

async fn ask(
    service: &mut IntrospectionServiceClient<Channel>,
    caller: &Caller,
    token: &Watched,
) -> Answer {
    let mut request = caller.says(calls::introspect(&token.client.token));
    request.set_timeout(DEADLINE);
    match timeout(DEADLINE + GRACE, service.introspect(request)).await {
        Ok(Ok(answer)) => {
            let answer = answer.into_inner();
            if answer.active {
                Answer::Active
            } else {
                Answer::Inactive(answer.inactive_reason().as_str_name().to_owned())
            }
        }
        Ok(Err(status)) => classify(&status),
        Err(_) => Answer::Failure("no answer long after the deadline".to_owned()),
    }
}

/// Not to answer is allowed where the service says that it cannot, or runs out
/// of time; anything else is a defect.
fn classify(status: &Status) -> Answer {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.clone());
    let text = format!("{:?} {}", status.code(), reason.unwrap_or_default());
    match status.code() {
        // The client's side of the deadline says Cancelled.
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Answer::None(text),
        _ => Answer::Failure(text),
    }
}
