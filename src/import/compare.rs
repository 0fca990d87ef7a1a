//! HitKeep's answers beside those of this service, for every client and site, with the rule
//! that makes each difference.
//!
//! An answer is the strongest site role whose permissions a token has. What this service
//! answers comes from the domain's own function, so that a change of a rule there shows here.

use std::collections::BTreeSet;

use super::{
    answers::{Answers, Surface},
    hitkeep::{ClientThere, shown},
    plan::{After, Fate, Plan},
};
use crate::domain::{
    Timestamp,
    access::Owner,
    client::Draft,
    id::{ClientId, SiteId},
    role::{InstanceRole, SiteRole},
    token::StoredHash,
};

/// What makes a difference. The first five are the rules of `docs/migrate-from-hitkeep.md` that
/// make any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// HitKeep takes a site's owner for one without a membership.
    D2,
    /// HitKeep takes only the owner's active team into account.
    D3,
    /// HitKeep asks for the grant alone, and not for the owner's role.
    D4,
    /// HitKeep lets an instance role stand in for a role on a site.
    D5,
    /// HitKeep asks an instance owner for a role on the site.
    D6,
    Refused,
    /// The client was changed, rotated, revoked or deleted here.
    ChangedHere,
    /// HitKeep does not have the client any more.
    Missing,
    /// A membership has a role that HitKeep does not know.
    UnknownRole,
    /// The directory here is not the snapshot's.
    Directory,
    /// The client was restricted here: it works from some addresses only, or not yet.
    Restricted,
}

impl Cause {
    /// A word for programs and people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::D2 => "D2",
            Self::D3 => "D3",
            Self::D4 => "D4",
            Self::D5 => "D5",
            Self::D6 => "D6",
            Self::Refused => "refused",
            Self::ChangedHere => "changed_here",
            Self::Missing => "missing",
            Self::UnknownRole => "unknown_role",
            Self::Directory => "directory",
            Self::Restricted => "restricted",
        }
    }
}

/// What an answer is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A site that the client has a grant on, here or there.
    Site(SiteId),
    /// Every site that it has no grant on.
    OtherSites,
    /// The token itself, of a client without grants.
    Token,
}

/// An answer: no access, or the role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// The token does not work, or not there.
    Nothing,
    /// The token works, and gives nothing on a site.
    Works,
    /// The token has the permissions of this role.
    Role(SiteRole),
}

impl Answer {
    /// A word for programs and people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::Works => "works",
            Self::Role(role) => role.as_str(),
        }
    }

    fn of(role: Option<SiteRole>) -> Self {
        role.map_or(Self::Nothing, Self::Role)
    }
}

/// Two answers that differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub client: ClientId,
    /// The client's name, fit to be shown.
    pub name: String,
    pub owner: Owner,
    pub place: Place,
    /// Where the token is presented to HitKeep.
    pub surface: Surface,
    pub hitkeep: Answer,
    pub ours: Answer,
    pub causes: Vec<Cause>,
}

impl Difference {
    /// Whether this service would give more than HitKeep.
    pub fn is_wider(&self) -> bool {
        self.ours > self.hitkeep
    }
}

#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// How many pairs of answers were compared.
    pub compared: usize,
    /// Those that differ, by client and place.
    pub differences: Vec<Difference>,
}

impl Comparison {
    /// How many answers are wider than HitKeep's, and how many narrower.
    pub fn counts(&self) -> (usize, usize) {
        let wider = self.differences.iter().filter(|found| found.is_wider());
        let wider = wider.count();
        (wider, self.differences.len() - wider)
    }
}

/// Compares the answers after an import.
pub fn compare(answers: &Answers<'_>, plan: &Plan, now: Timestamp) -> Comparison {
    let mut comparer = Comparer {
        answers,
        plan,
        now,
        refused: plan
            .rows
            .iter()
            .filter(|row| matches!(row.fate, Fate::Refused(_)))
            .filter_map(|row| row.id)
            .collect(),
        result: Comparison::default(),
    };
    for client in answers.tables().clients_there() {
        comparer.compare(&client);
    }
    for (id, after) in &plan.after {
        if !after.is_there {
            comparer.compare_missing(*id, after);
        }
    }
    let mut result = comparer.result;
    result
        .differences
        .sort_by_key(|found| (found.client, found.place, found.surface));
    result
}

struct Comparer<'c> {
    answers: &'c Answers<'c>,
    plan: &'c Plan,
    now: Timestamp,
    refused: BTreeSet<ClientId>,
    result: Comparison,
}

