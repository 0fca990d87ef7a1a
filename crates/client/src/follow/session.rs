//! One replication with one server, from the start to whatever ends it.

use std::{convert::Infallible, time::Duration};

use hitkeep_auth_domain::id::ReplicaId;
use hitkeep_auth_proto::{
    self as pb, replicate_request::Message as Asked, replicate_response::Message as Sent,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{
    Limits,
    connect::{Client, ConnectError},
    copy::{Copy, Incoming, read_staleness},
    intake::{Intake, RefreshNumber, SourceTime},
    questions::Questions,
    wire::{Features, Malformed, read_sent_position, read_sent_time, to_position},
};

/// Messages that wait until HTTP/2 takes them: the start, and two questions. If there is no
/// room for another, the server does not read.
const OUTGOING: usize = 4;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The server ended the replication.
    #[error("it ended the replication: {}", .0.message())]
    Ended(Status),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Nothing was received for too long.
    #[error("it is silent")]
    Silent,
    /// It answers, and cannot prove that it is fresh itself.
    #[error("it cannot tell how fresh it is, or is too old itself")]
    Useless,
}

impl SessionError {
    /// How long the server wants us to wait.
    pub(super) fn retry_delay(&self) -> Option<Duration> {
        let Self::Ended(status) = self else {
            return None;
        };
        status.get_details_retry_info()?.retry_delay
    }

    /// Whether the server ended in order, or wants a new connection.
    pub(super) fn is_orderly(&self) -> bool {
        let Self::Ended(status) = self else {
            return false;
        };
        let reason = status.get_details_error_info().map(|info| info.reason);
        status.code() == Code::Unavailable && reason.as_deref() == Some("SHUTTING_DOWN")
    }
}

/// What a session needs of the one who follows.
pub(super) struct Session<'f, I> {
    pub(super) id: ReplicaId,
    pub(super) without_names: bool,
    pub(super) limits: &'f Limits,
    pub(super) copy: &'f mut Copy,
    pub(super) intake: &'f mut I,
    /// The refresh that everybody waits for who waited while there was no session.
    pub(super) refresh: RefreshNumber,
    /// Whether another server could be asked instead, or a new connection may lead to one.
    pub(super) has_alternative: bool,
    /// Called with the first answer.
    pub(super) on_answer: &'f mut (dyn FnMut() + Send),
}

/// What is sent to the server.
type Requests = ReceiverStream<pb::ReplicateRequest>;

/// A session on its way.
struct Running<'s, 'f, I> {
    session: &'s mut Session<'f, I>,
    outgoing: mpsc::Sender<pb::ReplicateRequest>,
    questions: Questions,
    incoming: Incoming,
    /// When the next question is due.
    next_question: Instant,
    /// When something was last received.
    heard_at: Instant,
    /// When the server last proved that it is of use.
    useful_at: Instant,
    has_answered: bool,
}

impl<I: Intake> Session<'_, I> {
    /// Runs the session until something ends it.
    pub(super) async fn run(&mut self, mut client: Client) -> Result<Infallible, SessionError> {
        let silence = self.limits.silence;
        let (mut running, requests) = self.begin()?;
        let opened = timeout(silence, client.replicate(requests)).await;
        let responses = match opened {
            Ok(Ok(responses)) => responses.into_inner(),
            Ok(Err(status)) => return Err(SessionError::Ended(status)),
            Err(_) => return Err(SessionError::Silent),
        };
        running.follow(responses).await
    }
}

impl<'f, I: Intake> Session<'f, I> {
    /// Begins, with the start and the first questions.
    fn begin(&mut self) -> Result<(Running<'_, 'f, I>, Requests), SessionError> {
        let (outgoing, requests) = mpsc::channel(OUTGOING);
        let started_at = self.intake.clock().elapsed();
        let start = pb::ReplicationStart {
            replica_id: self.id.to_string(),
            position: self.copy.position().map(to_position),
            features: Features::ENFORCED.numbers(),
            without_names: self.without_names,
        };
        let mut running = Running {
            questions: Questions::since(started_at),
            incoming: Incoming::default(),
            next_question: Instant::now(),
            heard_at: Instant::now(),
            useful_at: Instant::now(),
            has_answered: false,
            session: self,
            outgoing,
        };
        running.send(Asked::Start(start))?;
        let refresh = running.session.refresh;
        running.ask(Some(refresh))?;
        running.ask(None)?;
        Ok((running, ReceiverStream::new(requests)))
    }
}

