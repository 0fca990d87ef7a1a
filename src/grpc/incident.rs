//! What answers an incident: a leaked token is ended, and many clients are revoked at once.

use super::{
    Management,
    context::provenance,
    convert::incident::{LeakReport, LeakedHash, RevokeAll},
    error::ApiError,
    management::{ClientView, write_change},
};
use crate::{
    domain::{
        access::Owner,
        audit::Actor,
        client::{
            LeakCircumstances, MAX_REVOKED_AT_ONCE, ReportedLeak, check_all_listable,
            check_listable, check_reporter, check_revocable,
        },
        id::{ClientId, UserId},
    },
    pb,
    store::{Committed, Transaction},
};

/// The outcome of a report of a known token.
struct Ended {
    view: ClientView,
    was_live: bool,
    revoked: bool,
}

impl Management {
    /// Ends a leaked token, and says whose it is.
    ///
    /// # Errors
    /// If it is a service account's, or if an actor is stated who may do nothing.
    pub(super) async fn end_leaked(
        &self,
        extensions: &tonic::Extensions,
        report: LeakReport,
    ) -> Result<pb::ReportLeakResponse, ApiError> {
        let provenance = provenance(extensions, report.actor.clone())?;
        let body = async |tx: &mut Transaction| self.end(tx, &report).await;
        let Committed {
            value: ended,
            revision,
        } = self.write(extensions, &provenance, body).await?;
        let Some(ended) = ended else {
            return Ok(pb::ReportLeakResponse {
                revision: revision.0,
                ..pb::ReportLeakResponse::default()
            });
        };
        Ok(pb::ReportLeakResponse {
            known: true,
            was_live: ended.was_live,
            revoked: ended.revoked,
            api_client: Some(ended.view.to_pb()),
            revision: revision.0,
        })
    }

    async fn end(
        &self,
        tx: &mut Transaction,
        report: &LeakReport,
    ) -> Result<Option<Ended>, ApiError> {
        // Before the token is looked up, so that the refusal says nothing of it.
        if let Some(Actor { user, .. }) = report.actor {
            let facts = tx.facts(user, Owner::User(user), &[]).await?;
            check_reporter(&facts.actor)?;
        }
        let Some(leaked) = report.leaked else {
            return Ok(None);
        };
        let bytes = leaked.bytes();
        if let LeakedHash::Account(_) | LeakedHash::Any(_) = leaked
            && let Some(account) = tx.find_leaked_account(bytes).await?
        {
            return Err(ApiError::ServiceAccountToken(account));
        }
        let Some((id, token)) = tx.find_leaked_token(bytes, leaked.scheme()).await? else {
            return Ok(None);
        };
        // A foreign key keeps a token from outliving its client.
        let client = tx.find_client(id).await?;
        let client = client.ok_or(ApiError::Defect("a token without a client"))?;
        let owner = client.delegated.owner();
        // A holder of the token may end it: only the owner's state counts.
        let facts = tx.facts(owner_as_actor(owner), owner, &[]).await?;
        let circumstances = LeakCircumstances {
            owner_can_act: facts.owner_can_act(),
            legacy_tokens_until: self.options.legacy_tokens_until,
            now: tx.now,
        };
        let ReportedLeak {
            client: new,
            was_live,
            revocation,
            leak,
        } = client
            .clone()
            .report_leak(&token, &report.origin, circumstances);
        let revoked = revocation.is_some();
        if revoked || !tx.has_recorded(&leak).await? {
            tx.record(leak).await?;
        }
        write_change(tx, &client, &new, revocation).await?;
        tx.log_when_committed(log_text(was_live, revoked), id);
        Ok(Some(Ended {
            view: ClientView::new(new, &facts, tx.now),
            was_live,
            revoked,
        }))
    }

    /// Revokes all clients that a selection lets through.
    ///
    /// # Errors
    /// If the actor may not revoke each of them, or if they are too many; then none is.
    pub(super) async fn revoke_all(
        &self,
        extensions: &tonic::Extensions,
        command: RevokeAll,
    ) -> Result<pb::RevokeApiClientsResponse, ApiError> {
        let RevokeAll {
            actor,
            selection,
            validate_only,
        } = command;
        let provenance = provenance(extensions, Some(actor.clone()))?;
        let body = async |tx: &mut Transaction| -> Result<Vec<ClientId>, ApiError> {
            let owner = selection.owner.unwrap_or(Owner::User(actor.user));
            let facts = tx.facts(actor.user, owner, &[]).await?;
            match selection.owner {
                Some(_) => check_listable(&facts)?,
                None => check_all_listable(&facts.actor)?,
            }
            // One more, which shows whether there are too many.
            let found = tx
                .find_revocable(selection, MAX_REVOKED_AT_ONCE + 1)
                .await?;
            check_revocable(found.len())?;
            let ids: Vec<_> = found.iter().map(|client| client.id).collect();
            if !validate_only && !found.is_empty() {
                for id in &ids {
                    tx.log_when_committed("revoked", *id);
                }
                tx.revoke_clients(found).await?;
            }
            Ok(ids)
        };
        let Committed {
            value: ids,
            revision,
        } = self.write(extensions, &provenance, body).await?;
        Ok(pb::RevokeApiClientsResponse {
            revoked_count: i32::try_from(ids.len()).unwrap_or(i32::MAX),
            ids: ids.iter().map(ClientId::to_string).collect(),
            revision: revision.0,
        })
    }
}

/// A user to load an owner's facts on behalf of, if no actor's rights count.
fn owner_as_actor(owner: Owner) -> UserId {
    match owner {
        Owner::User(user) => user,
        Owner::Team(_) => UserId::from_uuid(uuid::Uuid::nil()),
    }
}

/// What the log says of a leak, before `API client` and the id. An operator who restores a backup
/// searches for the wording of a revocation.
const fn log_text(was_live: bool, revoked: bool) -> &'static str {
    match (was_live, revoked) {
        (true, true) => "a leaked token worked until now: revoked",
        (false, true) => "a leaked token did not work at present: revoked",
        (_, false) => "a leaked token had ended before: changed nothing of",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `docs/OPERATIONS.md` says of what a backup lacks.
    #[test]
    fn a_revocation_is_found_in_the_log_like_any_other() {
        for was_live in [false, true] {
            for revoked in [false, true] {
                let line = format!("{} API client 1", log_text(was_live, revoked));
                assert_eq!(line.contains("revoked API client 1"), revoked, "{line}");
            }
        }
    }
}
