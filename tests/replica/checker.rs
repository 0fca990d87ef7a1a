//! The checker: what the database said at each revision, every answer that a
//! replica gave, and whether the two agree.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use hitkeep_auth::{
    domain::{
        Timestamp,
        access::{Decision, Owner, PermissionCheck},
        client::Expiry,
        introspection::{InactiveReason, Subject},
        role::{InstanceRole, SiteRole},
        source::Source,
    },
    pb::{self, InactiveReason::UnknownToken},
};

use crate::{
    cluster::to_reason,
    index::BOUND,
    verdict::{Active, judge},
};

/// How far a replica's idea of the time may be off, and how long a call may take
/// between the moment it judges at and the two that are measured around it.
const SLACK: TimeDelta = TimeDelta::milliseconds(500);
/// How long an answer may be kept where nothing ends it.
const MAX_CACHE_AGE: TimeDelta = TimeDelta::seconds(5);

/// What the database said of every token, at one revision.
pub struct State {
    pub revision: u64,
    /// What made it.
    pub step: String,
    /// When that was acknowledged.
    pub acknowledged: Timestamp,
    /// By the token's number; tokens that were issued later are not in it.
    pub subjects: Vec<Option<Subject>>,
}

/// An answer that a replica gave.
#[derive(Clone)]
pub struct Answered {
    pub replica: usize,
    /// The token's number.
    pub token: usize,
    pub request: pb::IntrospectRequest,
    pub sent: Timestamp,
    pub received: Timestamp,
    pub answer: pb::IntrospectResponse,
}

/// All that happened.
#[derive(Default)]
pub struct History {
    /// In the order in which they were made.
    pub states: Vec<State>,
    /// Of each token: from which revision on it is known.
    pub born: Vec<u64>,
}

impl History {
    /// What is wrong with an answer.
    pub fn fault(&self, answered: &Answered) -> Option<String> {
        let wrong = self.content_fault(answered);
        let wrong = wrong.or_else(|| self.revision_fault(answered));
        let wrong = wrong.or_else(|| self.age_fault(answered))?;
        let check = &answered.request.check;
        let told = format!(
            "replica {} on token {} and {check:?} at {}: {wrong}\n{:?}",
            answered.replica, answered.token, answered.sent, answered.answer
        );
        Some(told)
    }

    /// It must say what the database said at its revision.
    fn content_fault(&self, answered: &Answered) -> Option<String> {
        let states = self.at(answered.answer.revision);
        if states.is_empty() {
            return Some("there was no such revision".to_owned());
        }
        let given = bare(&answered.answer);
        let mut said = Vec::new();
        for state in states {
            let subject = state.subjects.get(answered.token).cloned().flatten();
            for now in [answered.sent - SLACK, answered.received + SLACK] {
                let expected = expected(subject.clone(), now, answered.request.check.as_ref());
                if expected == given {
                    return None;
                }
                said.push(format!("{}: {}: {expected:?}", state.revision, state.step));
            }
        }
        Some(format!("the database said\n{}", said.join("\n")))
    }

    /// The states of a revision; where none was recorded, because two changes
    /// were under way at once, those before and after it.
    fn at(&self, revision: u64) -> Vec<&State> {
        let same: Vec<_> = self
            .states
            .iter()
            .filter(|state| state.revision == revision)
            .collect();
        if !same.is_empty() {
            return same;
        }
        let before = self.states.iter().rfind(|state| state.revision < revision);
        let after = self.states.iter().find(|state| state.revision > revision);
        before
            .zip(after)
            .map(|(before, after)| vec![before, after])
            .unwrap_or_default()
    }

    /// Its revision must be recent enough.
    fn revision_fault(&self, answered: &Answered) -> Option<String> {
        let given = answered.answer.revision;
        if let Some(wanted) = answered.request.at_least_revision
            && given < wanted
        {
            return Some(format!("revision {wanted} was asked for"));
        }
        // The token was acknowledged before anybody asked about it.
        let born = self.born[answered.token];
        if answered.answer.inactive_reason() == UnknownToken && given < born {
            return Some(format!("the token was there at revision {born}"));
        }
        let bound = TimeDelta::from_std(BOUND).unwrap();
        let known = self
            .states
            .partition_point(|state| state.acknowledged + bound < answered.sent);
        let newest = self.states[..known]
            .last()
            .map_or(0, |state| state.revision);
        (answered.answer.active && given < newest)
            .then(|| format!("revision {newest} was acknowledged more than {BOUND:?} before"))
    }

    /// It may be kept for as long as it can be true, and not at all where it is
    /// not active.
    fn age_fault(&self, answered: &Answered) -> Option<String> {
        let age = answered.answer.max_cache_age;
        let age = age
            .map(|age| TimeDelta::seconds(age.seconds) + TimeDelta::nanoseconds(age.nanos.into()));
        let Some(age) = age else {
            return answered
                .answer
                .active
                .then(|| "no max_cache_age".to_owned());
        };
        let most = self.at(answered.answer.revision).into_iter().map(|state| {
            let subject = state.subjects.get(answered.token).cloned().flatten();
            match subject.map(|subject| judge(subject, Source::Unknown, answered.sent - SLACK)) {
                Some(Ok(active)) => match active.ends {
                    Expiry::Never => MAX_CACHE_AGE,
                    Expiry::At(end) => MAX_CACHE_AGE.min(end - answered.sent + SLACK),
                },
                Some(Err(_)) | None => TimeDelta::zero(),
            }
        });
        let most = most.max().unwrap_or_default();
        (!answered.answer.active || age > most || age < TimeDelta::zero())
            .then(|| format!("a max_cache_age of {age}, where {most} is the most"))
    }

