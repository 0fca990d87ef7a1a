//! The directory goes forward only: a replacement that began before something newer was
//! applied is refused, whichever server either came through. Which changes are newer than
//! which is decided in the domain, whose own tests go through the cases; here the order
//! is taken from the database.

use hitkeep_auth::{
    pb::{self, InactiveReason, ReplaceDirectoryRequest},
    server,
};
use tokio::{sync::mpsc, task::JoinHandle};
use tonic::Status;

use super::{USER, numbered, replace, status, tables};
use crate::{
    dice::Dice,
    fixtures::*,
    harness::{Caller, TestApp, told},
    support::waiting::{until, wanted},
};

const CHANGED: &str = "Aborted DIRECTORY_CHANGED";

/// A replacement that has begun, and goes on when the test lets it.
struct Begun {
    chunks: mpsc::Sender<ReplaceDirectoryRequest>,
    call: JoinHandle<Result<pb::ReplaceDirectoryResponse, Status>>,
}

impl Begun {
    /// Sends the first chunk, and comes back when the server has it.
    async fn with(app: &TestApp, pusher: &Caller, first: ReplaceDirectoryRequest) -> Self {
        let sql = "SELECT last_place FROM directory_order";
        let before = app.number(sql).await;
        let (chunks, call) = replace::begun(pusher);
        chunks.send(first).await.unwrap();
        let begins = async || {
            assert!(!call.is_finished(), "it is refused at once");
            wanted(app.number(sql).await > before)
        };
        until("the replacement begins", begins).await;
        Self { chunks, call }
    }

    async fn finish(self) -> Result<pb::ReplaceDirectoryResponse, Status> {
        drop(self.chunks);
        self.call.await.unwrap()
    }
}

fn world_at(sequence: Option<u64>) -> ReplaceDirectoryRequest {
    ReplaceDirectoryRequest {
        sequence,
        ..replace::world_chunk()
    }
}

fn start_over(sequence: Option<u64>) -> ReplaceDirectoryRequest {
    ReplaceDirectoryRequest {
        start_over: true,
        ..world_at(sequence)
    }
}

#[tokio::test]
async fn a_user_who_was_disabled_meanwhile_stays_disabled() {
    for (sequence, batch) in [
        (Some(100), numbered(101, [put_user(VERA, USER, true)])),
        (None, numbered(101, [put_user(VERA, USER, true)])),
        (Some(100), batch([put_user(VERA, USER, true)])),
        (None, batch([put_user(VERA, USER, true)])),
    ] {
        let app = TestApp::with_world().await;
        let other = app.beside(server::Options::default()).await;
        let sidecar = app.sidecar().await;
        let made = app.dashboard().await.created(personal(VERA)).await;
        let (pusher, elsewhere) = (app.pusher().await, other.pusher().await);
        let begun = Begun::with(&app, &pusher, world_at(sequence)).await;
        let applied = elsewhere.apply(batch).await.unwrap().applied_sequence;
        let before = app.everything().await;
        let refused = begun.finish().await;
        assert_eq!(told(&refused), CHANGED);
        assert_eq!(app.everything().await, before);
        assert_eq!(status(&pusher).await.applied_sequence, applied);
        let reason = sidecar.inactive_reason(&made.token).await;
        assert_eq!(reason, Some(InactiveReason::OwnerInactive));
        // Who reads the source again gets through.
        let mut again = world_at(sequence.map(|_| 101));
        again.users[3].disabled = true;
        let done = pusher.replace(vec![again]).await.unwrap();
        assert_eq!(
            (done.changed, done.applied_sequence),
            (0, applied.max(sequence.map_or(0, |_| 101)))
        );
    }
}

#[tokio::test]
async fn what_the_source_had_seen_may_come_in_between() {
    let app = TestApp::with_world().await;
    let pusher = app.pusher().await;
    let begun = Begun::with(&app, &pusher, world_at(Some(100))).await;
    let late = numbered(99, [put_user(VERA, USER, true)]);
    pusher.apply(late.clone()).await.unwrap();
    let done = begun.finish().await.unwrap();
    assert_eq!((done.changed, done.applied_sequence), (1, 100));
    // And after it, that is skipped.
    let skipped = pusher.apply(late).await.unwrap();
    assert_eq!(
        (skipped.revision, skipped.applied_sequence),
        (done.revision, 100)
    );
}

