//! `ApiClientService`: the management of API clients.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{
    Management,
    context::provenance,
    convert::{
        clients::{self, OnClient},
        incident, usage,
    },
    error::ApiError,
    management::{self, ClientView, Loaded, load},
    page,
    replay::{EarlierRequest, IdempotentRequest, Reply, Written, earlier},
};
use crate::{
    domain::{
        Timestamp,
        access::{Facts, Owner},
        audit::Provenance,
        client::{ApiClient, Draft, Transition, check_all_listable, check_listable},
        id::{ClientId, SiteId, UserId},
        refusal::Refusal,
        replay::Write,
    },
    pb::{self, api_client_service_server::ApiClientService},
    store::{Committed, Snapshot, Transaction, clients::ListedClient},
};

/// The stored reply to a repeated creation. The actor must be allowed to create such a
/// client now, and to receive the token of the client as it is now.
async fn repeat_creation(
    tx: &mut Transaction,
    actor: UserId,
    draft: &Draft,
    earlier: EarlierRequest<'_>,
) -> Result<pb::CreateApiClientResponse, ApiError> {
    let client = match earlier.client() {
        Some(id) => tx.find_client(id).await?,
        None => None,
    };
    let carried = client.iter().flat_map(|client| client.delegated.grants());
    let sites = draft.delegated.grants().iter().chain(carried);
    let sites: Vec<SiteId> = sites.map(|(site, _)| *site).collect();
    let facts = tx.facts(actor, draft.delegated.owner(), &sites).await?;
    ApiClient::check_create(draft, &facts, tx.now)?;
    if let Some(client) = client {
        client.check_token_issue(&facts, tx.now)?;
    }
    earlier.reply()
}

/// The reply to a write, with its revision if the write was made now.
fn reply<R: Reply>(
    Committed {
        value: written,
        revision,
    }: Committed<Written<R>>,
) -> R {
    match written {
        Written::New(mut reply) => {
            reply.set_revision(revision);
            reply
        }
        Written::Replayed(reply) => reply,
    }
}

/// A call that may change one client.
struct Change<'c> {
    /// The client and the actor.
    on_client: &'c OnClient,
    /// The sites that the call names.
    named: &'c [SiteId],
    /// The verb for the log.
    done: &'static str,
}

impl Management {
    /// Decides on a change, and writes the client with its event.
    async fn change<F>(
        &self,
        extensions: &tonic::Extensions,
        provenance: &Arc<Provenance>,
        Change {
            on_client,
            named,
            done,
        }: Change<'_>,
        decide: F,
    ) -> Result<Committed<ClientView>, ApiError>
    where
        F: Fn(ApiClient, &Facts, Timestamp) -> Result<Transition, Refusal> + Sync,
    {
        let body = async |tx: &mut Transaction| -> Result<_, ApiError> {
            let Loaded { client: old, facts } = load(tx, on_client, named).await?;
            let Transition { client, event } = decide(old.clone(), &facts, tx.now)?;
            if event.is_some() {
                tx.log_when_committed(done, client.id);
            }
            management::write_change(tx, &old, &client, event).await?;
            Ok(ClientView::new(client, &facts, tx.now))
        };
        self.write(extensions, provenance, body).await
    }
}

