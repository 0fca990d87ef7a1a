//! The rules and events that make a difference between two answers.

use std::collections::BTreeSet;

use super::{Answer, Comparer, Place};
use crate::{
    domain::{
        access::Owner,
        id::{SiteId, TeamId, UserId},
        role::InstanceRole,
        token::StoredHash,
    },
    import::{answers::Surface, hitkeep::ClientThere, plan::After},
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

impl Comparer<'_> {
    /// Why a client works on one side only.
    pub(super) fn why_dead(&self, client: &ClientThere) -> Cause {
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
    pub(super) fn causes(
        &self,
        client: &ClientThere,
        after: Option<&After>,
        place: Place,
        surface: Surface,
        hitkeep: Answer,
        here: Answer,
    ) -> Vec<Cause> {
        let site = match place {
            Place::Site(site) => site,
            Place::Instance => return self.instance_causes(client, after),
            Place::OtherSites | Place::Token => return vec![Cause::D5],
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

    /// Why a working client has another role on the instance: the role that it was given, or the
    /// one that its owner holds, is another.
    fn instance_causes(&self, client: &ClientThere, after: Option<&After>) -> Vec<Cause> {
        let mut causes = Vec::new();
        let draft = after.and_then(|after| after.draft.as_ref());
        if draft.is_some_and(|draft| draft.delegated.instance_role() != client.instance_role) {
            causes.push(Cause::ChangedHere);
        }
        if let Owner::User(user) = client.owner {
            let there = self.answers.tables().users.get(&user).copied();
            let standing = self.plan.directory_after.standing(client.owner, []);
            let here = standing.map(|standing| {
                standing
                    .current
                    .effective_instance_role(InstanceRole::Owner)
            });
            if here != there {
                causes.push(Cause::Directory);
            }
        }
        causes
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
        let Some((user, team)) = self.user_and_team(client, site) else {
            causes.insert(Cause::Directory);
            return;
        };
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

    /// The user that owns the client, and the team that has the site on both sides.
    fn user_and_team(&self, client: &ClientThere, site: SiteId) -> Option<(UserId, TeamId)> {
        let team = self.answers.team_of(site)?;
        let is_same = self.plan.directory_after.team_of(site) == Some(team);
        match client.owner {
            Owner::User(user) if is_same => Some((user, team)),
            Owner::User(_) | Owner::Team(_) => None,
        }
    }

    fn wider(
        &self,
        client: &ClientThere,
        site: SiteId,
        expected: Answer,
        causes: &mut BTreeSet<Cause>,
    ) {
        let tables = self.answers.tables();
        let Some((user, team)) = self.user_and_team(client, site) else {
            causes.insert(Cause::Directory);
            return;
        };
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
