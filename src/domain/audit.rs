//! The audit trail's words. An event says what happened to whom; who did it,
//! when and through which request is added where it is written.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{Timestamp, access::Owner, id::EventId, role::words};
use crate::domain::id::UserId;

/// The longest user agent that is kept, in characters. Far more than browsers
/// send: some user's text must not decide whether a client can be revoked.
pub const MAX_USER_AGENT: usize = 4096;

words! {
    /// What happened.
    Action ("audit action") {
        /// A client was made.
        ClientCreated = "api_client.created",
        /// Some of a client's fields were changed.
        ClientUpdated = "api_client.updated",
        /// A client got a new token.
        ClientRotated = "api_client.rotated",
        /// A client was revoked.
        ClientRevoked = "api_client.revoked",
        /// A client's revocation was undone.
        ClientReactivated = "api_client.reactivated",
        /// A client was deleted, or died with its owner.
        ClientDeleted = "api_client.deleted",
        /// A service account was made.
        ServiceAccountCreated = "service_account.created",
        /// A service account was revoked.
        ServiceAccountRevoked = "service_account.revoked",
    }
}

/// One field that changed; an empty value is none.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FieldChange {
    /// The field.
    pub field: String,
    /// The value it had.
    pub before: String,
    /// The value it got.
    pub after: String,
}

impl FieldChange {
    /// One change.
    pub fn new(field: &str, before: &str, after: &str) -> Self {
        Self {
            field: field.to_owned(),
            before: before.to_owned(),
            after: after.to_owned(),
        }
    }

    /// The fields that differ between two descriptions, each of which tells its
    /// fields as changes from nothing.
    pub fn between(old: &[Self], new: &[Self]) -> Vec<Self> {
        let value = |field: &Self| (field.field.clone(), field.after.clone());
        let mut before: BTreeMap<String, String> = old.iter().map(value).collect();
        let mut changes = Vec::new();
        for field in new {
            let was = before.remove(&field.field).unwrap_or_default();
            if was != field.after {
                changes.push(Self::new(&field.field, &was, &field.after));
            }
        }
        changes.extend(
            before
                .into_iter()
                .map(|(field, was)| Self::new(&field, &was, "")),
        );
        changes
    }
}

/// What happened to an API client or a service account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub action: Action,
    /// The API client's or the service account's id.
    pub subject: Uuid,
    /// Its name at that moment.
    pub subject_name: String,
    /// The API client's owner.
    pub owner: Option<Owner>,
    /// The fields that changed.
    pub changes: Vec<FieldChange>,
}

/// The human on whose behalf something was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// The user.
    pub user: UserId,
    /// Where the user's request came from.
    pub ip_address: Option<std::net::IpAddr>,
    /// What it was made with; empty where that is not known.
    pub user_agent: String,
}

/// Through whom a change came: what every event of one request shares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// The human, where there is one.
    pub actor: Option<Actor>,
    /// The service account's name; empty on the command line.
    pub caller: String,
    /// The request's id.
    pub request_id: String,
}

/// An event as it was written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedEvent {
    /// Its id.
    pub id: EventId,
    /// When it happened.
    pub time: Timestamp,
    /// What happened.
    pub event: Event,
    /// Through whom.
    pub provenance: Provenance,
}

/// Which events to list; `None` lets all through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of one API client or service account.
    pub subject: Option<Uuid>,
    /// Of one owner's clients.
    pub owner: Option<Owner>,
    /// Of one actor.
    pub actor: Option<UserId>,
    /// Of one action.
    pub action: Option<Action>,
    /// Of that moment and later.
    pub start: Option<Timestamp>,
    /// Before that moment.
    pub end: Option<Timestamp>,
}
