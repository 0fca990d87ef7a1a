//! `AuditService`: the audit trail, newest first.

use tonic::{Request, Response, Status};

use super::{Management, convert::audit, error::ApiError, page};
use crate::{
    domain::audit::RecordedEvent,
    pb::{self, audit_service_server::AuditService},
    store::Snapshot,
};

#[tonic::async_trait]
impl AuditService for Management {
    async fn list_audit_events(
        &self,
        request: Request<pb::ListAuditEventsRequest>,
    ) -> Result<Response<pb::ListAuditEventsResponse>, Status> {
        let command = audit::list(request.into_inner())?;
        Ok(Response::new(self.list_events(command).await?))
    }
}

impl Management {
    async fn list_events(
        &self,
        command: audit::ListEvents,
    ) -> Result<pb::ListAuditEventsResponse, ApiError> {
        let page_size = usize::from(command.limit);
        // One more row for `page::truncate`.
        let limit = command.limit + 1;
        let body = async |snapshot: &mut Snapshot| {
            snapshot
                .page_events(&command.filter, command.after, limit)
                .await
        };
        let mut page = self.store.read(body).await?;
        let token = |last: &RecordedEvent| audit::page_token(&command.list, last);
        let next_page_token = page::truncate(&mut page, page_size, token);
        let events = page.into_iter().map(audit::to_event).collect();
        Ok(pb::ListAuditEventsResponse {
            events,
            next_page_token,
        })
    }
}
