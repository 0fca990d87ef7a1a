//! Events about API clients that leave the service: which kinds there are, and which
//! operations cause one.

use super::{audit::Action, role::string_enum};

string_enum! {
    /// The kind of an event: the attribute `type` of a `CloudEvent`.
    EventType ("event type") {
        /// A client was created.
        Created = "com.hitkeep.auth.api_client.created",
        /// A client's token was replaced.
        Rotated = "com.hitkeep.auth.api_client.rotated",
        /// A client was revoked.
        Revoked = "com.hitkeep.auth.api_client.revoked",
        /// A client's revocation was undone.
        Reactivated = "com.hitkeep.auth.api_client.reactivated",
        /// A client was deleted, by itself or with its owner.
        Deleted = "com.hitkeep.auth.api_client.deleted",
        /// A client expires within [`EXPIRING_WITHIN_DAYS`].
        Expiring = "com.hitkeep.auth.api_client.expiring",
        /// A client has expired.
        Expired = "com.hitkeep.auth.api_client.expired",
        /// A client's token was reported as leaked.
        Leaked = "com.hitkeep.auth.api_client.leaked",
        /// A token was presented that a newer one had replaced.
        ReplacedTokenUsed = "com.hitkeep.auth.api_client.replaced_token_used",
    }
}

/// How many days before its expiry a client is reported as expiring.
pub const EXPIRING_WITHIN_DAYS: i64 = 7;

impl EventType {
    /// The event that an audited operation causes, if any. An import causes none: what it
    /// takes over was made elsewhere, and may be thousands of clients.
    pub const fn of(action: Action) -> Option<Self> {
        match action {
            Action::ClientCreated => Some(Self::Created),
            Action::ClientRotated => Some(Self::Rotated),
            Action::ClientRevoked => Some(Self::Revoked),
            Action::ClientReactivated => Some(Self::Reactivated),
            Action::ClientDeleted => Some(Self::Deleted),
            Action::ClientLeaked => Some(Self::Leaked),
            Action::ClientUpdated
            | Action::ClientImported
            | Action::ServiceAccountCreated
            | Action::ServiceAccountRotated
            | Action::ServiceAccountRevoked => None,
        }
    }
}
