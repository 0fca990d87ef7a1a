//! Audit events. An event says what happened to which resource; the actor, the time and
//! the request are added when it is written.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{Timestamp, access::Owner, id::EventId, role::string_enum};
use crate::id::UserId;

/// The longest stored user agent, in characters. Far more than browsers send: a user's own
/// text must not decide whether a client can be revoked.
pub const MAX_USER_AGENT: usize = 4096;

string_enum! {
    /// The operation that an event records.
    Action ("audit action") {
        /// A client was created.
        ClientCreated = "api_client.created",
        /// Some of a client's fields were changed.
        ClientUpdated = "api_client.updated",
        /// A client's token was replaced.
        ClientRotated = "api_client.rotated",
        /// A client was revoked.
        ClientRevoked = "api_client.revoked",
        /// A client's revocation was undone.
        ClientReactivated = "api_client.reactivated",
        /// A client was deleted, by itself or with its owner.
        ClientDeleted = "api_client.deleted",
        /// A client was taken over from HitKeep, or changed to what HitKeep has.
        ClientImported = "api_client.imported",
        /// One of a client's tokens was reported as leaked.
        ClientLeaked = "api_client.leaked",
        /// A service account was created.
        ServiceAccountCreated = "service_account.created",
        /// A service account's token was replaced.
        ServiceAccountRotated = "service_account.rotated",
        /// A service account was revoked.
        ServiceAccountRevoked = "service_account.revoked",
    }
}

/// One changed field. An empty string stands for no value.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FieldChange {
    /// The name of the field.
    pub field: String,
    /// The value before the change.
    pub before: String,
    /// The value after the change.
    pub after: String,
}

impl FieldChange {
    /// Copies the texts of a change.
    pub fn new(field: &str, before: &str, after: &str) -> Self {
        Self {
            field: field.to_owned(),
            before: before.to_owned(),
            after: after.to_owned(),
        }
    }

    /// The fields that differ between two descriptions. A description lists every field as a
    /// change from an empty value.
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

/// An operation on an API client or a service account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The operation.
    pub action: Action,
    /// The API client's or the service account's id.
    pub subject: Uuid,
    /// The name at the time of the event.
    pub subject_name: String,
    /// The API client's owner; `None` for a service account.
    pub owner: Option<Owner>,
    /// The changed fields.
    pub changes: Vec<FieldChange>,
}

/// The human on whose behalf a caller makes a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// The user's id in HitKeep.
    pub user: UserId,
    /// The address that the user's request to the caller came from, if known.
    pub ip_address: Option<std::net::IpAddr>,
    /// The user agent of that request; empty if unknown.
    pub user_agent: String,
}

/// The origin of a change, which all events of one request share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// The human, if the change was made on a user's behalf.
    pub actor: Option<Actor>,
    /// The service account's name; empty for the command line.
    pub caller: String,
    /// The id of the gRPC request, or of the run of the command line.
    pub request_id: String,
}

/// An event as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedEvent {
    /// Identifies the stored event.
    pub id: EventId,
    /// When the change was committed, by the database's clock.
    pub time: Timestamp,
    /// The operation.
    pub event: Event,
    /// The actor, the caller and the request.
    pub provenance: Provenance,
}

/// Selects the events to list; `None` matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Events of this API client or service account.
    pub subject: Option<Uuid>,
    /// Events of this owner's clients.
    pub owner: Option<Owner>,
    /// Events of this actor.
    pub actor: Option<UserId>,
    /// Events with this action.
    pub action: Option<Action>,
    /// Events at this time or later.
    pub start: Option<Timestamp>,
    /// Events before this time.
    pub end: Option<Timestamp>,
}
