//! The cache with a source that answers when the test says so.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hitkeep_auth_domain::{
    Timestamp,
    access::{EffectiveAccess, Owner},
    client::Expiry,
    id::{ClientId, UserId},
    role::InstanceRole,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::sleep,
};
use uuid::Uuid;

use super::*;
use crate::{error::InactiveReason, principal::Identity};

const KEPT_FOR: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(3);
/// What is left of that two seconds later, less a nanosecond.
const ALMOST_OLD: Duration = Duration::from_nanos(2_999_999_999);
const NANOSECOND: Duration = Duration::from_nanos(1);

/// A clock that is moved by hand.
#[derive(Default)]
struct HandClock(AtomicU64);

impl HandClock {
    fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_nanos()).unwrap();
        self.0.fetch_add(by, Relaxed);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn adopt(&self, database: Timestamp) -> Timestamp {
        database
    }

    fn calibrate(&self, _: Timestamp, _: Duration) {}

    fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.0.load(Relaxed))
    }
}

struct Held {
    clock: Arc<HandClock>,
    asked: mpsc::UnboundedSender<Question>,
}

/// A question that waits for its answer.
struct Question {
    token: Box<str>,
    sent_at: Duration,
    reply: oneshot::Sender<Answered>,
}

impl Source for Held {
    async fn ask(&self, asked: Asked) -> Answered {
        let (reply, answered) = oneshot::channel();
        let question = Question {
            token: asked.token,
            sent_at: self.clock.elapsed(),
            reply,
        };
        assert!(self.asked.send(question).is_ok(), "the test goes on");
        answered.await.unwrap_or(Err(Unavailable::Ended))
    }
}

impl Question {
    fn says(self, verdict: Result<Arc<Identity>, InactiveReason>, revision: u64) {
        let answer = Answer {
            verdict,
            is_allowed: false,
            revision: Revision(revision),
            sent_at: self.sent_at,
            max_age: KEPT_FOR,
        };
        // Who asked may have left.
        self.reply.send(Ok(answer)).ok();
    }

    fn works(self, revision: u64) {
        let identity = Identity {
            client: ClientId::from_uuid(Uuid::nil()),
            name: self.token.clone(),
            owner: Owner::User(UserId::from_uuid(Uuid::nil())),
            access: EffectiveAccess {
                instance_role: InstanceRole::User,
                grants: std::iter::empty().collect(),
            },
            expiry: Expiry::Never,
        };
        self.says(Ok(Arc::new(identity)), revision);
    }

    fn does_not(self, revision: u64) {
        self.says(Err(InactiveReason::Revoked), revision);
    }

    fn fails(self) {
        self.reply.send(Err(Unavailable::Loading)).ok();
    }
}

struct World {
    cache: Arc<Cache<Held>>,
    clock: Arc<HandClock>,
    questions: mpsc::UnboundedReceiver<Question>,
}

/// A caller.
struct Asking(JoinHandle<Answered>);

/// Waits until all tasks wait for something else: the clock of a test is paused, and goes on
/// only then.
async fn idle() {
    sleep(Duration::from_millis(1)).await;
}

impl World {
    fn new(entries: usize) -> Self {
        let clock = Arc::new(HandClock::default());
        let (asked, questions) = mpsc::unbounded_channel();
        let source = Held {
            clock: Arc::clone(&clock),
            asked,
        };
        let of_cache: Arc<dyn Clock> = Arc::clone(&clock) as _;
        Self {
            cache: Arc::new(Cache::new(source, entries, TIMEOUT, of_cache)),
            clock,
            questions,
        }
    }

    async fn ask(&self, token: &str) -> Asking {
        self.ask_for(token, None).await
    }

    async fn ask_for(&self, token: &str, at_least: Option<u64>) -> Asking {
        let cache = Arc::clone(&self.cache);
        let asked = Asked {
            token: token.into(),
            check: None,
            at_least: at_least.map(Revision),
            source: None,
        };
        let asking = tokio::spawn(async move { cache.ask(asked).await });
        idle().await;
        Asking(asking)
    }

    async fn question(&mut self) -> Question {
        idle().await;
        self.questions.try_recv().expect("something is asked")
    }

    async fn asks_nothing(&mut self) {
        idle().await;
        assert!(self.questions.try_recv().is_err(), "something is asked");
    }

    /// That nothing is left of questions that were answered.
    async fn settles(&self) {
        idle().await;
        assert!(self.cache.0.lock().asked.is_empty());
    }
}

impl Asking {
    async fn waits(&self) {
        idle().await;
        assert!(!self.0.is_finished(), "it has an answer");
    }

    async fn answer(self) -> Answered {
        idle().await;
        assert!(self.0.is_finished(), "it waits");
        self.0.await.expect("it does not panic")
    }

    async fn has(self, works: bool, revision: u64) {
        let answer = self.answer().await.expect("it has an answer");
        assert_eq!(answer.verdict.is_ok(), works);
        assert_eq!(answer.revision, Revision(revision));
    }
}

