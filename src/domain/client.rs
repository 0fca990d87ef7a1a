//! An API client and its life: created, updated, rotated, revoked, reactivated,
//! deleted. Every transition takes the facts of the moment, decides, and gives
//! the new value together with the event that the audit trail gets.
//!
//! No transition hands out, or widens, access beyond what its actor holds at
//! that moment; none that only takes access away fails for lack of it.

mod parts;

use super::{
    Timestamp,
    access::{Authority, Delegated, Facts, Owner, OwnerFacts, SiteGrants},
    audit::{Action, Event, FieldChange},
    clock::Entropy,
    id::{ClientId, SiteId, UserId},
    refusal::Refusal,
    role::{InstanceRole, SiteRole},
    token::{Token, TokenHint, TokenKind},
};
pub use parts::{
    BadText, ClientState, Description, Expiry, MAX_DESCRIPTION, MAX_NAME, MAX_OVERLAP, Name,
    Overlap, check_text,
};

/// What an etag is derived for (BLAKE3's derive-key mode).
const ETAG_CONTEXT: &str = "auth.hitkeep.com 2026-11-23 API client etag v1";

/// An API client as it was delegated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiClient {
    /// Its id.
    pub id: ClientId,
    /// Its owner, and what was written on it.
    pub delegated: Delegated,
    /// Its name.
    pub name: Name,
    /// Its description.
    pub description: Description,
    /// When it stops working.
    pub expiry: Expiry,
    /// When it was revoked, where it is.
    pub revoke_time: Option<Timestamp>,
    /// The actor that made it.
    pub created_by: UserId,
    /// When it was made.
    pub create_time: Timestamp,
    /// When it was last changed.
    pub update_time: Timestamp,
    /// When one of its tokens was last found good, as far as that was written; no
    /// part of what was delegated, and so of neither the etag nor `update_time`.
    pub last_used: Option<Timestamp>,
    /// What is shown of its newest token; empty where somebody removed that by hand.
    pub token_hint: TokenHint,
}

/// What a client is to be made of.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Its owner, and what to delegate.
    pub delegated: Delegated,
    /// Its name.
    pub name: Name,
    /// Its description.
    pub description: Description,
    /// When it is to stop working.
    pub expiry: Expiry,
}

/// New values for some fields; `None` leaves a field as it is.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// A new name.
    pub name: Option<Name>,
    /// A new description.
    pub description: Option<Description>,
    /// A new role on the instance.
    pub instance_role: Option<InstanceRole>,
    /// New roles on sites, in place of all that were there.
    pub grants: Option<SiteGrants>,
    /// A new expiry.
    pub expiry: Option<Expiry>,
    /// The etag that the client must still have.
    pub etag: Option<String>,
}

/// How a token is to be replaced.
#[derive(Clone, Debug, Default)]
pub struct Rotation {
    /// How long the token before it still works.
    pub overlap: Overlap,
    /// The etag that the client must still have.
    pub etag: Option<String>,
}

/// How many clients an owner has, and may have.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    /// Clients there are, inactive ones included.
    pub used: u32,
    /// Clients there may be.
    pub limit: u32,
}

/// A client after a transition, and what to tell the audit trail. No event:
/// nothing changed.
#[derive(Clone, Debug)]
pub struct Transition {
    /// The client as it is now.
    pub client: ApiClient,
    /// What happened.
    pub event: Option<Event>,
}

/// A client with a token that was just made.
#[derive(Debug)]
pub struct Issued {
    /// The client as it is now.
    pub client: ApiClient,
    /// What happened.
    pub event: Event,
    /// The secret.
    pub token: Token,
}

/// A client whose token was replaced.
#[derive(Debug)]
pub struct Rotated {
    /// The client with its new token.
    pub issued: Issued,
    /// When the token before it ends; earlier ones end at once.
    pub old_token_ends: Timestamp,
}

