//! Runs a script through the world and the model side by side, and holds what
//! the one says against the other. Here is what a single call comes to; what
//! there is after every step stands in `standing`. A run ends with the first
//! step after which something does not hold, since nothing can be made of what
//! follows.

mod standing;

use std::collections::{BTreeMap, HashMap};

use chrono::DateTime;
use hitkeep_auth_domain::{
    Timestamp,
    audit::{Action, Event},
    client::ApiClient,
    directory::{Directory, DirectoryChange},
    id::{ClientId, UserId},
    introspection::InactiveReason,
    refusal::Refusal,
    token::TokenHash,
};

use crate::{
    call::{Answer, Call},
    coverage::{Coverage, reason_of},
    model::{
        Model,
        life::{changed_fields, handed_out, is_put_off, owner_of, starts_earlier, updated},
        permissions::{Permissions, carried_by},
        places::is_elsewhere,
    },
    resolve::Act,
    rules::Rule,
    script::{Script, Step},
    verdict::Active,
    world::World,
};

/// When every script begins.
const BEGINNING: Timestamp = match DateTime::from_timestamp_micros(1_795_000_000_000_000) {
    Some(time) => time,
    None => DateTime::UNIX_EPOCH,
};

/// Runs a script up to the first step after which something does not hold, and
/// says all that does not.
pub(crate) fn run(script: &Script, coverage: &mut Coverage) -> Vec<String> {
    let mut run = Run {
        world: World::new(BEGINNING),
        model: Model::new(BEGINNING),
        usable: BTreeMap::new(),
        verdicts: HashMap::new(),
        contents: BTreeMap::new(),
        violations: Vec::new(),
        coverage,
    };
    for change in &script.start {
        run.change(change);
    }
    for step in &script.steps {
        run.step(step);
        if !run.violations.is_empty() {
            break;
        }
    }
    run.violations
}

type Verdict = Result<Active, InactiveReason>;

/// A script under way.
struct Run<'c> {
    world: World,
    model: Model,
    /// What each client could do from each place after the last step.
    usable: BTreeMap<(ClientId, usize), Permissions>,
    /// What was said of each token from each place after the last step.
    verdicts: HashMap<(TokenHash, usize), Verdict>,
    /// Every content that a client ever had, with the etag shown for it.
    contents: BTreeMap<ClientId, Vec<(ApiClient, String)>>,
    violations: Vec<String>,
    coverage: &'c mut Coverage,
}

