//! What happens to one client.

use super::{Fate, Missing, OnConflict, Planner, refusal, remarks};
use crate::{
    domain::{
        Timestamp,
        access::Owner,
        audit::{Action, FieldChange},
        client::{ApiClient, Draft},
        imports::{ClientUpdate, ForeignClient, ImportRecord, KnownClient, RowDigest, draft_of},
        token::{LegacyHash, StoredHash},
    },
    import::hitkeep::{Reason, RefusedRow},
};

/// A client after the import.
#[derive(Clone, Debug)]
pub struct After {
    /// Its fields; `None` if there is no such client.
    pub draft: Option<Draft>,
    pub is_revoked: bool,
    /// The hash of its newest token.
    pub token: Option<StoredHash>,
    /// Whether HitKeep has it.
    pub is_there: bool,
}

impl After {
    /// A client that this service does not have.
    const NONE: Self = Self {
        draft: None,
        is_revoked: false,
        token: None,
        is_there: true,
    };

    fn unchanged(known: &KnownClient) -> Self {
        Self {
            draft: Some(draft_of(&known.client)),
            is_revoked: known.client.revoke_time.is_some(),
            token: known.newest_token,
            is_there: true,
        }
    }
}

/// What happens to a client.
pub(super) struct Decision {
    pub(super) fate: Fate,
    pub(super) changes: Vec<String>,
    pub(super) remarks: Vec<&'static str>,
    pub(super) after: Option<After>,
}

impl Decision {
    fn new(fate: Fate, after: After) -> Self {
        Self {
            fate,
            changes: Vec::new(),
            remarks: Vec::new(),
            after: Some(after),
        }
    }
}

/// Which side's value of a part counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Merge {
    /// Both have the same.
    Same,
    /// HitKeep's.
    Theirs,
    /// Ours, since HitKeep's has not changed.
    Ours,
    Conflict,
}

impl Merge {
    fn of<T: PartialEq>(base: &T, theirs: &T, ours: &T) -> Self {
        if theirs == ours {
            Self::Same
        } else if ours == base {
            Self::Theirs
        } else if theirs == base {
            Self::Ours
        } else {
            Self::Conflict
        }
    }

    const fn resolved(self, by: OnConflict) -> Self {
        match (self, by) {
            (Self::Conflict, OnConflict::Keep) => Self::Ours,
            (Self::Conflict, OnConflict::Take) => Self::Theirs,
            _ => self,
        }
    }
}

/// What ends something in a row that is refused.
#[derive(Clone, Copy)]
struct Ends {
    /// The owner there, if there is exactly one.
    owner: Option<Owner>,
    /// When the client is revoked.
    revoke: Option<Timestamp>,
    /// The hash of the token there, which may be a new one; `None` if it is not certain.
    token: Option<LegacyHash>,
}

impl Ends {
    const fn of(theirs: &ForeignClient) -> Self {
        Self {
            owner: Some(theirs.draft.delegated.owner()),
            revoke: theirs.revoke_time,
            token: Some(theirs.token),
        }
    }
}