    /// What is wrong with the states themselves: with an index, whatever changes
    /// an answer makes a revision.
    pub fn silent_change(&self) -> Option<String> {
        let pairs = self.states.windows(2);
        let mut silent = pairs.filter(|pair| pair[0].revision == pair[1].revision);
        let changed = silent.find(|pair| {
            let common = pair[0].subjects.len();
            let [before, after] = [&pair[0].subjects, &pair[1].subjects[..common].to_vec()];
            format!("{before:?}") != format!("{after:?}")
        })?;
        Some(format!(
            "{} at revision {}",
            changed[1].step, changed[1].revision
        ))
    }

    /// Which answers went back behind an earlier one of the same asker, which
    /// had each answer before the next question.
    pub fn backwards(answers: &[Answered]) -> Vec<String> {
        let mut newest: BTreeMap<usize, u64> = BTreeMap::new();
        let mut found = Vec::new();
        for answered in answers {
            let given = answered.answer.revision;
            let seen = newest.entry(answered.replica).or_default();
            if given < *seen {
                let replica = answered.replica;
                found.push(format!(
                    "replica {replica} went from revision {seen} to {given}"
                ));
            }
            *seen = given.max(*seen);
        }
        found
    }
}

/// An answer without what the oracle does not say.
pub fn bare(answer: &pb::IntrospectResponse) -> pb::IntrospectResponse {
    pb::IntrospectResponse {
        revision: 0,
        max_cache_age: None,
        ..answer.clone()
    }
}

/// What is to be answered of a token.
pub fn expected(
    subject: Option<Subject>,
    now: Timestamp,
    check: Option<&pb::PermissionCheck>,
) -> pb::IntrospectResponse {
    let verdict = match subject {
        Some(subject) => judge(subject, Source::Unknown, now),
        None => Err(InactiveReason::UnknownToken),
    };
    let decision = check.map(|check| match &verdict {
        Ok(active) => active.client.access.decide(&read(check)),
        Err(_) => Decision::Inactive,
    });
    let answer = match verdict {
        Ok(active) => to_active(active),
        Err(reason) => pb::IntrospectResponse {
            inactive_reason: to_reason(reason).into(),
            ..pb::IntrospectResponse::default()
        },
    };
    pb::IntrospectResponse {
        decision: decision.map(to_decision),
        ..answer
    }
}

fn to_active(Active { client, .. }: Active) -> pb::IntrospectResponse {
    let owner = match client.owner {
        Owner::User(id) => pb::owner::Owner::UserId(id.to_string()),
        Owner::Team(id) => pb::owner::Owner::TeamId(id.to_string()),
    };
    let instance_role = match client.access.instance_role {
        InstanceRole::User => pb::InstanceRole::User,
        InstanceRole::Admin => pb::InstanceRole::Admin,
        InstanceRole::Owner => pb::InstanceRole::Owner,
    };
    let grants = client.access.grants.iter().map(|(site, role)| {
        let role = match role {
            SiteRole::Viewer => pb::SiteRole::Viewer,
            SiteRole::Editor => pb::SiteRole::Editor,
            SiteRole::Admin => pb::SiteRole::Admin,
            SiteRole::Owner => pb::SiteRole::Owner,
        };
        pb::SiteGrant {
            site_id: site.to_string(),
            role: role.into(),
        }
    });
    let expire_time = match client.expiry {
        Expiry::Never => None,
        Expiry::At(time) => Some(prost_types::Timestamp {
            seconds: time.timestamp(),
            nanos: i32::try_from(time.timestamp_subsec_nanos()).unwrap(),
        }),
    };
    pb::IntrospectResponse {
        active: true,
        client_id: client.client.to_string(),
        client_name: client.name.into_string(),
        owner: Some(pb::Owner { owner: Some(owner) }),
        instance_role: instance_role.into(),
        site_grants: grants.collect(),
        expire_time,
        ..pb::IntrospectResponse::default()
    }
}

fn read(check: &pb::PermissionCheck) -> PermissionCheck {
    if check.site_id.is_empty() {
        return PermissionCheck::Instance(check.permission.parse().unwrap());
    }
    PermissionCheck::Site {
        site: check.site_id.parse().unwrap(),
        permission: check.permission.parse().unwrap(),
    }
}

fn to_decision(decision: Decision) -> pb::Decision {
    let reason = match decision {
        Decision::Allowed => pb::DecisionReason::Allowed,
        Decision::Inactive => pb::DecisionReason::Inactive,
        Decision::NoSiteGrant => pb::DecisionReason::NoSiteGrant,
        Decision::RoleTooLow => pb::DecisionReason::RoleTooLow,
    };
    pb::Decision {
        allowed: decision == Decision::Allowed,
        reason: reason.into(),
    }
}
