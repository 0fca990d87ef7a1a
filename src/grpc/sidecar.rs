//! Whether a request may pass that a proxy asks about: the same judgement as that of
//! Introspect, put into the words of `proxy_auth`. Each kind of proxy has a way
//! of its own to ask and to be answered, and this between the two.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tonic::Code;

use super::{
    Services,
    error::ApiError,
    introspection::{Judged, Presented, give_up_after},
};
use crate::{
    domain::access::Decision,
    proxy_auth::{
        credential::Credential,
        route::{Need, Preflight, RouteError, RouteSettings},
        verdict::{Pass, Refused, Verdict},
    },
    telemetry::metrics,
};

/// For how long nothing more is said of what was told.
const QUIET: Duration = Duration::from_secs(10);
/// How many mistakes of routes are told within that time. There are as many as there
/// are misconfigured routes, unless somebody makes them up.
const MAX_TOLD: usize = 64;

/// A request that a proxy asks about.
pub(crate) struct Asked<'r> {
    /// What its route says.
    pub(crate) settings: Result<RouteSettings<'r>, RouteError>,
    /// Whether it is a preflight, by what the proxy says of it and not its client.
    pub(crate) is_preflight: bool,
    /// Its path, and maybe a query; none where the proxy does not tell.
    pub(crate) target: Option<&'r str>,
    /// The token that it shows.
    pub(crate) credential: Credential<'r>,
}

/// What became of a question that could be read.
pub(crate) enum Read {
    /// A preflight that needs no token.
    Preflight,
    /// What the request needs, and what it has.
    Judge(Need, Presented),
}

impl Asked<'_> {
    /// What it needs, and what it has. A route's mistake comes first, because nobody
    /// ever gets further there.
    pub(crate) fn read(self) -> Result<Read, Refused> {
        let settings = self.settings.map_err(Refused::Misconfigured)?;
        if settings.preflight == Preflight::Passes && self.is_preflight {
            return Ok(Read::Preflight);
        }
        let presented = match self.credential {
            Credential::Missing => return Err(Refused::NoToken),
            Credential::Text(text) => {
                std::str::from_utf8(text).map_or(Presented::Unknown, Presented::read)
            }
            Credential::Several => Presented::Unknown,
        };
        let need = settings.route.need(self.target)?;
        Ok(Read::Judge(need, presented))
    }
}

impl Services {
    /// Whether a request may pass, for a proxy that waits so long for the answer.
    /// Tells in the log what its operator has to know, now and then.
    pub(crate) async fn verdict(&self, asked: Asked<'_>, remaining: Duration) -> Verdict {
        let (need, presented) = match asked.read() {
            Ok(Read::Judge(need, presented)) => (need, presented),
            Ok(Read::Preflight) => return Verdict::Preflight,
            Err(refused) => {
                if let Refused::Misconfigured(mistake) = &refused {
                    self.metrics.verdict(metrics::VerdictReason::Misconfigured);
                    if self.is_due(Complaint::Route(mistake.clone())) {
                        tracing::warn!("a route is misconfigured: {mistake}");
                    }
                }
                return Verdict::Refused(refused);
            }
        };
        let give_up = give_up_after(remaining);
        let conclude = |judged: Judged<'_>, _| conclude(&judged, need);
        let judged = self.judge_patiently(&presented, need.check(), give_up, conclude);
        judged.await.unwrap_or_else(|error| {
            self.tell_unjudged(&error);
            Verdict::Refused(Refused::Unanswerable)
        })
    }

    /// Notes that a proxy is told that nothing can be told, before its question was read.
    pub(crate) fn note_unjudged(&self, error: &ApiError) {
        self.metrics.verdict(metrics::VerdictReason::Unanswerable);
        self.tell_unjudged(error);
    }

    fn tell_unjudged(&self, error: &ApiError) {
        let (code, _) = error.code_and_reason();
        let (reason, causes) = (error.reason(), error.causes());
        if !self.is_due(Complaint::Unjudged(reason)) {
            return;
        }
        if code == Code::Internal {
            tracing::error!(reason, causes, "a proxy was answered 503: {error}");
        } else {
            tracing::warn!(reason, causes, "a proxy was answered 503: {error}");
        }
    }

    /// Notes that a proxy may not ask.
    pub(crate) fn note_refused(&self, error: &ApiError, description: &str) {
        let reason = error.reason();
        if self.is_due(Complaint::Proxy(reason)) {
            tracing::info!(reason, "a proxy was refused: {description}");
        }
    }

    fn is_due(&self, complaint: Complaint) -> bool {
        let now = self.store.clock().elapsed();
        self.complaints.is_due(complaint, now)
    }
}

/// What was said of a token, for a request that needs that.
pub(crate) fn conclude(judged: &Judged<'_>, need: Need) -> Verdict {
    let (client, decision) = match judged {
        Judged::Inactive(_) => return Verdict::Refused(Refused::Inactive),
        Judged::Active {
            client, decision, ..
        } => (client, decision),
    };
    match (need.check(), decision) {
        (None, _) | (Some(_), Some(Decision::Allowed)) => {
            Verdict::Allowed(Pass::of(client, need.site()))
        }
        (Some(check), _) => Verdict::Refused(Refused::PermissionDenied(check)),
    }
}

/// What an end client can bring about as often as it likes, and must not fill the log
/// with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Complaint {
    /// Its route has that mistake.
    Route(RouteError),
    /// It cannot be told whether its request may pass, for that reason.
    Unjudged(&'static str),
    /// Its proxy may not ask, for that reason.
    Proxy(&'static str),
}

/// What was told, and when.
#[derive(Debug, Default)]
pub(super) struct Complaints(Mutex<HashMap<Complaint, Duration>>);

impl Complaints {
    /// Whether something is to be told at that time, which is then noted.
    fn is_due(&self, complaint: Complaint, now: Duration) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_quiet = |at: &Duration| now.saturating_sub(*at) < QUIET;
        if told.get(&complaint).is_some_and(is_quiet) {
            return false;
        }
        if told.len() >= MAX_TOLD {
            told.retain(|_, at| is_quiet(at));
        }
        // Reasons are few, and nobody makes one up.
        let is_due = told.len() < MAX_TOLD || !matches!(complaint, Complaint::Route(_));
        if is_due {
            told.insert(complaint, now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy_auth::route::QuotedValue;

    #[test]
    fn a_complaint_is_told_once_in_a_while_and_never_too_many_at_once() {
        let complaints = Complaints::default();
        let is_due = |mistake, now| complaints.is_due(Complaint::Route(mistake), now);
        let second = Duration::from_secs(1);
        assert!(is_due(RouteError::SiteTwice, second));
        assert!(!is_due(RouteError::SiteTwice, second * 10));
        assert!(is_due(RouteError::SetTwice("site_id"), second * 10));
        assert!(is_due(RouteError::SiteTwice, second * 11));
        let made_up = |n: usize| RouteError::UnknownSetting(QuotedValue::new(&n.to_string()));
        let told = |now| {
            let due = |n: &usize| is_due(made_up(*n), now);
            (0..2 * MAX_TOLD).filter(due).count()
        };
        assert_eq!(told(second * 12), MAX_TOLD - 2);
        assert_eq!(told(second * 22), MAX_TOLD);
        assert_eq!(told(second * 23), 0);
        // Whoever makes mistakes up does not hide anything else.
        for other in [Complaint::Unjudged("STALE_INDEX"), Complaint::Proxy("X")] {
            assert!(complaints.is_due(other.clone(), second * 23));
            assert!(!complaints.is_due(other, second * 24));
        }
    }
}
