//! Takes an import back: which clients go, and which do not. Pure.

use super::hitkeep::shown;
use crate::domain::{
    access::Owner,
    audit::{Action, Event, FieldChange},
    id::ClientId,
    imports::{ImportState, KnownClient},
};

/// An imported client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UndoneClient {
    pub id: ClientId,
    /// Its name, fit to be shown.
    pub name: String,
    pub owner: Owner,
}

/// What taking all imports back does.
#[derive(Clone, Debug, Default)]
pub struct Undo {
    /// Clients that are as they were imported, and go.
    pub removed: Vec<UndoneClient>,
    /// Clients that were changed, rotated, revoked or reactivated here, and stay.
    pub kept: Vec<UndoneClient>,
    /// Clients that were deleted here. They are remembered, so that no import brings them back.
    pub deleted_here: Vec<ClientId>,
    pub events: Vec<Event>,
}

/// Decides which imported clients go.
pub fn undo(state: &ImportState) -> Undo {
    let mut undo = Undo::default();
    for id in state.records.keys() {
        let Some(known) = state.known.get(id) else {
            undo.deleted_here.push(*id);
            continue;
        };
        let client = UndoneClient {
            id: *id,
            name: shown(known.client.name.as_str()),
            owner: known.client.delegated.owner(),
        };
        if known.is_as_imported() {
            undo.events.push(event(known));
            undo.removed.push(client);
        } else {
            undo.kept.push(client);
        }
    }
    undo
}

fn event(known: &KnownClient) -> Event {
    let change = FieldChange::new("import", "hitkeep", "undone");
    known.client.event(Action::ClientDeleted, vec![change])
}
