//! An API client's life cycle: create, update, rotate, revoke, reactivate and delete. Every
//! transition takes the facts of one moment, decides, and returns the new value together
//! with the event for the audit trail.
//!
//! No transition grants or widens access beyond what its actor holds at that moment. A
//! transition that only removes access does not fail for lack of it.

mod changes;
mod fields;
mod incident;
mod replace;

pub use super::state::{Activation, ClientState, Expiry};
use super::{
    Timestamp,
    access::{Authority, Delegated, Facts, Owner, OwnerFacts, SiteGrants},
    audit::{Action, Event, FieldChange},
    clock::Entropy,
    id::{ClientId, UserId},
    refusal::Refusal,
    role::InstanceRole,
    source::AllowedSources,
    token::{Token, TokenHint, TokenKind, TokenScheme},
};
pub use fields::{
    BadText, Description, MAX_DESCRIPTION, MAX_NAME, MAX_OVERLAP, Name, Overlap, check_text,
};
pub use incident::{
    LeakCircumstances, LeakOrigin, LeakedToken, MAX_LEAK_SOURCE, MAX_LEAK_URL, MAX_REVOKED_AT_ONCE,
    ReportedLeak, RevokedClient, Selection, check_all_listable, check_reporter, check_revocable,
};
pub use replace::{Replaced, Replacement, Revocation};

/// The domain separation of etags (BLAKE3's derive-key mode).
const ETAG_CONTEXT: &str = "auth.hitkeep.com 2026-11-23 API client etag v1";

/// An API client as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiClient {
    /// Assigned on creation; never reused.
    pub id: ClientId,
    /// The owner and the delegated roles.
    pub delegated: Delegated,
    /// The display name.
    pub name: Name,
    /// Free text for people.
    pub description: Description,
    /// When the tokens stop working.
    pub expiry: Expiry,
    /// From where the tokens work.
    pub sources: AllowedSources,
    /// When the tokens begin to work.
    pub activation: Activation,
    /// When it was revoked; `None` unless it is revoked.
    pub revoke_time: Option<Timestamp>,
    /// The actor that created it; `None` for an imported client whose creator is not known.
    pub created_by: Option<UserId>,
    /// When it was created.
    pub create_time: Timestamp,
    /// When an actor last changed it.
    pub update_time: Timestamp,
    /// When one of its tokens was last found active, as far as that is stored. Not delegated,
    /// so neither the etag nor `update_time` depends on it.
    pub last_used: Option<Timestamp>,
    /// The hint of the newest token; empty if an operator deleted the token's row by hand.
    pub token_hint: TokenHint,
    /// The scheme of the newest token, which tells a legacy one from the others; `None` if the
    /// row was deleted by hand.
    pub token_scheme: Option<TokenScheme>,
}

/// The fields of a client that is to be created.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The owner and the roles to delegate.
    pub delegated: Delegated,
    /// The display name.
    pub name: Name,
    /// Free text for people.
    pub description: Description,
    /// When its tokens are to stop working.
    pub expiry: Expiry,
    /// From where its tokens are to work.
    pub sources: AllowedSources,
    /// When its tokens are to begin to work.
    pub activation: Activation,
}

/// New values for some fields; `None` leaves a field as it is.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// The new display name.
    pub name: Option<Name>,
    /// The new free text.
    pub description: Option<Description>,
    /// The new role on the instance.
    pub instance_role: Option<InstanceRole>,
    /// The new roles on sites, which replace all previous ones.
    pub grants: Option<SiteGrants>,
    /// The new expiry.
    pub expiry: Option<Expiry>,
    /// The addresses from which tokens work, which replace all previous ones.
    pub sources: Option<AllowedSources>,
    /// The new activation.
    pub activation: Option<Activation>,
    /// The etag that the client must still have, if the caller sent one.
    pub etag: Option<String>,
}

/// How to replace a token.
#[derive(Clone, Debug, Default)]
pub struct Rotation {
    /// How long the previous token stays valid.
    pub overlap: Overlap,
    /// The etag that the client must still have, if the caller sent one.
    pub etag: Option<String>,
}

/// An owner's number of clients and its limit.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    /// Existing clients, inactive ones included.
    pub used: u32,
    /// The most clients that the owner may have.
    pub limit: u32,
}

/// A client after a transition, with the event for the audit trail. No event means that
/// nothing changed.
#[derive(Clone, Debug)]
pub struct Transition {
    /// The client after the transition.
    pub client: ApiClient,
    /// The event to record; `None` if nothing changed.
    pub event: Option<Event>,
}

/// A client with its newly generated token.
#[derive(Debug)]
pub struct Issued {
    /// The client after the transition.
    pub client: ApiClient,
    /// The event to record.
    pub event: Event,
    /// The plaintext token, which is shown once.
    pub token: Token,
}

/// A client whose token was replaced.
#[derive(Debug)]
pub struct Rotated {
    /// The client with its new token.
    pub issued: Issued,
    /// When the previous token stops working; earlier ones stop at once.
    pub old_token_ends: Timestamp,
}

