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
        let mut snapshot = self.store.snapshot().await?;
        let found = find(&mut snapshot, asked).await?;
        snapshot.close().await?;
        let days = found?;
        Ok(pb::GetApiClientUsageResponse {
            days: days.iter().map(convert::to_day).collect(),
        })
    }
}

/// The outer failure is the store's: its snapshot is of no more use.
async fn find(
    snapshot: &mut Snapshot,
    asked: &Usage,
) -> Result<Result<Vec<DayUsage>, Refusal>, ApiError> {
    let id = asked.on_client.id;
    let Some(client) = snapshot.find_client(id).await? else {
        return Ok(Err(Refusal::NotFound));
    };
    let actor = asked.on_client.actor.user;
    let facts = snapshot.facts(actor, client.delegated.owner()).await?;
    if let Err(refusal) = ApiClient::require_visible(&facts) {
        return Ok(Err(refusal));
    }
    Ok(Ok(snapshot.usage_days(id, asked.days.clone()).await?))
}
