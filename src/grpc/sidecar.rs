//! Authorizes requests for proxies: the judgement of Introspect, in the terms of
//! `proxy_auth`. Each kind of proxy has its own protocol; this is what they share.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tonic::Code;

use super::{
    Services,
    error::ApiError,
    introspection::{Judgement, wait_limit},
};
use crate::{
    domain::access::{Decision, EffectiveAccess},
    proxy_auth::{
        query::{AuthorizationQuery, ParsedQuery},
        route::{Need, RouteError},
        verdict::{Pass, Refused, Verdict},
    },
    telemetry::metrics,
};

/// How long a log line is suppressed after it was logged.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// How many mistakes of routes are logged within that time. There are as many as
/// misconfigured routes, unless a client can make them up.
const MAX_LOGGED_MISTAKES: usize = 64;

impl Services {
    /// Authorizes a request, for a proxy that waits that long. Logs failures that an
    /// operator must know of, with a rate limit.
    pub(crate) async fn verdict(
        &self,
        query: AuthorizationQuery<'_>,
        remaining: Duration,
    ) -> Verdict {
        let source = query.source;
        let (need, presented) = match query.parse() {
            Ok(ParsedQuery::Judge(need, presented)) => (need, presented),
            Ok(ParsedQuery::Preflight) => return Verdict::Preflight,
            Err(refused) => {
                if let Refused::Misconfigured(mistake) = &refused {
                    self.metrics.verdict(metrics::VerdictReason::Misconfigured);
                    if self.may_log(LogKey::Route(mistake.clone())) {
                        tracing::warn!("a route is misconfigured: {mistake}");
                    }
                }
                return Verdict::Refused(refused);
            }
        };
        let wait_until = wait_limit(remaining);
        let conclude = |judged: Judgement<'_>, _| conclude(&judged, need);
        let decide = |access: &EffectiveAccess| need.decide(access);
        let judged = self.judge_with_wait(&presented, source, decide, wait_until, conclude);
        judged.await.unwrap_or_else(|error| {
            self.log_unavailable(&error);
            Verdict::Refused(Refused::Unanswerable)
        })
    }

    /// Records that a proxy gets no verdict, before its query was read.
    pub(crate) fn record_unavailable(&self, error: &ApiError) {
        self.metrics.verdict(metrics::VerdictReason::Unanswerable);
        self.log_unavailable(error);
    }

    fn log_unavailable(&self, error: &ApiError) {
        let (code, _) = error.code_and_reason();
        let (reason, causes) = (error.reason(), error.causes());
        if !self.may_log(LogKey::Unavailable(reason)) {
            return;
        }
        if code == Code::Internal {
            tracing::error!(reason, causes, "a proxy was answered 503: {error}");
        } else {
            tracing::warn!(reason, causes, "a proxy was answered 503: {error}");
        }
    }

    /// Logs that a proxy may not ask, with a rate limit.
    pub(crate) fn log_refusal(&self, error: &ApiError, description: &str) {
        let reason = error.reason();
        if self.may_log(LogKey::Proxy(reason)) {
            tracing::info!(reason, "a proxy was refused: {description}");
        }
    }

    fn may_log(&self, key: LogKey) -> bool {
        let now = self.clock().elapsed();
        self.log_limiter.allows(key, now)
    }
}

/// The verdict for a request with that need.
pub(crate) fn conclude(judged: &Judgement<'_>, need: Need) -> Verdict {
    let (client, decision) = match judged {
        Judgement::Inactive(_) => return Verdict::Refused(Refused::Inactive),
        Judgement::Active {
            client, decision, ..
        } => (client, decision),
    };
    match need {
        Need::Human => Verdict::Refused(Refused::HumanOnly),
        Need::Permission(check) if *decision != Some(Decision::Allowed) => {
            Verdict::Refused(Refused::PermissionDenied(check))
        }
        Need::Active | Need::ActiveOn(_) | Need::Permission(_) => {
            Verdict::Allowed(Pass::of(client, need.site()))
        }
    }
}

/// The log lines that end clients can cause any number of times.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum LogKey {
    Route(RouteError),
    /// A request cannot be authorized, for that reason.
    Unavailable(&'static str),
    /// The proxy may not ask, for that reason.
    Proxy(&'static str),
}

/// Suppresses repeated log lines.
#[derive(Debug, Default)]
pub(super) struct LogLimiter(Mutex<HashMap<LogKey, Duration>>);

impl LogLimiter {
    /// Whether the line may be logged at that time, which is then recorded.
    fn allows(&self, key: LogKey, now: Duration) -> bool {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_suppressed = |at: &Duration| now.saturating_sub(*at) < LOG_INTERVAL;
        if logged.get(&key).is_some_and(is_suppressed) {
            return false;
        }
        if logged.len() >= MAX_LOGGED_MISTAKES {
            logged.retain(|_, at| is_suppressed(at));
        }
        // There are few reasons, and clients cannot make them up.
        let is_allowed = logged.len() < MAX_LOGGED_MISTAKES || !matches!(key, LogKey::Route(_));
        if is_allowed {
            logged.insert(key, now);
        }
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy_auth::route::QuotedValue;

    #[test]
    fn repeated_lines_and_too_many_mistakes_are_suppressed() {
        let limiter = LogLimiter::default();
        let is_allowed = |mistake, now| limiter.allows(LogKey::Route(mistake), now);
        let second = Duration::from_secs(1);
        assert!(is_allowed(RouteError::SiteTwice, second));
        assert!(!is_allowed(RouteError::SiteTwice, second * 10));
        assert!(is_allowed(RouteError::SetTwice("site_id"), second * 10));
        assert!(is_allowed(RouteError::SiteTwice, second * 11));
        let made_up = |n: usize| RouteError::UnknownSetting(QuotedValue::new(&n.to_string()));
        let logged = |now| {
            let due = |n: &usize| is_allowed(made_up(*n), now);
            (0..2 * MAX_LOGGED_MISTAKES).filter(due).count()
        };
        assert_eq!(logged(second * 12), MAX_LOGGED_MISTAKES - 2);
        assert_eq!(logged(second * 22), MAX_LOGGED_MISTAKES);
        assert_eq!(logged(second * 23), 0);
        // Mistakes that a client makes up do not suppress other lines.
        for other in [LogKey::Unavailable("STALE_INDEX"), LogKey::Proxy("X")] {
            assert!(limiter.allows(other.clone(), second * 23));
            assert!(!limiter.allows(other, second * 24));
        }
    }
}
