//! Changes of a program without a feed, such as a command: made on the primary that a survey
//! finds, and shown to be there afterwards. A server's writes are proven by its index.

use std::{sync::Arc, time::Duration};

use tokio::time::{sleep, timeout};

use super::{
    Commit, Committed, IsCollision, NotAcknowledged, Store, Transaction, TransactionBody,
    error::StoreError, feed::Found,
};
use crate::domain::audit::Provenance;

/// How long a survey may take, if the URL allows no longer.
const SURVEY_LIMIT: Duration = Duration::from_secs(5);
/// How many surveys may show nothing, if each takes as long as it may.
const SURVEYS: u32 = 3;
/// The pause between surveys that show nothing.
const PROOF_PAUSE: Duration = Duration::from_millis(100);

impl Store {
    /// Surveys for the primary. Connections of the pool lead there from then on: without a
    /// survey, to the first server that takes writes, and in a split brain that may be one that
    /// does not count.
    ///
    /// # Errors
    /// If no server takes writes, or it does not acknowledge a commit.
    pub async fn find_primary(&self) -> Result<(), StoreError> {
        drop(self.connect_primary(self.survey_limit()).await?);
        Ok(())
    }

    fn survey_limit(&self) -> Duration {
        SURVEY_LIMIT.max(self.connect_timeout())
    }

    /// [`Self::transaction`] on the primary; returns once another survey has found that the
    /// primary has the commit.
    ///
    /// # Errors
    /// As [`Self::transaction`], and [`StoreError::Unavailable`] with [`NotAcknowledged`]: the
    /// commit may be lost then.
    pub async fn proven_transaction<T, E, F>(
        &self,
        provenance: &Arc<Provenance>,
        body: F,
    ) -> Result<Committed<T>, E>
    where
        F: for<'t> TransactionBody<&'t mut Transaction, Result<T, E>> + Sync,
        T: Send,
        E: From<StoreError> + IsCollision + Send,
    {
        self.find_primary().await?;
        let (value, commit) = self.transact(provenance, body).await?;
        let revision = commit.position.revision;
        let proven = self.prove(&commit).await;
        proven.map_err(|why| StoreError::Unavailable(Box::new(why)))?;
        Ok(Committed { value, revision })
    }

    async fn prove(&self, commit: &Commit) -> Result<(), NotAcknowledged> {
        let revision = commit.position.revision.0;
        let find = async {
            loop {
                match self.find_on_primary(commit).await {
                    Ok(found) => return found,
                    Err(error) => tracing::debug!(%error, "a change cannot be proven yet"),
                }
                sleep(PROOF_PAUSE).await;
            }
        };
        match timeout(self.survey_limit() * SURVEYS, find).await {
            Ok(Found::Yes) => Ok(()),
            Ok(Found::No) => Err(NotAcknowledged::Lost(revision)),
            Ok(Found::Unknown) | Err(_) => Err(NotAcknowledged::Unproven(revision)),
        }
    }

    async fn find_on_primary(&self, commit: &Commit) -> Result<Found, StoreError> {
        let primary = self.connect_primary(self.survey_limit()).await?;
        Ok(primary.state(commit.position).await?.find(commit))
    }
}
