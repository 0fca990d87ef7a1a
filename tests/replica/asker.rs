//! Whoever has an index and can be asked about tokens: a server on the database, a replica, or
//! a program with the index inside of it, in Rust or in Go. What they say is brought into one form.

use std::sync::Mutex;

use hitkeep_auth::{
    domain::{
        access::EffectiveAccess,
        introspection::{BaseState, InactiveReason, ResolvedClient},
    },
    pb,
};
use hitkeep_auth_client::{
    Authenticator, Error, InactiveReason as ClientReason, Principal, Question, Revision,
    Unavailable,
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{
    checker::{read, to_active},
    embedded_go::Judge,
    harness::Caller,
    support::names::to_reason,
};

/// Somebody who answers.
pub struct Asker {
    /// What failures call it.
    pub name: String,
    way: Way,
}

/// How it is asked.
enum Way {
    /// By calls to a process, which may be another one by and by.
    Calls(Mutex<Caller>),
    /// In this process.
    Embedded(Authenticator),
    /// By lines to a program in Go, one question after the other.
    Lines(Box<tokio::sync::Mutex<Judge>>),
}

/// How much of an answer one gets to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// All of the message.
    Message,
    /// What the types of the client's crate have: whose token it is, or that it does not work,
    /// or that it does not carry the permission. Only the first has a revision.
    Verdict,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Told {
    pub form: Form,
    /// `None` if the form has none.
    pub revision: Option<u64>,
    pub answer: pb::IntrospectResponse,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Silence {
    /// The index is too old.
    Stale,
    /// Something else that says nothing about the token.
    Other(String),
}

impl Asker {
    /// A process.
    pub fn process(name: impl Into<String>, caller: Caller) -> Self {
        Self {
            name: name.into(),
            way: Way::Calls(Mutex::new(caller)),
        }
    }

    /// An index in this process.
    pub fn embedded(name: impl Into<String>, authenticator: Authenticator) -> Self {
        Self {
            name: name.into(),
            way: Way::Embedded(authenticator),
        }
    }

    /// An index in a program in Go.
    pub fn judge(name: impl Into<String>, judge: Judge) -> Self {
        Self {
            name: name.into(),
            way: Way::Lines(Box::new(tokio::sync::Mutex::new(judge))),
        }
    }

    /// From here on it is that process.
    pub fn is_now(&self, caller: Caller) {
        match &self.way {
            Way::Calls(old) => *old.lock().unwrap() = caller,
            Way::Embedded(_) | Way::Lines(_) => panic!("{} has no calls", self.name),
        }
    }

    /// Whether asking takes no call. Whoever asks without pause has to make one.
    pub const fn is_embedded(&self) -> bool {
        matches!(self.way, Way::Embedded(_))
    }

    /// Asks it. Whatever is no answer must be about an outage.
    pub async fn ask(&self, request: &pb::IntrospectRequest) -> Result<Told, Silence> {
        match &self.way {
            Way::Calls(caller) => {
                let caller = caller.lock().unwrap().clone();
                let answer = caller.introspect(request.clone()).await;
                let answer = answer.map_err(|status| silence(&status))?;
                Ok(Told::whole(answer))
            }
            Way::Lines(judge) => judge.lock().await.ask(request).await.map(Told::whole),
            Way::Embedded(authenticator) => {
                let mut question = Question::about(&request.token);
                if let Some(check) = &request.check {
                    question = question.permission(read(check));
                }
                if let Some(revision) = request.at_least_revision {
                    question = question.at_least(Revision(revision));
                }
                let verdict = authenticator.ask(&question).await;
                verdict_told(verdict, request.check.is_some())
            }
        }
    }
}

impl Told {
    /// All of an answer.
    fn whole(answer: pb::IntrospectResponse) -> Self {
        Self {
            form: Form::Message,
            revision: Some(answer.revision),
            answer,
        }
    }
}

/// What a failed call says, which must be about an outage.
fn silence(status: &Status) -> Silence {
    // A connection that breaks under a call has a source, and no code of the service's.
    let is_broken = std::error::Error::source(status).is_some();
    assert!(
        status.code() == Code::Unavailable || is_broken,
        "{status:?}"
    );
    let details = status.get_details_error_info();
    if details.is_some_and(|details| details.reason == "STALE_INDEX") {
        return Silence::Stale;
    }
    Silence::Other(status.to_string())
}

/// A verdict in the words of the service.
fn verdict_told(verdict: Result<Principal, Error>, checked: bool) -> Result<Told, Silence> {
    let decision = |allowed| pb::Decision {
        allowed,
        reason: if allowed {
            pb::DecisionReason::Allowed.into()
        } else {
            0
        },
    };
    let mut revision = None;
    let answer = match verdict {
        Ok(principal) => {
            revision = Some(principal.revision().0);
            let client = ResolvedClient {
                client: principal.client_id(),
                owner: principal.owner(),
                base_state: BaseState::Active,
                access: EffectiveAccess {
                    instance_role: principal.instance_role(),
                    grants: principal.site_roles().collect(),
                },
                expiry: principal.expire_time().into(),
                name: principal.client_name().into(),
                restrictions: None,
            };
            pb::IntrospectResponse {
                decision: checked.then(|| decision(true)),
                ..to_active(client)
            }
        }
        Err(Error::Inactive(reason)) => pb::IntrospectResponse {
            inactive_reason: to_reason(domain_reason(reason)).into(),
            ..pb::IntrospectResponse::default()
        },
        Err(Error::Forbidden(_)) => pb::IntrospectResponse {
            active: true,
            decision: Some(decision(false)),
            ..pb::IntrospectResponse::default()
        },
        Err(Error::Unavailable(Unavailable::Stale(_))) => return Err(Silence::Stale),
        Err(Error::Unavailable(why)) => return Err(Silence::Other(why.to_string())),
        Err(other) => panic!("{other:?}"),
    };
    Ok(Told {
        form: Form::Verdict,
        revision,
        answer,
    })
}

fn domain_reason(reason: ClientReason) -> InactiveReason {
    match reason {
        ClientReason::UnknownToken => InactiveReason::UnknownToken,
        ClientReason::TokenRotated => InactiveReason::TokenRotated,
        ClientReason::Revoked => InactiveReason::Revoked,
        ClientReason::Expired => InactiveReason::Expired,
        ClientReason::OwnerInactive => InactiveReason::OwnerInactive,
        ClientReason::NotYetActive => InactiveReason::NotYetActive,
        ClientReason::SourceNotAllowed => InactiveReason::SourceNotAllowed,
        other => panic!("an index does not say {other:?}"),
    }
}

impl Form {
    /// What of an answer can be seen in this form.
    pub fn of(self, whole: pb::IntrospectResponse) -> pb::IntrospectResponse {
        let allowed = whole.decision.as_ref().map(|decision| decision.allowed);
        match (self, whole.active, allowed) {
            (Self::Verdict, true, Some(false)) => pb::IntrospectResponse {
                active: true,
                decision: Some(pb::Decision::default()),
                ..pb::IntrospectResponse::default()
            },
            (Self::Verdict, false, _) => pb::IntrospectResponse {
                decision: None,
                ..whole
            },
            _ => whole,
        }
    }
}