impl Run<'_> {
    fn step(&mut self, step: &Step) {
        let act = step.resolve(&self.model);
        match &act {
            Act::Directory(change) => {
                self.change(change);
                self.check_clients();
                self.check_tokens();
                self.check_authority();
            }
            Act::Replace(new, allow_mass_removal) => {
                self.replace(new, *allow_mass_removal);
                self.check_clients();
                self.check_tokens();
                self.check_authority();
            }
            Act::Wait(until) => {
                self.model.now = *until;
                self.world.now = *until;
                self.check_tokens();
            }
            Act::Call(actor, call) => {
                let held = self.model.holds(*actor);
                let before = self.usable.clone();
                self.call(*actor, call, &held);
                self.check_clients();
                self.check_tokens();
                self.check_gained(&before, &held);
                // The other calls change nothing that authority rests on.
                if matches!(call, Call::Create(_) | Call::Delete(_)) {
                    self.check_authority();
                }
            }
        }
        for violation in &mut self.violations {
            *violation = format!("{act:?}: {violation}");
        }
    }

    fn change(&mut self, change: &DirectoryChange) {
        let (known, expected) = (self.world.tables.apply(change), self.model.apply(change));
        let refused = (!expected).then_some("unknown reference");
        let how = refused.unwrap_or("applied");
        self.coverage.note("directory", how);
        self.check(Rule::Reference, known == expected, || {
            format!("known: {known}")
        });
    }

    fn replace(&mut self, new: &Directory, allow_mass_removal: bool) {
        let clients = self.model.clients.len();
        let is_same = *new == self.model.directory;
        let done = self.world.tables.replace(new, allow_mass_removal);
        let expected = self.model.replace(new, allow_mass_removal);
        self.check(Rule::MassRemoval, done == expected, || {
            format!("done: {done}")
        });
        let is_without_clients = self.model.clients.len() < clients;
        for (happened, how) in [
            (expected, "done"),
            (!expected, "removes too much"),
            (is_same, "is the same"),
            (is_without_clients, "removes clients"),
        ] {
            if happened {
                self.coverage.note("replacement", how);
            }
        }
    }

    fn call(&mut self, actor: UserId, call: &Call, held: &Permissions) {
        let objections = self.model.objections(actor, call);
        let before = call
            .client()
            .and_then(|id| self.world.tables.clients.get(&id).cloned());
        match self.world.ask(actor, call) {
            Err(refusal) => {
                self.coverage.note(call.kind(), reason_of(&refusal));
                self.check_refusal(call, before.as_ref(), &refusal, &objections);
            }
            Ok(answer) => {
                self.coverage.note(call.kind(), "allowed");
                self.world.keep(call, &answer);
                self.check(Rule::Decision, objections.is_empty(), || {
                    format!("allowed, although {objections:?}")
                });
                if let Some(before) = &before {
                    self.note_allowed(actor, call, before, &answer, held);
                }
                self.check_event(call, before.as_ref(), &answer);
                if let Some(after) = &answer.client {
                    self.check_handed_out(call, before.as_ref(), after, held);
                    self.check_revoke_time(call, before.as_ref(), after);
                }
                let minted = answer.client.map(|client| client.id).zip(answer.token);
                self.model.perform(actor, call, minted);
            }
        }
    }

    fn check_refusal(
        &mut self,
        call: &Call,
        before: Option<&ApiClient>,
        refusal: &Refusal,
        objections: &[Refusal],
    ) {
        let named = match refusal {
            Refusal::Several(all) => &all[..],
            one => std::slice::from_ref(one),
        };
        let is_right = named.iter().all(|one| objections.contains(one));
        // Of an update, every field that is wrong is named.
        let mut invalid = objections
            .iter()
            .filter(|one| reason_of(one) == "INVALID_FIELD");
        let is_whole = !matches!(call, Call::Update(..))
            || reason_of(refusal) != "INVALID_FIELD"
            || invalid.all(|one| named.contains(one));
        self.check(Rule::Decision, is_right && is_whole, || {
            format!("refused as {refusal:?}, and what speaks against it is {objections:?}")
        });
        let lacks_delegation = matches!(
            refusal,
            Refusal::ExceedsInstanceRole { .. }
                | Refusal::ExceedsSiteRole { .. }
                | Refusal::SiteNotDelegable { .. }
        );
        let is_free = match (call, before) {
            (Call::Revoke(_) | Call::Delete(_) | Call::Get(_) | Call::List(_), _) => true,
            (Call::Update(_, update), Some(before)) => {
                let after = updated(before, update);
                handed_out(call, Some(before), &after, self.model.now).is_empty()
            }
            _ => false,
        };
        self.check(
            Rule::NarrowingIsFree,
            !(lacks_delegation && is_free),
            || format!("refused as {refusal:?}"),
        );
    }

    fn check_handed_out(
        &mut self,
        call: &Call,
        before: Option<&ApiClient>,
        after: &ApiClient,
        held: &Permissions,
    ) {
        let handed_out = handed_out(call, before, after, self.model.now);
        self.check(Rule::HandedOutIsHeld, handed_out.is_subset(held), || {
            format!(
                "hands out {:?}, which the actor does not hold",
                &handed_out - held
            )
        });
    }

    /// What a client can do after a call and could not do before it, the actor
    /// can do as well.
    fn check_gained(
        &mut self,
        before: &BTreeMap<(ClientId, usize), Permissions>,
        held: &Permissions,
    ) {
        let none = Permissions::new();
        let gained = |(at, now): (&(ClientId, usize), &Permissions)| {
            let gained = now - before.get(at).unwrap_or(&none);
            let (id, place) = at;
            (!gained.is_subset(held)).then(|| format!("client {id} gained {gained:?} at {place}"))
        };
        let gains: Vec<String> = self.usable.iter().filter_map(gained).collect();
        self.check(Rule::HandedOutIsHeld, gains.is_empty(), || gains.join(", "));
    }

    fn check_revoke_time(&mut self, call: &Call, before: Option<&ApiClient>, after: &ApiClient) {
        let first = before.and_then(|before| before.revoke_time);
        let kept = first.is_none() || after.revoke_time == first;
        self.check(
            Rule::FirstRevokeTime,
            kept || !matches!(call, Call::Revoke(_)),
            || format!("revoked at {first:?}, and then at {:?}", after.revoke_time),
        );
    }

    fn check_event(&mut self, call: &Call, before: Option<&ApiClient>, answer: &Answer) {
        let action = match call {
            Call::Create(_) => Some(Action::ClientCreated),
            Call::Update(..) => Some(Action::ClientUpdated),
            Call::Rotate(..) => Some(Action::ClientRotated),
            Call::Revoke(_) => Some(Action::ClientRevoked),
            Call::Reactivate(_) => Some(Action::ClientReactivated),
            Call::Delete(_) => Some(Action::ClientDeleted),
            Call::List(_) | Call::Get(_) => None,
        };
        let is_changed = matches!(call, Call::Rotate(..)) || answer.client.as_ref() != before;
        let (Some(action), Some(client)) = (action, answer.client.as_ref().or(before)) else {
            self.check(Rule::Event, answer.event.is_none(), || {
                "an event of reading".to_owned()
            });
            return;
        };
        let Some(event) = &answer.event else {
            self.check(Rule::Event, !is_changed, || {
                "a change without an event".to_owned()
            });
            return;
        };
        let about = (
            event.action,
            event.subject,
            event.subject_name.as_str(),
            event.owner,
        );
        let expected = (
            action,
            client.id.uuid(),
            client.name.as_str(),
            Some(owner_of(client)),
        );
        let names_the_changes = match (call, before) {
            (Call::Update(..), Some(before)) => names_exactly(event, before, client),
            _ => true,
        };
        let is_right = is_changed && about == expected && names_the_changes;
        self.check(Rule::Event, is_right, || {
            format!("{event:?} for {before:?} to {client:?}")
        });
    }

    /// Takes note of what is special about an allowed call on a client.
    fn note_allowed(
        &mut self,
        actor: UserId,
        call: &Call,
        before: &ApiClient,
        answer: &Answer,
        held: &Permissions,
    ) {
        let oversees = !self.model.manages(actor, owner_of(before));
        let tokens = self
            .model
            .tokens
            .iter()
            .filter(|token| token.client == before.id);
        let ends: Vec<Timestamp> = tokens.filter_map(|token| token.until).collect();
        let overlaps = ends.iter().any(|end| *end > self.model.now);
        let after = answer.client.as_ref().unwrap_or(before);
        let (old, new) = (carried_by(&before.delegated), carried_by(&after.delegated));
        let is_narrower = !old.is_subset(&new);
        let is_put_off = is_put_off(before.expiry, after.expiry);
        let is_update = matches!(call, Call::Update(..));
        let notes = [
            (answer.event.is_some(), "changes something"),
            (answer.event.is_none(), "changes nothing"),
            (oversees, "by an overseer"),
            (!old.is_subset(held), "on more than the actor holds"),
            (overlaps, "during an overlap"),
            (is_update && is_put_off, "puts the expiry off"),
            (
                is_update && is_put_off && overlaps,
                "puts the expiry off during an overlap",
            ),
            (
                is_update && after.expiry < before.expiry,
                "brings the expiry forward",
            ),
            (
                is_update && is_elsewhere(before, after),
                "lets tokens work elsewhere",
            ),
            (
                is_update && is_elsewhere(after, before),
                "keeps tokens from working somewhere",
            ),
            (
                is_update && starts_earlier(before, after, self.model.now),
                "lets tokens work earlier",
            ),
            (is_update && !new.is_subset(&old), "widens"),
            (is_update && is_narrower, "narrows"),
            (
                is_update && is_narrower && !new.is_subset(held),
                "narrows to more than the actor holds",
            ),
        ];
        for (_, how) in notes.into_iter().filter(|(happened, _)| *happened) {
            self.coverage.note(call.kind(), how);
        }
    }

    fn check(&mut self, rule: Rule, holds: bool, story: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(format!("{rule:?}: {}", story()));
        }
    }
}

/// Whether an event names those fields that differ, with their values.
fn names_exactly(event: &Event, before: &ApiClient, after: &ApiClient) -> bool {
    let fields: Vec<&str> = event
        .changes
        .iter()
        .map(|change| change.field.as_str())
        .collect();
    let expected = changed_fields(before, after);
    fields.len() == expected.len()
        && fields.iter().all(|field| expected.contains(*field))
        && event
            .changes
            .iter()
            .all(|change| change.before != change.after)
}
