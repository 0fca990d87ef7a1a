//! Carries out imports: plans one from a snapshot of the database, or does it in one
//! transaction under the write lock.

use std::sync::Arc;

use super::{
    hitkeep::HitKeep,
    plan::{Plan, PlanError, PlanOptions, plan},
    undo::{Undo, undo},
};
use crate::{
    domain::{
        Timestamp,
        audit::Provenance,
        directory::order::{ChangePosition, DirectoryChanged, ReplacementMode, ReplacementOrder},
        id::ClientId,
        token::LegacyHash,
    },
    store::{
        Committed, IsCollision, Snapshot, Store, Transaction, directory::DirectoryError,
        error::StoreError,
    },
};

/// Why an import was not done. Nothing was written then, unless the error is that the database does
/// not acknowledge it.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The directory was pushed meanwhile.
    #[error("the directory was pushed while the import ran: import a newer snapshot")]
    DirectoryChanged(#[from] DirectoryChanged),
    /// The directory could not be replaced.
    #[error(transparent)]
    Directory(DirectoryError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<DirectoryError> for ImportError {
    fn from(error: DirectoryError) -> Self {
        match error {
            DirectoryError::Store(error) => Self::Store(error),
            other => Self::Directory(other),
        }
    }
}

impl IsCollision for ImportError {
    fn is_collision(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_collision())
    }
}

pub struct Import<'i> {
    pub tables: &'i HitKeep,
    pub snapshot_time: Timestamp,
    pub options: PlanOptions,
}

impl Import<'_> {
    /// Plans the import, and changes nothing. Returns the database's time with the plan.
    ///
    /// # Errors
    /// If it must not be done, or the database cannot be read.
    pub async fn plan(&self, store: &Store) -> Result<(Plan, Timestamp), ImportError> {
        let (ids, tokens) = self.wanted();
        let body = async |snapshot: &mut Snapshot| -> Result<_, ImportError> {
            let state = snapshot.import_state(&ids, &tokens).await?;
            let plan = plan(self.tables, self.snapshot_time, &state, self.options)?;
            Ok((plan, state.now))
        };
        store.read(body).await
    }

    /// Takes the import's place in the order of directory changes: all that is pushed from here
    /// on is newer.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn begin(store: &Store) -> Result<ChangePosition, ImportError> {
        // What begins is written where the import will be.
        store.find_primary().await?;
        Ok(store.begin_replacement().await?)
    }

    /// Imports, in one transaction. `step` is called with how many of all new clients are
    /// written.
    ///
    /// # Errors
    /// If it must not be done, or the database fails.
    pub async fn apply(
        &self,
        store: &Store,
        began: ChangePosition,
        provenance: &Arc<Provenance>,
        step: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<Committed<(Plan, Timestamp)>, ImportError> {
        let (ids, tokens) = self.wanted();
        let body = async |tx: &mut Transaction| -> Result<_, ImportError> {
            let state = tx.import_state(&ids, &tokens).await?;
            let plan = plan(self.tables, self.snapshot_time, &state, self.options)?;
            let replaced = if plan.directory.is_replaced {
                let order = ReplacementOrder {
                    began,
                    sequence: None,
                    mode: ReplacementMode::Forward,
                };
                Some(tx.directory_progress().await?.accept_replacement(order)?)
            } else {
                None
            };
            tx.write_import(&plan.writes, step).await?;
            tx.record_import(self.snapshot_time, replaced).await?;
            Ok((plan, state.now))
        };
        store.proven_transaction(provenance, body).await
    }

    /// The ids and tokens of the snapshot's clients.
    fn wanted(&self) -> (Vec<ClientId>, Vec<LegacyHash>) {
        let (mut ids, mut tokens) = (Vec::new(), Vec::new());
        for client in self.tables.clients_there() {
            ids.push(client.id);
            tokens.extend(client.token);
        }
        ids.sort_unstable();
        ids.dedup();
        tokens.sort_unstable();
        tokens.dedup();
        (ids, tokens)
    }
}

/// Says what removing all imported clients would do, and changes nothing.
///
/// # Errors
/// If the database cannot be read.
pub async fn plan_undo(store: &Store) -> Result<Undo, ImportError> {
    let body = async |snapshot: &mut Snapshot| -> Result<_, ImportError> {
        Ok(undo(&snapshot.import_state(&[], &[]).await?))
    };
    store.read(body).await
}

/// Removes all imported clients that are as they were imported.
///
/// # Errors
/// If the database fails.
pub async fn apply_undo(
    store: &Store,
    provenance: &Arc<Provenance>,
) -> Result<Committed<Undo>, ImportError> {
    let body = async |tx: &mut Transaction| -> Result<_, ImportError> {
        let undo = undo(&tx.import_state(&[], &[]).await?);
        let ids: Vec<ClientId> = undo.removed.iter().map(|client| client.id).collect();
        tx.remove_imported(&ids).await?;
        tx.record_all(undo.events.clone()).await?;
        Ok(undo)
    };
    store.proven_transaction(provenance, body).await
}
