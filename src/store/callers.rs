//! Service accounts.

use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::{Snapshot, Store, Transaction, error::StoreError, schema::service_accounts, types};
use crate::domain::{
    Timestamp,
    caller::{CallerName, ServiceAccount},
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
}

/// The name belongs to another account that is not revoked.
#[derive(Debug, thiserror::Error)]
pub enum InsertAccountError {
    /// The name is taken.
    #[error("there is a service account of that name already")]
    NameTaken,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl super::IsCollision for InsertAccountError {
    fn is_collision(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_collision())
    }
}

impl Store {
    /// Finds the account, not revoked, that a token belongs to.
    pub async fn find_caller(
        &self,
        token: TokenHash,
    ) -> Result<Option<ServiceAccount>, StoreError> {
        let find = async |connection: &mut AsyncPgConnection| {
            service_accounts::table
                .filter(service_accounts::token_hash.eq(&token.0[..]))
                .filter(service_accounts::revoke_time.is_null())
                .select(Row::as_select())
                .first(connection)
                .await
                .optional()
        };
        let (lease, row): (_, Option<Row>) = self.start("find_caller", find).await?;
        lease.finish();
        row.map(Row::into_account).transpose()
    }
}

impl Snapshot {
    /// Lists all accounts, revoked ones included, in the order of their making.
    pub async fn list_accounts(&mut self) -> Result<Vec<ServiceAccount>, StoreError> {
        let rows: Vec<Row> = service_accounts::table
            .select(Row::as_select())
            .order((service_accounts::create_time, service_accounts::id))
            .load(self.connection())
            .await?;
        rows.into_iter().map(Row::into_account).collect()
    }
}

impl Transaction {
    /// Finds the account of that name that is not revoked.
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
        row.map(Row::into_account).transpose()
    }

    /// Writes a new account.
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
            Ok(rows) => Ok(types::expect_rows("inserting a service account", rows, 1)?),
            Err(error) if StoreError::violated(&error) == Some("service_accounts_name_key") => {
                Err(InsertAccountError::NameTaken)
            }
            Err(error) => Err(StoreError::from(error).into()),
        }
    }

    /// Writes that an account was revoked.
    pub async fn revoke_account(&mut self, account: &ServiceAccount) -> Result<(), StoreError> {
        let rows = diesel::update(service_accounts::table.find(account.id.uuid()))
            .set(service_accounts::revoke_time.eq(account.revoke_time))
            .execute(self.connection())
            .await?;
        types::expect_rows("revoking a service account", rows, 1)
    }
}

impl Row {
    fn into_account(self) -> Result<ServiceAccount, StoreError> {
        let bad = |_| StoreError::Inconsistent(format!("the name of account {}", self.id));
        Ok(ServiceAccount {
            id: ServiceAccountId::from_uuid(self.id),
            name: CallerName::parse(&self.name).map_err(bad)?,
            permissions: self
                .permissions
                .iter()
                .map(|permission| types::word(permission))
                .collect::<Result<_, _>>()?,
            token_hint: TokenHint(self.token_hint),
            create_time: self.create_time,
            revoke_time: self.revoke_time,
        })
    }
}