#[tonic::async_trait]
impl ApiClientService for Management {
    async fn create_api_client(
        &self,
        request: Request<pb::CreateApiClientRequest>,
    ) -> Result<Response<pb::CreateApiClientResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let (now, secret) = (self.store.clock().now(), extensions.get());
        let (actor, draft, key) = clients::create(request, secret, now)?;
        let provenance = provenance(&extensions, Some(actor.clone()))?;
        let request_key = key
            .map(|key| IdempotentRequest::new(&extensions, key, Write::Create(&draft), actor.user))
            .transpose()?;
        let limit = self.options.max_clients_per_owner;
        let body = async |tx: &mut Transaction| -> Result<_, ApiError> {
            if let Some(earlier) = earlier(request_key.as_ref(), tx).await? {
                let reply = repeat_creation(tx, actor.user, &draft, earlier).await?;
                return Ok(Written::Replayed(reply));
            }
            let (view, token) = management::create(tx, actor.user, draft.clone(), limit).await?;
            let reply = pb::CreateApiClientResponse {
                token: token.reveal(),
                api_client: Some(view.to_pb()),
                revision: 0,
            };
            if let Some(request_key) = &request_key {
                request_key.store_reply(tx, &reply, &token).await?;
            }
            Ok(Written::New(reply))
        };
        let written = self.write(&extensions, &provenance, body).await?;
        Ok(Response::new(reply(written)))
    }

    async fn get_api_client(
        &self,
        request: Request<pb::GetApiClientRequest>,
    ) -> Result<Response<pb::GetApiClientResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let OnClient { actor, id } = clients::on_client(request.actor, &request.id)?;
        provenance(&extensions, Some(actor.clone()))?;
        let view = self.get(actor.user, id).await?;
        Ok(Response::new(pb::GetApiClientResponse {
            api_client: Some(view.to_pb()),
        }))
    }

    async fn list_api_clients(
        &self,
        request: Request<pb::ListApiClientsRequest>,
    ) -> Result<Response<pb::ListApiClientsResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let command = clients::list(request)?;
        provenance(&extensions, Some(command.actor.clone()))?;
        Ok(Response::new(self.list(command).await?))
    }

    async fn update_api_client(
        &self,
        request: Request<pb::UpdateApiClientRequest>,
    ) -> Result<Response<pb::UpdateApiClientResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let (on_client, update) = clients::update(request, self.store.clock().now())?;
        let provenance = provenance(&extensions, Some(on_client.actor.clone()))?;
        let named: Vec<SiteId> = update
            .grants
            .iter()
            .flatten()
            .map(|(site, _)| *site)
            .collect();
        let change = Change {
            on_client: &on_client,
            named: &named,
            done: "updated",
        };
        let Committed {
            value: view,
            revision,
        } = self
            .change(&extensions, &provenance, change, |client, facts, now| {
                client.update(update.clone(), facts, now)
            })
            .await?;
        Ok(Response::new(pb::UpdateApiClientResponse {
            api_client: Some(view.to_pb()),
            revision: revision.0,
        }))
    }

    async fn rotate_api_client(
        &self,
        request: Request<pb::RotateApiClientRequest>,
    ) -> Result<Response<pb::RotateApiClientResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let (on_client, rotation, key) = clients::rotate(request, extensions.get())?;
        let OnClient { actor, id } = &on_client;
        let provenance = provenance(&extensions, Some(actor.clone()))?;
        let write = Write::Rotate(*id, &rotation);
        let request_key = key
            .map(|key| IdempotentRequest::new(&extensions, key, write, actor.user))
            .transpose()?;
        let body = async |tx: &mut Transaction| -> Result<_, ApiError> {
            let earlier = earlier(request_key.as_ref(), tx).await?;
            let loaded = load(tx, &on_client, &[]).await?;
            if let Some(earlier) = earlier {
                loaded.client.check_token_issue(&loaded.facts, tx.now)?;
                return Ok(Written::Replayed(earlier.reply()?));
            }
            let (view, token) = management::rotate(tx, loaded, &rotation).await?;
            let reply = pb::RotateApiClientResponse {
                token: token.reveal(),
                api_client: Some(view.to_pb()),
                revision: 0,
            };
            if let Some(request_key) = &request_key {
                request_key.store_reply(tx, &reply, &token).await?;
            }
            Ok(Written::New(reply))
        };
        let written = self.write(&extensions, &provenance, body).await?;
        Ok(Response::new(reply(written)))
    }

    async fn revoke_api_client(
        &self,
        request: Request<pb::RevokeApiClientRequest>,
    ) -> Result<Response<pb::RevokeApiClientResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let on_client = clients::on_client(request.actor, &request.id)?;
        let provenance = provenance(&extensions, Some(on_client.actor.clone()))?;
        let change = Change {
            on_client: &on_client,
            named: &[],
            done: "revoked",
        };
        let Committed {
            value: view,
            revision,
        } = self
            .change(&extensions, &provenance, change, ApiClient::revoke)
            .await?;
        Ok(Response::new(pb::RevokeApiClientResponse {
            api_client: Some(view.to_pb()),
            revision: revision.0,
        }))
    }

    async fn reactivate_api_client(
        &self,
        request: Request<pb::ReactivateApiClientRequest>,
    ) -> Result<Response<pb::ReactivateApiClientResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let on_client = clients::on_client(request.actor, &request.id)?;
        let provenance = provenance(&extensions, Some(on_client.actor.clone()))?;
        let change = Change {
            on_client: &on_client,
            named: &[],
            done: "reactivated",
        };
        let Committed {
            value: view,
            revision,
        } = self
            .change(&extensions, &provenance, change, ApiClient::reactivate)
            .await?;
        Ok(Response::new(pb::ReactivateApiClientResponse {
            api_client: Some(view.to_pb()),
            revision: revision.0,
        }))
    }

    async fn delete_api_client(
        &self,
        request: Request<pb::DeleteApiClientRequest>,
    ) -> Result<Response<pb::DeleteApiClientResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let on_client = clients::on_client(request.actor, &request.id)?;
        let provenance = provenance(&extensions, Some(on_client.actor.clone()))?;
        let body = async |tx: &mut Transaction| -> Result<_, ApiError> {
            let loaded = load(tx, &on_client, &[]).await?;
            management::delete(tx, loaded).await
        };
        let Committed { revision, .. } = self.write(&extensions, &provenance, body).await?;
        Ok(Response::new(pb::DeleteApiClientResponse {
            revision: revision.0,
        }))
    }

    async fn get_api_client_usage(
        &self,
        request: Request<pb::GetApiClientUsageRequest>,
    ) -> Result<Response<pb::GetApiClientUsageResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let query = usage::usage(request, self.store.clock().now())?;
        provenance(&extensions, Some(query.on_client.actor.clone()))?;
        Ok(Response::new(self.usage(&query).await?))
    }

    async fn report_leak(
        &self,
        request: Request<pb::ReportLeakRequest>,
    ) -> Result<Response<pb::ReportLeakResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let report = incident::report(request)?;
        Ok(Response::new(self.end_leaked(&extensions, report).await?))
    }

    async fn revoke_api_clients(
        &self,
        request: Request<pb::RevokeApiClientsRequest>,
    ) -> Result<Response<pb::RevokeApiClientsResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let command = incident::revoke_all(request)?;
        Ok(Response::new(self.revoke_all(&extensions, command).await?))
    }
}

