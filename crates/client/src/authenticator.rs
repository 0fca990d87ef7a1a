//! One type that answers whose a token is, in each of the ways in which that can be found out.

use std::{fmt, sync::Arc, time::Duration};

use hitkeep_auth_domain::{access::PermissionCheck, clock::Clock, proxy_auth::route::Need};
use tokio::time::timeout;

use crate::{
    cache::Cache,
    client::Client,
    embedded::{Embedded, EmbeddedOptions},
    error::{Error, InactiveReason, Unavailable},
    principal::Principal,
    question::{NotAToken, Question},
    source::{Answer, Asked, CallSource, Source, StreamSource},
    system::SystemClock,
};

/// Finds out whose token a text is, and what it may do. Cheap to clone.
///
/// | | [`asking`](Self::asking) | [`cached`](Self::cached) | [`embedded`](Self::embedded) |
/// |---|---|---|---|
/// | needs the permission | `introspect` | `introspect` | `replicate` |
/// | holds | nothing | some answers | hashes of all tokens, and what they may do |
/// | a check costs | a call | a look-up in memory, mostly | a look-up in memory |
/// | a revocation counts | at once | within the service's `--max-cache-age`, 5 s by default, from when the question was sent | within milliseconds; within `max_staleness` at the latest |
/// | usage counts of the service | are exact | miss what a kept answer decides | are exact, some seconds later |
/// | without the service | it cannot tell | the same, once the kept answer is too old | the same, once the index is too old |
#[derive(Clone)]
pub struct Authenticator(Arc<Mode>);

enum Mode {
    Asking(CallSource),
    Cached {
        cache: Cache<StreamSource>,
        timeout: Duration,
    },
    Embedded(Embedded),
}

impl Authenticator {
    /// Asks the service each time.
    pub fn asking(client: &Client) -> Self {
        let clock = Arc::new(SystemClock::default());
        Self(Arc::new(Mode::Asking(CallSource::new(
            client.clone(),
            clock,
        ))))
    }

    /// Asks over one stream, and keeps about `entries` answers at most about tokens that work,
    /// for as long as the service allows: 5 s unless it is configured otherwise.
    ///
    /// A revocation, or a narrower role, counts when the kept answer has come of age, counted
    /// from when its question was sent. Errors, and tokens that do not work, are never kept.
    /// Those who ask about one token at the same time share a question, which none of them can
    /// cancel for the others.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn cached(client: &Client, entries: usize) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let timeout = client.question_timeout();
        let stream = StreamSource::start(client, Arc::clone(&clock));
        let cache = Cache::new(stream, entries, timeout, clock);
        Self(Arc::new(Mode::Cached { cache, timeout }))
    }

    /// Holds a copy of the index, fed by the client's servers, of which one is followed at a
    /// time. The service account needs the permission `replicate`.
    ///
    /// The copy proves that a token works for as long as its age is known to be below
    /// [`EmbeddedOptions::max_staleness`], counted from when the question was sent that a server
    /// answered, plus the age that the server reports of its own index. What becomes of tokens
    /// is reported to the service; see [`finish`](Self::finish).
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn embedded(client: &Client, options: EmbeddedOptions) -> Self {
        Self(Arc::new(Mode::Embedded(Embedded::start(client, options))))
    }

    /// Waits until questions can be answered: until a copy of the index is whole, and fresh.
    /// Others need no preparation.
    pub async fn ready(&self) {
        if let Mode::Embedded(embedded) = &*self.0 {
            embedded.ready().await;
        }
    }

    /// Reports the last uses of a copy of the index, for a few seconds at most. To be called
    /// when the program ends; later uses are not reported.
    pub async fn finish(&self) {
        if let Mode::Embedded(embedded) = &*self.0 {
            embedded.finish().await;
        }
    }

    /// Finds out whose token this is.
    ///
    /// # Errors
    /// [`Error::NoToken`], [`Error::Inactive`] or [`Error::Unavailable`].
    pub async fn authenticate(&self, token: &str) -> Result<Principal, Error> {
        self.ask(&Question::about(token)).await
    }

    /// Finds out whose token this is, and requires a permission.
    ///
    /// # Errors
    /// Those of [`authenticate`](Self::authenticate), and [`Error::Forbidden`].
    pub async fn check(&self, token: &str, check: PermissionCheck) -> Result<Principal, Error> {
        self.ask(&Question::about(token).permission(check)).await
    }

    /// Finds out whose token this is, and requires what a route needs.
    pub(crate) async fn satisfy(
        &self,
        question: Question<'_>,
        need: Need,
    ) -> Result<Principal, Error> {
        match need {
            Need::Permission(check) => self.ask(&question.permission(check)).await,
            Need::Active | Need::ActiveOn(_) => self.ask(&question).await,
            Need::Human => {
                self.ask(&question).await?;
                Err(Error::HumanOnly)
            }
        }
    }

    /// Answers a question.
    ///
    /// # Errors
    /// Those of [`check`](Self::check).
    pub async fn ask(&self, question: &Question<'_>) -> Result<Principal, Error> {
        let text = question.text().map_err(|error| match error {
            NotAToken::Missing => Error::NoToken,
            NotAToken::TooLong => Error::Inactive(InactiveReason::UnknownToken),
        })?;
        let asked = |check| Asked {
            token: text.into(),
            check,
            at_least: question.at_least,
            source: question.source,
        };
        let check = question.permission;
        match &*self.0 {
            Mode::Embedded(embedded) => embedded.ask(text, question).await,
            Mode::Asking(source) => {
                let answer = source.ask(asked(check)).await?;
                let is_allowed = answer.is_allowed;
                let principal = principal(&answer)?;
                match check {
                    Some(check) if !is_allowed => Err(Error::Forbidden(check)),
                    _ => Ok(principal),
                }
            }
            Mode::Cached {
                cache,
                timeout: at_most,
            } => {
                let answer = match cache.look(text, question.source, question.at_least) {
                    Some(kept) => kept,
                    None => timeout(*at_most, cache.ask(asked(None)))
                        .await
                        .unwrap_or(Err(Unavailable::Late))?,
                };
                let principal = principal(&answer)?;
                // The roles that the answer has decide.
                check.map_or(Ok(()), |check| principal.require(check))?;
                Ok(principal)
            }
        }
    }
}

fn principal(answer: &Answer) -> Result<Principal, Error> {
    match &answer.verdict {
        Ok(identity) => Ok(Principal::asked(Arc::clone(identity), answer.revision)),
        Err(reason) => Err(Error::Inactive(*reason)),
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match &*self.0 {
            Mode::Asking(_) => "asking",
            Mode::Cached { .. } => "cached",
            Mode::Embedded(_) => "embedded",
        };
        f.debug_tuple("Authenticator").field(&mode).finish()
    }
}
