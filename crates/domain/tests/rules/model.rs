//! A second implementation of `docs/access-rules.md`, written as directly as possible:
//! lists of rows, sets of permissions, and each rule's conditions in the order of the
//! document. It shares ids, names and the shape of a client with the domain, but no rules.
//!
//! It has its own directory and clients, so that the results of the domain and of the
//! tables can be compared with it.

mod directory;
pub(crate) mod life;
pub(crate) mod permissions;
pub(crate) mod places;

use std::collections::BTreeMap;

use hitkeep_auth_domain::{
    Timestamp,
    access::{Delegated, Owner},
    client::{ApiClient, ClientState, Draft, Expiry, Update},
    directory::{Directory, Site, User},
    id::{ClientId, SiteId, UserId},
    introspection::InactiveReason,
    refusal::Refusal,
    role::{InstanceRole, SiteRole, TeamRole},
    token::TokenHash,
};
use life::{handed_out, is_never_active, owner_of, updated};
use permissions::{Permissions, carried_by, on_instance, on_site};
use places::lets_in;

use crate::call::{Call, QUOTA};

/// What there should be.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) now: Timestamp,
    pub(crate) directory: Directory,
    pub(crate) clients: BTreeMap<ClientId, ApiClient>,
    /// Every token there ever was.
    pub(crate) tokens: Vec<IssuedToken>,
    /// The etags that were shown of a client so far, the last one last.
    pub(crate) etags: BTreeMap<ClientId, Vec<String>>,
}

/// A token that was handed out once.
#[derive(Clone, Debug)]
pub(crate) struct IssuedToken {
    pub(crate) hash: TokenHash,
    pub(crate) client: ClientId,
    /// When it ends, where another took its place.
    pub(crate) until: Option<Timestamp>,
}

impl Model {
    /// Nothing at all.
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            now,
            directory: Directory::default(),
            clients: BTreeMap::new(),
            tokens: Vec::new(),
            etags: BTreeMap::new(),
        }
    }
}

/// Sections 2 and 3: who holds what.
impl Model {
    /// Everything that a user may do right now.
    pub(crate) fn holds(&self, id: UserId) -> Permissions {
        let Some(user) = self.user(id).filter(|user| !user.disabled) else {
            return Permissions::new();
        };
        let mut held = on_instance(user.instance_role);
        for site in &self.directory.sites {
            held.extend(self.holds_on(site, user));
        }
        held
    }

    fn holds_on(&self, site: &Site, user: User) -> Permissions {
        let nothing = Permissions::new;
        let carried = |role| on_site(site.id, role);
        if user.disabled || self.team(site.team).is_none_or(|team| team.archived) {
            return nothing();
        }
        if user.instance_role == InstanceRole::Owner {
            return carried(SiteRole::Owner);
        }
        let derived = match self.team_role(site.team, user.id) {
            None => return nothing(),
            Some(TeamRole::Owner) => Some(carried(SiteRole::Owner)),
            Some(TeamRole::Admin) => Some(carried(SiteRole::Admin)),
            Some(TeamRole::Member) => None,
        };
        match (self.explicit_role(site.id, user.id).map(carried), derived) {
            (Some(explicit), Some(derived)) => &explicit & &derived,
            (explicit, derived) => explicit.or(derived).unwrap_or_default(),
        }
    }

    /// Everything that a client may do right now, as long as it is active.
    pub(crate) fn may_use(&self, client: &ApiClient) -> Permissions {
        let carried = carried_by(&client.delegated);
        match owner_of(client) {
            Owner::User(id) => &carried & &self.holds(id),
            Owner::Team(id) => {
                let inside = |site: SiteId| self.site(site).is_some_and(|site| site.team == id);
                carried
                    .into_iter()
                    .filter(|(site, _)| site.is_some_and(inside))
                    .collect()
            }
        }
    }

