//! What is done to API clients in a transaction, for both who manage them:
//! `ApiClientService`, and HitKeep's dashboard over HTTP.

use super::{
    convert::clients::{self, OnClient},
    error::ApiError,
};
use crate::{
    domain::{
        Timestamp,
        access::Facts,
        audit::Event,
        client::{ApiClient, Draft, Quota, Rotation},
        id::{SiteId, UserId},
        refusal::Refusal,
        token::Token,
    },
    pb,
    store::Transaction,
};

/// A client, and what determines its state.
pub(super) struct ClientView {
    pub(super) client: ApiClient,
    owner_can_act: bool,
    now: Timestamp,
}

impl ClientView {
    pub(super) fn new(client: ApiClient, facts: &Facts, now: Timestamp) -> Self {
        Self {
            client,
            owner_can_act: facts.owner_can_act(),
            now,
        }
    }

    pub(super) fn to_pb(&self) -> pb::ApiClient {
        clients::to_api_client(&self.client, self.owner_can_act, self.now)
    }
}

/// A client, and the facts that determine what the actor may do with it.
pub(super) struct Loaded {
    pub(super) client: ApiClient,
    pub(super) facts: Facts,
}

/// Loads a client that the actor may see, with the facts about all sites that it has grants
/// for and all that the call names.
pub(super) async fn load(
    tx: &mut Transaction,
    OnClient { actor, id }: &OnClient,
    named: &[SiteId],
) -> Result<Loaded, ApiError> {
    let client = tx.find_client(*id).await?.ok_or(Refusal::NotFound)?;
    let carried = client.delegated.grants().keys();
    let sites: Vec<SiteId> = carried.chain(named).copied().collect();
    let facts = tx
        .facts(actor.user, client.delegated.owner(), &sites)
        .await?;
    ApiClient::require_visible(&facts)?;
    Ok(Loaded { client, facts })
}

/// Creates a client with its first token. `limit` is the most that its owner may have.
pub(super) async fn create(
    tx: &mut Transaction,
    actor: UserId,
    draft: Draft,
    limit: u32,
) -> Result<(ClientView, Token), ApiError> {
    let owner = draft.delegated.owner();
    let sites: Vec<SiteId> = draft.delegated.grants().keys().copied().collect();
    let facts = tx.facts(actor, owner, &sites).await?;
    let quota = Quota {
        used: tx.count_clients(owner).await?,
        limit,
    };
    let issued = ApiClient::create(draft, &facts, quota, tx.now, &*tx.entropy())?;
    tx.insert_client(&issued.client, &issued.token.hash())
        .await?;
    tx.record(issued.event).await?;
    tx.log_when_committed("created", issued.client.id);
    let view = ClientView::new(issued.client, &facts, tx.now);
    Ok((view, issued.token))
}

pub(super) async fn rotate(
    tx: &mut Transaction,
    Loaded { client, facts }: Loaded,
    rotation: &Rotation,
) -> Result<(ClientView, Token), ApiError> {
    let rotated = client.rotate(rotation, &facts, tx.now, &*tx.entropy())?;
    let issued = rotated.issued;
    tx.rotate_client(&issued.client, &issued.token.hash(), rotated.old_token_ends)
        .await?;
    tx.record(issued.event).await?;
    tx.log_when_committed("rotated", issued.client.id);
    let view = ClientView::new(issued.client, &facts, tx.now);
    Ok((view, issued.token))
}

pub(super) async fn delete(
    tx: &mut Transaction,
    Loaded { client, facts }: Loaded,
) -> Result<(), ApiError> {
    let id = client.id;
    let event = client.delete(&facts)?;
    tx.delete_client(id).await?;
    tx.record(event).await?;
    tx.log_when_committed("deleted", id);
    Ok(())
}

/// Writes a client as it is after some transitions, with their events. Without any event,
/// nothing changed, and nothing is written.
pub(super) async fn write_change(
    tx: &mut Transaction,
    old: &ApiClient,
    new: &ApiClient,
    events: impl IntoIterator<Item = Event> + Send,
) -> Result<(), ApiError> {
    let events: Vec<Event> = events.into_iter().collect();
    if events.is_empty() {
        return Ok(());
    }
    tx.update_client(old, new).await?;
    for event in events {
        tx.record(event).await?;
    }
    Ok(())
}
