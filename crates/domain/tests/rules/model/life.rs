//! The model's clients: what an allowed call makes of them, what it hands out
//! by that, and what the audit trail must tell of it. Whether a call is allowed
//! is decided before.

use std::collections::BTreeSet;

use hitkeep_auth_domain::{
    Timestamp,
    access::{Delegated, Owner, SiteGrants},
    client::{Activation, ApiClient, Expiry, Update},
    id::{ClientId, UserId},
    token::{Token, TokenHint, TokenScheme},
};

use super::{
    IssuedToken, Model,
    permissions::{Permissions, carried_by, on_instance},
    places::is_elsewhere,
};
use crate::call::Call;

impl Model {
    /// Does what an allowed call is to do.
    pub(crate) fn perform(
        &mut self,
        actor: UserId,
        call: &Call,
        minted: Option<(ClientId, Token)>,
    ) {
        let now = self.now;
        match (call, minted) {
            (Call::Create(draft), Some((id, token))) => {
                let client = ApiClient {
                    id,
                    delegated: draft.delegated.clone(),
                    name: draft.name.clone(),
                    description: draft.description.clone(),
                    expiry: draft.expiry,
                    sources: draft.sources.clone(),
                    activation: draft.activation,
                    revoke_time: None,
                    created_by: Some(actor),
                    create_time: now,
                    update_time: now,
                    last_used: None,
                    token_hint: hint(draft.delegated.owner(), &token),
                    token_scheme: Some(TokenScheme::Blake3),
                };
                self.clients.insert(id, client);
                self.tokens.push(IssuedToken {
                    hash: token.hash(),
                    client: id,
                    until: None,
                });
            }
            (Call::Rotate(id, renewal), Some((_, token))) => {
                let Some(client) = self.clients.get_mut(id) else {
                    return;
                };
                client.update_time = now;
                client.token_hint = hint(owner_of(client), &token);
                client.token_scheme = Some(TokenScheme::Blake3);
                for old in self.tokens.iter_mut().filter(|old| old.client == *id) {
                    old.until = Some(match old.until {
                        None => now + renewal.overlap,
                        Some(already) => already.min(now),
                    });
                }
                self.tokens.push(IssuedToken {
                    hash: token.hash(),
                    client: *id,
                    until: None,
                });
                self.end_overlaps_with_expiry(*id);
            }
            (Call::Update(id, update), _) => {
                let Some(client) = self.clients.get_mut(id) else {
                    return;
                };
                let next = updated(client, update);
                if next != *client {
                    *client = ApiClient {
                        update_time: now,
                        ..next
                    };
                    self.end_overlaps_with_expiry(*id);
                }
            }
            (Call::Revoke(id), _) => {
                let Some(client) = self.clients.get_mut(id) else {
                    return;
                };
                if client.revoke_time.is_none() {
                    client.revoke_time = Some(now);
                    client.update_time = now;
                }
            }
            (Call::Reactivate(id), _) => {
                let Some(client) = self.clients.get_mut(id) else {
                    return;
                };
                if client.revoke_time.is_some() {
                    client.revoke_time = None;
                    client.update_time = now;
                }
            }
            (Call::Delete(id), _) => {
                self.clients.remove(id);
            }
            (Call::Create(_) | Call::Rotate(..) | Call::List(_) | Call::Get(_), _) => {}
        }
    }

    /// An overlap never outlives the expiry, nor any that there was meanwhile.
    fn end_overlaps_with_expiry(&mut self, id: ClientId) {
        let Some(end) = self
            .clients
            .get(&id)
            .and_then(|client| client.expiry.time())
        else {
            return;
        };
        for token in self.tokens.iter_mut().filter(|token| token.client == id) {
            token.until = token.until.map(|until| until.min(end));
        }
    }
}