impl<I: Intake> Running<'_, '_, I> {
    async fn follow(
        &mut self,
        mut responses: impl Stream<Item = Result<pb::ReplicateResponse, Status>> + Unpin,
    ) -> Result<Infallible, SessionError> {
        loop {
            let limits = self.session.limits;
            // Who is not asked may be silent.
            let open_since = self.questions.open_since();
            let silent_since = open_since.map(|since| self.heard_at.max(since));
            let silent_at = silent_since.map(|since| since + limits.silence);
            let useless_at = self.useful_at + limits.useless;
            let (may_ask, may_refresh) = (
                !self.questions.is_plain_open(),
                !self.questions.is_refresh_open(),
            );
            // Within a snapshot there is no answer, however long it takes.
            let has_choice = self.session.has_alternative && self.incoming.is_nothing();
            // In this order: questions are asked however much is sent, and a message that is here
            // already is no silence, however late this task comes to it.
            tokio::select! {
                biased;
                () = self.session.intake.refresh_requested(), if may_refresh => {
                    let refresh = self.session.intake.begin_refresh();
                    self.ask(Some(refresh))?;
                }
                () = sleep_until(self.next_question), if may_ask => self.ask(None)?,
                message = responses.next() => match message {
                    Some(Ok(message)) => {
                        self.take(message).await?;
                        // To apply it may take long.
                        self.heard_at = Instant::now();
                    }
                    None => {
                        let ended = Status::unavailable("the stream ended");
                        return Err(SessionError::Ended(ended));
                    }
                    Some(Err(status)) => return Err(SessionError::Ended(status)),
                },
                () = until(silent_at) => return Err(SessionError::Silent),
                () = sleep_until(useless_at), if has_choice => return Err(SessionError::Useless),
            }
        }
    }

    fn ask(&mut self, refresh: Option<RefreshNumber>) -> Result<(), SessionError> {
        if refresh.is_none() {
            self.next_question = Instant::now() + self.session.intake.poll_interval();
        }
        let asked_at = self.session.intake.clock().elapsed();
        let question = self.questions.ask(asked_at, refresh);
        self.send(Asked::Question(question))
    }

    fn send(&self, message: Asked) -> Result<(), SessionError> {
        let message = pb::ReplicateRequest {
            message: Some(message),
        };
        // If there is no room, it does not read; if there is no receiver, the call is over,
        // which the response tells.
        match self.outgoing.try_send(message) {
            Err(mpsc::error::TrySendError::Full(_)) => Err(SessionError::Silent),
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }

    async fn take(&mut self, message: pb::ReplicateResponse) -> Result<(), SessionError> {
        match message.message {
            Some(Sent::SnapshotBegin(begin)) => {
                let asked_at = self.questions.received_at();
                self.incoming.begin(&begin, asked_at)?;
                // The first snapshot is published before anything is answered.
                if let Some(now) = &begin.now {
                    let clock = self.session.intake.clock();
                    let waited = clock.elapsed().saturating_sub(asked_at);
                    clock.calibrate(read_sent_time(now)?, waited);
                }
            }
            Some(Sent::Changes(changes)) => {
                if let Some((changes, to)) = self.incoming.add(changes)? {
                    let Session { copy, intake, .. } = &mut *self.session;
                    copy.apply(changes, to, &**intake).await?;
                }
            }
            Some(Sent::SnapshotEnd(_)) => {
                let snapshot = self.incoming.end()?;
                let Session { copy, intake, .. } = &mut *self.session;
                copy.replace(snapshot, &**intake).await;
                // A large one takes long to build.
                self.useful_at = Instant::now();
            }
            Some(Sent::Answer(answer)) => self.take_answer(&answer)?,
            // Something that a later version says beside what this one asks for.
            None => {}
        }
        Ok(())
    }

    fn take_answer(&mut self, answer: &pb::ReplicationAnswer) -> Result<(), SessionError> {
        if !self.incoming.is_nothing() {
            return Err(Malformed("an answer within something else").into());
        }
        let Some(question) = self.questions.answer(answer.number) else {
            return Err(Malformed("an answer to no question").into());
        };
        let Session { copy, intake, .. } = &mut *self.session;
        if answer.error.is_some() {
            if let Some(refresh) = question.refresh {
                intake.refresh_failed(refresh);
            }
            return Ok(());
        }
        let position = read_sent_position(answer.position.as_ref())?;
        if copy.position() != Some(position) {
            return Err(Malformed("an answer about something else").into());
        }
        let now = answer
            .now
            .as_ref()
            .ok_or(Malformed("no time where one belongs"))?;
        let source = SourceTime {
            asked_at: question.asked_at,
            staleness: read_staleness(answer.staleness)?,
        };
        intake.complete(&source, read_sent_time(now)?);
        intake.source_answered();
        if let Some(refresh) = question.refresh {
            intake.refreshed(refresh);
        }
        if source.staleness < self.session.limits.useless {
            self.useful_at = Instant::now();
        }
        if !std::mem::replace(&mut self.has_answered, true) {
            (self.session.on_answer)();
        }
        Ok(())
    }
}

/// Waits until then; without an end if it never comes.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
