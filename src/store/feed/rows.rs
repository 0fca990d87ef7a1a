//! The queries of the feed, and their rows as the domain's types. Queries for some clients,
//! by their ids, join the tables that a grant depends on; a full load reads each table.

use std::str::FromStr;

use tokio_postgres::Row;
use uuid::Uuid;

use super::{Accounts, Sink};
use crate::{
    domain::{
        Timestamp,
        access::{CurrentOwner, Owner, SiteStanding, UserStanding},
        caller::{CallerName, ServiceAccount},
        client::{Activation, Expiry},
        id::{ClientId, ServiceAccountId, SiteId},
        introspection::{Restrictions, TokenStanding},
        role::{InstanceRole, SiteRole, UnknownName},
        token::{StoredHash, TokenHash, TokenHint},
    },
    store::{
        error::StoreError,
        types::{self, StandingColumns},
    },
};

macro_rules! clients {
    () => {
        "SELECT client.id, client.owner_user_id, client.owner_team_id, client.name,
                client.instance_role, client.expire_time, client.revoke_time IS NOT NULL,
                owner_user.instance_role, owner_user.disabled, owner_team.archived,
                nullif(client.allowed_cidrs, '{}'), client.not_before_time
         FROM api_clients AS client
         LEFT JOIN users AS owner_user ON owner_user.id = client.owner_user_id
         LEFT JOIN teams AS owner_team ON owner_team.id = client.owner_team_id"
    };
}
macro_rules! tokens {
    () => {
        "SELECT client_id, hash, end_time, scheme FROM api_client_tokens"
    };
}

pub(super) const ALL_CLIENTS: &str = clients!();
pub(super) const ALL_GRANTS: &str = "SELECT client_id, site_id, role FROM api_client_grants";
pub(super) const ALL_TOKENS: &str = tokens!();
pub(super) const CHANGED_CLIENTS: &str = concat!(clients!(), " WHERE client.id = ANY ($1)");
pub(super) const CHANGED_GRANTS: &str = "
    SELECT granted.client_id, granted.site_id, granted.role, site.team_id,
           site_team.archived, team_members.role, site_members.role
    FROM api_client_grants AS granted
    JOIN api_clients AS client ON client.id = granted.client_id
    JOIN sites AS site ON site.id = granted.site_id
    JOIN teams AS site_team ON site_team.id = site.team_id
    LEFT JOIN team_members ON team_members.team_id = site.team_id
        AND team_members.user_id = client.owner_user_id
    LEFT JOIN site_members ON site_members.site_id = site.id
        AND site_members.user_id = client.owner_user_id
    WHERE granted.client_id = ANY ($1)";
pub(super) const SITES: &str = "
    SELECT sites.id, team_id, archived FROM sites JOIN teams ON teams.id = team_id";
pub(super) const TEAM_MEMBERS: &str = "SELECT team_id, user_id, role FROM team_members";
pub(super) const SITE_MEMBERS: &str = "SELECT site_id, user_id, role FROM site_members";
pub(super) const CHANGED_TOKENS: &str = concat!(tokens!(), " WHERE client_id = ANY ($1)");
pub(super) const ACCOUNTS: &str =
    "SELECT token_hash, id, name, permissions, token_hint, create_time,
            ARRAY(SELECT bound.name FROM service_account_certificates AS bound
                  WHERE service_account_id = service_accounts.id ORDER BY bound.name),
            replaced_token_hash, replaced_token_end_time
     FROM service_accounts WHERE revoke_time IS NULL";

/// A client, with the present state of its owner.
#[derive(Clone, Debug)]
pub struct ClientRow {
    pub client: ClientId,
    /// The owner, with its present roles.
    pub owner: CurrentOwner,
    pub name: Box<str>,
    /// The delegated instance role.
    pub instance_role: InstanceRole,
    pub expiry: Expiry,
    /// From where and from when on the client's tokens work, if that is restricted.
    pub restrictions: Option<Box<Restrictions>>,
    pub revoked: bool,
}

/// A grant, with the site's standing towards the client's owner.
#[derive(Clone, Copy, Debug)]
pub struct GrantRow {
    pub client: ClientId,
    pub site: SiteId,
    pub granted: SiteRole,
    /// The roles of the client's owner on the site and in its team.
    pub standing: SiteStanding,
}

/// A token of a client.
#[derive(Clone, Copy, Debug)]
pub struct TokenRow {
    pub client: ClientId,
    pub hash: StoredHash,
    /// Whether the token is current, or replaced with an overlap.
    pub standing: TokenStanding,
}

impl ClientRow {
    pub(super) fn deliver(row: &Row, sink: &mut dyn Sink) -> Result<(), StoreError> {
        if let Some(read) = readable(row, Self::read(row), sink)? {
            sink.client(read);
        }
        Ok(())
    }