#[tokio::test]
async fn a_sequence_goes_down_only_for_a_source_that_starts_over() {
    let app = TestApp::with_world().await;
    let pusher = app.pusher().await;
    pusher
        .apply(numbered(101, [put_user(VERA, USER, true)]))
        .await
        .unwrap();
    let refused = pusher.replace(vec![world_at(Some(100))]).await;
    assert_eq!(told(&refused), CHANGED);
    // What a later chunk says does not count.
    let late = ReplaceDirectoryRequest {
        start_over: true,
        ..ReplaceDirectoryRequest::default()
    };
    let refused = pusher.replace(vec![world_at(Some(100)), late]).await;
    assert_eq!(told(&refused), CHANGED);

    let begun = Begun::with(&app, &pusher, start_over(Some(50))).await;
    let outdated = Begun::with(&app, &pusher, world_at(Some(200))).await;
    pusher
        .apply(numbered(102, [put_team(TEAM, true)]))
        .await
        .unwrap();
    let done = begun.finish().await.unwrap();
    assert_eq!((done.changed, done.applied_sequence), (2, 50));
    assert_eq!(told(&outdated.finish().await), CHANGED);
    assert_eq!(status(&pusher).await.applied_sequence, 50);
    let done = pusher
        .apply(numbered(51, [put_team(TEAM, true)]))
        .await
        .unwrap();
    assert_eq!(done.applied_sequence, 51);
}

#[tokio::test]
async fn the_same_replacement_sent_twice_is_harmless() {
    for first in [world_at(None), world_at(Some(7)), start_over(Some(7))] {
        let app = TestApp::with_world().await;
        let other = app.beside(server::Options::default()).await;
        let (pusher, elsewhere) = (app.pusher().await, other.pusher().await);
        let before = tables(&app).await;
        let one = Begun::with(&app, &pusher, first.clone()).await;
        let two = Begun::with(&app, &elsewhere, first.clone()).await;
        for begun in [one, two] {
            let done = begun.finish().await.unwrap();
            assert_eq!((done.added, done.changed, done.removed), (0, 0, 0));
            assert_eq!(done.applied_sequence, first.sequence.unwrap_or_default());
        }
        assert_eq!(tables(&app).await, before);
    }
}

#[tokio::test]
async fn of_two_replacements_the_newer_one_stays() {
    let app = TestApp::with_world().await;
    let other = app.beside(server::Options::default()).await;
    let (pusher, elsewhere) = (app.pusher().await, other.pusher().await);
    let mut newer = world_at(None);
    newer.users[3].disabled = true;
    let old = Begun::with(&app, &pusher, world_at(None)).await;
    let new = Begun::with(&app, &elsewhere, newer.clone()).await;
    assert_eq!(new.finish().await.unwrap().changed, 1);
    assert_eq!(told(&old.finish().await), CHANGED);
    // By their sequences, whichever began first.
    newer.sequence = Some(9);
    newer.users[3].disabled = false;
    let new = Begun::with(&app, &pusher, newer).await;
    let mut older = world_at(Some(8));
    older.users[3].disabled = true;
    let old = Begun::with(&app, &elsewhere, older).await;
    assert_eq!(new.finish().await.unwrap().changed, 1);
    assert_eq!(told(&old.finish().await), CHANGED);
}

#[tokio::test]
async fn what_was_refused_or_skipped_is_nothing_newer() {
    let app = TestApp::with_world().await;
    let pusher = app.pusher().await;
    pusher.apply(numbered(5, [])).await.unwrap();
    let begun = Begun::with(&app, &pusher, world_at(None)).await;
    pusher
        .apply(numbered(5, [put_user(VERA, USER, true)]))
        .await
        .unwrap();
    pusher
        .apply(batch([put_site(NOBODY, NOBODY)]))
        .await
        .unwrap_err();
    let removes = ReplaceDirectoryRequest::default();
    let refused = pusher.replace(vec![removes]).await;
    assert_eq!(told(&refused), "FailedPrecondition MASS_REMOVAL");
    let done = begun.finish().await.unwrap();
    assert_eq!((done.changed, done.applied_sequence), (0, 5));
}

