//! `ReplicationService`: feeds the index to replicas that have no way to the database, and
//! takes what they count.

use std::{pin::Pin, sync::Arc};

use tokio::sync::Semaphore;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

mod pace;
mod parts;
mod stream;
mod turn;
#[cfg(test)]
mod vectors;

pub use super::convert::replication::report::UsageReport;
use super::{
    Services, context::Caller, convert::replication::report::usage_report, error::ApiError,
};
use crate::{
    domain::usage::ReplacedUses,
    live_index::LiveIndex,
    pb::{self, replication_service_server::ReplicationService},
    store::Store,
};
use stream::Replication as ReplicationStream;

/// How many snapshots are sent at once: each is as large as the index, and if everybody
/// wants one, they are needed most.
const MAX_SNAPSHOTS: usize = 2;

/// Takes what replicas counted.
#[tonic::async_trait]
pub trait UsageDestination: Send + Sync + 'static {
    /// Stores a report, unless it was stored before.
    ///
    /// # Errors
    /// If it is not stored, or it is unknown whether it is. It may be sent again.
    async fn report(&self, report: UsageReport) -> Result<(), ApiError>;
}

/// Stores reports in the database.
pub struct StoredUsage {
    store: Store,
    /// Its flusher writes what cannot be written at once.
    index: LiveIndex,
}

impl StoredUsage {
    /// Stores them with that store.
    pub const fn new(store: Store, index: LiveIndex) -> Self {
        Self { store, index }
    }
}

#[tonic::async_trait]
impl UsageDestination for StoredUsage {
    async fn report(&self, report: UsageReport) -> Result<(), ApiError> {
        let UsageReport {
            replica,
            number,
            mut usage,
        } = report;
        // Events need the write lock, which the counts do not wait for. Those about the same
        // presentation are written once, however often a report is sent.
        let mut replaced = ReplacedUses::default();
        usage.move_replaced(&mut replaced);
        let mut rest = self.store.report_usage(replica, number, &usage).await?;
        rest.extend_replaced(&replaced);
        self.index.add_usage(&rest);
        Ok(())
    }
}

pub struct Replication {
    services: Arc<Services>,
    usage: Arc<dyn UsageDestination>,
    snapshots: Arc<Semaphore>,
}

impl Replication {
    pub fn new(services: Arc<Services>, usage: Arc<dyn UsageDestination>) -> Self {
        Self {
            services,
            usage,
            snapshots: Arc::new(Semaphore::new(MAX_SNAPSHOTS)),
        }
    }
}

#[tonic::async_trait]
impl ReplicationService for Replication {
    type ReplicateStream =
        Pin<Box<dyn Stream<Item = Result<pb::ReplicateResponse, Status>> + Send>>;

    async fn replicate(
        &self,
        request: Request<Streaming<pb::ReplicateRequest>>,
    ) -> Result<Response<Self::ReplicateStream>, Status> {
        let (_, extensions, requests) = request.into_parts();
        let caller = extensions
            .get::<Caller>()
            .ok_or(ApiError::Defect("no caller was established"))?;
        let (services, snapshots) = (Arc::clone(&self.services), Arc::clone(&self.snapshots));
        let replication = ReplicationStream::new(services, caller.clone(), snapshots, requests);
        Ok(Response::new(Box::pin(replication.responses())))
    }

    async fn report_usage(
        &self,
        request: Request<pb::ReportUsageRequest>,
    ) -> Result<Response<pb::ReportUsageResponse>, Status> {
        let report = usage_report(request.get_ref(), self.services.clock().now())?;
        self.usage.report(report).await?;
        Ok(Response::new(pb::ReportUsageResponse {}))
    }
}
