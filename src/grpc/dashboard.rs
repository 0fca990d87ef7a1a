//! The API clients of one owner, as HitKeep's dashboard manages them over HTTP: on behalf
//! of a person, who sees their own, or those of a team that they manage.

use http::Extensions;

use super::{
    Management,
    context::provenance,
    error::ApiError,
    management::{self, Loaded},
};
use crate::{
    domain::{
        access::{Facts, Owner},
        audit::{Action, Actor},
        client::{ApiClient, Draft, Replaced, Replacement, Rotation, check_listable},
        id::{ClientId, SiteId},
        refusal::Refusal,
        token::Token,
    },
    store::{
        Committed, Snapshot, Transaction,
        clients::{ClientCursor, ClientFilter, Listing},
    },
};

/// How many clients are read at a time.
const PAGE_SIZE: u16 = 500;

/// Whose API clients a request is about, and on whose behalf.
#[derive(Debug)]
pub(crate) struct OwnerScope {
    /// The request's extensions, with its caller, id and deadline.
    pub(crate) extensions: Extensions,
    /// The person.
    pub(crate) actor: Actor,
    /// The person, or a team.
    pub(crate) owner: Owner,
}

impl OwnerScope {
    /// Refuses an actor that may not manage the team's clients in any way, before any
    /// client is looked for. A person's own clients need no such check.
    fn require_access(&self, facts: &Facts) -> Result<(), Refusal> {
        match self.owner {
            Owner::User(_) => Ok(()),
            Owner::Team(_) => check_listable(facts),
        }
    }

    /// Loads a client of the owner that the actor may see, with the facts about all sites
    /// that it has grants for and all that the request names.
    async fn load(
        &self,
        tx: &mut Transaction,
        id: ClientId,
        named: &[SiteId],
    ) -> Result<Loaded, ApiError> {
        let found = tx.find_client(id).await?;
        // The id of another owner's client is as unknown here as one that does not exist.
        let client = found.filter(|client| client.delegated.owner() == self.owner);
        let carried = client
            .iter()
            .flat_map(|client| client.delegated.grants().keys());
        let sites: Vec<SiteId> = carried.chain(named).copied().collect();
        let facts = tx.facts(self.actor.user, self.owner, &sites).await?;
        self.require_access(&facts)?;
        let client = client.ok_or(Refusal::NotFound)?;
        ApiClient::require_visible(&facts)?;
        Ok(Loaded { client, facts })
    }
}

impl Management {
    /// All clients of the owner, newest first, those that are revoked or expired included.
    ///
    /// # Errors
    /// If the actor may not list them.
    pub(crate) async fn list_clients_of(
        &self,
        scope: &OwnerScope,
    ) -> Result<Vec<ApiClient>, ApiError> {
        provenance(&scope.extensions, Some(scope.actor.clone()))?;
        let body = async |snapshot: &mut Snapshot| {
            let facts = snapshot.facts(scope.actor.user, scope.owner).await?;
            check_listable(&facts)?;
            let mut clients: Vec<ApiClient> = Vec::new();
            loop {
                let after = clients.last().map(|last| ClientCursor {
                    create_time: last.create_time,
                    id: last.id,
                });
                let listing = Listing {
                    owner: Some(scope.owner),
                    filter: ClientFilter::default(),
                    include_inactive: true,
                    after,
                    limit: PAGE_SIZE,
                };
                let page = snapshot.page_clients(listing).await?;
                let is_last = page.len() < usize::from(PAGE_SIZE);
                clients.extend(page.into_iter().map(|listed| listed.client));
                if is_last {
                    return Ok::<_, ApiError>(clients);
                }
            }
        };
        self.store.read(body).await
    }

    /// Creates a client of the owner.
    ///
    /// # Errors
    /// If the actor may not create or delegate it, or the owner has too many.
    pub(crate) async fn create_client_of(
        &self,
        scope: &OwnerScope,
        draft: Draft,
    ) -> Result<(ApiClient, Token), ApiError> {
        let provenance = provenance(&scope.extensions, Some(scope.actor.clone()))?;
        let limit = self.options.max_clients_per_owner;
        let body = async |tx: &mut Transaction| {
            management::create(tx, scope.actor.user, draft.clone(), limit).await
        };
        let Committed {
            value: (view, token),
            ..
        } = self.write(&scope.extensions, &provenance, body).await?;
        Ok((view.client, token))
    }

    /// Replaces all fields of a client that the dashboard shows, and revokes or reactivates
    /// it, in one transaction.
    ///
    /// # Errors
    /// If the client is not the owner's, or the actor may not make one of the changes.
    pub(crate) async fn replace_client_of(
        &self,
        scope: &OwnerScope,
        id: ClientId,
        replacement: Replacement,
    ) -> Result<ApiClient, ApiError> {
        let provenance = provenance(&scope.extensions, Some(scope.actor.clone()))?;
        let named: Vec<SiteId> = replacement.grants.keys().copied().collect();
        let body = async |tx: &mut Transaction| -> Result<_, ApiError> {
            let Loaded { client: old, facts } = scope.load(tx, id, &named).await?;
            let replaced = old.clone().replace(replacement.clone(), &facts, tx.now)?;
            let Replaced { client, events } = replaced;
            for event in &events {
                tx.log_when_committed(past_tense(event.action), id);
            }
            management::write_change(tx, &old, &client, events).await?;
            Ok(client)
        };
        let written = self.write(&scope.extensions, &provenance, body).await?;
        Ok(written.value)
    }

    /// Replaces a client's token. The previous one ends at once.
    ///
    /// # Errors
    /// If the client is not the owner's, is inactive, or carries more than the actor may
    /// delegate.
    pub(crate) async fn rotate_client_of(
        &self,
        scope: &OwnerScope,
        id: ClientId,
    ) -> Result<(ApiClient, Token), ApiError> {
        let provenance = provenance(&scope.extensions, Some(scope.actor.clone()))?;
        let body = async |tx: &mut Transaction| {
            let loaded = scope.load(tx, id, &[]).await?;
            management::rotate(tx, loaded, &Rotation::default()).await
        };
        let Committed {
            value: (view, token),
            ..
        } = self.write(&scope.extensions, &provenance, body).await?;
        Ok((view.client, token))
    }

    /// Deletes a client.
    ///
    /// # Errors
    /// If the client is not the owner's.
    pub(crate) async fn delete_client_of(
        &self,
        scope: &OwnerScope,
        id: ClientId,
    ) -> Result<(), ApiError> {
        let provenance = provenance(&scope.extensions, Some(scope.actor.clone()))?;
        let body = async |tx: &mut Transaction| {
            let loaded = scope.load(tx, id, &[]).await?;
            management::delete(tx, loaded).await
        };
        self.write(&scope.extensions, &provenance, body).await?;
        Ok(())
    }
}

/// The word after the dot of an action: `api_client.revoked` was revoked.
fn past_tense(action: Action) -> &'static str {
    let name = action.as_str();
    name.split_once('.').map_or(name, |(_, done)| done)
}
