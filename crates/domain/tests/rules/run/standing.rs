//! What holds at every moment, whatever happened before: what the tokens are
//! good for, what became of the clients, and who may see and manage them. All
//! of it is asked of everything that there is, and not only of what the last
//! step was about.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use hitkeep_auth_domain::{
    access::{Decision, Owner, PermissionCheck},
    client::{ClientState, Expiry, Update},
    id::{ClientId, UserId},
    introspection::{InactiveReason, cache_age},
    refusal::Refusal,
    role::{InstancePermission, InstanceRole, SitePermission},
    token::TokenHash,
};

use super::{Run, Verdict};
use crate::{
    call::Call,
    coverage::name_of,
    model::{
        IssuedToken,
        life::owner_of,
        permissions::{Permissions, carried_by, reported_by},
        places::PLACES,
    },
    rules::Rule,
    script::{SITES, TEAMS, USERS, site, team, user},
    verdict::Active,
};

/// How long an answer may be kept at most.
const CACHE_AGE: TimeDelta = TimeDelta::hours(30);

/// Clients.
impl Run<'_> {
    /// The clients are what calls and directory made of them; so are the etags.
    pub(super) fn check_clients(&mut self) {
        let differing: Vec<String> = {
            let (world, model) = (&self.world.tables.clients, &self.model.clients);
            let ids = world
                .keys()
                .chain(model.keys().filter(|id| !world.contains_key(id)));
            let differing = ids.filter(|id| world.get(id) != model.get(id));
            differing
                .map(|id| format!("{:?}, not {:?}", world.get(id), model.get(id)))
                .collect()
        };
        self.check(Rule::Content, differing.is_empty(), || differing.join("; "));
        self.check_etags();
        self.check_overlaps();
    }

    fn check_etags(&mut self) {
        let mut wrong = Vec::new();
        for (id, client) in &self.world.tables.clients {
            let contents = self.contents.entry(*id).or_default();
            if contents.last().is_some_and(|(last, _)| last == client) {
                continue;
            }
            let etag = client.etag();
            let other = |(old, shown): &&(_, String)| (old == client) != (*shown == etag);
            if let Some((old, _)) = contents.iter().find(other) {
                wrong.push(format!("{etag} for {client:?} and {old:?}"));
            }
            contents.push((client.clone(), etag.clone()));
            self.model.etags.entry(*id).or_default().push(etag);
        }
        self.check(Rule::Etag, wrong.is_empty(), || wrong.join("; "));
    }

    fn check_overlaps(&mut self) {
        let tables = &self.world.tables;
        let too_long = tables.tokens.iter().filter_map(|token| {
            let expiry = tables.clients.get(&token.client)?.expiry.time()?;
            token.end_time.filter(|end| *end > expiry)
        });
        let too_long = too_long.count();
        self.check(Rule::OverlapEndsWithExpiry, too_long == 0, || {
            format!("{too_long} outlive it")
        });
    }
}

