//! From rows to the domain's types. A row that no version of the service writes
//! is reported as an inconsistency, never guessed at.

use std::str::FromStr;

use uuid::Uuid;

use super::error::StoreError;
use crate::domain::{
    access::Owner,
    id::{TeamId, UserId},
    role::UnknownWord,
};

/// Reads a word out of a closed set, such as a role.
pub(super) fn word<W: FromStr<Err = UnknownWord>>(text: &str) -> Result<W, StoreError> {
    text.parse()
        .map_err(|unknown| StoreError::Inconsistent(format!("{unknown} {text:?}")))
}

/// Reads an owner out of its two columns.
pub(super) fn owner(user: Option<Uuid>, team: Option<Uuid>) -> Result<Owner, StoreError> {
    match (user, team) {
        (Some(user), None) => Ok(Owner::User(UserId::from_uuid(user))),
        (None, Some(team)) => Ok(Owner::Team(TeamId::from_uuid(team))),
        _ => Err(StoreError::Inconsistent(
            "a row with no owner, or with two".to_owned(),
        )),
    }
}

/// An owner's two columns.
pub(super) fn owner_columns(owner: Owner) -> (Option<Uuid>, Option<Uuid>) {
    match owner {
        Owner::User(user) => (Some(user.uuid()), None),
        Owner::Team(team) => (None, Some(team.uuid())),
    }
}

/// Reads a count.
pub(super) fn count(rows: i64) -> Result<u32, StoreError> {
    u32::try_from(rows).or_else(|_| Err(StoreError::Inconsistent(format!("{rows} rows"))))
}

/// Insists on the number of rows that a statement changed.
pub(super) fn expect_rows(what: &str, changed: usize, expected: usize) -> Result<(), StoreError> {
    if changed == expected {
        return Ok(());
    }
    Err(StoreError::Inconsistent(format!(
        "{what} changed {changed} rows instead of {expected}"
    )))
}