impl Planner<'_> {
    /// Decides on a client of the snapshot.
    pub(super) fn decide(&mut self, theirs: &ForeignClient) -> Decision {
        let state = self.state;
        let Some(known) = state.known.get(&theirs.id) else {
            if state.records.contains_key(&theirs.id) {
                return Decision::new(Fate::DeletedHere, After::NONE);
            }
            if state.holders.contains_key(&theirs.token) {
                return Decision::new(Fate::Refused(Reason::HashTaken), After::NONE);
            }
            return self.create(theirs);
        };
        let Some(record) = &known.record else {
            return Decision::new(Fate::Refused(Reason::IdTaken), After::NONE);
        };
        if theirs.draft.delegated.owner() != known.client.delegated.owner() {
            if self.lost.contains(&known.client.delegated.owner()) {
                return Decision::new(Fate::Refused(Reason::OwnerChanged), After::NONE);
            }
            return self.refuse_known(known, Reason::OwnerChanged, Ends::of(theirs));
        }
        let digest = RowDigest::of(&theirs.draft);
        let ours = RowDigest::of_client(&known.client);
        let mut fields = Merge::of(&record.digest, &digest, &ours);
        let mut token = token_merge(record, theirs.token, known.newest_token);
        let by = self.options.on_conflict;
        let mut conflict = Vec::new();
        if fields == Merge::Conflict {
            conflict = conflicting(known, theirs);
        }
        if token == Merge::Conflict {
            conflict.push("token");
        }
        if !conflict.is_empty() && by == OnConflict::Refuse {
            return self.refuse_known(known, Reason::Conflict(conflict), Ends::of(theirs));
        }
        (fields, token) = (fields.resolved(by), token.resolved(by));
        if token == Merge::Theirs
            && let Some(holder) = state.holders.get(&theirs.token)
        {
            // Of the client itself, it is one that was replaced.
            let reason = if *holder == theirs.id {
                Reason::TokenReplaced
            } else {
                Reason::HashTaken
            };
            return self.refuse_known(known, reason, Ends::of(theirs));
        }
        let mut decision = self.merge(known, theirs, fields, token);
        if !conflict.is_empty() {
            decision.remarks.push(match by {
                OnConflict::Keep => "conflict_kept",
                OnConflict::Take => "conflict_taken",
                OnConflict::Refuse => unreachable!("it is refused above"),
            });
        }
        let new_record = ImportRecord {
            revoke_time: imported_revocation(known, record, theirs),
            ..theirs.record(self.snapshot_time)
        };
        let same_time = ImportRecord {
            snapshot_time: record.snapshot_time,
            ..new_record
        };
        if same_time != *record {
            self.writes.records.push((theirs.id, new_record));
        }
        if theirs.last_used > known.client.last_used
            && let Some(time) = theirs.last_used
        {
            self.writes.last_used.push((theirs.id, time));
        }
        decision
    }

    fn create(&mut self, theirs: &ForeignClient) -> Decision {
        let client = theirs.to_client();
        let mut changes = client.described();
        changes.push(FieldChange::new("token_hint", "", &client.token_hint.0));
        if let Some(time) = client.revoke_time {
            changes.push(FieldChange::new("revoke_time", "", &rfc3339(time)));
        }
        let event = client.event(Action::ClientImported, changes);
        self.writes.events.push(event);
        let record = theirs.record(self.snapshot_time);
        self.writes.records.push((theirs.id, record));
        self.writes.creates.push(theirs.clone());
        let after = After {
            draft: Some(theirs.draft.clone()),
            is_revoked: theirs.revoke_time.is_some(),
            token: Some(theirs.token.into()),
            is_there: true,
        };
        Decision {
            remarks: remarks(theirs.draft.delegated.grants().len()),
            ..Decision::new(Fate::Created, after)
        }
    }

    /// Takes from HitKeep what counts, and a revocation in any case.
    fn merge(
        &mut self,
        known: &KnownClient,
        theirs: &ForeignClient,
        fields: Merge,
        token: Merge,
    ) -> Decision {
        let mut new = known.client.clone();
        if fields == Merge::Theirs {
            new.delegated = theirs.draft.delegated.clone();
            new.name = theirs.draft.name.clone();
            new.description = theirs.draft.description.clone();
            new.expiry = theirs.draft.expiry;
        }
        let rotation = (token == Merge::Theirs).then_some(theirs.token);
        let revoked = self.change(
            known,
            new,
            rotation,
            theirs.revoke_time,
            Action::ClientImported,
        );
        let (changes, after) = revoked;
        let is_revoked_now = after.is_revoked && known.client.revoke_time.is_none();
        let is_ours = fields == Merge::Ours || token == Merge::Ours;
        let is_revoked_here = known.client.revoke_time.is_some() && theirs.revoke_time.is_none();
        let fate = if is_revoked_now {
            Fate::Revoked
        } else if rotation.is_some() {
            Fate::Rotated
        } else if fields == Merge::Theirs {
            Fate::Updated
        } else if is_ours || is_revoked_here {
            Fate::Kept
        } else {
            Fate::Unchanged
        };
        let mut remarks = remarks(theirs.draft.delegated.grants().len());
        if token == Merge::Ours {
            remarks.push("rotated_here");
        }
        if fields == Merge::Ours {
            remarks.push("changed_here");
        }
        if is_revoked_here {
            remarks.push("revoked_here");
        }
        Decision {
            changes,
            remarks,
            ..Decision::new(fate, after)
        }
    }

    /// Records a change of a known client, and returns the changed fields and the client after it.
    fn change(
        &mut self,
        known: &KnownClient,
        mut new: ApiClient,
        rotation: Option<LegacyHash>,
        revoke: Option<Timestamp>,
        action: Action,
    ) -> (Vec<String>, After) {
        let old = &known.client;
        let mut changes = FieldChange::between(&old.described(), &new.described());
        if let Some(hash) = rotation {
            new.token_hint = hash.hint();
            let change = FieldChange::new("token_hint", &old.token_hint.0, &new.token_hint.0);
            changes.push(change);
            self.writes.rotations.push((new.id, hash));
        }
        if let (None, Some(time)) = (new.revoke_time, revoke) {
            new.revoke_time = Some(time);
            changes.push(FieldChange::new("revoke_time", "", &rfc3339(time)));
        }
        let after = After {
            draft: Some(draft_of(&new)),
            is_revoked: new.revoke_time.is_some(),
            token: rotation.map(StoredHash::from).or(known.newest_token),
            is_there: true,
        };
        if changes.is_empty() {
            return (Vec::new(), after);
        }
        new.update_time = self.state.now;
        let mut fields: Vec<String> = changes.iter().map(|change| field(&change.field)).collect();
        fields.dedup();
        self.writes.events.push(new.event(action, changes));
        self.writes.updates.push(ClientUpdate {
            old: old.clone(),
            new,
        });
        (fields, after)
    }

    /// Refuses a row of a client that is here. What ends something in HitKeep counts all the
    /// same: a revocation, and a rotation, unless the new token may be another one's.
    fn refuse_known(&mut self, known: &KnownClient, reason: Reason, ends: Ends) -> Decision {
        let rotated = ends.token.filter(|token| {
            known.record.is_some_and(|record| {
                token_merge(&record, *token, known.newest_token) == Merge::Theirs
            })
        });
        let is_same_owner = ends.owner == Some(known.client.delegated.owner());
        let rotation =
            rotated.filter(|token| is_same_owner && !self.state.holders.contains_key(token));
        self.remember(known, rotation, ends.revoke);
        let new = known.client.clone();
        let action = Action::ClientImported;
        let (changes, after) = self.change(known, new, rotation, ends.revoke, action);
        let mut decision = Decision {
            changes,
            ..Decision::new(Fate::Refused(reason), after)
        };
        if rotated.is_some() && rotation.is_none() {
            decision.remarks.push("rotation_withheld");
        }
        decision
    }

    /// Remembers what an import is about to end of a client that it does not take over, which so
    /// is as imported. One that was revoked here before stays so.
    fn remember(
        &mut self,
        known: &KnownClient,
        rotation: Option<LegacyHash>,
        revoke: Option<Timestamp>,
    ) {
        let Some(old) = known.record else { return };
        let revoke = revoke.filter(|_| known.client.revoke_time.is_none());
        let record = ImportRecord {
            token: rotation.unwrap_or(old.token),
            revoke_time: revoke.or(old.revoke_time),
            ..old
        };
        if record != old {
            self.writes.records.push((known.client.id, record));
        }
    }

    /// Decides on a row that cannot be taken over.
    pub(super) fn refuse(&mut self, row: &RefusedRow) -> Decision {
        let decided = row.id.and_then(|id| self.after.get(&id));
        if decided.is_some_and(|after| after.is_revoked) {
            // Another row with the same id has revoked the client, which is done once.
            return Decision {
                fate: refusal(row),
                changes: Vec::new(),
                remarks: Vec::new(),
                after: None,
            };
        }
        let known = row.id.and_then(|id| self.state.known.get(&id));
        let known = known.filter(|known| {
            known.record.is_some() && !self.lost.contains(&known.client.delegated.owner())
        });
        match known {
            // The time of the revocation may be what is unreadable.
            Some(known) => {
                let ends = Ends {
                    owner: row.owner,
                    revoke: row.is_revoked.then_some(self.state.now),
                    token: row.token,
                };
                self.refuse_known(known, row.reason.clone(), ends)
            }
            None => Decision::new(refusal(row), After::NONE),
        }
    }

    /// Decides on an imported client that HitKeep does not have any more.
    pub(super) fn missing(&mut self, known: &KnownClient) -> Decision {
        if self.lost.contains(&known.client.delegated.owner()) {
            let after = After {
                is_there: false,
                ..After::NONE
            };
            return Decision::new(Fate::DeletedWithOwner, after);
        }
        let is_to_go =
            self.options.missing == Missing::Revoke && known.client.revoke_time.is_none();
        let (fate, changes, after) = if is_to_go {
            let (new, now) = (known.client.clone(), self.state.now);
            self.remember(known, None, Some(now));
            let (changes, after) = self.change(known, new, None, Some(now), Action::ClientRevoked);
            (Fate::Revoked, changes, after)
        } else {
            (Fate::Missing, Vec::new(), After::unchanged(known))
        };
        let after = After {
            is_there: false,
            ..after
        };
        Decision {
            changes,
            ..Decision::new(fate, after)
        }
    }
}

