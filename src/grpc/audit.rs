//! `AuditService`: the audit trail, newest first, and the state of the delivery of events.

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

    async fn get_event_delivery_status(
        &self,
        _: Request<pb::GetEventDeliveryStatusRequest>,
    ) -> Result<Response<pb::GetEventDeliveryStatusResponse>, Status> {
        Ok(Response::new(self.event_delivery().await?))
    }
}

impl Management {
    async fn event_delivery(&self) -> Result<pb::GetEventDeliveryStatusResponse, ApiError> {
        let body = async |snapshot: &mut Snapshot| {
            Ok::<_, ApiError>((snapshot.event_delivery().await?, snapshot.now))
        };
        let (status, now) = self.store.read(body).await?;
        Ok(audit::to_delivery_status(status, now))
    }

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