impl Management {
    async fn get(&self, actor: UserId, id: ClientId) -> Result<ClientView, ApiError> {
        let body = async |snapshot: &mut Snapshot| {
            let client = snapshot.find_client(id).await?;
            let client = client.ok_or(Refusal::NotFound)?;
            let facts = snapshot.facts(actor, client.delegated.owner()).await?;
            ApiClient::require_visible(&facts)?;
            Ok(ClientView::new(client, &facts, snapshot.now))
        };
        self.store.read(body).await
    }

    async fn list(
        &self,
        command: clients::ListClients,
    ) -> Result<pb::ListApiClientsResponse, ApiError> {
        let mut listing = command.listing;
        let page_size = usize::from(listing.limit);
        // One more row for `page::truncate`.
        listing.limit += 1;
        let actor = command.actor.user;
        let body = async |snapshot: &mut Snapshot| {
            // Without an owner, only the actor's own standing counts.
            let owner = listing.owner.unwrap_or(Owner::User(actor));
            let facts = snapshot.facts(actor, owner).await?;
            match listing.owner {
                Some(_) => check_listable(&facts)?,
                None => check_all_listable(&facts.actor)?,
            }
            let page = snapshot.page_clients(listing).await?;
            Ok::<_, ApiError>((page, snapshot.now))
        };
        let (mut page, now) = self.store.read(body).await?;
        let token = |last: &ListedClient| clients::page_token(&command.list, &last.client);
        let next_page_token = page::truncate(&mut page, page_size, token);
        let client = |listed: &ListedClient| {
            clients::to_api_client(&listed.client, listed.owner_can_act, now)
        };
        Ok(pb::ListApiClientsResponse {
            api_clients: page.iter().map(client).collect(),
            next_page_token,
        })
    }
}
