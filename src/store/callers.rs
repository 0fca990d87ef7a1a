//! Service accounts.

use std::collections::HashMap;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::{
    Snapshot, Store, Transaction,
    connection::Connection,
    error::StoreError,
    schema::{service_account_certificates as certificates, service_accounts},
    types,
};
use crate::domain::{
    Timestamp,
    caller::{CallerName, ServiceAccount},
    certificate::CertificateName,
    id::ServiceAccountId,
    token::{TokenHash, TokenHint},
};

#[derive(Queryable, Selectable)]
#[diesel(table_name = service_accounts, check_for_backend(diesel::pg::Pg))]
struct Row {
    id: Uuid,
    name: String,
    permissions: Vec<String>,
    token_hint: String,
    create_time: Timestamp,
    revoke_time: Option<Timestamp>,
    replaced_token_hash: Option<Vec<u8>>,
    replaced_token_end_time: Option<Timestamp>,
}

/// An account, and the certificate names that are bound to it.
type Found = (Row, Vec<String>);

/// Why a service account was not inserted.
#[derive(Debug, thiserror::Error)]
pub enum InsertAccountError {
    /// Another active account has the name.
    #[error("there is a service account of that name already")]
    NameTaken,
    /// Another active account has one of the certificate names.
    #[error("another service account is known by that certificate name already")]
    CertificateNameTaken,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl super::IsCollision for InsertAccountError {
    fn is_collision(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_collision())
    }
}

impl Store {
    /// Finds the active account of a token: its newest one, or the one before during its
    /// overlap.
    pub async fn find_caller(
        &self,
        token: TokenHash,
    ) -> Result<Option<ServiceAccount>, StoreError> {
        let now = self.clock().now();
        let find = async |connection: &mut Connection| find_by_token(connection, token, now).await;
        let (lease, found) = self.start("find_caller", find).await?;
        lease.finish();
        found.map(into_account).transpose()
    }

    /// Finds the active account of the names in a certificate; `None` if they belong to
    /// several accounts.
    pub async fn find_named_caller(
        &self,
        names: &[CertificateName],
    ) -> Result<Option<ServiceAccount>, StoreError> {
        let find = async |connection: &mut Connection| find_by_names(connection, names).await;
        let (lease, found) = self.start("find_named_caller", find).await?;
        lease.finish();
        found.map(into_account).transpose()
    }
}

async fn find_by_token(
    connection: &mut Connection,
    token: TokenHash,
    now: Timestamp,
) -> QueryResult<Option<Found>> {
    let row: Option<Row> = service_accounts::table
        .filter(of_token(&token.0, now))
        .filter(service_accounts::revoke_time.is_null())
        .select(Row::as_select())
        .first(connection)
        .await
        .optional()?;
    with_names(connection, row).await
}

async fn find_by_names(
    connection: &mut Connection,
    names: &[CertificateName],
) -> QueryResult<Option<Found>> {
    let names: Vec<_> = names.iter().map(CertificateName::as_str).collect();
    let mut rows: Vec<Row> = service_accounts::table
        .inner_join(certificates::table)
        .filter(certificates::name.eq_any(&names))
        .filter(service_accounts::revoke_time.is_null())
        .select(Row::as_select())
        .distinct()
        .limit(2)
        .load(connection)
        .await?;
    let only = if rows.len() == 1 { rows.pop() } else { None };
    with_names(connection, only).await
}

/// The accounts that a token with this hash works for at `now`, revoked ones included.
#[diesel::dsl::auto_type(no_type_alias)]
pub(super) fn of_token<'h>(hash: &'h [u8; 32], now: Timestamp) -> _ {
    let hash: &'h [u8] = hash;
    let replaced = service_accounts::replaced_token_hash
        .eq(hash)
        .and(service_accounts::replaced_token_end_time.gt(now));
    service_accounts::token_hash.eq(hash).or(replaced)
}

/// Adds the certificate names of an account.
async fn with_names(connection: &mut Connection, row: Option<Row>) -> QueryResult<Option<Found>> {
    let Some(row) = row else {
        return Ok(None);
    };
    let names = certificates::table
        .filter(certificates::service_account_id.eq(row.id))
        .select(certificates::name)
        .order(certificates::name)
        .load(connection)
        .await?;
    Ok(Some((row, names)))
}

impl Snapshot {
    /// Lists all accounts, including revoked ones, oldest first.
    pub async fn list_accounts(&mut self) -> Result<Vec<ServiceAccount>, StoreError> {
        let rows: Vec<Row> = service_accounts::table
            .select(Row::as_select())
            .order((service_accounts::create_time, service_accounts::id))
            .load(self.connection())
            .await?;
        let bound: Vec<(Uuid, String)> = certificates::table
            .select((certificates::service_account_id, certificates::name))
            .order(certificates::name)
            .load(self.connection())
            .await?;
        let mut names: HashMap<Uuid, Vec<String>> = HashMap::new();
        for (account, name) in bound {
            names.entry(account).or_default().push(name);
        }
        let found = |row: Row| {
            let names = names.remove(&row.id).unwrap_or_default();
            into_account((row, names))
        };
        rows.into_iter().map(found).collect()
    }
}