impl ApiClient {
    /// Creates a client and its first token.
    pub fn create(
        draft: Draft,
        facts: &Facts,
        quota: Quota,
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<Issued, Refusal> {
        Self::check_create(&draft, facts, now)?;
        if quota.used >= quota.limit {
            return Err(Refusal::Quota { limit: quota.limit });
        }
        let token = Token::mint(token_kind(draft.delegated.owner()), entropy);
        let client = Self {
            id: ClientId::mint(now, entropy),
            delegated: draft.delegated,
            name: draft.name,
            description: draft.description,
            expiry: draft.expiry,
            sources: draft.sources,
            activation: draft.activation,
            revoke_time: None,
            created_by: Some(facts.actor.id),
            create_time: now,
            update_time: now,
            last_used: None,
            token_hint: token.hint(),
            token_scheme: Some(TokenScheme::Blake3),
        };
        let event = client.event(Action::ClientCreated, client.described());
        Ok(Issued {
            client,
            event,
            token,
        })
    }

    /// Whether the actor may create such a client now, apart from the owner's quota.
    pub fn check_create(draft: &Draft, facts: &Facts, now: Timestamp) -> Result<(), Refusal> {
        if facts.authority() < Authority::Manages {
            return Err(Refusal::OwnerNotManaged);
        }
        if draft.expiry.has_come(now) {
            return Err(Refusal::ExpiryPast);
        }
        if !draft.activation.is_before(draft.expiry) {
            return Err(Refusal::ActivationTooLate);
        }
        facts.check_delegable(draft.delegated.instance_role(), draft.delegated.grants())
    }

    /// Changes some fields. The actor must be able to delegate only what the update widens;
    /// a later expiry, an earlier activation or one more address widens everything that the
    /// client carries.
    pub fn update(
        self,
        update: Update,
        facts: &Facts,
        now: Timestamp,
    ) -> Result<Transition, Refusal> {
        Self::require_managed(facts)?;
        self.require_etag(update.etag.as_deref())?;
        let mut next = self.clone();
        if let Some(name) = update.name {
            next.name = name;
        }
        if let Some(description) = update.description {
            next.description = description;
        }
        // All of them are collected: a caller must not meet them one by one.
        let mut invalid = Vec::new();
        match (&mut next.delegated, update.instance_role) {
            (Delegated::Personal { instance_role, .. }, Some(new)) => *instance_role = new,
            (Delegated::Team { .. }, Some(InstanceRole::Admin | InstanceRole::Owner)) => {
                invalid.push(Refusal::TeamInstanceRole);
            }
            (Delegated::Team { .. }, Some(InstanceRole::User)) | (_, None) => {}
        }
        let is_past = update.expiry.is_some_and(|expiry| expiry.has_come(now));
        if is_past {
            invalid.push(Refusal::ExpiryPast);
        }
        if let Some(expiry) = update.expiry {
            next.expiry = expiry;
        }
        if let Some(sources) = update.sources {
            next.sources = sources;
        }
        if let Some(activation) = update.activation {
            next.activation = activation;
        }
        // A client that became so in another way can still be renamed.
        if !next.activation.is_before(next.expiry) {
            if update.activation.is_some() {
                invalid.push(Refusal::ActivationTooLate);
            } else if update.expiry.is_some() && !is_past {
                invalid.push(Refusal::ExpiryTooEarly);
            }
        }
        Refusal::check_fields(invalid)?;
        if let Some(new) = update.grants {
            match &mut next.delegated {
                Delegated::Personal { grants, .. } | Delegated::Team { grants, .. } => {
                    *grants = new;
                }
            }
        }
        let widened = self.widened_by(&next, now);
        facts.check_delegable(widened.instance_role, &widened.grants)?;

        let changes = FieldChange::between(&self.described(), &next.described());
        if changes.is_empty() {
            return Ok(Transition {
                client: self,
                event: None,
            });
        }
        next.update_time = now;
        let event = next.event(Action::ClientUpdated, changes);
        Ok(Transition {
            client: next,
            event: Some(event),
        })
    }

    /// Replaces the token. The new token carries all of the client's access, so the actor
    /// must be able to delegate all of it.
    pub fn rotate(
        self,
        rotation: &Rotation,
        facts: &Facts,
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<Rotated, Refusal> {
        Self::require_managed(facts)?;
        self.require_etag(rotation.etag.as_deref())?;
        self.check_token_issue(facts, now)?;
        let token = Token::mint(token_kind(self.delegated.owner()), entropy);
        let overlap_end = now + rotation.overlap.length();
        // A later change of the expiry must not revive the old token.
        let old_token_ends = self
            .expiry
            .time()
            .map_or(overlap_end, |at| at.min(overlap_end));
        let changes = vec![
            FieldChange::new("token_hint", &self.token_hint.0, &token.hint().0),
            FieldChange::new("overlap_end_time", "", &rfc3339(old_token_ends)),
        ];
        let client = Self {
            token_hint: token.hint(),
            token_scheme: Some(TokenScheme::Blake3),
            update_time: now,
            ..self
        };
        let event = client.event(Action::ClientRotated, changes);
        Ok(Rotated {
            issued: Issued {
                client,
                event,
                token,
            },
            old_token_ends,
        })
    }

    /// Whether the actor may receive a token of the client now: a new one, or a repeated reply
    /// with an earlier one. The actor must be able to delegate all that the client carries.
    pub fn check_token_issue(&self, facts: &Facts, now: Timestamp) -> Result<(), Refusal> {
        Self::require_managed(facts)?;
        self.require_state(facts, now, &[ClientState::Active])?;
        facts.check_delegable(self.delegated.instance_role(), self.delegated.grants())
    }

    /// Revokes all its tokens. A second revocation keeps the time of the first.
    pub fn revoke(self, facts: &Facts, now: Timestamp) -> Result<Transition, Refusal> {
        Self::require_visible(facts)?;
        Ok(self.revoked(now))
    }

    /// Undoes a revocation. The actor must be able to delegate all that the client carries.
    pub fn reactivate(self, facts: &Facts, now: Timestamp) -> Result<Transition, Refusal> {
        Self::require_managed(facts)?;
        if self.expiry.has_come(now) {
            return Err(Refusal::WrongState {
                state: ClientState::Expired,
            });
        }
        facts.check_delegable(self.delegated.instance_role(), self.delegated.grants())?;
        let Some(revoked) = self.revoke_time else {
            return Ok(Transition {
                client: self,
                event: None,
            });
        };
        let client = Self {
            revoke_time: None,
            update_time: now,
            ..self
        };
        let changes = vec![FieldChange::new("revoke_time", &rfc3339(revoked), "")];
        let event = client.event(Action::ClientReactivated, changes);
        Ok(Transition {
            client,
            event: Some(event),
        })
    }

    /// Deletes it, which cannot be undone.
    pub fn delete(self, facts: &Facts) -> Result<Event, Refusal> {
        Self::require_visible(facts)?;
        Ok(self.event(Action::ClientDeleted, Vec::new()))
    }

    /// Refuses an actor that may not see the client, with the refusal for a client that does
    /// not exist.
    pub fn require_visible(facts: &Facts) -> Result<(), Refusal> {
        match facts.authority() {
            Authority::Nothing => Err(Refusal::NotFound),
            Authority::Oversees | Authority::Manages => Ok(()),
        }
    }

    fn require_managed(facts: &Facts) -> Result<(), Refusal> {
        match facts.authority() {
            Authority::Nothing => Err(Refusal::NotFound),
            Authority::Oversees => Err(Refusal::OwnerNotManaged),
            Authority::Manages => Ok(()),
        }
    }

    /// Refuses a request whose etag is not the client's current one.
    fn require_etag(&self, named: Option<&str>) -> Result<(), Refusal> {
        match named {
            Some(etag) if etag != self.etag() => Err(Refusal::EtagMismatch),
            Some(_) | None => Ok(()),
        }
    }

    fn require_state(
        &self,
        facts: &Facts,
        now: Timestamp,
        allowed: &[ClientState],
    ) -> Result<(), Refusal> {
        let state = self.state(facts.owner_can_act(), now);
        if allowed.contains(&state) {
            Ok(())
        } else {
            Err(Refusal::WrongState { state })
        }
    }

    /// The state at `now`, which also depends on the owner.
    pub fn state(&self, owner_can_act: bool, now: Timestamp) -> ClientState {
        ClientState::of(self.revoke_time.is_some(), self.expiry, owner_can_act, now)
    }

    /// An opaque string that differs whenever the client does. It is derived from the content,
    /// so no writer can forget to change it, and it changes too if the directory removes a grant.
    pub fn etag(&self) -> String {
        let mut hasher = blake3::Hasher::new_derive_key(ETAG_CONTEXT);
        let mut add = |part: &str| {
            // The length prefix keeps adjacent parts apart.
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        };
        add(&self.id.to_string());
        add(&rfc3339(self.update_time));
        add(&self.revoke_time.map(rfc3339).unwrap_or_default());
        add(&self.token_hint.0);
        for change in self.described() {
            add(&change.field);
            add(&change.after);
        }
        hasher.finalize().to_hex()[..24].to_owned()
    }

    /// The event of an operation on this client.
    pub fn event(&self, action: Action, changes: Vec<FieldChange>) -> Event {
        Event {
            action,
            subject: self.id.uuid(),
            subject_name: self.name.as_str().to_owned(),
            owner: Some(self.delegated.owner()),
            changes,
        }
    }
}

const fn token_kind(owner: Owner) -> TokenKind {
    match owner {
        Owner::User(_) => TokenKind::Personal,
        Owner::Team(_) => TokenKind::Team,
    }
}

/// A time in the format of the audit trail.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

/// Refuses an actor that may not see an owner's clients.
pub fn check_listable(facts: &Facts) -> Result<(), Refusal> {
    match (facts.owner, facts.authority()) {
        (OwnerFacts::Absent, _) | (_, Authority::Nothing) => Err(Refusal::OwnerNotManaged),
        (_, Authority::Oversees | Authority::Manages) => Ok(()),
    }
}
