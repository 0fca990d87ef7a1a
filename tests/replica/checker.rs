//! The checker: what the database said at each revision, every answer that somebody gave, and
//! whether the two agree.

use chrono::TimeDelta;
use hitkeep_auth::{
    domain::{
        Timestamp,
        access::{Decision, Owner, PermissionCheck},
        client::Expiry,
        introspection::{InactiveReason, ResolvedClient, Subject},
        role::{InstanceRole, SiteRole},
        source::Source,
    },
    pb,
};

use crate::{
    asker::{Form, Told},
    support::names::to_reason,
    time::SharedTime,
    verdict::judge,
};

/// How far an asker's idea of the time of day may be off, and how long a call may take
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

/// An answer that somebody gave.
#[derive(Clone)]
pub struct Answered {
    /// The number of the one who was asked.
    pub asker: usize,
    /// The token's number.
    pub token: usize,
    pub request: pb::IntrospectRequest,
    pub sent: Timestamp,
    pub received: Timestamp,
    pub told: Told,
}

/// What an answer may be based on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Basis {
    /// The number of the newest state that is certainly contained in it.
    contains: usize,
    /// The number of the state that it is the same as, as far as this token goes.
    state: usize,
}

/// All that happened.
pub struct History {
    /// In the order in which they were made. Where a backup is restored, a revision comes
    /// again, and may be another one.
    pub states: Vec<State>,
    /// Of each token: the number of the first state that has it.
    pub born: Vec<usize>,
    /// How long after a change was acknowledged an asker may go by what was before it.
    pub bound: TimeDelta,
    /// What that is measured by.
    pub time: SharedTime,
}

impl History {
    /// One in which nothing happened yet.
    pub const fn new(bound: TimeDelta, time: SharedTime) -> Self {
        Self {
            states: Vec::new(),
            born: Vec::new(),
            bound,
            time,
        }
    }

    /// What is wrong with an answer.
    pub fn fault(&self, answered: &Answered) -> Option<String> {
        self.bases(answered).err()
    }

    /// What is wrong with the answers of one asker, which had each of them before its next
    /// question: besides each, that they must not go back. One that has no revision was true
    /// at some time between the one before it and the one after it.
    pub fn faults(&self, answers: &[Answered]) -> Vec<String> {
        let mut at = 0;
        let mut faults = Vec::new();
        for answered in answers {
            match self.bases(answered) {
                Err(wrong) => faults.push(wrong),
                Ok(bases) => match bases.iter().find(|basis| basis.contains >= at) {
                    Some(basis) => at = basis.contains,
                    None => faults.push(Self::told(
                        answered,
                        &format!("it went back from state {at} to one of {bases:?}"),
                    )),
                },
            }
        }
        faults
    }

    fn told(answered: &Answered, wrong: &str) -> String {
        let check = &answered.request.check;
        format!(
            "asker {} on token {} and {check:?} at {}: {wrong}\n{:?}",
            answered.asker, answered.token, answered.sent, answered.told
        )
    }

    /// What an answer may be based on, or what is wrong with it.
    fn bases(&self, answered: &Answered) -> Result<Vec<Basis>, String> {
        let told = |wrong: String| Self::told(answered, &wrong);
        let bases = self.true_at(answered).map_err(told)?;
        let bases = self.timely(bases, answered).map_err(told)?;
        if answered.told.form == Form::Message {
            self.check_age(&bases, answered).map_err(told)?;
        }
        Ok(bases)
    }

    /// It must say what the database said at its revision; or at any, where it has none. The
    /// states are in the form of the answer.
    fn true_at(&self, answered: &Answered) -> Result<Vec<Basis>, String> {
        let at = match answered.told.revision {
            Some(revision) => self.at(revision),
            None => self.everywhere(),
        };
        if at.is_empty() {
            return Err("there was no such revision".to_owned());
        }
        let given = bare(&answered.told.answer);
        let mut bases = Vec::new();
        let mut said = Vec::new();
        for basis in at {
            let state = &self.states[basis.state];
            let subject = state.subjects.get(answered.token).cloned().flatten();
            for now in [answered.sent - SLACK, answered.received + SLACK] {
                let expected = expected(subject.clone(), now, answered.request.check.as_ref());
                let expected = answered.told.form.of(expected);
                if expected == given {
                    bases.push(basis);
                } else {
                    said.push(format!("{}: {}: {expected:?}", state.revision, state.step));
                }
            }
        }
        bases.dedup();
        if bases.is_empty() {
            said.dedup();
            // With a revision, there are few of them; without, the last ones tell most.
            let last = said.split_off(said.len().saturating_sub(8));
            return Err(format!("the database said\n{}", last.join("\n")));
        }
        Ok(bases)
    }