impl Transaction {
    /// As [`Store::find_caller`], in the order of the writes.
    pub async fn find_caller(
        &mut self,
        token: TokenHash,
    ) -> Result<Option<ServiceAccount>, StoreError> {
        let now = self.now;
        let found = find_by_token(self.connection(), token, now).await?;
        found.map(into_account).transpose()
    }

    /// As [`Store::find_named_caller`], in the order of the writes.
    pub async fn find_named_caller(
        &mut self,
        names: &[CertificateName],
    ) -> Result<Option<ServiceAccount>, StoreError> {
        let found = find_by_names(self.connection(), names).await?;
        found.map(into_account).transpose()
    }

    /// Finds the active account of that name.
    pub async fn find_account(
        &mut self,
        name: &CallerName,
    ) -> Result<Option<ServiceAccount>, StoreError> {
        let row: Option<Row> = service_accounts::table
            .filter(service_accounts::name.eq(name.as_str()))
            .filter(service_accounts::revoke_time.is_null())
            .select(Row::as_select())
            .first(self.connection())
            .await
            .optional()?;
        let found = with_names(self.connection(), row).await?;
        found.map(into_account).transpose()
    }

    pub async fn insert_account(
        &mut self,
        account: &ServiceAccount,
        token: &TokenHash,
    ) -> Result<(), InsertAccountError> {
        let permissions: Vec<_> = account.permissions.iter().map(|p| p.as_str()).collect();
        let inserted = diesel::insert_into(service_accounts::table)
            .values((
                service_accounts::id.eq(account.id.uuid()),
                service_accounts::name.eq(account.name.as_str()),
                service_accounts::permissions.eq(permissions),
                service_accounts::token_hash.eq(&token.0[..]),
                service_accounts::token_hint.eq(&account.token_hint.0),
                service_accounts::create_time.eq(account.create_time),
            ))
            .execute(self.connection())
            .await;
        match inserted {
            Ok(rows) => types::expect_rows("inserting a service account", rows, 1)?,
            Err(error) if StoreError::violated(&error) == Some("service_accounts_name_key") => {
                return Err(InsertAccountError::NameTaken);
            }
            Err(error) => return Err(StoreError::from(error).into()),
        }
        let names = account.certificate_names.iter().map(|name| {
            (
                certificates::name.eq(name.as_str()),
                certificates::service_account_id.eq(account.id.uuid()),
            )
        });
        let inserted = diesel::insert_into(certificates::table)
            .values(names.collect::<Vec<_>>())
            .execute(self.connection())
            .await;
        match inserted {
            Ok(rows) => {
                let expected = account.certificate_names.len();
                Ok(types::expect_rows("naming certificates", rows, expected)?)
            }
            Err(error)
                if StoreError::violated(&error) == Some("service_account_certificates_pkey") =>
            {
                Err(InsertAccountError::CertificateNameTaken)
            }
            Err(error) => Err(StoreError::from(error).into()),
        }
    }

    /// The hash of an account's newest token.
    pub async fn account_token(&mut self, id: ServiceAccountId) -> Result<TokenHash, StoreError> {
        let hash: Vec<u8> = service_accounts::table
            .find(id.uuid())
            .select(service_accounts::token_hash)
            .get_result(self.connection())
            .await?;
        types::hash(&hash).map(TokenHash)
    }

    /// Writes the new token of an account, and what becomes of the one before.
    pub async fn rotate_account(
        &mut self,
        account: &ServiceAccount,
        token: &TokenHash,
    ) -> Result<(), StoreError> {
        let replaced = account.replaced_token;
        let row = service_accounts::table.find(account.id.uuid());
        let rows = diesel::update(row)
            .set((
                service_accounts::replaced_token_hash
                    .eq(replaced.as_ref().map(|replaced| &replaced.hash.0[..])),
                service_accounts::replaced_token_end_time
                    .eq(replaced.as_ref().map(|replaced| replaced.ends)),
                service_accounts::token_hash.eq(&token.0[..]),
                service_accounts::token_hint.eq(&account.token_hint.0),
            ))
            .execute(self.connection())
            .await?;
        types::expect_rows("rotating a service account", rows, 1)
    }

    /// Writes the revocation of an account. A trigger releases its certificate names.
    pub async fn revoke_account(&mut self, account: &ServiceAccount) -> Result<(), StoreError> {
        let rows = diesel::update(service_accounts::table.find(account.id.uuid()))
            .set(service_accounts::revoke_time.eq(account.revoke_time))
            .execute(self.connection())
            .await?;
        types::expect_rows("revoking a service account", rows, 1)
    }
}

fn into_account((row, names): Found) -> Result<ServiceAccount, StoreError> {
    let bad = |_| StoreError::Inconsistent(format!("the name of account {}", row.id));
    let replaced_token = types::replaced_token(
        row.replaced_token_hash.as_deref(),
        row.replaced_token_end_time,
    )?;
    Ok(ServiceAccount {
        id: ServiceAccountId::from_uuid(row.id),
        name: CallerName::parse(&row.name).map_err(bad)?,
        permissions: row
            .permissions
            .iter()
            .map(|permission| types::word(permission))
            .collect::<Result<_, _>>()?,
        certificate_names: types::certificate_names(names.iter().map(String::as_str))?,
        token_hint: TokenHint(row.token_hint),
        create_time: row.create_time,
        revoke_time: row.revoke_time,
        replaced_token,
    })
}
