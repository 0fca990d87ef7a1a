//! What an import does, decided from the snapshot and the state of the database. Pure.
//!
//! For each client, three states are compared: the one at the last import, HitKeep's and ours.
//! A side that did not change gives way to the one that did; if both did, it is a conflict.
//! Fields and token are compared by themselves. A revocation wins from either side, and no
//! import takes one back.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    directory::{Change, DirectoryIndex},
    hitkeep::{Clients, DroppedGrant, HitKeep, Note, Reason, RefusedRow, shown},
};
use crate::domain::{
    Timestamp,
    access::{MAX_GRANTS, Owner},
    directory::Removal,
    id::ClientId,
    imports::{ImportState, ImportWrites},
};

mod client;

pub use client::After;
use client::Decision;

/// What to do with a client that was changed on both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnConflict {
    /// Refuse the row, and name it.
    #[default]
    Refuse,
    /// Keep what was changed here.
    Keep,
    /// Take what was changed in HitKeep.
    Take,
}

/// What to do with an imported client that HitKeep does not have any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missing {
    /// Name it.
    #[default]
    Report,
    Revoke,
}

/// Whether the directory is imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectoryMode {
    /// It becomes what the snapshot has.
    Replace {
        /// Whether more than half of the users, teams or sites may go.
        allow_mass_removal: bool,
        /// Whether changes that were pushed may be undone.
        over_pushed: bool,
    },
    /// It stays as it is.
    Keep,
}

#[derive(Clone, Copy, Debug)]
pub struct PlanOptions {
    pub on_conflict: OnConflict,
    /// What to do about missing clients.
    pub missing: Missing,
    /// Whether the directory is imported.
    pub directory: DirectoryMode,
    /// The most clients that an owner can create; an import may exceed it, and says so.
    pub max_clients_per_owner: u32,
}

/// What happens to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    Created,
    Unchanged,
    /// Its fields become HitKeep's.
    Updated,
    /// Its token becomes HitKeep's, and the previous one ends.
    Rotated,
    Revoked,
    /// It stays as it was changed here.
    Kept,
    /// It was deleted here, and stays so.
    DeletedHere,
    /// HitKeep does not have it any more; it stays.
    Missing,
    DeletedWithOwner,
    Refused(Reason),
}

impl Fate {
    /// A word for programs and people.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Unchanged => "unchanged",
            Self::Updated => "updated",
            Self::Rotated => "rotated",
            Self::Revoked => "revoked",
            Self::Kept => "kept",
            Self::DeletedHere => "deleted_here",
            Self::Missing => "missing",
            Self::DeletedWithOwner => "deleted_with_owner",
            Self::Refused(_) => "refused",
        }
    }
}

/// A client of the snapshot or of an earlier import, and what happens to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedRow {
    /// The client's id, if it is readable.
    pub id: Option<ClientId>,
    pub name: String,
    pub owner: Option<Owner>,
    pub fate: Fate,
    /// The fields that change: those of the API, and `token`.
    pub changes: Vec<String>,
    /// What else is to be known.
    pub remarks: Vec<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryPlan {
    /// How the snapshot's differs from ours.
    pub change: Change,
    pub is_replaced: bool,
    /// How many clients go because their owners do, imported ones included.
    pub clients_lost: u32,
}

/// A whole import.
#[derive(Clone, Debug)]
pub struct Plan {
    pub directory: DirectoryPlan,
    /// Every client, in the order of the ids.
    pub rows: Vec<PlannedRow>,
    pub dropped: Vec<DroppedGrant>,
    /// What else is not taken over as it is.
    pub notes: Vec<Note>,
    /// Owners with more clients than they could create, and how many.
    pub over_quota: Vec<(Owner, u32)>,
    pub writes: ImportWrites,
    /// Every client of the snapshot and of earlier imports, as it is after the import.
    pub after: BTreeMap<ClientId, After>,
    pub directory_after: DirectoryIndex,
}

/// Why an import is refused as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error(
        "the snapshot of {snapshot} is older than the last one that was imported, of {last}: it \
         would undo what came since"
    )]
    Older {
        snapshot: Timestamp,
        /// The time of the newest one.
        last: Timestamp,
    },
    #[error(
        "the directory was pushed by a service account, and the snapshot differs from it \
         ({} to add, {} to change, {} to remove), so it may be older: leave the directory out with \
         --no-directory, or let the snapshot replace it with --replace-pushed-directory",
        .0.added, .0.changed, .0.removed
    )]
    DirectoryPushed(Change),
    /// Too much of the directory would go.
    #[error(
        "the snapshot lacks {} of {} {}: if that is right, say so with --allow-mass-removal",
        .0.removed, .0.known, .0.kind
    )]
    MassRemoval(Removal),
}

