//! How an API client is used, for whoever may see it.

use super::{
    Services,
    convert::usage::{self as convert, Usage},
    error::ApiError,
};
use crate::{
    domain::{client::ApiClient, refusal::Refusal, usage::DayUsage},
    pb,
    store::Snapshot,
};

impl Services {
    /// Tells of a client's days. An actor who may not see the client learns as
    /// much as if there were none.
    pub(super) async fn usage(
        &self,
        asked: &Usage,
    ) -> Result<pb::GetApiClientUsageResponse, ApiError> {
        let body = async |snapshot: &mut Snapshot| find(snapshot, asked).await;
        let days = self.store.read(body).await?;
        Ok(pb::GetApiClientUsageResponse {
            days: days.iter().map(convert::to_day).collect(),
        })
    }
}

async fn find(snapshot: &mut Snapshot, asked: &Usage) -> Result<Vec<DayUsage>, ApiError> {
    let id = asked.on_client.id;
    let client = snapshot.find_client(id).await?;
    let client = client.ok_or(Refusal::NotFound)?;
    let actor = asked.on_client.actor.user;
    let facts = snapshot.facts(actor, client.delegated.owner()).await?;
    ApiClient::require_visible(&facts)?;
    Ok(snapshot.usage_days(id, asked.days.clone()).await?)
}
