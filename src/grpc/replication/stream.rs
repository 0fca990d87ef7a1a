//! One replication: what the replica has, and what it is sent next.
//!
//! Nothing is queued for a replica. When HTTP/2 has room for more, the latest version of the
//! index is compared with what the replica has, and the difference is sent, so that one that
//! reads slowly skips the versions in between. A question is answered after that, by the
//! version that was sent: also while versions follow each other without pause.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{FutureExt, stream};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout},
};
use tokio_stream::Stream;
use tonic::{Status, Streaming};

use super::{
    pace::Pace,
    parts::{Answer, Content, Parts, Version},
    turn::SnapshotTurn,
};
use crate::{
    domain::{Position, caller::CallerPermission, index::Callers},
    grpc::{
        Services,
        context::Caller,
        convert::replication::{self as convert, Audience},
        error::{ApiError, Violation},
    },
    live_index::{FeedProgress, Unanswerable},
    pb::{self, replicate_request::Message as Received},
};

/// How many questions are read at a time: a replica has two open at most.
const QUESTIONS_AT_ONCE: usize = 16;
/// How long a replica may take to say what it has. Until then, its stream is of use to no one.
const START_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Replication {
    services: Arc<Services>,
    /// Checked again and again: a stream may outlive its caller's account.
    caller: Caller,
    snapshots: Arc<Semaphore>,
    requests: Streaming<pb::ReplicateRequest>,
    progress: watch::Receiver<FeedProgress>,
    /// `None` before the start was read.
    replica: Option<CopyState>,
    /// A question that is to be answered at once.
    question: Option<u64>,
    refresh: Refresh,
    sending: Option<Parts>,
    pace: Pace,
}

/// What the replica has.
struct CopyState {
    audience: Audience,
    position: Option<Position>,
    accounts: Option<Arc<Callers>>,
}

/// The questions for which the source is asked.
#[derive(Default)]
struct Refresh {
    /// The question that comes after the one for which it is asked at the moment.
    next: Option<u64>,
    running: Option<(u64, RefreshFuture)>,
    done: Option<Answer>,
}

type RefreshFuture = Pin<Box<dyn Future<Output = Result<(), Unanswerable>> + Send>>;

impl Refresh {
    fn begin(&mut self, services: &Arc<Services>) {
        if self.running.is_none()
            && let Some(number) = self.next.take()
        {
            let services = Arc::clone(services);
            let refresh = async move {
                let deadline = Instant::now() + services.request_timeout();
                // Never the index as it is: for that, there is the other kind of question.
                services.index().refresh_or_fail(deadline).await
            };
            self.running = Some((number, Box::pin(refresh)));
        }
    }

    /// Completes when the source was asked; never if it is not being asked.
    async fn finished(&mut self) {
        match &mut self.running {
            Some((number, refresh)) => {
                self.done = Some((*number, refresh.as_mut().await));
                self.running = None;
            }
            None => std::future::pending().await,
        }
    }
}

impl Replication {
    pub(super) fn new(
        services: Arc<Services>,
        caller: Caller,
        snapshots: Arc<Semaphore>,
        requests: Streaming<pb::ReplicateRequest>,
    ) -> Self {
        let progress = services.index().progress();
        Self {
            services,
            caller,
            snapshots,
            requests,
            progress,
            replica: None,
            question: None,
            refresh: Refresh::default(),
            sending: None,
            pace: Pace::default(),
        }
    }

    /// All that the replica is sent.
    pub(super) fn responses(
        self,
    ) -> impl Stream<Item = Result<pb::ReplicateResponse, Status>> + Send {
        stream::try_unfold(self, |mut replication| async move {
            let next = replication.next().await?;
            Ok(next.map(|next| (next, replication)))
        })
    }

    /// The next message; `None` at the end.
    async fn next(&mut self) -> Result<Option<pb::ReplicateResponse>, ApiError> {
        if self.replica.is_none() {
            let Some(copy) = self.start().await? else {
                return Ok(None);
            };
            self.replica = Some(copy);
        }
        loop {
            if self.sending.as_ref().is_some_and(Parts::is_within_snapshot) {
                let clock = self.services.clock();
                self.pace.leave_others_their_share(clock).await;
            }
            // Before each part, however long what is being sent takes to be read.
            self.require_caller()?;
            if let Some(sending) = &mut self.sending {
                let clock = self.services.clock();
                if let Some(part) = self.pace.make(clock, || sending.next(clock))? {
                    return Ok(Some(part));
                }
                self.sending = None;
            }
            // Also while there is always something to send.
            for _ in 0..QUESTIONS_AT_ONCE {
                match self.requests.message().now_or_never() {
                    None => break,
                    Some(request) => match read(request)? {
                        None => return Ok(None),
                        Some(request) => self.take(&request)?,
                    },
                }
            }
            self.refresh.begin(&self.services);
            // It records that it has finished.
            self.refresh.finished().now_or_never();
            self.sending = self.prepare()?;
            if self.sending.is_none() && !self.wait().await? {
                return Ok(None);
            }
        }
    }

    /// Waits until there may be something to send. False at the end of the requests.
    async fn wait(&mut self) -> Result<bool, ApiError> {
        tokio::select! {
            request = self.requests.message() => match read(request)? {
                None => return Ok(false),
                Some(request) => self.take(&request)?,
            },
            () = self.refresh.finished() => {}
            // The index lives as long as the services.
            _ = self.progress.changed() => {}
        }
        Ok(true)
    }

