//! Rows that an import refuses, and why.

use crate::domain::{
    access::Owner,
    client::BadText,
    id::ClientId,
    token::{LegacyHash, may_contain_token},
};

/// The longest name that is shown, in characters.
const MAX_SHOWN: usize = 120;

/// Why a row of an API client is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    NoId,
    DuplicateId,
    NoOwner,
    /// The row has a user and a team as its owner.
    TwoOwners,
    UnknownOwner,
    /// The owner is left of a change of an e-mail address.
    ShadowOwner,
    /// The owner is another one than at the last import.
    OwnerChanged,
    /// The role on the instance is not one of HitKeep's.
    UnknownInstanceRole,
    /// A team client has a role on the instance above `user`.
    TeamInstanceRole,
    /// The hash does not have 64 lower-case hexadecimal digits.
    BadHash,
    DuplicateHash,
    /// Another client of this service has the hash.
    HashTaken,
    /// The hash is that of a token that this service knows as replaced.
    TokenReplaced,
    /// A client of this service that was not imported has the id.
    IdTaken,
    Name(BadText),
    Description(BadText),
    /// A time is missing, or outside of the years 1 to 9999.
    BadTime,
    /// These fields were changed on both sides.
    Conflict(Vec<&'static str>),
}

impl Reason {
    /// A word for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoId => "no_id",
            Self::DuplicateId => "duplicate_id",
            Self::NoOwner => "no_owner",
            Self::TwoOwners => "two_owners",
            Self::UnknownOwner => "unknown_owner",
            Self::ShadowOwner => "shadow_owner",
            Self::OwnerChanged => "owner_changed",
            Self::UnknownInstanceRole => "unknown_instance_role",
            Self::TeamInstanceRole => "team_instance_role",
            Self::BadHash => "bad_hash",
            Self::DuplicateHash => "duplicate_hash",
            Self::HashTaken => "hash_taken",
            Self::TokenReplaced => "token_replaced",
            Self::IdTaken => "id_taken",
            Self::Name(_) => "bad_name",
            Self::Description(_) => "bad_description",
            Self::BadTime => "bad_time",
            Self::Conflict(_) => "conflict",
        }
    }

    /// A sentence for people.
    pub fn explain(&self) -> String {
        match self {
            Self::NoId => "it has no readable id".to_owned(),
            Self::DuplicateId => "another row has the same id".to_owned(),
            Self::NoOwner => "it has no owner".to_owned(),
            Self::TwoOwners => "it has both a user and a team as its owner".to_owned(),
            Self::UnknownOwner => "its owner does not exist".to_owned(),
            Self::ShadowOwner => {
                "its owner is a placeholder that a broken-off change of an e-mail address left; \
                 restore the user in HitKeep"
                    .to_owned()
            }
            Self::OwnerChanged => "it had another owner at the last import".to_owned(),
            Self::UnknownInstanceRole => "its instance role is unknown".to_owned(),
            Self::TeamInstanceRole => {
                "it belongs to a team and has an instance role above user".to_owned()
            }
            Self::BadHash => "its hash does not have 64 lower-case hexadecimal digits".to_owned(),
            Self::DuplicateHash => "another row has the same hash".to_owned(),
            Self::HashTaken => "another API client of this service has its token".to_owned(),
            Self::TokenReplaced => {
                "its token was replaced by a newer one before, and cannot come back".to_owned()
            }
            Self::IdTaken => {
                "an API client of this service that was not imported has its id".to_owned()
            }
            Self::Name(why) => format!("its name {why}"),
            Self::Description(why) => format!("its description {why}"),
            Self::BadTime => "one of its times is missing, or beyond the year 9999".to_owned(),
            Self::Conflict(fields) => {
                format!("both sides changed its {}", fields.join(", "))
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRow {
    /// The client's id, if it is readable.
    pub id: Option<ClientId>,
    /// The client's name, fit to be shown.
    pub name: String,
    /// The owner, if there is exactly one.
    pub owner: Option<Owner>,
    /// Whether it is revoked in HitKeep.
    pub is_revoked: bool,
    /// The hash of its token, if it is readable, and no other row has the id or the hash.
    pub token: Option<LegacyHash>,
    pub reason: Reason,
}

/// A text from the database as it may be shown on a terminal: without control characters, not
/// too long, and without what looks like a token.
pub fn shown(text: &str) -> String {
    if may_contain_token(text) {
        return "(hidden: it may be a token)".to_owned();
    }
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.trim().chars().take(MAX_SHOWN).map(plain).collect()
}