impl ApiClient {
    /// Makes a client and its first token.
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
            revoke_time: None,
            created_by: facts.actor.id,
            create_time: now,
            update_time: now,
            last_used: None,
            token_hint: token.hint(),
        };
        let event = client.event(Action::ClientCreated, client.described());
        Ok(Issued {
            client,
            event,
            token,
        })
    }

    /// Whether the actor may make such a client at this moment, its owner's quota apart.
    pub fn check_create(draft: &Draft, facts: &Facts, now: Timestamp) -> Result<(), Refusal> {
        if facts.authority() < Authority::Manages {
            return Err(Refusal::OwnerNotManaged);
        }
        if draft.expiry.has_come(now) {
            return Err(Refusal::ExpiryPast);
        }
        facts.check_delegable(draft.delegated.instance_role(), draft.delegated.grants())
    }

    /// Changes some fields. Only what the update widens must be delegable by
    /// the actor; a later expiry widens everything that the client carries.
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
        if let Some(expiry) = update.expiry {
            if expiry.has_come(now) {
                return Err(Refusal::ExpiryPast);
            }
            next.expiry = expiry;
        }
        match (&mut next.delegated, update.instance_role) {
            (Delegated::Personal { instance_role, .. }, Some(new)) => *instance_role = new,
            (Delegated::Team { .. }, Some(InstanceRole::Admin | InstanceRole::Owner)) => {
                return Err(Refusal::TeamInstanceRole);
            }
            (Delegated::Team { .. }, Some(InstanceRole::User)) | (_, None) => {}
        }
        if let Some(new) = update.grants {
            match &mut next.delegated {
                Delegated::Personal { grants, .. } | Delegated::Team { grants, .. } => {
                    *grants = new;
                }
            }
        }
        let widened = self.widened_by(&next);
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

    /// Replaces the token. Hands out everything that the client carries.
    pub fn rotate(
        self,
        rotation: &Rotation,
        facts: &Facts,
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<Rotated, Refusal> {
        Self::require_managed(facts)?;
        self.require_etag(rotation.etag.as_deref())?;
        self.check_handing_out(facts, now)?;
        let token = Token::mint(token_kind(self.delegated.owner()), entropy);
        let overlap_end = now + rotation.overlap.length();
        // An expiry that is moved later on must not revive the old token.
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

    /// Whether the actor may get a token of the client at this moment: a new one, or one
    /// that they were given before. It hands out everything that the client carries now.
    pub fn check_handing_out(&self, facts: &Facts, now: Timestamp) -> Result<(), Refusal> {
        Self::require_managed(facts)?;
        self.require_state(facts, now, &[ClientState::Active])?;
        facts.check_delegable(self.delegated.instance_role(), self.delegated.grants())
    }

    /// Ends all its tokens. Revoking again keeps the first time.
    pub fn revoke(self, facts: &Facts, now: Timestamp) -> Result<Transition, Refusal> {
        Self::require_visible(facts)?;
        if self.revoke_time.is_some() {
            return Ok(Transition {
                client: self,
                event: None,
            });
        }
        let client = Self {
            revoke_time: Some(now),
            update_time: now,
            ..self
        };
        let changes = vec![FieldChange::new("revoke_time", "", &rfc3339(now))];
        let event = client.event(Action::ClientRevoked, changes);
        Ok(Transition {
            client,
            event: Some(event),
        })
    }

    /// Undoes a revocation. Hands out everything that the client carries.
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

    /// Ends it for good.
    pub fn delete(self, facts: &Facts) -> Result<Event, Refusal> {
        Self::require_visible(facts)?;
        Ok(self.event(Action::ClientDeleted, Vec::new()))
    }

    /// Refuses an actor who may not see the client, exactly as if there were
    /// none.
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

    /// Refuses a call that names another etag than the client has.
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

    /// The client's state.
    pub fn state(&self, owner_can_act: bool, now: Timestamp) -> ClientState {
        ClientState::of(self.revoke_time.is_some(), self.expiry, owner_can_act, now)
    }

    /// A text that differs whenever the client does. Derived from the content,
    /// so that no writer can forget to change it; also other than before where
    /// the directory took a grant away.
    pub fn etag(&self) -> String {
        let mut hasher = blake3::Hasher::new_derive_key(ETAG_CONTEXT);
        let mut add = |part: &str| {
            // With its length in front, no part can run into the next.
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

    /// What `next` lets the client do that it could not do before.
    fn widened_by(&self, next: &Self) -> Widened {
        let (old, new) = (&self.delegated, &next.delegated);
        if next.expiry > self.expiry {
            let grants = new.grants().clone();
            return Widened {
                instance_role: new.instance_role(),
                grants,
            };
        }
        let instance_role = match new.instance_role() {
            role if role > old.instance_role() => role,
            _ => InstanceRole::User,
        };
        let wider = |(site, role): &(&SiteId, &SiteRole)| {
            old.grants().get(site).is_none_or(|before| before < role)
        };
        let grants = new
            .grants()
            .iter()
            .filter(wider)
            .map(|(site, role)| (*site, *role));
        Widened {
            instance_role,
            grants: grants.collect(),
        }
    }

    /// Every field that an actor can set, as the audit trail shows it: the
    /// client as a change from nothing.
    fn described(&self) -> Vec<FieldChange> {
        let mut fields = vec![
            FieldChange::new("name", "", self.name.as_str()),
            FieldChange::new("description", "", self.description.as_str()),
            FieldChange::new("instance_role", "", self.delegated.instance_role().as_str()),
            FieldChange::new(
                "expire_time",
                "",
                &self.expiry.time().map(rfc3339).unwrap_or_default(),
            ),
        ];
        let grants = self.delegated.grants().iter();
        fields.extend(grants.map(|(site, role)| {
            FieldChange::new(&format!("site_grants[{site}]"), "", role.as_str())
        }));
        fields.retain(|field| !field.after.is_empty());
        fields
    }

    fn event(&self, action: Action, changes: Vec<FieldChange>) -> Event {
        Event {
            action,
            subject: self.id.uuid(),
            subject_name: self.name.as_str().to_owned(),
            owner: Some(self.delegated.owner()),
            changes,
        }
    }
}

/// What an update widens: the actor must be able to delegate it.
struct Widened {
    instance_role: InstanceRole,
    grants: SiteGrants,
}

/// The kind of token that an owner's clients have.
const fn token_kind(owner: Owner) -> TokenKind {
    match owner {
        Owner::User(_) => TokenKind::Personal,
        Owner::Team(_) => TokenKind::Team,
    }
}

/// A time as the audit trail shows it.
fn rfc3339(time: Timestamp) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

/// Who may list an owner's clients: whoever may see them.
pub fn check_listable(facts: &Facts) -> Result<(), Refusal> {
    match (facts.owner, facts.authority()) {
        (OwnerFacts::Absent, _) | (_, Authority::Nothing) => Err(Refusal::OwnerNotManaged),
        (_, Authority::Oversees | Authority::Manages) => Ok(()),
    }
}