/// Which side's token counts.
fn token_merge(record: &ImportRecord, theirs: LegacyHash, ours: Option<StoredHash>) -> Merge {
    Merge::of(&Some(record.token.into()), &Some(theirs.into()), &ours)
}

/// The revocation to remember as an import's: HitKeep's if it is about to be taken over, else the
/// one that an earlier import took over if that still stands. A revocation of our own is none of
/// an import's, even if HitKeep has one as well; the times tell the two apart.
fn imported_revocation(
    known: &KnownClient,
    record: &ImportRecord,
    theirs: &ForeignClient,
) -> Option<Timestamp> {
    match known.client.revoke_time {
        None => theirs.revoke_time,
        standing => standing.filter(|_| standing == record.revoke_time),
    }
}

/// The fields that the two sides have different values of.
fn conflicting(known: &KnownClient, theirs: &ForeignClient) -> Vec<&'static str> {
    let ours = draft_of(&known.client);
    let theirs = &theirs.draft;
    let differs = [
        ("name", ours.name != theirs.name),
        ("description", ours.description != theirs.description),
        (
            "instance_role",
            ours.delegated.instance_role() != theirs.delegated.instance_role(),
        ),
        (
            "site_grants",
            ours.delegated.grants() != theirs.delegated.grants(),
        ),
        ("expire_time", ours.expiry != theirs.expiry),
    ];
    let differing = differs.into_iter().filter(|(_, differs)| *differs);
    differing.map(|(field, _)| field).collect()
}

/// The field of the API that a change is about.
fn field(change: &str) -> String {
    match change {
        "token_hint" => "token".to_owned(),
        grant if grant.starts_with("site_grants[") => "site_grants".to_owned(),
        other => other.to_owned(),
    }
}

fn rfc3339(time: Timestamp) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}
