//! The usage of an API client.

use super::{
    Management,
    convert::usage::{self as convert, UsageQuery},
    error::ApiError,
};
use crate::{
    domain::{client::ApiClient, refusal::Refusal, usage::DayUsage},
    pb,
    store::Snapshot,
};

impl Management {
    /// The days of a client's usage. An actor who may not see the client gets the same
    /// error as for a client that does not exist.
    pub(super) async fn usage(
        &self,
        query: &UsageQuery,
    ) -> Result<pb::GetApiClientUsageResponse, ApiError> {
        let body = async |snapshot: &mut Snapshot| find(snapshot, query).await;
        let days = self.store.read(body).await?;
        Ok(pb::GetApiClientUsageResponse {
            days: days.iter().map(convert::to_day).collect(),
        })
    }
}

async fn find(snapshot: &mut Snapshot, query: &UsageQuery) -> Result<Vec<DayUsage>, ApiError> {
    let id = query.on_client.id;
    let client = snapshot.find_client(id).await?;
    let client = client.ok_or(Refusal::NotFound)?;
    let actor = query.on_client.actor.user;
    let facts = snapshot.facts(actor, client.delegated.owner()).await?;
    ApiClient::require_visible(&facts)?;
    Ok(snapshot.usage_days(id, query.days.clone()).await?)
}