    /// What a token is good for right now from a place, or why it does not work.
    pub(crate) fn verdict(
        &self,
        token: &IssuedToken,
        place: usize,
    ) -> Result<Permissions, InactiveReason> {
        match (self.reason(token, place), self.clients.get(&token.client)) {
            (None, Some(client)) => Ok(self.may_use(client)),
            (reason, _) => Err(reason.unwrap_or(InactiveReason::UnknownToken)),
        }
    }

    /// The first reason why a token does not work from a place.
    pub(crate) fn reason(&self, token: &IssuedToken, place: usize) -> Option<InactiveReason> {
        let Some(client) = self.clients.get(&token.client) else {
            return Some(InactiveReason::UnknownToken);
        };
        if token.until.is_some_and(|end| end <= self.now) {
            return Some(InactiveReason::TokenRotated);
        }
        if client.revoke_time.is_some() {
            return Some(InactiveReason::Revoked);
        }
        if self.is_expired(client) {
            return Some(InactiveReason::Expired);
        }
        if !self.can_act(owner_of(client)) {
            return Some(InactiveReason::OwnerInactive);
        }
        if client
            .activation
            .time()
            .is_some_and(|start| start > self.now)
        {
            return Some(InactiveReason::NotYetActive);
        }
        if !lets_in(client).contains(&place) {
            return Some(InactiveReason::SourceNotAllowed);
        }
        None
    }

    fn is_expired(&self, client: &ApiClient) -> bool {
        client.expiry.time().is_some_and(|end| end <= self.now)
    }

    fn can_act(&self, owner: Owner) -> bool {
        match owner {
            Owner::User(id) => self.user(id).is_some_and(|user| !user.disabled),
            Owner::Team(id) => self.team(id).is_some_and(|team| !team.archived),
        }
    }
}

/// Section 4: who may do what.
impl Model {
    /// Whether an actor manages an owner's clients.
    pub(crate) fn manages(&self, actor: UserId, owner: Owner) -> bool {
        let enabled = self.user(actor).is_some_and(|user| !user.disabled);
        enabled
            && match owner {
                Owner::User(id) => id == actor,
                Owner::Team(id) => {
                    let role = self.team_role(id, actor);
                    self.can_act(owner) && matches!(role, Some(TeamRole::Admin | TeamRole::Owner))
                }
            }
    }

    /// Whether an actor may list, get, revoke and delete an owner's clients.
    pub(crate) fn sees(&self, actor: UserId, owner: Owner) -> bool {
        let is_instance_owner = self
            .user(actor)
            .is_some_and(|user| !user.disabled && user.instance_role == InstanceRole::Owner);
        let exists = match owner {
            Owner::User(id) => self.user(id).is_some(),
            Owner::Team(id) => self.team(id).is_some(),
        };
        self.manages(actor, owner) || (is_instance_owner && exists)
    }

    /// Everything that speaks against a call; where nothing does, it must
    /// succeed. Who may not even see the client learns nothing else.
    pub(crate) fn objections(&self, actor: UserId, call: &Call) -> Vec<Refusal> {
        match call {
            Call::Create(draft) => self.objections_to_create(actor, draft),
            Call::List(owner) if self.sees(actor, *owner) => Vec::new(),
            Call::List(_) => vec![Refusal::OwnerNotManaged],
            Call::Get(id)
            | Call::Revoke(id)
            | Call::Delete(id)
            | Call::Update(id, _)
            | Call::Rotate(id, _)
            | Call::Reactivate(id) => match self.clients.get(id) {
                Some(client) if self.sees(actor, owner_of(client)) => {
                    self.objections_to_change(actor, call, client)
                }
                _ => vec![Refusal::NotFound],
            },
        }
    }

    fn objections_to_create(&self, actor: UserId, draft: &Draft) -> Vec<Refusal> {
        let owner = draft.delegated.owner();
        if !self.manages(actor, owner) {
            return vec![Refusal::OwnerNotManaged];
        }
        let handed_out = carried_by(&draft.delegated);
        let mut objections = self.objections_to_delegate(actor, &draft.delegated, &handed_out);
        objections.extend(self.objection_to_expiry(draft.expiry));
        if is_never_active(draft.activation, draft.expiry) {
            objections.push(Refusal::ActivationTooLate);
        }
        if self
            .clients
            .values()
            .filter(|client| owner_of(client) == owner)
            .count()
            >= QUOTA
        {
            let limit = u32::try_from(QUOTA).expect("it is small");
            objections.push(Refusal::Quota { limit });
        }
        objections
    }

