//! `service-account`: creates, lists, rotates and revokes callers. There is no other way to
//! do so.

use std::{
    fmt::Display,
    io::{self, IsTerminal},
    sync::Arc,
};

use serde_json::json;

use super::{Failure, open, print, print_error, print_secret};
use crate::{
    config::{DatabaseArgs, OutputArgs},
    domain::{
        Timestamp,
        audit::Provenance,
        caller::{CallerName, CallerPermission, ServiceAccount},
        certificate::CertificateName,
        client::Overlap,
        token::Token,
    },
    store::{
        IsCollision, Snapshot, Store, Transaction, callers::InsertAccountError, error::StoreError,
    },
};

/// Why an account could not be changed.
#[derive(Debug, thiserror::Error)]
enum ChangeError {
    #[error("there is no service account of that name, or it is revoked already")]
    Unknown,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl IsCollision for ChangeError {
    fn is_collision(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_collision())
    }
}

pub(super) struct NewAccount<'a> {
    pub(super) name: &'a CallerName,
    pub(super) allow: &'a [CallerPermission],
    pub(super) certificate_names: &'a [CertificateName],
}

pub(super) async fn create(
    account: &NewAccount<'_>,
    database: &DatabaseArgs,
    output: OutputArgs,
) -> Result<(), Failure> {
    let store = ready(database).await?;
    let body = async |tx: &mut Transaction| -> Result<(ServiceAccount, Token), InsertAccountError> {
        let name = account.name.clone();
        let made = ServiceAccount::create(name, account.allow, tx.now, &*tx.entropy())
            .with_certificate_names(account.certificate_names);
        tx.insert_account(&made.account, &made.token.hash()).await?;
        tx.record(made.event).await?;
        Ok((made.account, made.token))
    };
    let made = store
        .proven_transaction(&Arc::new(Provenance::default()), body)
        .await?;
    let (account, token) = made.value;
    let name = account.name.as_str();
    let remedy = format_args!(
        "the service account {name} was created; revoke it with `hitkeep-auth service-account \
         revoke {name}`, and create it again"
    );
    print_token(&account, &token, output, remedy)
}

pub(super) async fn rotate(
    name: &CallerName,
    overlap: Overlap,
    database: &DatabaseArgs,
    output: OutputArgs,
) -> Result<(), Failure> {
    let store = ready(database).await?;
    let body = async |tx: &mut Transaction| -> Result<(ServiceAccount, Token), ChangeError> {
        let account = tx.find_account(name).await?.ok_or(ChangeError::Unknown)?;
        let old = tx.account_token(account.id).await?;
        let rotated = account.rotate(old, overlap, tx.now, &*tx.entropy());
        tx.rotate_account(&rotated.account, &rotated.token.hash())
            .await?;
        tx.record(rotated.event).await?;
        Ok((rotated.account, rotated.token))
    };
    let rotated = store
        .proven_transaction(&Arc::new(Provenance::default()), body)
        .await?;
    let (account, token) = rotated.value;
    let name = account.name.as_str();
    let remedy = format_args!(
        "the token of the service account {name} was replaced; rotate it again with \
         `hitkeep-auth service-account rotate {name}`, which gives another one and ends the one \
         before, also if that still worked because of --overlap"
    );
    print_token(&account, &token, output, remedy)?;
    if !output.json
        && let Some(replaced) = account.replaced_token
        && overlap != Overlap::default()
    {
        let ends = replaced.ends.format("%Y-%m-%d %H:%M:%SZ");
        print_error(&format!("The old token of {name} works until {ends}."));
    }
    Ok(())
}

/// Prints a new token, which exists nowhere else.
fn print_token(
    account: &ServiceAccount,
    token: &Token,
    output: OutputArgs,
    remedy: impl Display,
) -> Result<(), Failure> {
    let text = if output.json {
        let mut account = as_json(account);
        account["token"] = token.reveal().into();
        account.to_string()
    } else if io::stdout().is_terminal() {
        format!(
            "{}\n\nThis is the token of {}. It is shown only once: store it now.",
            token.reveal(),
            account.name.as_str(),
        )
    } else {
        // The token alone, for a script that stores the output in a variable.
        token.reveal()
    };
    print_secret(&text, remedy)
}

pub(super) async fn list(database: &DatabaseArgs, output: OutputArgs) -> Result<(), Failure> {
    let store = ready(database).await?;
    let body = async |snapshot: &mut Snapshot| snapshot.list_accounts().await;
    let accounts = store.read(body).await?;
    if output.json {
        let accounts: Vec<_> = accounts.iter().map(as_json).collect();
        return print(&json!({ "service_accounts": accounts }).to_string());
    }
    if accounts.is_empty() {
        return print("There are no service accounts.");
    }
    let mut lines = vec![line([
        "NAME",
        "PERMISSIONS",
        "TOKEN",
        "CREATED",
        "REVOKED",
        "CERTIFICATES",
    ])];
    lines.extend(accounts.iter().map(|account| {
        line([
            account.name.as_str(),
            &permissions(account).join(","),
            &account.token_hint.0,
            &minutes(account.create_time),
            &account.revoke_time.map(minutes).unwrap_or_default(),
            &certificate_names(account).join(","),
        ])
    }));
    print(&lines.join("\n"))
}

pub(super) async fn revoke(
    name: &CallerName,
    database: &DatabaseArgs,
    output: OutputArgs,
) -> Result<(), Failure> {
    let store = ready(database).await?;
    let body = async |tx: &mut Transaction| -> Result<ServiceAccount, ChangeError> {
        let account = tx.find_account(name).await?.ok_or(ChangeError::Unknown)?;
        let (account, event) = account.revoke(tx.now);
        tx.revoke_account(&account).await?;
        tx.record(event).await?;
        Ok(account)
    };
    let account = store
        .proven_transaction(&Arc::new(Provenance::default()), body)
        .await?
        .value;
    if output.json {
        return print(&as_json(&account).to_string());
    }
    print(&format!("Revoked {}.", name.as_str()))
}

/// A store on a database that has all migrations.
pub(super) async fn ready(database: &DatabaseArgs) -> Result<Store, Failure> {
    let store = open(&database.store()?);
    // So that a read is of the primary too, if there is one: a change requires it.
    if let Err(error) = store.find_primary().await {
        tracing::debug!(%error, "no primary was found");
    }
    super::serve::check_migrations(&store).await?;
    Ok(store)
}

fn permissions(account: &ServiceAccount) -> Vec<&'static str> {
    account
        .permissions
        .iter()
        .map(|permission| permission.as_str())
        .collect()
}

fn certificate_names(account: &ServiceAccount) -> Vec<&str> {
    let names = account.certificate_names.iter();
    names.map(CertificateName::as_str).collect()
}

fn as_json(account: &ServiceAccount) -> serde_json::Value {
    json!({
        "id": account.id.to_string(),
        "name": account.name.as_str(),
        "permissions": permissions(account),
        "certificate_names": certificate_names(account),
        "token_hint": account.token_hint.0,
        "create_time": account.create_time.to_rfc3339(),
        "revoke_time": account.revoke_time.map(|time| time.to_rfc3339()),
        "replaced_token_end_time": account.replaced_token.map(|token| token.ends.to_rfc3339()),
    })
}

fn line([name, permissions, token, created, revoked, certificates]: [&str; 6]) -> String {
    format!("{name:<24} {permissions:<40} {token:<12} {created:<17} {revoked:<17} {certificates}")
        .trim_end()
        .to_owned()
}

fn minutes(time: Timestamp) -> String {
    time.format("%Y-%m-%d %H:%MZ").to_string()
}
