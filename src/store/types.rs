//! Converts columns to the domain's types. A value that no version of the service writes is
//! an inconsistency, never a default.

use std::str::FromStr;

use uuid::Uuid;

use super::error::StoreError;
use crate::domain::{
    Timestamp,
    access::{Owner, SiteStanding},
    caller::ReplacedToken,
    certificate::CertificateName,
    id::{TeamId, UserId},
    role::UnknownName,
    source::{AllowedSources, BadSources, Cidr},
    token::TokenHash,
};

/// Parses a word of a closed set, such as a role.
pub(super) fn word<W: FromStr<Err = UnknownName>>(text: &str) -> Result<W, StoreError> {
    text.parse()
        .map_err(|unknown| StoreError::Inconsistent(format!("{unknown} {text:?}")))
}

/// Parses the certificate names of an account.
pub(super) fn certificate_names<'n>(
    names: impl IntoIterator<Item = &'n str>,
) -> Result<Vec<CertificateName>, StoreError> {
    let read = |name: &str| {
        let name: Result<CertificateName, _> = name.parse();
        name.map_err(|bad| StoreError::Inconsistent(format!("a certificate's name {bad}")))
    };
    names.into_iter().map(read).collect()
}

pub(super) fn hash(stored: &[u8]) -> Result<[u8; 32], StoreError> {
    let length = |_| StoreError::Inconsistent(format!("a hash of {} bytes", stored.len()));
    stored.try_into().map_err(length)
}

/// Converts the two columns of a service account's replaced token, both or none of which are
/// set.
pub(super) fn replaced_token(
    hash: Option<&[u8]>,
    ends: Option<Timestamp>,
) -> Result<Option<ReplacedToken>, StoreError> {
    match (hash, ends) {
        (None, None) => Ok(None),
        (Some(stored), Some(ends)) => Ok(Some(ReplacedToken {
            hash: TokenHash(self::hash(stored)?),
            ends,
        })),
        _ => Err(StoreError::Inconsistent(
            "a replaced token without a hash, or without an end".to_owned(),
        )),
    }
}

/// Parses the ranges of addresses of a client.
pub(super) fn allowed_sources<'r>(
    ranges: impl IntoIterator<Item = &'r str>,
) -> Result<AllowedSources, StoreError> {
    let read = |range: &str| {
        let read: Result<Cidr, _> = range.parse();
        read.map_err(|bad| StoreError::Inconsistent(format!("the range {range:?}, which {bad}")))
    };
    let ranges = ranges.into_iter().map(read).collect::<Result<_, _>>()?;
    let bad = |bad: BadSources| StoreError::Inconsistent(format!("a client's ranges: it {bad}"));
    AllowedSources::new(ranges).map_err(bad)
}

/// Converts an owner's two columns, of which exactly one must be set.
pub(super) fn owner(user: Option<Uuid>, team: Option<Uuid>) -> Result<Owner, StoreError> {
    match (user, team) {
        (Some(user), None) => Ok(Owner::User(UserId::from_uuid(user))),
        (None, Some(team)) => Ok(Owner::Team(TeamId::from_uuid(team))),
        _ => Err(StoreError::Inconsistent(
            "a row with no owner, or with two".to_owned(),
        )),
    }
}

pub(super) fn owner_columns(owner: Owner) -> (Option<Uuid>, Option<Uuid>) {
    match owner {
        Owner::User(user) => (Some(user.uuid()), None),
        Owner::Team(team) => (None, Some(team.uuid())),
    }
}

/// The columns of a site's standing.
pub(super) struct StandingColumns<'r> {
    pub(super) team: Uuid,
    pub(super) team_archived: bool,
    pub(super) team_role: Option<&'r str>,
    pub(super) site_role: Option<&'r str>,
}

impl StandingColumns<'_> {
    pub(super) fn read(self) -> Result<SiteStanding, StoreError> {
        Ok(SiteStanding {
            team: TeamId::from_uuid(self.team),
            team_archived: self.team_archived,
            team_role: self.team_role.map(word).transpose()?,
            site_role: self.site_role.map(word).transpose()?,
        })
    }
}

pub(super) fn count(rows: i64) -> Result<u32, StoreError> {
    u32::try_from(rows)
        .ok()
        .ok_or_else(|| StoreError::Inconsistent(format!("{rows} rows")))
}

/// Requires that a statement changed the expected number of rows.
pub(super) fn expect_rows(what: &str, changed: usize, expected: usize) -> Result<(), StoreError> {
    if changed == expected {
        return Ok(());
    }
    Err(StoreError::Inconsistent(format!(
        "{what} changed {changed} rows instead of {expected}"
    )))
}