#[tokio::test(start_paused = true)]
async fn answers_age_from_when_the_question_was_sent() {
    let mut world = World::new(10);
    let first = world.ask("a").await;
    let question = world.question().await;
    world.clock.advance(Duration::from_secs(2));
    question.works(1);
    first.has(true, 1).await;
    world.clock.advance(ALMOST_OLD);
    world.ask("a").await.has(true, 1).await;
    world.asks_nothing().await;
    world.clock.advance(NANOSECOND);
    let late = world.ask("a").await;
    late.waits().await;
    world.question().await.does_not(2);
    late.has(false, 2).await;
    world.settles().await;
}

#[tokio::test(start_paused = true)]
async fn only_what_works_is_kept() {
    let mut world = World::new(10);
    let inactive = world.ask("a").await;
    world.question().await.does_not(1);
    inactive.has(false, 1).await;
    let failed = world.ask("a").await;
    world.question().await.fails();
    assert!(matches!(failed.answer().await, Err(Unavailable::Loading)));
    let active = world.ask("a").await;
    world.question().await.works(1);
    active.has(true, 1).await;
    world.ask("a").await.has(true, 1).await;
    world.asks_nothing().await;
    world.settles().await;
}

#[tokio::test(start_paused = true)]
async fn whoever_leaves_a_shared_question_goes_on() {
    let mut world = World::new(10);
    let (first, second) = (world.ask("a").await, world.ask("a").await);
    let question = world.question().await;
    world.asks_nothing().await;
    first.0.abort();
    second.waits().await;
    question.works(1);
    second.has(true, 1).await;
    // Nor does it end with all of them: what was asked is kept.
    let only = world.ask("b").await;
    only.0.abort();
    world.question().await.works(1);
    world.ask("b").await.has(true, 1).await;
    world.asks_nothing().await;
    world.settles().await;
}

#[tokio::test(start_paused = true)]
async fn a_shared_question_has_a_deadline_of_its_own() {
    let mut world = World::new(10);
    let first = world.ask("a").await;
    let silent = world.question().await;
    sleep(TIMEOUT).await;
    assert!(matches!(first.answer().await, Err(Unavailable::Late)));
    // The next one asks again.
    let second = world.ask("a").await;
    world.question().await.works(1);
    second.has(true, 1).await;
    silent.does_not(2);
    world.ask("a").await.has(true, 1).await;
    world.settles().await;
}

#[tokio::test(start_paused = true)]
async fn a_question_that_breaks_is_not_waited_for_by_those_who_come_later() {
    let mut world = World::new(10);
    let first = world.ask("a").await;
    drop(world.question().await);
    assert!(matches!(first.answer().await, Err(Unavailable::Ended)));
    let second = world.ask("a").await;
    world.question().await.works(1);
    second.has(true, 1).await;
    world.settles().await;
}

/// A token that was just made is unknown to a question that was sent before.
#[tokio::test(start_paused = true)]
async fn an_older_question_does_not_tell_that_a_token_does_not_work() {
    for works in [true, false] {
        let mut world = World::new(10);
        let early = world.ask("a").await;
        let first = world.question().await;
        let late = world.ask("a").await;
        if works {
            first.works(1);
            early.has(true, 1).await;
            late.has(true, 1).await;
            world.asks_nothing().await;
        } else {
            first.does_not(1);
            early.has(false, 1).await;
            late.waits().await;
            world.question().await.works(2);
            late.has(true, 2).await;
        }
        world.settles().await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_answer_comes_back_after_a_newer_one() {
    let mut world = World::new(10);
    let slow = world.ask("a").await;
    let old = world.question().await;
    // One with a revision is asked alone.
    let newer = world.ask_for("a", Some(2)).await;
    world.question().await.does_not(2);
    newer.has(false, 2).await;
    old.works(1);
    slow.has(true, 1).await;
    let again = world.ask("a").await;
    again.waits().await;
    world.question().await.does_not(2);
    again.has(false, 2).await;
    world.settles().await;
}

#[tokio::test(start_paused = true)]
async fn an_older_revision_replaces_no_newer_one() {
    let mut world = World::new(10);
    let slow = world.ask("a").await;
    let old = world.question().await;
    let newer = world.ask_for("a", Some(2)).await;
    world.question().await.works(2);
    newer.has(true, 2).await;
    old.works(1);
    slow.has(true, 1).await;
    world.ask("a").await.has(true, 2).await;
    world.asks_nothing().await;
    // A kept answer does for the revisions up to its own.
    world.ask_for("a", Some(2)).await.has(true, 2).await;
    let next = world.ask_for("a", Some(3)).await;
    world.question().await.does_not(3);
    next.has(false, 3).await;
    // That took the kept one away.
    let again = world.ask("a").await;
    world.question().await.does_not(3);
    again.has(false, 3).await;
    world.settles().await;
}

#[tokio::test(start_paused = true)]
async fn who_hangs_up_alone_leaves_nothing() {
    let mut world = World::new(10);
    let alone = world.ask_for("a", Some(1)).await;
    let question = world.question().await;
    alone.0.abort();
    world.settles().await;
    question.works(1);
    let next = world.ask("a").await;
    world.question().await.works(1);
    next.has(true, 1).await;
}
