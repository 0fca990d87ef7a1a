//! Whether a request may pass that a proxy asks about: the same judgement as that of
//! Introspect, put into the words of `domain::sidecar`. Each kind of proxy has a way
//! of its own to ask and to be answered, and this between the two.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::{
    Services,
    introspection::{Judged, Presented, give_up_after},
};
use crate::domain::{
    access::Decision,
    credential::Credential,
    route::{Mistake, Need, Route},
    sidecar::{Pass, Refused, Verdict},
};

/// For how long nothing more is said of a mistake that was told.
const QUIET: Duration = Duration::from_secs(10);
/// How many mistakes are told within that time. There are as many as there are
/// misconfigured routes, unless somebody makes them up.
const MAX_TOLD: usize = 64;

/// A request that a proxy asks about.
pub(crate) struct Asked<'r> {
    /// What its route needs.
    pub(crate) route: Result<Route<'r>, Mistake>,
    /// Its path, and maybe a query; none where the proxy does not tell.
    pub(crate) target: Option<&'r str>,
    /// The token that it shows.
    pub(crate) credential: Credential<'r>,
}

impl Asked<'_> {
    /// What it needs, and what it has. A route's mistake comes first, because nobody
    /// ever gets further there.
    pub(super) fn read(self) -> Result<(Need, Presented), Refused> {
        let route = self.route.map_err(Refused::Misconfigured)?;
        let presented = match self.credential {
            Credential::Missing => return Err(Refused::NoToken),
            Credential::Text(text) => {
                std::str::from_utf8(text).map_or(Presented::Unknown, Presented::read)
            }
            Credential::Several => Presented::Unknown,
        };
        Ok((route.need(self.target)?, presented))
    }
}

impl Services {
    /// Whether a request may pass, for a proxy that waits so long for the answer.
    /// Tells of a route's mistake in the log.
    pub(crate) async fn verdict(&self, asked: Asked<'_>, remaining: Duration) -> Verdict {
        let (need, presented) = match asked.read() {
            Ok(read) => read,
            Err(refused) => {
                if let Refused::Misconfigured(mistake) = &refused {
                    self.complain(mistake);
                }
                return Verdict::Refused(refused);
            }
        };
        let give_up = give_up_after(remaining);
        let conclude = |judged: Judged<'_>, _| conclude(&judged, need);
        let judged = self.judge_patiently(&presented, need.check(), give_up, conclude);
        judged.await.unwrap_or_else(|error| {
            error.log();
            Verdict::Refused(Refused::CannotTell)
        })
    }

    fn complain(&self, mistake: &Mistake) {
        if self
            .complaints
            .is_due(mistake, self.store.clock().elapsed())
        {
            tracing::warn!("a route is misconfigured: {mistake}");
        }
    }
}

/// What was said of a token, for a request that needs that.
pub(super) fn conclude(judged: &Judged<'_>, need: Need) -> Verdict {
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
        (Some(check), _) => Verdict::Refused(Refused::NotEnough(check)),
    }
}

/// Which mistakes were told, and when. An end client can make a route show its
/// mistake as often as it likes, and must not fill the log with it.
#[derive(Debug, Default)]
pub(super) struct Complaints(Mutex<HashMap<Mistake, Duration>>);

impl Complaints {
    /// Whether a mistake is to be told at that time, which is then noted.
    fn is_due(&self, mistake: &Mistake, now: Duration) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_quiet = |at: &Duration| now.saturating_sub(*at) < QUIET;
        if told.get(mistake).is_some_and(is_quiet) {
            return false;
        }
        if told.len() >= MAX_TOLD {
            told.retain(|_, at| is_quiet(at));
        }
        let is_due = told.len() < MAX_TOLD;
        if is_due {
            told.insert(mistake.clone(), now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::route::Shown;

    #[test]
    fn a_mistake_is_told_once_in_a_while_and_never_too_many_at_once() {
        let complaints = Complaints::default();
        let second = Duration::from_secs(1);
        assert!(complaints.is_due(&Mistake::TwoPlaces, second));
        assert!(!complaints.is_due(&Mistake::TwoPlaces, second * 10));
        assert!(complaints.is_due(&Mistake::SetTwice("site_id"), second * 10));
        assert!(complaints.is_due(&Mistake::TwoPlaces, second * 11));
        let made_up = |n: usize| Mistake::UnknownSetting(Shown::new(&n.to_string()));
        let told = |now| {
            let due = |n: &usize| complaints.is_due(&made_up(*n), now);
            (0..2 * MAX_TOLD).filter(due).count()
        };
        assert_eq!(told(second * 12), MAX_TOLD - 2);
        assert_eq!(told(second * 22), MAX_TOLD);
        assert_eq!(told(second * 23), 0);
    }
}