/// Plans an import.
///
/// # Errors
/// If it must not be done at all.
pub fn plan(
    tables: &HitKeep,
    snapshot_time: Timestamp,
    state: &ImportState,
    options: PlanOptions,
) -> Result<Plan, PlanError> {
    if let Some(last) = state.last_snapshot
        && snapshot_time < last
    {
        return Err(PlanError::Older {
            snapshot: snapshot_time,
            last,
        });
    }
    let ours = DirectoryIndex::of(&state.directory);
    let (directory, legacy_owners) = tables.directory();
    let theirs = DirectoryIndex::of(&directory);
    let change = ours.change_to(&theirs);
    let is_replaced = match options.directory {
        DirectoryMode::Keep => false,
        DirectoryMode::Replace {
            allow_mass_removal,
            over_pushed,
        } => {
            let is_pushed = state.directory_changed > state.directory_imported;
            if is_pushed && !over_pushed && !change.is_none() {
                return Err(PlanError::DirectoryPushed(change));
            }
            let removals = ours.removals(&theirs);
            let refused = removals.iter().find(|removal| removal.is_mass_removal());
            if let Some(removal) = refused.filter(|_| !allow_mass_removal) {
                return Err(PlanError::MassRemoval(*removal));
            }
            !change.is_none()
        }
    };
    let directory_after = if is_replaced { theirs } else { ours.clone() };
    let lost = ours.owners_lost(&directory_after);
    let clients = tables.check_clients(&directory_after);
    let mut planner = Planner {
        snapshot_time,
        state,
        options,
        lost,
        rows: Vec::new(),
        writes: ImportWrites {
            snapshot_time,
            directory: is_replaced.then_some(directory),
            ..ImportWrites::default()
        },
        after: BTreeMap::new(),
    };
    planner.plan_clients(&clients);
    let over_quota = planner.over_quota();
    let clients_lost = planner
        .lost
        .iter()
        .filter_map(|owner| state.owned.get(owner));
    let directory = DirectoryPlan {
        change,
        is_replaced,
        clients_lost: clients_lost.sum(),
    };
    let mut notes = tables.notes.clone();
    if is_replaced {
        notes.extend(legacy_owners);
    }
    let Planner {
        mut rows,
        writes,
        after,
        ..
    } = planner;
    rows.sort_by_key(|row| row.id);
    Ok(Plan {
        directory,
        rows,
        dropped: clients.dropped,
        notes,
        over_quota,
        writes,
        after,
        directory_after,
    })
}

struct Planner<'p> {
    snapshot_time: Timestamp,
    state: &'p ImportState,
    options: PlanOptions,
    /// Owners that go with the replacement of the directory.
    lost: BTreeSet<Owner>,
    rows: Vec<PlannedRow>,
    writes: ImportWrites,
    after: BTreeMap<ClientId, After>,
}

impl Planner<'_> {
    fn plan_clients(&mut self, clients: &Clients) {
        for theirs in clients.good.values() {
            let decision = self.decide(theirs);
            let owner = Some(theirs.draft.delegated.owner());
            let name = shown(theirs.draft.name.as_str());
            self.add(Some(theirs.id), name, owner, decision);
        }
        for row in &clients.refused {
            let decision = self.refuse(row);
            self.add(row.id, row.name.clone(), row.owner, decision);
        }
        let refused: BTreeSet<ClientId> = clients.refused.iter().filter_map(|row| row.id).collect();
        for id in self.state.records.keys() {
            if clients.good.contains_key(id) || refused.contains(id) {
                continue;
            }
            // A client that neither side has any more is of no interest.
            if let Some(known) = self.state.known.get(id) {
                let decision = self.missing(known);
                let owner = Some(known.client.delegated.owner());
                let name = shown(known.client.name.as_str());
                self.add(Some(*id), name, owner, decision);
            }
        }
    }

    fn add(
        &mut self,
        id: Option<ClientId>,
        name: String,
        owner: Option<Owner>,
        decision: Decision,
    ) {
        let Decision {
            fate,
            changes,
            remarks,
            after,
        } = decision;
        if let (Some(id), Some(after)) = (id, after) {
            self.after.insert(id, after);
        }
        self.rows.push(PlannedRow {
            id,
            name,
            owner,
            fate,
            changes,
            remarks,
        });
    }

    /// Marks the new clients of owners that could not create so many.
    fn over_quota(&mut self) -> Vec<(Owner, u32)> {
        let mut owned = self.state.owned.clone();
        owned.retain(|owner, _| !self.lost.contains(owner));
        let mut grown = BTreeSet::new();
        for client in &self.writes.creates {
            let owner = client.draft.delegated.owner();
            *owned.entry(owner).or_default() += 1;
            grown.insert(owner);
        }
        let limit = self.options.max_clients_per_owner;
        owned.retain(|owner, count| grown.contains(owner) && *count > limit);
        for row in &mut self.rows {
            let over = row.owner.is_some_and(|owner| owned.contains_key(&owner));
            if over && row.fate == Fate::Created {
                row.remarks.push("over_quota");
            }
        }
        owned.into_iter().collect()
    }
}

/// What else is to be known of a client that is taken over.
fn remarks(grants: usize) -> Vec<&'static str> {
    if grants > MAX_GRANTS {
        vec!["too_many_grants"]
    } else {
        Vec::new()
    }
}

/// A refused row as a reason, for a client that is known.
fn refusal(row: &RefusedRow) -> Fate {
    Fate::Refused(row.reason.clone())
}
