//! Keeps answers about tokens that work, and lets those who ask about one token at the same
//! time share a question.
//!
//! What holds, whatever the order in which questions are sent and answered:
//!
//! - An answer ages from when its question was sent.
//! - No answer takes the place of one that is based on a newer revision, nor comes back after
//!   a newer one said that the token does not work.
//! - An answer to a question that was sent before a caller came is for it only what a kept
//!   one is: good if the token works, and until it is too old. So a token that was just made is
//!   never reported as unknown.
//! - A shared question has a task and a deadline of its own. It goes on if callers leave.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hitkeep_auth_domain::{Revision, clock::Clock};
use tokio::{sync::watch, time::timeout};

use crate::{
    error::Unavailable,
    source::{Answer, Asked, Source},
};

mod kept;

use kept::Kept;

/// The hash of a token, which itself is not kept; and where it was presented, since that may
/// decide whether it works.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    hash: [u8; 32],
    source: Option<IpAddr>,
}

impl Key {
    fn of(token: &str, source: Option<IpAddr>) -> Self {
        let hash = blake3::hash(token.as_bytes()).into();
        Self { hash, source }
    }
}

/// A cache in front of a source.
pub(crate) struct Cache<S>(Arc<Shared<S>>);

struct Shared<S> {
    source: S,
    clock: Arc<dyn Clock>,
    /// How long a shared question may take.
    timeout: Duration,
    state: Mutex<State>,
}

struct State {
    kept: Kept<Key>,
    /// Tokens with questions that are not answered yet.
    asked: HashMap<Key, Open>,
    /// The number of the shared question that was begun last.
    begun: u64,
}

/// The questions about one token that are not answered yet.
#[derive(Default)]
struct Open {
    count: usize,
    /// The highest revision of the answers so far. Those that are still to come may be older.
    revision: Revision,
    /// The one that is shared, if there is one.
    shared: Option<SharedQuestion>,
}

type Answered = Result<Answer, Unavailable>;

#[derive(Clone)]
struct SharedQuestion {
    number: u64,
    answered: watch::Receiver<Option<Answered>>,
}

/// A question on its way. However it ends, it is no longer among the open ones then.
struct OnItsWay<S> {
    shared: Arc<Shared<S>>,
    key: Key,
    is_shared: bool,
    answer: Option<Answer>,
}

impl<S> Shared<S> {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No holder panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Source> Cache<S> {
    /// Keeps about that many answers at most.
    pub(crate) fn new(source: S, entries: usize, timeout: Duration, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Shared {
            source,
            clock,
            timeout,
            state: Mutex::new(State {
                kept: Kept::new(entries),
                asked: HashMap::new(),
                begun: 0,
            }),
        }))
    }

    /// An answer that is kept and may be used, or else one to a question.
    pub(crate) async fn ask(&self, asked: Asked) -> Answered {
        let key = Key::of(&asked.token, asked.source);
        let arrived = {
            let mut state = self.0.lock();
            if let Some(kept) = self.find(&mut state, key, asked.at_least) {
                return Ok(kept);
            }
            state.begun
        };
        if asked.at_least.is_some() {
            return self.ask_alone(key, asked).await;
        }
        loop {
            let SharedQuestion {
                number,
                mut answered,
            } = self.share(key, &asked);
            let answer = match answered.wait_for(Option::is_some).await {
                Ok(answer) => answer.clone().expect("it was waited for"),
                // Its task panicked, or the runtime ends.
                Err(_) => Err(Unavailable::Ended),
            };
            if number > arrived {
                return answer;
            }
            // It was sent before.
            if let Ok(answer) = answer
                && answer.verdict.is_ok()
                && answer.time_left(&*self.0.clock).is_some()
            {
                return Ok(answer);
            }
            let mut state = self.0.lock();
            if let Some(kept) = self.find(&mut state, key, None) {
                return Ok(kept);
            }
        }
    }

    /// What is kept and may be used.
    pub(crate) fn look(
        &self,
        token: &str,
        source: Option<IpAddr>,
        at_least: Option<Revision>,
    ) -> Option<Answer> {
        let mut state = self.0.lock();
        self.find(&mut state, Key::of(token, source), at_least)
    }

    fn find(&self, state: &mut State, key: Key, at_least: Option<Revision>) -> Option<Answer> {
        let kept = state.kept.get(key)?;
        if kept.time_left(&*self.0.clock).is_none() {
            state.kept.remove(&key);
            return None;
        }
        (Some(kept.revision) >= at_least).then(|| kept.clone())
    }

    /// Asks what is of use for one alone.
    async fn ask_alone(&self, key: Key, asked: Asked) -> Answered {
        let mut question = self.begin(&mut self.0.lock(), key, false);
        let answered = self.0.source.ask(asked).await;
        question.answer = answered.as_ref().ok().cloned();
        answered
    }

    /// The question that is shared, or else one that begins.
    fn share(&self, key: Key, asked: &Asked) -> SharedQuestion {
        let mut state = self.0.lock();
        if let Some(open) = state.asked.get(&key)
            && let Some(shared) = &open.shared
        {
            return shared.clone();
        }
        state.begun += 1;
        let (answer, answered) = watch::channel(None);
        let begun = SharedQuestion {
            number: state.begun,
            answered,
        };
        let mut question = self.begin(&mut state, key, true);
        let open = state.asked.entry(key).or_default();
        open.shared = Some(begun.clone());
        drop(state);
        let asked = asked.clone();
        tokio::spawn(async move {
            let shared = Arc::clone(&question.shared);
            let asking = timeout(shared.timeout, shared.source.ask(asked));
            let answered = asking.await.unwrap_or(Err(Unavailable::Late));
            question.answer = answered.as_ref().ok().cloned();
            // Who comes after this has to ask again.
            drop(question);
            answer.send_replace(Some(answered));
        });
        begun
    }

    fn begin(&self, state: &mut State, key: Key, is_shared: bool) -> OnItsWay<S> {
        state.asked.entry(key).or_default().count += 1;
        OnItsWay {
            shared: Arc::clone(&self.0),
            key,
            is_shared,
            answer: None,
        }
    }
}

impl<S> Drop for OnItsWay<S> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let State { kept, asked, .. } = &mut *state;
        let Some(open) = asked.get_mut(&self.key) else {
            return;
        };
        open.count -= 1;
        if self.is_shared {
            open.shared = None;
        }
        let revision = open.revision;
        if let Some(answer) = &self.answer {
            open.revision = revision.max(answer.revision);
        }
        if open.count == 0 {
            asked.remove(&self.key);
        }
        if let Some(answer) = self.answer.take() {
            let is_newest = answer.revision >= revision;
            settle(kept, self.key, answer, is_newest, &*self.shared.clock);
        }
    }
}

/// Keeps an answer, or what it says against the one that is kept.
fn settle(kept: &mut Kept<Key>, key: Key, answer: Answer, is_newest: bool, clock: &dyn Clock) {
    let left = answer.time_left(clock);
    if let Some(old) = kept.get(key) {
        match old.time_left(clock) {
            None => kept.remove(&key),
            Some(_) if old.revision > answer.revision => return,
            Some(_) if answer.verdict.is_err() => {
                kept.remove(&key);
                return;
            }
            Some(old_left) if old.revision == answer.revision && Some(old_left) > left => return,
            Some(_) => {}
        }
    }
    if answer.verdict.is_ok() && is_newest && left.is_some() {
        kept.put(key, answer);
    }
}

#[cfg(test)]
mod tests;