    fn objections_to_change(&self, actor: UserId, call: &Call, client: &ApiClient) -> Vec<Refusal> {
        let needs_management = matches!(
            call,
            Call::Update(..) | Call::Rotate(..) | Call::Reactivate(_)
        );
        if needs_management && !self.manages(actor, owner_of(client)) {
            return vec![Refusal::OwnerNotManaged];
        }
        let after = match call {
            Call::Update(_, update) => updated(client, update),
            _ => client.clone(),
        };
        let handed_out = handed_out(call, Some(client), &after, self.now);
        let mut objections = self.objections_to_delegate(actor, &after.delegated, &handed_out);
        let named = match call {
            Call::Update(_, update) => update.etag.as_ref(),
            Call::Rotate(_, renewal) => renewal.etag.as_ref(),
            _ => None,
        };
        let shown = self.etags.get(&client.id).and_then(|etags| etags.last());
        if named.is_some() && named != shown {
            objections.push(Refusal::EtagMismatch);
        }
        let wrong_state = |state| Refusal::WrongState { state };
        match call {
            Call::Rotate(..) if client.revoke_time.is_some() => {
                objections.push(wrong_state(ClientState::Revoked));
            }
            Call::Rotate(..) | Call::Reactivate(_) if self.is_expired(client) => {
                objections.push(wrong_state(ClientState::Expired));
            }
            Call::Update(_, update) => {
                objections.extend(self.objections_to_update(client, update));
            }
            _ => {}
        }
        objections
    }

    fn objections_to_update(&self, client: &ApiClient, update: &Update) -> Vec<Refusal> {
        let mut objections = Vec::new();
        let role = update.instance_role.unwrap_or(InstanceRole::User);
        if matches!(client.delegated, Delegated::Team { .. }) && role != InstanceRole::User {
            objections.push(Refusal::TeamInstanceRole);
        }
        let past = update
            .expiry
            .and_then(|expiry| self.objection_to_expiry(expiry));
        let is_past = past.is_some();
        objections.extend(past);
        let after = updated(client, update);
        if is_never_active(after.activation, after.expiry) {
            if update.activation.is_some() {
                objections.push(Refusal::ActivationTooLate);
            } else if update.expiry.is_some() && !is_past {
                objections.push(Refusal::ExpiryTooEarly);
            }
        }
        objections
    }

    fn objection_to_expiry(&self, expiry: Expiry) -> Option<Refusal> {
        expiry
            .time()
            .filter(|end| *end <= self.now)
            .map(|_| Refusal::ExpiryPast)
    }

    /// What speaks against handing that out.
    fn objections_to_delegate(
        &self,
        actor: UserId,
        delegated: &Delegated,
        handed_out: &Permissions,
    ) -> Vec<Refusal> {
        let mut objections = Vec::new();
        if handed_out.is_empty() {
            return objections;
        }
        let held = self.holds(actor);
        if let Delegated::Personal {
            instance_role: wanted,
            ..
        } = *delegated
            && !(&on_instance(wanted) & handed_out).is_subset(&held)
        {
            objections.push(Refusal::ExceedsInstanceRole { wanted });
        }
        for (&site, &wanted) in delegated.grants() {
            let handed_out = &on_site(site, wanted) & handed_out;
            if handed_out.is_empty() {
                continue;
            }
            let delegable = match delegated {
                Delegated::Personal { .. } => self.site(site).is_some(),
                Delegated::Team { team, .. } => self.site(site).is_some_and(|s| s.team == *team),
            };
            if !delegable {
                objections.push(Refusal::SiteNotDelegable { site });
            } else if !handed_out.is_subset(&held) {
                objections.push(Refusal::ExceedsSiteRole { site, wanted });
            }
        }
        objections
    }
}