#[tokio::test]
async fn a_replacement_begins_while_another_one_is_applied() {
    use diesel_async::SimpleAsyncConnection;

    let app = TestApp::with_world().await;
    let pusher = app.pusher().await;
    // Writers wait for the write lock.
    let mut writer = app.database().await;
    let lock = "BEGIN; SELECT FROM index_state FOR UPDATE";
    writer.batch_execute(lock).await.unwrap();
    let begun = Begun::with(&app, &pusher, world_at(None)).await;
    writer.batch_execute("ROLLBACK").await.unwrap();
    begun.finish().await.unwrap();
}

/// How a source that counts its changes is followed: it makes them one after the other,
/// sends each as a batch and some of them again, and now and then all of what it is. Two
/// servers take these at once and in any order; the directory is always what the source
/// was at the sequence that is returned.
#[tokio::test]
async fn a_source_that_counts_is_never_followed_backward() {
    const USERS: [&str; 3] = [ROOT, ALICE, VERA];
    // As many as one server takes.
    const AT_ONCE: usize = 2;

    let app = TestApp::with_world().await;
    let other = app.beside(server::Options::default()).await;
    let pushers = [app.pusher().await, other.pusher().await];
    let mut dice = Dice::new(4);
    // What the source was after each of its changes: who is disabled.
    let mut source = vec![[false; 3]];
    let change = |source: &[[bool; 3]], number: usize| {
        let (before, after) = (source[number - 1], source[number]);
        let user = (0..3).find(|&user| before[user] != after[user]).unwrap();
        numbered(
            u64::try_from(number).unwrap(),
            [put_user(USERS[user], USER, after[user])],
        )
    };
    let whole = |source: &[[bool; 3]]| {
        let number = source.len() - 1;
        let mut chunk = world_at(u64::try_from(number).ok());
        for (user, disabled) in source[number].into_iter().enumerate() {
            let id = USERS[user];
            let user = chunk.users.iter_mut().find(|user| user.id == id).unwrap();
            user.instance_role = USER.into();
            user.disabled = disabled;
        }
        chunk
    };
    let first = pushers[0].replace(vec![whole(&source)]).await.unwrap();
    let mut applied = first.applied_sequence;
    let mut under_way: Vec<Begun> = Vec::new();
    let (mut taken, mut refused) = (0, 0);
    for round in 0..200 {
        let pusher = &pushers[dice.below(100) / 50];
        match dice.below(4) {
            0 | 1 => {
                let mut next = *source.last().unwrap();
                let user = dice.below(3);
                next[user] = !next[user];
                source.push(next);
                // Those before it may have been lost, and are sent again.
                let from = usize::try_from(applied).unwrap();
                let from = from.saturating_sub(dice.below(3)).max(1);
                for number in from..source.len() {
                    pusher.apply(change(&source, number)).await.unwrap();
                }
            }
            2 if under_way.len() < AT_ONCE => {
                under_way.push(Begun::with(&app, pusher, whole(&source)).await);
            }
            _ if !under_way.is_empty() => {
                let at = dice.below(under_way.len());
                match under_way.swap_remove(at).finish().await {
                    Ok(_) => taken += 1,
                    Err(status) => {
                        assert_eq!(told(&Err::<(), _>(status)), CHANGED);
                        refused += 1;
                    }
                }
            }
            _ => {}
        }
        let now = status(&pushers[0]).await.applied_sequence;
        assert!(now >= applied, "round {round}: from {applied} to {now}");
        applied = now;
        let expected = source[usize::try_from(now).unwrap()];
        for (user, disabled) in USERS.iter().zip(expected) {
            let sql = format!("SELECT disabled::int FROM users WHERE id = '{user}'");
            let found = app.number(&sql).await;
            assert_eq!(found == 1, disabled, "round {round}: {user} at {now}");
        }
    }
    assert!(taken > 5 && refused > 5, "{taken} taken, {refused} refused");
}
