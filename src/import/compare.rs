//! HitKeep's answers beside those of this service, for every client and site, and for its role
//! on the instance, with the rule that makes each difference.
//!
//! An answer is the strongest role whose permissions a token has. What this service
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

mod causes;

pub use causes::Cause;

/// What an answer is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A site that the client has a grant on, here or there.
    Site(SiteId),
    /// Every site that it has no grant on.
    OtherSites,
    /// The token itself, of a client without grants.
    Token,
    /// The instance, on which a client may have a role as well.
    Instance,
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
    /// The token has the permissions of this role on the instance.
    Instance(InstanceRole),
}

impl Answer {
    /// A word for programs and people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::Works => "works",
            Self::Role(role) => role.as_str(),
            Self::Instance(role) => role.as_str(),
        }
    }

    fn of(role: Option<SiteRole>) -> Self {
        role.map_or(Self::Nothing, Self::Role)
    }

    /// The weakest role has no permission on the instance, as no role has none.
    const fn of_instance(role: InstanceRole) -> Self {
        match role {
            InstanceRole::User => Self::Nothing,
            InstanceRole::Admin | InstanceRole::Owner => Self::Instance(role),
        }
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

/// Where HitKeep answers about a place. It asks for a role on the instance over REST alone.
const fn surfaces(place: Place) -> &'static [Surface] {
    match place {
        Place::Site(_) | Place::OtherSites | Place::Token => &[Surface::Rest, Surface::Tools],
        Place::Instance => &[Surface::Rest],
    }
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
        places.extend([Place::OtherSites, Place::Instance]);
        for place in places {
            for &surface in surfaces(place) {
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
        places.push(Place::Instance);
        for place in places {
            let here = self.here(draft, place);
            for &surface in surfaces(place) {
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
            (Place::Instance, _) => Answer::of_instance(self.answers.instance_role(client)),
        }
    }

    fn here(&self, draft: &Draft, place: Place) -> Answer {
        match place {
            Place::Site(site) => Answer::of(self.effective(draft, site)),
            // A grant is what gives a role on a site, and nothing else.
            Place::OtherSites => Answer::Nothing,
            Place::Token => Answer::Works,
            Place::Instance => Answer::of_instance(self.instance_role(draft)),
        }
    }

    fn instance_role(&self, draft: &Draft) -> InstanceRole {
        let owner = draft.delegated.owner();
        let standing = self.plan.directory_after.standing(owner, []);
        standing.map_or(InstanceRole::User, |standing| {
            draft.delegated.effective(&standing).instance_role
        })
    }

    fn effective(&self, draft: &Draft, site: SiteId) -> Option<SiteRole> {
        let owner = draft.delegated.owner();
        let standing = self.plan.directory_after.standing(owner, [&site])?;
        draft.delegated.effective(&standing).grants.get(site)
    }
}
