//! The calls, and the seam at which they meet the domain: a question holds all
//! that the domain is given, an answer all that it says.

use chrono::TimeDelta;
use hitkeep_auth_domain::{
    Timestamp,
    access::{Facts, Owner},
    audit::Event,
    client::{
        ApiClient, Draft, Issued, Overlap, Quota, Rotated, Rotation, Transition, Update,
        check_listable,
    },
    clock::Entropy,
    id::{ClientId, SiteId},
    refusal::Refusal,
    token::Token,
};

/// How many clients an owner may have: few, so that it matters.
pub(crate) const QUOTA: usize = 3;

/// What an actor asks for.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Create(Draft),
    List(Owner),
    Get(ClientId),
    Update(ClientId, Update),
    Rotate(ClientId, Renewal),
    Revoke(ClientId),
    Reactivate(ClientId),
    Delete(ClientId),
}

/// How a token is to be replaced.
#[derive(Clone, Debug)]
pub(crate) struct Renewal {
    pub(crate) overlap: TimeDelta,
    pub(crate) etag: Option<String>,
}

/// A call, and all that is known when it is decided.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) call: Call,
    /// The client that it is about, where it is about one.
    pub(crate) client: Option<ApiClient>,
    pub(crate) facts: Facts,
    pub(crate) quota: Quota,
    pub(crate) now: Timestamp,
}

/// What an allowed call comes to.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// The client as it is now; none where it is deleted, or was only listed.
    pub(crate) client: Option<ApiClient>,
    pub(crate) event: Option<Event>,
    pub(crate) token: Option<Token>,
    /// Until when the token works that was replaced.
    pub(crate) old_token_ends: Option<Timestamp>,
}

impl Call {
    /// What it is called.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::List(_) => "list",
            Self::Get(_) => "get",
            Self::Update(..) => "update",
            Self::Rotate(..) => "rotate",
            Self::Revoke(_) => "revoke",
            Self::Reactivate(_) => "reactivate",
            Self::Delete(_) => "delete",
        }
    }

    /// The client that it is about.
    pub(crate) const fn client(&self) -> Option<ClientId> {
        match self {
            Self::Create(_) | Self::List(_) => None,
            Self::Get(id)
            | Self::Update(id, _)
            | Self::Rotate(id, _)
            | Self::Revoke(id)
            | Self::Reactivate(id)
            | Self::Delete(id) => Some(*id),
        }
    }

    /// The sites that it names.
    pub(crate) fn sites(&self) -> Vec<SiteId> {
        match self {
            Self::Create(draft) => draft.delegated.grants().keys().copied().collect(),
            Self::Update(_, update) => update
                .grants
                .iter()
                .flatten()
                .map(|(site, _)| *site)
                .collect(),
            Self::List(_)
            | Self::Get(_)
            | Self::Rotate(..)
            | Self::Revoke(_)
            | Self::Reactivate(_)
            | Self::Delete(_) => Vec::new(),
        }
    }
}

impl Question {
    /// Asks the domain.
    pub(crate) fn decide(self, entropy: &dyn Entropy) -> Result<Answer, Refusal> {
        let Self {
            call,
            client,
            facts,
            quota,
            now,
        } = self;
        match (call, client) {
            (Call::Create(draft), _) => {
                ApiClient::create(draft, &facts, quota, now, entropy).map(Answer::from)
            }
            (Call::List(_), _) => check_listable(&facts).map(|()| Answer::default()),
            (_, None) => Err(Refusal::NotFound),
            (Call::Get(_), Some(client)) => {
                ApiClient::require_visible(&facts)?;
                Ok(Answer {
                    client: Some(client),
                    ..Answer::default()
                })
            }
            (Call::Update(_, update), Some(client)) => {
                client.update(update, &facts, now).map(Answer::from)
            }
            (Call::Rotate(_, Renewal { overlap, etag }), Some(client)) => {
                let overlap = Overlap::new(overlap).expect("scripts keep to at most seven days");
                let rotation = Rotation { overlap, etag };
                client
                    .rotate(&rotation, &facts, now, entropy)
                    .map(Answer::from)
            }
            (Call::Revoke(_), Some(client)) => client.revoke(&facts, now).map(Answer::from),
            (Call::Reactivate(_), Some(client)) => client.reactivate(&facts, now).map(Answer::from),
            (Call::Delete(_), Some(client)) => {
                let event = client.delete(&facts)?;
                Ok(Answer {
                    event: Some(event),
                    ..Answer::default()
                })
            }
        }
    }
}

impl From<Transition> for Answer {
    fn from(Transition { client, event }: Transition) -> Self {
        Self {
            client: Some(client),
            event,
            ..Self::default()
        }
    }
}

impl From<Issued> for Answer {
    fn from(
        Issued {
            client,
            event,
            token,
        }: Issued,
    ) -> Self {
        Self {
            client: Some(client),
            event: Some(event),
            token: Some(token),
            old_token_ends: None,
        }
    }
}

impl From<Rotated> for Answer {
    fn from(
        Rotated {
            issued,
            old_token_ends,
        }: Rotated,
    ) -> Self {
        Self {
            old_token_ends: Some(old_token_ends),
            ..Self::from(issued)
        }
    }
}