    /// All states, and what is between two of which the second one was made by several changes:
    /// such a version may have the later state of one token and not yet of another.
    fn everywhere(&self) -> Vec<Basis> {
        let each = (0..self.states.len()).flat_map(|contains| {
            let state = contains + 1;
            let after = self.states.get(state).map_or(0, |after| after.revision);
            let is_between = after > self.states[contains].revision + 1;
            let between = is_between.then_some(Basis { contains, state });
            [Some(Basis::of(contains)), between]
        });
        each.flatten().collect()
    }

    /// The states of a revision. Where none was recorded, because two changes were under way
    /// at once, those before and after it.
    fn at(&self, revision: u64) -> Vec<Basis> {
        let numbers = 0..self.states.len();
        let same = |state: &usize| self.states[*state].revision == revision;
        let same = numbers.clone().filter(same).map(Basis::of);
        let pairs = numbers.filter(|before| {
            let after = self.states.get(before + 1);
            let after = after.map_or(0, |after| after.revision);
            self.states[*before].revision < revision && revision < after
        });
        let both = pairs.flat_map(|contains| {
            let after = contains + 1;
            [contains, after].map(|state| Basis { contains, state })
        });
        same.chain(both).collect()
    }

    /// It must be based on something recent enough, and on nothing that was not there yet.
    fn timely(&self, mut bases: Vec<Basis>, answered: &Answered) -> Result<Vec<Basis>, String> {
        if let Some(wanted) = answered.request.at_least_revision {
            match answered.told.revision {
                Some(given) if given >= wanted => {}
                Some(_) => return Err(format!("revision {wanted} was asked for")),
                None => bases.retain(|basis| self.states[basis.state].revision >= wanted),
            }
        }
        // The token was acknowledged before anybody asked about it.
        let born = self.born[answered.token];
        bases.retain(|basis| basis.contains >= born);
        if bases.is_empty() {
            let revision = self.states[born].revision;
            return Err(format!("the token was there at revision {revision}"));
        }
        // The state after this one was begun after this one was acknowledged.
        let before = |state: &State| state.acknowledged < answered.received;
        let newest = self.states.partition_point(before);
        bases.retain(|basis| basis.contains <= newest);
        if bases.is_empty() {
            return Err("that was made later".to_owned());
        }
        if answered.told.answer.active {
            let is_known =
                |state: &State| self.time.between(state.acknowledged, answered.sent) > self.bound;
            let known = self.states.partition_point(is_known).saturating_sub(1);
            bases.retain(|basis| basis.contains >= known);
            if bases.is_empty() {
                let State { revision, step, .. } = &self.states[known];
                let bound = self.bound;
                return Err(format!(
                    "revision {revision} ({step}) was acknowledged more than {bound} before"
                ));
            }
        }
        Ok(bases)
    }

    /// It may be kept for as long as it can be true, and not at all where it is
    /// not active.
    fn check_age(&self, bases: &[Basis], answered: &Answered) -> Result<(), String> {
        let answer = &answered.told.answer;
        let age = answer.max_cache_age;
        let age = age
            .map(|age| TimeDelta::seconds(age.seconds) + TimeDelta::nanoseconds(age.nanos.into()));
        let Some(age) = age else {
            return if answer.active {
                Err("no max_cache_age".to_owned())
            } else {
                Ok(())
            };
        };
        let most = bases.iter().map(|basis| {
            let state = &self.states[basis.state];
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
        if !answer.active || age > most || age < TimeDelta::zero() {
            return Err(format!(
                "a max_cache_age of {age}, where {most} is the most"
            ));
        }
        Ok(())
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
}

impl Basis {
    const fn of(state: usize) -> Self {
        Self {
            contains: state,
            state,
        }
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
        Ok(active) => to_active(active.client),
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

pub fn to_active(client: ResolvedClient) -> pb::IntrospectResponse {
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

pub fn read(check: &pb::PermissionCheck) -> PermissionCheck {
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