    fn read(row: &Row) -> Result<Self, StoreError> {
        let client = ClientId::from_uuid(row.try_get(0)?);
        let missing = || StoreError::Inconsistent(format!("no owner for client {client}"));
        let instance_role: InstanceRole = types::word(row.try_get(4)?)?;
        let owner = match types::owner(row.try_get(1)?, row.try_get(2)?)? {
            Owner::User(id) => {
                let role: &str = row.try_get::<_, Option<_>>(7)?.ok_or_else(missing)?;
                let user = UserStanding {
                    instance_role: types::word(role)?,
                    disabled: row.try_get::<_, Option<_>>(8)?.ok_or_else(missing)?,
                };
                CurrentOwner::User(id, user)
            }
            Owner::Team(id) => CurrentOwner::Team {
                id,
                archived: row.try_get::<_, Option<_>>(9)?.ok_or_else(missing)?,
            },
        };
        Ok(Self {
            client,
            owner,
            name: row.try_get::<_, &str>(3)?.into(),
            instance_role,
            expiry: Expiry::from(row.try_get::<_, Option<Timestamp>>(5)?),
            restrictions: restrictions(row)?,
            revoked: row.try_get(6)?,
        })
    }
}

/// The restrictions of a client. Most have none, so their rows have nothing to be read.
fn restrictions(row: &Row) -> Result<Option<Box<Restrictions>>, StoreError> {
    let ranges: Option<Vec<&str>> = row.try_get(10)?;
    let starts: Option<Timestamp> = row.try_get(11)?;
    if ranges.is_none() && starts.is_none() {
        return Ok(None);
    }
    let sources = types::allowed_sources(ranges.unwrap_or_default())?;
    Ok(Restrictions::of(sources, Activation::from(starts)))
}

impl GrantRow {
    pub(super) fn deliver(row: &Row, sink: &mut dyn Sink) -> Result<(), StoreError> {
        if let Some(read) = readable(row, Self::read(row), sink)? {
            sink.grant(read);
        }
        Ok(())
    }

    fn read(row: &Row) -> Result<Self, StoreError> {
        let columns = StandingColumns {
            team: row.try_get(3)?,
            team_archived: row.try_get(4)?,
            team_role: row.try_get(5)?,
            site_role: row.try_get(6)?,
        };
        Ok(Self {
            client: ClientId::from_uuid(row.try_get(0)?),
            site: SiteId::from_uuid(row.try_get(1)?),
            granted: types::word(row.try_get(2)?)?,
            standing: columns.read()?,
        })
    }
}

impl TokenRow {
    pub(super) fn deliver(row: &Row, sink: &mut dyn Sink) -> Result<(), StoreError> {
        if let Some(read) = readable(row, Self::read(row), sink)? {
            sink.token(read);
        }
        Ok(())
    }

    fn read(row: &Row) -> Result<Self, StoreError> {
        let end: Option<Timestamp> = row.try_get(2)?;
        Ok(Self {
            client: ClientId::from_uuid(row.try_get(0)?),
            hash: StoredHash::new(types::word(row.try_get(3)?)?, types::hash(row.try_get(1)?)?),
            standing: end.map_or(TokenStanding::Current, TokenStanding::ReplacedUntil),
        })
    }
}

/// Parses a role; `None` if it is unknown.
pub(super) fn role<R: FromStr<Err = UnknownName>>(
    row: &Row,
    column: usize,
) -> Result<Option<R>, StoreError> {
    match types::word(row.try_get(column)?) {
        Err(error @ StoreError::Inconsistent(_)) => {
            error.log();
            Ok(None)
        }
        read => read.map(Some),
    }
}

/// Unwraps a row of a client, whose id is its first column. A row that no version of the
/// service writes is logged as an error, and makes the client unreadable.
fn readable<T>(
    row: &Row,
    read: Result<T, StoreError>,
    sink: &mut dyn Sink,
) -> Result<Option<T>, StoreError> {
    match read {
        Err(error) if error.is_of_row() => {
            let client = ClientId::from_uuid(row.try_get(0)?);
            tracing::error!(client.id = %client, "API client {client} cannot be read: {error}");
            sink.unreadable(client);
            Ok(None)
        }
        read => read.map(Some),
    }
}

/// Parses service accounts; unreadable ones are logged and skipped.
pub(super) fn accounts(rows: &[Row]) -> Result<Accounts, StoreError> {
    let read = rows.iter().filter_map(|row| match account(row) {
        Err(error) if error.is_of_row() => {
            error.log();
            None
        }
        read => Some(read),
    });
    read.collect()
}

fn account(row: &Row) -> Result<(TokenHash, ServiceAccount), StoreError> {
    let id: Uuid = row.try_get(1)?;
    let bad = |_| StoreError::Inconsistent(format!("the name of account {id}"));
    let permissions: Vec<&str> = row.try_get(3)?;
    let certificate_names: Vec<&str> = row.try_get(6)?;
    let account = ServiceAccount {
        id: ServiceAccountId::from_uuid(id),
        name: CallerName::parse(row.try_get(2)?).map_err(bad)?,
        permissions: permissions
            .into_iter()
            .map(types::word)
            .collect::<Result<_, _>>()?,
        certificate_names: types::certificate_names(certificate_names)?,
        token_hint: TokenHint(row.try_get(4)?),
        create_time: row.try_get(5)?,
        revoke_time: None,
        replaced_token: types::replaced_token(row.try_get(7)?, row.try_get(8)?)?,
    };
    Ok((TokenHash(types::hash(row.try_get(0)?)?), account))
}
