//! Sends questions over one stream, which costs the service and the network far less than a
//! call for each.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use hitkeep_auth_domain::clock::Clock;
use hitkeep_auth_proto::{self as pb, introspection_service_client::IntrospectionServiceClient};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::AbortHandle,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::{Answer, Asked, CallSource, Source, read, to_request};
use crate::{calls::jittered, client::Client, error::Unavailable};

/// Questions that can be unanswered on a stream; others are calls.
const MAX_UNANSWERED: usize = 1024;
/// A stream on which a question is not answered for so long, or for half of the time that it has,
/// is given up: the rest is for a call. The service itself waits up to a second for a token that
/// it does not know.
const STALL: Duration = Duration::from_millis(1500);
/// How long opening a stream may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// The pauses between streams. Half of each is random.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// Sends its questions over a stream. While there is none, or it fails, each is a call: these
/// are reads, so asking twice does no harm.
pub(crate) struct StreamSource {
    current: Arc<ArcSwapOption<Live>>,
    fallback: CallSource,
    clock: Arc<dyn Clock>,
    stall: Duration,
    task: AbortHandle,
}

fn stall(question_timeout: Duration) -> Duration {
    STALL.min(question_timeout / 2)
}

/// An open stream.
struct Live {
    open: Mutex<Open>,
    given_up: Notify,
}

struct Open {
    requests: mpsc::Sender<pb::IntrospectRequest>,
    /// Who waits, in the order of the questions; `None` if the stream is broken.
    unanswered: Option<VecDeque<oneshot::Sender<pb::IntrospectResponse>>>,
}

impl Live {
    fn lock(&self) -> MutexGuard<'_, Open> {
        // No holder panics.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a question. `None` if there is no room for it, or the stream is broken.
    fn send(
        &self,
        request: pb::IntrospectRequest,
    ) -> Option<oneshot::Receiver<pb::IntrospectResponse>> {
        let mut open = self.lock();
        let Open {
            requests,
            unanswered,
        } = &mut *open;
        let unanswered = unanswered.as_mut()?;
        if unanswered.len() >= MAX_UNANSWERED {
            return None;
        }
        requests.try_send(request).ok()?;
        let (answer, answered) = oneshot::channel();
        unanswered.push_back(answer);
        Some(answered)
    }

    /// Hands over an answer. `false` if nothing was asked.
    fn receive(&self, response: pb::IntrospectResponse) -> bool {
        let mut open = self.lock();
        let waiting = open.unanswered.as_mut().and_then(VecDeque::pop_front);
        let Some(waiting) = waiting else {
            return false;
        };
        // Who asked may have left.
        waiting.send(response).ok();
        true
    }

    /// Lets everybody who waits ask elsewhere.
    fn end(&self) {
        self.lock().unanswered = None;
    }
}

impl StreamSource {
    pub(crate) fn start(client: &Client, clock: Arc<dyn Clock>) -> Self {
        let current = Arc::new(ArcSwapOption::empty());
        let (of_task, connected) = (Arc::clone(&current), client.clone());
        let task = tokio::spawn(async move { keep_open(&connected, &of_task).await });
        Self {
            current,
            fallback: CallSource::new(client.clone(), Arc::clone(&clock)),
            clock,
            stall: stall(client.question_timeout()),
            task: task.abort_handle(),
        }
    }
}

impl Drop for StreamSource {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Source for StreamSource {
    async fn ask(&self, asked: Asked) -> Result<Answer, Unavailable> {
        // A question that waits for a revision holds up those after it.
        let live = match asked.at_least {
            None => self.current.load_full(),
            Some(_) => None,
        };
        // Before the question is in the stream's queue: the answer is not younger than this.
        let sent_at = self.clock.elapsed();
        let answered = live.as_ref().and_then(|live| live.send(to_request(&asked)));
        let (Some(live), Some(answered)) = (live, answered) else {
            return self.fallback.ask(asked).await;
        };
        let response = match timeout(self.stall, answered).await {
            Ok(Ok(response)) => response,
            // The stream is broken.
            Ok(Err(_)) => return self.fallback.ask(asked).await,
            Err(_) => {
                live.given_up.notify_one();
                return self.fallback.ask(asked).await;
            }
        };
        match &response.error {
            None => read(response, &asked, sent_at),
            // Another server may know; a call goes to any of them.
            Some(error) if error.code == Code::Unavailable as i32 => self.fallback.ask(asked).await,
            Some(error) => {
                let status = Status::new(Code::from_i32(error.code), error.message.clone());
                Err(status.into())
            }
        }
    }
}

/// Keeps a stream open.
#[expect(clippy::infinite_loop, reason = "it is a task, and aborted")]
async fn keep_open(client: &Client, current: &ArcSwapOption<Live>) {
    let mut pause = FIRST_PAUSE;
    loop {
        if run(client, current).await {
            pause = FIRST_PAUSE;
        }
        sleep(jittered(pause)).await;
        pause = LAST_PAUSE.min(pause * 2);
    }
}

/// Opens a stream and stays until it is broken. Returns whether it answered.
async fn run(client: &Client, current: &ArcSwapOption<Live>) -> bool {
    let (requests, outgoing) = mpsc::channel(MAX_UNANSWERED);
    let mut service = IntrospectionServiceClient::new(client.connection());
    let opening = service.introspect_stream(ReceiverStream::new(outgoing));
    let Ok(Ok(opened)) = timeout(OPEN_TIMEOUT, opening).await else {
        return false;
    };
    let mut responses = opened.into_inner();
    let live = Arc::new(Live {
        open: Mutex::new(Open {
            requests,
            unanswered: Some(VecDeque::new()),
        }),
        given_up: Notify::new(),
    });
    // Also if this is aborted.
    let ending = Ending {
        live: &live,
        current,
    };
    current.store(Some(Arc::clone(&live)));
    let mut has_answered = false;
    loop {
        let response = tokio::select! {
            response = responses.message() => response,
            () = live.given_up.notified() => break,
        };
        // It may be broken, end in order, or answer what was not asked.
        let Ok(Some(response)) = response else {
            break;
        };
        if !live.receive(response) {
            break;
        }
        has_answered = true;
    }
    drop(ending);
    has_answered
}

/// Takes a stream out of use.
struct Ending<'s> {
    live: &'s Arc<Live>,
    current: &'s ArcSwapOption<Live>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        // In this order: who finds the stream broken must not find it again.
        self.current.store(None);
        self.live.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_question_has_time_left_for_a_call() {
        assert_eq!(stall(Duration::from_mins(1)), STALL);
        assert_eq!(stall(Duration::from_secs(1)), Duration::from_millis(500));
    }
}