    async fn start(&mut self) -> Result<Option<CopyState>, ApiError> {
        let Some(first) = read(in_time(self.requests.message()).await?)? else {
            return Ok(None);
        };
        let Some(Received::Start(start)) = first.message else {
            return Err(invalid("start", "must be the first message"));
        };
        let start = convert::start(&start)?;
        let index = self.services.index();
        let deadline = Instant::now() + self.services.request_timeout();
        let view = index.loaded_view(deadline).await?;
        let ours = view.index().position;
        drop(view);
        let is_ahead = start.position.is_some_and(|theirs| {
            theirs.database == ours.database && theirs.revision > ours.revision
        });
        if is_ahead {
            // Another server sent it what this one does not have yet. A snapshot would set
            // it back, also while many replicas come from that server at once.
            index.refresh_or_fail(deadline).await?;
        }
        tracing::debug!(replica.id = %start.replica, "a replica follows");
        Ok(Some(CopyState {
            audience: start.audience,
            position: start.position,
            accounts: None,
        }))
    }

    fn take(&mut self, request: &pb::ReplicateRequest) -> Result<(), ApiError> {
        match &request.message {
            Some(Received::Question(question)) => {
                let slot = if question.ask_database {
                    &mut self.refresh.next
                } else {
                    &mut self.question
                };
                *slot = Some(question.number);
                self.refresh.begin(&self.services);
                Ok(())
            }
            Some(Received::Start(_)) => Err(invalid("start", "must be the first message only")),
            None => Err(invalid("message", "must be a start or a question")),
        }
    }

    /// What to send by the latest version; `None` if the replica has it, and has no question.
    fn prepare(&mut self) -> Result<Option<Parts>, ApiError> {
        let live = self.services.index();
        let copy = self.replica.as_mut().expect("it was started");
        // Taken before the version, so that it contains what the source was asked for.
        let mut answers = Vec::new();
        answers.extend(self.refresh.done.take());
        answers.extend(self.question.take().map(|number| (number, Ok(()))));
        let seen_at = self.services.clock().elapsed();
        let view = live.view()?;
        if let Err(behind) = view.require_caught_up() {
            for (_, answer) in &mut answers {
                *answer = answer.and(Err(behind));
            }
        }
        let version = Version {
            index: view.shared_index(),
            staleness: view.staleness,
            seen_at,
        };
        drop(view);
        let index = &version.index;
        let has_accounts = copy
            .accounts
            .as_ref()
            .is_some_and(|accounts| Arc::ptr_eq(accounts, index.callers()));
        let changed = match copy.position {
            Some(position) if position == index.position => Some(Vec::new()),
            Some(position) => live.changed_since(position),
            None => None,
        };
        if changed.is_some()
            && copy.position.map(|position| position.revision) > Some(index.revision())
        {
            // The change is known here, and its version is not published yet.
            return Err(Unanswerable::Behind.into());
        }
        let content = match changed {
            None => Content::SnapshotBegin(SnapshotTurn::take(&self.snapshots)?),
            Some(_) if has_accounts && copy.position == Some(index.position) => Content::None,
            Some(clients) => Content::Changes {
                clients: clients.into_iter(),
                with_accounts: !has_accounts,
            },
        };
        if matches!(content, Content::None) && answers.is_empty() {
            return Ok(None);
        }
        copy.position = Some(index.position);
        copy.accounts = Some(Arc::clone(index.callers()));
        let audience = copy.audience;
        Ok(Some(Parts::new(version, audience, content, answers)))
    }

    /// Refuses to go on for a caller that was revoked, or lost the permission.
    fn require_caller(&self) -> Result<(), ApiError> {
        let Caller { account, proof } = &self.caller;
        let index = self.services.index().latest();
        let known = index.as_ref().map(|index| index.callers());
        let Some(now) =
            known.and_then(|callers| proof.account(callers, || self.services.clock().now()))
        else {
            return Err(ApiError::CallerUnknown);
        };
        if now.id != account.id {
            return Err(ApiError::CallerUnknown);
        }
        if now.may(CallerPermission::Replicate) {
            Ok(())
        } else {
            Err(ApiError::CallerNotPermitted(CallerPermission::Replicate))
        }
    }
}

/// Waits for the start, but not without a limit.
async fn in_time<T>(first: impl Future<Output = T>) -> Result<T, ApiError> {
    let first = timeout(START_TIMEOUT, first).await;
    first.or(Err(ApiError::DeadlineExceeded))
}

fn invalid(field: &str, description: &str) -> ApiError {
    ApiError::InvalidFields(vec![Violation {
        field: field.to_owned(),
        description: description.to_owned(),
    }])
}

fn read(
    request: Result<Option<pb::ReplicateRequest>, Status>,
) -> Result<Option<pb::ReplicateRequest>, ApiError> {
    request.map_err(|_unreadable| ApiError::unreadable_message())
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_start_that_does_not_come_is_not_waited_for() {
        let just_in_time = START_TIMEOUT.saturating_sub(Duration::from_millis(1));
        assert!(in_time(sleep(just_in_time)).await.is_ok());
        let begun = Instant::now();
        let never = in_time(std::future::pending::<()>()).await;
        assert!(matches!(never, Err(ApiError::DeadlineExceeded)));
        assert_eq!(begun.elapsed(), START_TIMEOUT);
    }
}