/// What a call hands out: creating, rotating, reactivating, and an update that lets tokens
/// work longer, earlier or elsewhere everything that the client carries, another update what
/// it adds.
pub(crate) fn handed_out(
    call: &Call,
    before: Option<&ApiClient>,
    after: &ApiClient,
    now: Timestamp,
) -> Permissions {
    let widens_all = |before: &ApiClient| {
        is_put_off(before.expiry, after.expiry)
            || starts_earlier(before, after, now)
            || is_elsewhere(before, after)
    };
    let carried = || carried_by(&after.delegated);
    match (call, before) {
        (Call::Update(..), Some(before)) if !widens_all(before) => {
            &carried() - &carried_by(&before.delegated)
        }
        (Call::Create(_) | Call::Update(..) | Call::Rotate(..) | Call::Reactivate(_), _) => {
            carried()
        }
        (Call::List(_) | Call::Get(_) | Call::Revoke(_) | Call::Delete(_), _) => Permissions::new(),
    }
}

/// A client with an update's fields in place of its own.
pub(crate) fn updated(client: &ApiClient, update: &Update) -> ApiClient {
    let mut next = client.clone();
    next.name = update.name.clone().unwrap_or(next.name);
    next.description = update.description.clone().unwrap_or(next.description);
    next.expiry = update.expiry.unwrap_or(next.expiry);
    next.sources = update.sources.clone().unwrap_or(next.sources);
    next.activation = update.activation.unwrap_or(next.activation);
    if let (Delegated::Personal { instance_role, .. }, Some(new)) =
        (&mut next.delegated, update.instance_role)
    {
        *instance_role = new;
    }
    if let Some(new) = &update.grants {
        grants_of(&mut next).clone_from(new);
    }
    next
}

/// The fields that the audit trail must name.
pub(crate) fn changed_fields(before: &ApiClient, after: &ApiClient) -> BTreeSet<String> {
    let mut fields = BTreeSet::new();
    let mut note = |field: &str, changed: bool| {
        if changed {
            fields.insert(field.to_owned());
        }
    };
    note("name", before.name != after.name);
    note("description", before.description != after.description);
    note("expire_time", before.expiry != after.expiry);
    note("allowed_cidrs", before.sources != after.sources);
    note("not_before_time", before.activation != after.activation);
    let instance = |client: &ApiClient| match client.delegated {
        Delegated::Personal { instance_role, .. } => on_instance(instance_role),
        Delegated::Team { .. } => Permissions::new(),
    };
    note("instance_role", instance(before) != instance(after));
    let (old, new) = (before.delegated.grants(), after.delegated.grants());
    for site in old.keys().chain(new.keys()) {
        note(
            &format!("site_grants[{site}]"),
            old.get(site) != new.get(site),
        );
    }
    fields
}

/// Whose client it is.
pub(crate) const fn owner_of(client: &ApiClient) -> Owner {
    match client.delegated {
        Delegated::Personal { user, .. } => Owner::User(user),
        Delegated::Team { team, .. } => Owner::Team(team),
    }
}

pub(crate) const fn grants_of(client: &mut ApiClient) -> &mut SiteGrants {
    match &mut client.delegated {
        Delegated::Personal { grants, .. } | Delegated::Team { grants, .. } => grants,
    }
}

pub(crate) const fn is_put_off(before: Expiry, after: Expiry) -> bool {
    match (before.time(), after.time()) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(before), Some(after)) => after.timestamp_micros() > before.timestamp_micros(),
    }
}

/// Whether a client that does not work yet works at an earlier time than it would have.
pub(crate) fn starts_earlier(before: &ApiClient, after: &ApiClient, now: Timestamp) -> bool {
    let start = |client: &ApiClient| client.activation.time().map_or(now, |start| start.max(now));
    start(after) < start(before)
}

/// Whether a client with both would never work.
pub(crate) fn is_never_active(activation: Activation, expiry: Expiry) -> bool {
    let both = activation.time().zip(expiry.time());
    both.is_some_and(|(start, end)| start >= end)
}

/// `hkp_...x7Qa`: the owner's prefix and the last four characters.
fn hint(owner: Owner, token: &Token) -> TokenHint {
    let prefix = match owner {
        Owner::User(_) => "hkp",
        Owner::Team(_) => "hkt",
    };
    let text = token.reveal();
    TokenHint(format!("{prefix}_...{}", &text[text.len() - 4..]))
}
