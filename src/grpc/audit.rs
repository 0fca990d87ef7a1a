//! `AuditService`: the audit trail, newest first.

use tonic::{Request, Response, Status};

use super::{Services, convert::audit, error::ApiError};
use crate::{
    pb::{self, audit_service_server::AuditService},
    store::Snapshot,
};

#[tonic::async_trait]
impl AuditService for Services {
    async fn list_audit_events(
        &self,
        request: Request<pb::ListAuditEventsRequest>,
    ) -> Result<Response<pb::ListAuditEventsResponse>, Status> {
        let command = audit::list(request.into_inner())?;
        Ok(Response::new(self.list_events(command).await?))
    }
}

impl Services {
    async fn list_events(
        &self,
        command: audit::List,
    ) -> Result<pb::ListAuditEventsResponse, ApiError> {
        let page_size = usize::from(command.limit);
        // One more than asked for tells whether there is a next page.
        let limit = command.limit + 1;
        let body = async |snapshot: &mut Snapshot| {
            snapshot
                .page_events(&command.filter, command.after, limit)
                .await
        };
        let mut page = self.store.read(body).await?;
        let more = page.len() > page_size;
        page.truncate(page_size);
        let next_page_token = match page.last() {
            Some(last) if more => audit::page_token(&command.list, last),
            _ => String::new(),
        };
        let events = page.into_iter().map(audit::to_event).collect();
        Ok(pb::ListAuditEventsResponse {
            events,
            next_page_token,
        })
    }
}