impl Comparer<'_> {
    fn compare(&mut self, client: &ClientThere) {
        let after = self.plan.after.get(&client.id);
        let ours = after.and_then(|after| self.effective_draft(after, client));
        let works_there = self.answers.works(client, self.now);
        let is_restricted = ours.is_some_and(|draft| {
            !(draft.sources.is_everywhere() && draft.activation.has_come(self.now))
        });
        let mut sites: BTreeSet<SiteId> = { self.answers.grants(client) }
            .map(|(site, _)| site)
            .collect();
        if let Some(draft) = ours {
            sites.extend(draft.delegated.grants().keys());
        }
        let mut places: Vec<Place> = sites.into_iter().map(Place::Site).collect();
        if places.is_empty() {
            places.push(Place::Token);
        }
        places.push(Place::OtherSites);
        for place in places {
            for surface in [Surface::Rest, Surface::Tools] {
                let hitkeep = if works_there {
                    self.there(client, place, surface)
                } else {
                    Answer::Nothing
                };
                let here = ours.map_or(Answer::Nothing, |draft| self.here(draft, place));
                self.result.compared += 1;
                if hitkeep != here {
                    let mut causes = if works_there && ours.is_some() {
                        self.causes(client, after, place, surface, hitkeep, here)
                    } else {
                        vec![self.why_dead(client)]
                    };
                    if is_restricted {
                        causes.push(Cause::Restricted);
                    }
                    self.push(client, place, surface, (hitkeep, here), causes);
                } else if is_restricted && hitkeep != Answer::Nothing {
                    // What it answers now, and from elsewhere.
                    let answers = (hitkeep, Answer::Nothing);
                    self.push(client, place, surface, answers, vec![Cause::Restricted]);
                }
            }
        }
    }

    /// A client that HitKeep does not have, and so answers nothing of.
    fn compare_missing(&mut self, id: ClientId, after: &After) {
        let Some(draft) = after.draft.as_ref().filter(|_| !after.is_revoked) else {
            return;
        };
        let owner = draft.delegated.owner();
        let client = ClientThere {
            id,
            name: shown(draft.name.as_str()),
            owner,
            instance_role: InstanceRole::User,
            token: None,
            revoked: false,
            expires: None,
        };
        if !self.can_act(draft) {
            return;
        }
        let mut places: Vec<Place> = draft
            .delegated
            .grants()
            .keys()
            .copied()
            .map(Place::Site)
            .collect();
        if places.is_empty() {
            places.push(Place::Token);
        }
        for place in places {
            let here = self.here(draft, place);
            for surface in [Surface::Rest, Surface::Tools] {
                self.result.compared += 1;
                if here != Answer::Nothing {
                    let answers = (Answer::Nothing, here);
                    self.push(&client, place, surface, answers, vec![Cause::Missing]);
                }
            }
        }
    }

    fn push(
        &mut self,
        client: &ClientThere,
        place: Place,
        surface: Surface,
        (hitkeep, ours): (Answer, Answer),
        causes: Vec<Cause>,
    ) {
        self.result.differences.push(Difference {
            client: client.id,
            name: client.name.clone(),
            owner: client.owner,
            place,
            surface,
            hitkeep,
            ours,
            causes,
        });
    }

    /// The client here, if HitKeep's token works for it.
    fn effective_draft<'a>(&self, after: &'a After, client: &ClientThere) -> Option<&'a Draft> {
        let draft = after.draft.as_ref().filter(|_| !after.is_revoked)?;
        let is_same_token = after.token == client.token.map(StoredHash::from);
        (is_same_token && self.can_act(draft)).then_some(draft)
    }

    fn can_act(&self, draft: &Draft) -> bool {
        let owner = draft.delegated.owner();
        let standing = self.plan.directory_after.standing(owner, []);
        !draft.expiry.has_come(self.now)
            && standing.is_some_and(|standing| standing.current.can_act())
    }

    fn there(&self, client: &ClientThere, place: Place, surface: Surface) -> Answer {
        match (place, surface) {
            (Place::Site(site), surface) => Answer::of(self.answers.role(client, site, surface)),
            (Place::OtherSites, Surface::Rest) => Answer::of(self.answers.everywhere(client)),
            (Place::OtherSites, Surface::Tools) => Answer::Nothing,
            (Place::Token, _) => Answer::Works,
        }
    }

    fn here(&self, draft: &Draft, place: Place) -> Answer {
        match place {
            Place::Site(site) => Answer::of(self.effective(draft, site)),
            // A grant is what gives a role on a site, and nothing else.
            Place::OtherSites => Answer::Nothing,
            Place::Token => Answer::Works,
        }
    }

    fn effective(&self, draft: &Draft, site: SiteId) -> Option<SiteRole> {
        let owner = draft.delegated.owner();
        let standing = self.plan.directory_after.standing(owner, [&site])?;
        draft.delegated.effective(&standing).grants.get(site)
    }

    /// Why a client works on one side only.
    fn why_dead(&self, client: &ClientThere) -> Cause {
        if self.refused.contains(&client.id) {
            return Cause::Refused;
        }
        let after = self.plan.after.get(&client.id);
        match after.and_then(|after| after.draft.as_ref().map(|draft| (after, draft))) {
            Some((after, draft)) => {
                let same = after.token == client.token.map(StoredHash::from);
                if same && !after.is_revoked && !draft.expiry.has_come(self.now) {
                    Cause::Directory
                } else {
                    Cause::ChangedHere
                }
            }
            None => Cause::ChangedHere,
        }
    }

    /// Why the answers of a working client differ.
    fn causes(
        &self,
        client: &ClientThere,
        after: Option<&After>,
        place: Place,
        surface: Surface,
        hitkeep: Answer,
        here: Answer,
    ) -> Vec<Cause> {
        let Place::Site(site) = place else {
            return vec![Cause::D5];
        };
        let mut causes = BTreeSet::new();
        // What this service would answer if the client were as it is in HitKeep.
        let granted = self.answers.grant(client, site);
        let expected = granted.and_then(|role| {
            let draft = after?.draft.clone()?;
            let mut draft = draft;
            let (crate::domain::access::Delegated::Personal { grants, .. }
            | crate::domain::access::Delegated::Team { grants, .. }) = &mut draft.delegated;
            grants.insert(site, role);
            self.effective(&draft, site)
        });
        let expected = Answer::of(expected);
        if expected != here {
            causes.insert(Cause::ChangedHere);
        }
        if hitkeep > expected {
            self.narrower(client, site, surface, expected, &mut causes);
        } else if hitkeep < expected {
            self.wider(client, site, expected, &mut causes);
        }
        if causes.is_empty() {
            causes.insert(Cause::Directory);
        }
        causes.into_iter().collect()
    }

    fn narrower(
        &self,
        client: &ClientThere,
        site: SiteId,
        surface: Surface,
        expected: Answer,
        causes: &mut BTreeSet<Cause>,
    ) {
        let (tables, directory) = (self.answers.tables(), &self.plan.directory_after);
        let over_rest = surface == Surface::Rest;
        if over_rest && Answer::of(self.answers.everywhere(client)) > expected {
            causes.insert(Cause::D5);
        }
        let granted = match surface {
            Surface::Rest => self.answers.granted(client, site),
            Surface::Tools => self.answers.grant(client, site),
        };
        if Answer::of(granted) <= expected {
            return;
        }
        let (Owner::User(user), Some(team)) = (client.owner, self.answers.team_of(site)) else {
            causes.insert(Cause::Directory);
            return;
        };
        if directory.team_of(site) != Some(team) {
            causes.insert(Cause::Directory);
            return;
        }
        let is_owner = tables.sites.get(&site).and_then(|site| site.owner) == Some(user);
        let is_member = tables.team_members.contains_key(&(team, user));
        if is_member != directory.team_member(team, user).is_some() {
            causes.insert(Cause::Directory);
        } else if !over_rest || !is_member {
            // A grant of a user who left the team, or has a weaker role by now.
            causes.insert(Cause::D4);
        }
        let has_row = tables.site_members.contains_key(&(site, user));
        if is_owner && !has_row && directory.site_member(site, user).is_none() {
            causes.insert(Cause::D2);
        }
    }

    fn wider(
        &self,
        client: &ClientThere,
        site: SiteId,
        expected: Answer,
        causes: &mut BTreeSet<Cause>,
    ) {
        let (tables, directory) = (self.answers.tables(), &self.plan.directory_after);
        let (Owner::User(user), Some(team)) = (client.owner, self.answers.team_of(site)) else {
            causes.insert(Cause::Directory);
            return;
        };
        if directory.team_of(site) != Some(team) {
            causes.insert(Cause::Directory);
            return;
        }
        // What HitKeep would say if the owner acted in the site's team.
        let in_team = self.answers.site_role_in_team(user, site);
        let granted = self.answers.grant(client, site);
        let in_team = Answer::of(in_team.and_then(|held| granted.map(|role| role.min(held))));
        if self.answers.active_team(user) != Some(team) && in_team > Answer::Nothing {
            causes.insert(Cause::D3);
        }
        if in_team >= expected {
            return;
        }
        if tables.users.get(&user) == Some(&InstanceRole::Owner) {
            causes.insert(Cause::D6);
        } else if tables.site_members.get(&(site, user)) == Some(&None) {
            causes.insert(Cause::UnknownRole);
        } else {
            causes.insert(Cause::Directory);
        }
    }
}
