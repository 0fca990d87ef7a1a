//! `DirectoryService`: HitKeep pushes its users, teams, sites and memberships.

use std::time::Duration;

use futures_util::{Stream, TryStreamExt};
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Status, Streaming};

use super::{
    Management,
    context::provenance,
    convert::directory::{self, Batch, Replacement},
    error::ApiError,
};
use crate::{
    domain::directory::order::ReplacementOrder,
    pb::{self, directory_service_server::DirectoryService},
    store::{Committed, Snapshot, Transaction},
};

/// The timeout of each chunk of a replacement, and of all chunks.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(30);
const CHUNKS_TIMEOUT: Duration = Duration::from_mins(10);

#[tonic::async_trait]
impl DirectoryService for Management {
    async fn apply_directory_changes(
        &self,
        request: Request<pb::ApplyDirectoryChangesRequest>,
    ) -> Result<Response<pb::ApplyDirectoryChangesResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let Batch { changes, sequence } = directory::batch(&request)?;
        let provenance = provenance(&extensions, None)?;
        let body = async |tx: &mut Transaction| -> Result<_, ApiError> {
            let progress = tx.directory_progress().await?;
            let Some(change) = progress.accept_batch(sequence) else {
                return Ok(progress.applied_sequence);
            };
            tx.apply_changes(&changes).await?;
            Ok(tx.record_applied(change).await?.applied_sequence)
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
        // The whole directory is received before the write lock is taken, so that a slow
        // sender blocks no other writes.
        let mut replacement = Replacement::default();
        let until = Instant::now() + CHUNKS_TIMEOUT;
        let mut began = None;
        while let Some(chunk) = next_chunk(&mut chunks, until).await? {
            // From here on, everything that any server applies is newer than this
            // replacement.
            if began.is_none() {
                let place = self.store.begin_replacement().await;
                began = Some(place.map_err(ApiError::from)?);
            }
            replacement.add(&chunk)?;
        }
        // The check visits up to millions of entries, so it must not block the runtime.
        let checked = tokio::task::spawn_blocking(|| replacement.finish()).await;
        let checked = checked.or(Err(ApiError::Defect("the check of a directory broke off")))?;
        let Replacement {
            directory,
            allow_mass_removal,
            sequence,
            mode,
            ..
        } = checked?;
        let began = began.ok_or(ApiError::Defect("a replacement without a chunk was let in"))?;
        let order = ReplacementOrder {
            began,
            sequence,
            mode,
        };
        let body = async |tx: &mut Transaction| -> Result<_, ApiError> {
            let change = tx.directory_progress().await?.accept_replacement(order)?;
            let difference = tx.replace_directory(&directory, allow_mass_removal).await?;
            let applied = tx.record_applied(change).await?.applied_sequence;
            Ok((difference, applied))
        };
        let Committed {
            value: (difference, applied),
            revision,
        } = self.write(&extensions, &provenance, body).await?;
        Ok(Response::new(pb::ReplaceDirectoryResponse {
            revision: revision.0,
            added: difference.added,
            changed: difference.changed,
            removed: difference.removed,
            applied_sequence: applied.unwrap_or_default(),
        }))
    }

    async fn get_directory_status(
        &self,
        _: Request<pb::GetDirectoryStatusRequest>,
    ) -> Result<Response<pb::GetDirectoryStatusResponse>, Status> {
        Ok(Response::new(self.directory_status().await?))
    }
}

/// The next chunk, within its timeout and the total one: neither a silent nor a slow sender
/// may keep others from replacing the directory.
async fn next_chunk<C>(
    chunks: &mut (impl Stream<Item = Result<C, Status>> + Unpin),
    until: Instant,
) -> Result<Option<C>, Status> {
    let until = until.min(Instant::now() + CHUNK_TIMEOUT);
    match timeout_at(until, chunks.try_next()).await {
        Ok(chunk) => chunk,
        Err(_) => Err(ApiError::DeadlineExceeded.into()),
    }
}

impl Management {
    async fn directory_status(&self) -> Result<pb::GetDirectoryStatusResponse, ApiError> {
        let body = async |snapshot: &mut Snapshot| {
            Ok::<_, ApiError>((snapshot.directory_status().await?, snapshot.revision))
        };
        let (status, revision) = self.store.read(body).await?;
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

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::{StreamExt, stream};
    use tokio::time::sleep;
    use tonic::Code;

    use super::*;

    /// How long a sender may take in total if it pauses that long before each chunk.
    async fn accepted_duration(pause: Duration) -> Duration {
        let begun = Instant::now();
        let chunks = stream::repeat(()).then(async |()| {
            sleep(pause).await;
            Ok(())
        });
        let mut chunks = pin!(chunks);
        let until = begun + CHUNKS_TIMEOUT;
        loop {
            match next_chunk(&mut chunks, until).await {
                Ok(chunk) => assert_eq!(chunk, Some(())),
                Err(status) => {
                    assert_eq!(status.code(), Code::DeadlineExceeded);
                    return begun.elapsed();
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_replacement_has_a_timeout_for_each_chunk_and_in_total() {
        let moment = Duration::from_millis(1);
        assert_eq!(
            accepted_duration(CHUNK_TIMEOUT + moment).await,
            CHUNK_TIMEOUT
        );
        assert_eq!(
            accepted_duration(CHUNK_TIMEOUT.saturating_sub(moment)).await,
            CHUNKS_TIMEOUT
        );
    }
}