/// Tokens.
impl Run<'_> {
    /// Every token that there ever was is good for what it should be.
    pub(super) fn check_tokens(&mut self) {
        let mut working: BTreeMap<(ClientId, usize), u8> = BTreeMap::new();
        let mut usable: BTreeMap<(ClientId, usize), Permissions> = BTreeMap::new();
        for token in self.model.tokens.clone() {
            let client = self.model.clients.get(&token.client);
            let is_restricted = client.is_some_and(|client| !client.sources.is_everywhere());
            // Where everything is allowed, one place stands for all.
            let places = if is_restricted { PLACES.len() } else { 1 };
            for (place, source) in PLACES.into_iter().take(places).enumerate() {
                let verdict = self.world.judge(token.hash, source);
                if let Ok(active) = &verdict {
                    let reported = reported_by(&active.client.access);
                    self.check_bounds(&token, active, &reported);
                    let stands_for = if is_restricted {
                        place..=place
                    } else {
                        0..=PLACES.len() - 1
                    };
                    for place in stands_for {
                        let at = (active.client.client, place);
                        *working.entry(at).or_default() += 1;
                        let there = usable.entry(at).or_default();
                        there.extend(reported.iter().copied());
                    }
                }
                self.check_verdict(&token, place, verdict);
            }
        }
        let never_issued = self.world.judge(TokenHash([7; 32]), PLACES[1]);
        let is_unknown = never_issued == Err(InactiveReason::UnknownToken);
        self.check(Rule::Reason, is_unknown, || {
            format!("{never_issued:?} for no token")
        });
        let most = working.into_values().max().unwrap_or_default();
        self.check(Rule::TwoTokensAtMost, most <= 2, || {
            format!("{most} tokens work")
        });
        if most == 2 {
            self.coverage.note("token", "two work");
        }
        self.usable = usable;
        self.check_states();
    }

    /// Every client is shown in the state that its newest token is in.
    fn check_states(&mut self) {
        let tokens = self
            .model
            .tokens
            .iter()
            .filter(|token| token.until.is_none());
        let wrong = tokens.filter_map(|token| {
            let expected = match self.model.reason(token, 0) {
                // A client has these states apart from the place, and before it works.
                None | Some(InactiveReason::NotYetActive | InactiveReason::SourceNotAllowed) => {
                    ClientState::Active
                }
                Some(InactiveReason::Revoked) => ClientState::Revoked,
                Some(InactiveReason::Expired) => ClientState::Expired,
                Some(InactiveReason::OwnerInactive) => ClientState::OwnerInactive,
                Some(InactiveReason::UnknownToken | InactiveReason::TokenRotated) => return None,
            };
            let state = self
                .world
                .state(self.world.tables.clients.get(&token.client)?);
            (state != expected).then(|| format!("{state}, not {expected}"))
        });
        let wrong: Vec<String> = wrong.collect();
        self.check(Rule::State, wrong.is_empty(), || wrong.join(", "));
    }

    /// What a client may do is within what was delegated, and a personal
    /// client's within what its owner holds.
    fn check_bounds(&mut self, token: &IssuedToken, active: &Active, reported: &Permissions) {
        let Some(client) = self.model.clients.get(&token.client) else {
            return;
        };
        self.coverage
            .note_access(&client.delegated, &active.client.access);
        let carried = carried_by(&client.delegated);
        match owner_of(client) {
            Owner::User(id) => {
                let held = self.model.holds(id);
                self.check(Rule::UsableIsHeldByOwner, reported.is_subset(&held), || {
                    format!("may {:?}, which its owner may not", reported - &held)
                });
            }
            Owner::Team(_) => {
                let role = active.client.access.instance_role;
                self.check(Rule::TeamClientIsUser, role == InstanceRole::User, || {
                    role.to_string()
                });
            }
        }
        self.check(
            Rule::UsableIsDelegated,
            reported.is_subset(&carried),
            || format!("may {:?}, which was not delegated", reported - &carried),
        );
    }

    fn check_verdict(&mut self, token: &IssuedToken, place: usize, verdict: Verdict) {
        let expected = self.model.verdict(token, place);
        self.coverage.note(
            "token",
            expected.as_ref().map_or_else(|r| name_of(*r), |_| "active"),
        );
        match (&expected, &verdict) {
            (Ok(usable), Ok(active)) => self.check_active(token, usable, active),
            (expected, verdict) => {
                let is_right = expected.as_ref().err() == verdict.as_ref().err();
                self.check(Rule::Reason, is_right, || {
                    format!("{verdict:?}, not {expected:?}")
                });
            }
        }
        let may = expected.unwrap_or_default();
        let at = (token.hash, place);
        if self.verdicts.get(&at) != Some(&verdict) {
            self.check_decisions(&may, &verdict);
            self.verdicts.insert(at, verdict);
        }
    }

    fn check_active(&mut self, token: &IssuedToken, usable: &Permissions, active: &Active) {
        let client = &self.model.clients[&token.client];
        let ends = client.expiry.time().into_iter().chain(token.until).min();
        let left = ends.map_or(CACHE_AGE, |end| CACHE_AGE.min(end - self.model.now));
        let is_right = reported_by(&active.client.access) == *usable
            && active.client.client == client.id
            && *active.client.name == *client.name.as_str()
            && active.client.owner == owner_of(client)
            && active.client.expiry == client.expiry
            && active.ends == Expiry::from(ends)
            && cache_age(active.ends, CACHE_AGE, self.model.now) == left;
        self.check(Rule::Verdict, is_right, || {
            format!("{active:?}, not {usable:?} until {ends:?}")
        });
    }

    /// Each permission is decided as the set of them says.
    fn check_decisions(&mut self, may: &Permissions, verdict: &Verdict) {
        let expected = |site, permission: &'static str| {
            if verdict.is_err() {
                Decision::Inactive
            } else if may.contains(&(site, permission)) {
                Decision::Allowed
            } else if site.is_some() && !may.iter().any(|(other, _)| *other == site) {
                Decision::NoSiteGrant
            } else {
                Decision::RoleTooLow
            }
        };
        let mut wrong = Vec::new();
        let mut check = |check: PermissionCheck, expected: Decision| {
            let decision = match verdict {
                Ok(active) => active.client.access.decide(&check),
                Err(_) => Decision::Inactive,
            };
            if decision != expected {
                wrong.push(format!("{check:?}: {decision:?}, not {expected:?}"));
            }
        };
        for permission in InstancePermission::ALL {
            let expected = expected(None, permission.as_str());
            check(PermissionCheck::Instance(*permission), expected);
        }
        for site in (0..=SITES).map(site) {
            for permission in SitePermission::ALL {
                let expected = expected(Some(site), permission.as_str());
                check(
                    PermissionCheck::Site {
                        site,
                        permission: *permission,
                    },
                    expected,
                );
            }
        }
        self.check(Rule::Verdict, wrong.is_empty(), || wrong.join(", "));
    }
}

/// Actors.
impl Run<'_> {
    /// Each user sees and manages the clients that the page says. An update of
    /// nothing needs management, and no delegation.
    pub(super) fn check_authority(&mut self) {
        let one_of_each_owner: BTreeMap<Owner, ClientId> = self
            .model
            .clients
            .iter()
            .map(|(id, client)| (owner_of(client), *id))
            .collect();
        let users = (0..=USERS).map(|n| Owner::User(user(n)));
        let owners: Vec<Owner> = users
            .chain((0..=TEAMS).map(|n| Owner::Team(team(n))))
            .collect();
        for actor in (0..=USERS).map(user) {
            for owner in &owners {
                self.check_expected(actor, &Call::List(*owner));
            }
            for client in one_of_each_owner.values() {
                self.check_expected(actor, &Call::Get(*client));
                self.check_expected(actor, &Call::Update(*client, Update::default()));
            }
        }
    }

    fn check_expected(&mut self, actor: UserId, call: &Call) {
        let objections: Vec<Refusal> = self.model.objections(actor, call);
        let refusal = self.world.ask(actor, call).err();
        self.check(
            Rule::Authority,
            refusal.as_ref() == objections.first(),
            || format!("{actor}, {call:?}: {refusal:?}, not {objections:?}"),
        );
    }
}
