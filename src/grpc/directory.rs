//! `DirectoryService`: HitKeep pushes its users, teams, sites and memberships.

use std::time::Duration;

use tonic::{Request, Response, Status, Streaming};

use super::{
    Services,
    context::provenance,
    convert::directory::{self, Batch, Replacement},
    error::ApiError,
};
use crate::{
    pb::{self, directory_service_server::DirectoryService},
    store::{Committed, Transaction},
};

/// How long each chunk of a replacement may take.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(30);

#[tonic::async_trait]
impl DirectoryService for Services {
    async fn apply_directory_changes(
        &self,
        request: Request<pb::ApplyDirectoryChangesRequest>,
    ) -> Result<Response<pb::ApplyDirectoryChangesResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let Batch { changes, sequence } = directory::batch(&request)?;
        let provenance = provenance(&extensions, None)?;
        let body = async |tx: &mut Transaction| -> Result<_, ApiError> {
            let applied = tx.applied_sequence().await?;
            if sequence.is_some() && sequence <= applied {
                return Ok(applied);
            }
            tx.apply_changes(&changes).await?;
            if let Some(sequence) = sequence {
                tx.set_applied_sequence(sequence).await?;
            }
            Ok(sequence.or(applied))
        };
        let Committed {
            value: applied,
            revision,
        } = self.write(&extensions, &provenance, body).await?;
        Ok(Response::new(pb::ApplyDirectoryChangesResponse {
            revision: revision.0,
            applied_sequence: applied.unwrap_or_default(),
        }))
    }

    async fn replace_directory(
        &self,
        request: Request<Streaming<pb::ReplaceDirectoryRequest>>,
    ) -> Result<Response<pb::ReplaceDirectoryResponse>, Status> {
        let (_, extensions, mut chunks) = request.into_parts();
        let provenance = provenance(&extensions, None)?;
        // The whole directory is here before the write lock is taken: a slow
        // sender holds up nobody.
        let mut replacement = Replacement::default();
        while let Some(chunk) = next_chunk(&mut chunks).await? {
            replacement.add(&chunk)?;
        }
        let Replacement {
            directory,
            allow_mass_removal,
            sequence,
            ..
        } = replacement.finish()?;
        let body = async |tx: &mut Transaction| -> Result<_, ApiError> {
            let difference = tx.replace_directory(&directory, allow_mass_removal).await?;
            if let Some(sequence) = sequence {
                tx.set_applied_sequence(sequence).await?;
            }
            Ok(difference)
        };
        let Committed {
            value: difference,
            revision,
        } = self.write(&extensions, &provenance, body).await?;
        Ok(Response::new(pb::ReplaceDirectoryResponse {
            revision: revision.0,
            added: difference.added,
            changed: difference.changed,
            removed: difference.removed,
        }))
    }

    async fn get_directory_status(
        &self,
        _: Request<pb::GetDirectoryStatusRequest>,
    ) -> Result<Response<pb::GetDirectoryStatusResponse>, Status> {
        Ok(Response::new(self.directory_status().await?))
    }
}

/// The next chunk, unless it takes too long: a sender that has gone silent must
/// not keep others from replacing the directory.
async fn next_chunk<C>(chunks: &mut Streaming<C>) -> Result<Option<C>, Status> {
    match tokio::time::timeout(CHUNK_TIMEOUT, chunks.message()).await {
        Ok(chunk) => chunk,
        Err(_) => Err(ApiError::DeadlineExceeded.into()),
    }
}

impl Services {
    async fn directory_status(&self) -> Result<pb::GetDirectoryStatusResponse, ApiError> {
        let mut snapshot = self.store.snapshot().await?;
        let status = snapshot.directory_status().await?;
        let revision = snapshot.revision;
        snapshot.close().await?;
        Ok(pb::GetDirectoryStatusResponse {
            revision: revision.0,
            applied_sequence: status.applied_sequence.unwrap_or_default(),
            users: status.users,
            teams: status.teams,
            sites: status.sites,
            memberships: status.memberships,
        })
    }
}
