//! When a session ends, in a time of its own.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use futures_util::FutureExt as _;
use hitkeep_auth_domain::{
    Position, Revision, Timestamp,
    clock::Clock,
    id::{ClientId, ReplicaId},
    index::Index,
};
use tokio::{task::yield_now, time::advance};
use uuid::Uuid;

use super::*;
use crate::system::{SystemClock, SystemEntropy};

/// As rarely as `--max-staleness` allows.
const BOUND: Duration = Duration::from_secs(1);
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Takes an index, and does nothing with it.
#[derive(Default)]
struct Nowhere {
    clock: SystemClock,
    seen: Arc<Seen>,
}

/// What the session said of it.
#[derive(Default)]
struct Seen {
    /// How often it was proven complete.
    completed: AtomicU64,
    /// The last refresh that was answered.
    refreshed: AtomicU64,
}

impl Intake for Nowhere {
    fn clock(&self) -> &dyn Clock {
        &self.clock
    }

    fn poll_interval(&self) -> Duration {
        POLL_INTERVAL
    }

    async fn refresh_requested(&self) {
        std::future::pending::<()>().await;
    }

    fn begin_attempt(&self) -> RefreshNumber {
        RefreshNumber(1)
    }

    fn begin_refresh(&mut self) -> RefreshNumber {
        RefreshNumber(1)
    }

    fn publish_changes(&self, _: Position, _: &[ClientId], _: Index) {}

    fn publish_whole(&self, _: Index, _: &SourceTime) {}

    fn complete(&self, _: &SourceTime, _: Timestamp) {
        self.seen.completed.fetch_add(1, Relaxed);
    }

    fn refreshed(&self, number: RefreshNumber) {
        self.seen.refreshed.store(number.0, Relaxed);
    }

    fn refresh_failed(&self, _: RefreshNumber) {}

    fn source_answered(&self) {}

    fn source_lost(&self) {}
}

/// A server: what it is asked, and what it says.
struct Server {
    requests: Requests,
    responses: mpsc::Sender<Result<pb::ReplicateResponse, Status>>,
}

type Responses = ReceiverStream<Result<pb::ReplicateResponse, Status>>;

const POSITION: Position = Position {
    database: Uuid::from_u128(1),
    revision: Revision(7),
    nonce: Uuid::from_u128(2),
};

impl Server {
    fn asked_by(requests: Requests) -> (Self, Responses) {
        let (responses, receiver) = mpsc::channel(16);
        let server = Self {
            requests,
            responses,
        };
        (server, ReceiverStream::new(receiver))
    }

    fn say(&self, message: Sent) {
        let message = Some(message);
        let response = pb::ReplicateResponse { message };
        self.responses.try_send(Ok(response)).unwrap();
    }

    fn send_snapshot(&self) {
        self.say(Sent::SnapshotBegin(pb::SnapshotBegin {
            position: Some(to_position(POSITION)),
            staleness: Some(prost_types::Duration::default()),
            ..pb::SnapshotBegin::default()
        }));
        self.say(Sent::Changes(pb::ReplicationChanges {
            accounts: Some(pb::ReplicatedAccounts::default()),
            ..pb::ReplicationChanges::default()
        }));
        self.say(Sent::SnapshotEnd(pb::SnapshotEnd {}));
    }

    /// The number of the next question.
    async fn question(&mut self) -> u64 {
        loop {
            let request = self.requests.next().await.expect("it goes on");
            if let Some(Asked::Question(question)) = request.message {
                return question.number;
            }
        }
    }

    fn answer(&self, number: u64) {
        self.answer_as(number, Duration::ZERO);
    }

    /// Answers that it is as stale as that.
    fn answer_as(&self, number: u64, staleness: Duration) {
        self.say(Sent::Answer(pb::ReplicationAnswer {
            number,
            position: Some(to_position(POSITION)),
            staleness: Some(staleness.try_into().unwrap()),
            now: Some(prost_types::Timestamp::default()),
            error: None,
        }));
    }
}

/// How a session with this server ends.
async fn session<F>(server: impl FnOnce(Server) -> F) -> SessionError
where
    F: Future<Output = ()> + Send + 'static,
{
    session_with(false, server).await
}

