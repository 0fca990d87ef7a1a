//! The update of HitKeep's dashboard: every field that it shows, and whether the client is
//! revoked, in one transition.

use super::{ApiClient, Description, Expiry, Name, Transition, Update};
use crate::{
    Timestamp,
    access::{Facts, MAX_GRANTS, SiteGrants},
    audit::Event,
    refusal::Refusal,
    role::InstanceRole,
};

/// Whether a replacement revokes a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Revocation {
    /// The client stays as it is, revoked or not.
    #[default]
    Kept,
    /// The client is revoked, if it is not.
    Revoked,
    /// The client is reactivated, if it is revoked.
    Lifted,
}

/// New values for all fields that the dashboard shows. Fields that it does not know stay as
/// they are: a person who renames a client there must not lift a restriction.
#[derive(Clone, Debug)]
pub struct Replacement {
    /// The display name.
    pub name: Name,
    /// Free text for people.
    pub description: Description,
    /// The role on the instance.
    pub instance_role: InstanceRole,
    /// The roles on sites, which replace all previous ones.
    pub grants: SiteGrants,
    /// The expiry. It may be in the past if it is the present one.
    pub expiry: Expiry,
    /// Whether the client is revoked.
    pub revocation: Revocation,
}

/// A client after a replacement, with the events for the audit trail, in their order. No
/// event means that nothing changed.
#[derive(Clone, Debug)]
pub struct Replaced {
    /// The client after the replacement.
    pub client: ApiClient,
    /// At most two events, since a client is not both revoked and reactivated.
    pub events: Vec<Event>,
}

impl Replaced {
    fn then(
        self,
        transition: impl FnOnce(ApiClient) -> Result<Transition, Refusal>,
    ) -> Result<Self, Refusal> {
        let Self { client, mut events } = self;
        let Transition { client, event } = transition(client)?;
        events.extend(event);
        Ok(Self { client, events })
    }
}

impl Replacement {
    /// The fields that differ from the client's. A field that is sent as it is must not need
    /// a permission, nor an expiry in the future, nor be within the limits of what is new: an
    /// import may have brought more.
    fn differences(self, client: &ApiClient) -> Result<Option<Update>, Refusal> {
        let Self {
            name,
            description,
            instance_role,
            grants,
            expiry,
            revocation: _,
        } = self;
        let delegated = &client.delegated;
        let update = Update {
            name: Some(name).filter(|name| *name != client.name),
            description: Some(description).filter(|text| !text.is_shown_like(&client.description)),
            instance_role: Some(instance_role).filter(|role| *role != delegated.instance_role()),
            grants: Some(grants).filter(|grants| grants != delegated.grants()),
            expiry: Some(expiry).filter(|expiry| *expiry != client.expiry),
            ..Update::default()
        };
        if update.name.as_ref().is_some_and(Name::has_token) {
            return Err(Refusal::TokenInName);
        }
        let description = update.description.as_ref();
        if description.is_some_and(Description::has_token) {
            return Err(Refusal::TokenInDescription);
        }
        let grants = update.grants.as_ref();
        if grants.is_some_and(|grants| grants.len() > MAX_GRANTS) {
            return Err(Refusal::TooManyGrants { limit: MAX_GRANTS });
        }
        let differs = update.name.is_some()
            || update.description.is_some()
            || update.instance_role.is_some()
            || update.grants.is_some()
            || update.expiry.is_some();
        Ok(differs.then_some(update))
    }
}

impl ApiClient {
    /// Revokes, updates and reactivates a client, each if it is asked for and changes
    /// something, by the rules of [`Self::revoke`], [`Self::update`] and
    /// [`Self::reactivate`]; all or nothing. The reactivation comes last, so that the actor
    /// must be able to delegate what the client carries from then on.
    pub fn replace(
        self,
        replacement: Replacement,
        facts: &Facts,
        now: Timestamp,
    ) -> Result<Replaced, Refusal> {
        Self::require_visible(facts)?;
        let revocation = replacement.revocation;
        let mut replaced = Replaced {
            client: self,
            events: Vec::new(),
        };
        if revocation == Revocation::Revoked {
            replaced = replaced.then(|client| client.revoke(facts, now))?;
        }
        if let Some(update) = replacement.differences(&replaced.client)? {
            replaced = replaced.then(|client| client.update(update, facts, now))?;
        }
        // The dashboard sends `false` with every edit of a client that is not revoked. That
        // must not need what a reactivation needs.
        if revocation == Revocation::Lifted && replaced.client.revoke_time.is_some() {
            replaced = replaced.then(|client| client.reactivate(facts, now))?;
        }
        Ok(replaced)
    }
}