/// The same, where there may be another server.
async fn session_with<F>(has_alternative: bool, server: impl FnOnce(Server) -> F) -> SessionError
where
    F: Future<Output = ()> + Send + 'static,
{
    with_session(has_alternative, async |running, requests| {
        let (asked, responses) = Server::asked_by(requests);
        let server = tokio::spawn(server(asked));
        let Err(error) = running.follow(responses).await;
        server.abort();
        error
    })
    .await
}

async fn with_session<R>(
    has_alternative: bool,
    run: impl AsyncFnOnce(&mut Running<'_, '_, Nowhere>, Requests) -> R,
) -> R {
    let (mut copy, mut intake) = (Copy::default(), Nowhere::default());
    let mut session = Session {
        id: ReplicaId::mint(intake.clock.now(), &SystemEntropy),
        without_names: false,
        limits: &Limits::of(BOUND),
        copy: &mut copy,
        intake: &mut intake,
        refresh: RefreshNumber(1),
        has_alternative,
        on_answer: &mut || {},
    };
    let (mut running, requests) = session.begin().unwrap();
    run(&mut running, requests).await
}

#[tokio::test(start_paused = true)]
async fn who_is_not_asked_may_be_silent() {
    let ended = session(async |mut server: Server| {
        server.send_snapshot();
        for _ in 0..50 {
            let number = server.question().await;
            server.answer(number);
        }
        // It ends in order.
    })
    .await;
    assert!(matches!(ended, SessionError::Ended(_)), "{ended}");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_answer_is_silent() {
    let begun = Instant::now();
    let ended = session(async |mut server: Server| {
        server.send_snapshot();
        for _ in 0..4 {
            let number = server.question().await;
            server.answer(number);
        }
        server.question().await;
        std::future::pending::<()>().await;
    })
    .await;
    assert!(matches!(ended, SessionError::Silent), "{ended}");
    // Two questions at the begin, one after each interval, and the last one was open so long.
    let silence = Limits::of(BOUND).silence;
    let least = POLL_INTERVAL * 3 + silence;
    let took = begun.elapsed();
    assert!((least..least + POLL_INTERVAL).contains(&took), "{took:?}");
}

/// Answers, and is too old itself.
async fn stale(mut server: Server) {
    server.send_snapshot();
    for _ in 0..50 {
        let number = server.question().await;
        server.answer_as(number, Limits::of(BOUND).useless);
    }
}

#[tokio::test(start_paused = true)]
async fn who_proves_nothing_is_left_if_there_may_be_another() {
    let ended = session_with(false, stale).await;
    assert!(matches!(ended, SessionError::Ended(_)), "{ended}");
    let begun = Instant::now();
    let ended = session_with(true, stale).await;
    assert!(matches!(ended, SessionError::Useless), "{ended}");
    let (took, useless) = (begun.elapsed(), Limits::of(BOUND).useless);
    assert!(
        (useless..useless + POLL_INTERVAL).contains(&took),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_message_that_has_come_is_no_silence() {
    with_session(false, async |running, requests| {
        let (server, responses) = Server::asked_by(requests);
        let mut following = pin!(running.follow(responses));
        for _ in 0..50 {
            assert!(following.as_mut().now_or_never().is_none());
            // A message of a kind that is not known, while this task has to wait.
            let unknown = pb::ReplicateResponse { message: None };
            server.responses.try_send(Ok(unknown)).unwrap();
            advance(BOUND).await;
        }
    })
    .await;
}

/// What was committed before a refresh is in the copy only once the server has answered that one.
#[tokio::test(start_paused = true)]
async fn a_refresh_is_done_when_its_own_question_is_answered() {
    with_session(false, async |running, requests| {
        let (mut server, responses) = Server::asked_by(requests);
        let seen = Arc::clone(&running.session.intake.seen);
        let completed = async |times| {
            while seen.completed.load(Relaxed) < times {
                yield_now().await;
            }
        };
        let script = async {
            server.send_snapshot();
            let (refresh, plain) = (server.question().await, server.question().await);
            server.answer(plain);
            completed(1).await;
            assert_eq!(seen.refreshed.load(Relaxed), 0);
            server.answer(refresh);
            completed(2).await;
            assert_eq!(seen.refreshed.load(Relaxed), 1);
        };
        tokio::select! {
            ended = running.follow(responses) => panic!("{ended:?}"),
            () = script => {}
        }
    })
    .await;
}
