//! Faults around a call. The domain is told something that is not so, or its
//! answer is changed before anybody sees it.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use hitkeep_auth::domain::{
    access::{Authority, Delegated, Facts, Holder, OwnerFacts, SiteStanding},
    audit::{Action, Event},
    client::{Activation, ApiClient, Expiry},
    clock::Entropy,
    id::SiteId,
    refusal::Refusal,
    role::{InstanceRole, SiteRole, TeamRole},
    source::AllowedSources,
};

use super::Fault;
use crate::{
    call::{Answer, Call, Question},
    model::life::{grants_of, owner_of},
    tables::Tables,
};

impl Fault {
    /// Asks the domain about a call, with this fault.
    pub(crate) fn decide(
        self,
        question: Question,
        tables: &Tables,
        entropy: &dyn Entropy,
    ) -> Result<Answer, Refusal> {
        let mut told = question.clone();
        let actor = &mut told.facts.actor;
        self.misplace(actor.instance_role(), &mut actor.sites);
        self.misinform(&mut told, tables);
        self.miscast(&mut told.facts);
        let answer = told.decide(entropy);
        self.misreport(question, answer, entropy)
    }

    /// What is wrong with where a user stands.
    pub(super) fn misplace(
        self,
        instance_role: Option<InstanceRole>,
        sites: &mut BTreeMap<SiteId, SiteStanding>,
    ) {
        for site in sites.values_mut() {
            let derived = site.team_role.and_then(TeamRole::derived_site_role);
            match self {
                Self::ArchivedTeamGivesRoles => site.team_archived = false,
                Self::InstanceOwnerOwnsArchivedSites
                    if instance_role == Some(InstanceRole::Owner) =>
                {
                    site.team_archived = false;
                }
                Self::InstanceAdminOwnsSites if instance_role == Some(InstanceRole::Admin) => {
                    site.team_role = Some(TeamRole::Owner);
                    site.site_role = Some(SiteRole::Owner);
                }
                Self::MembershipIsNotRequired if site.site_role.is_some() => {
                    site.team_role = site.team_role.or(Some(TeamRole::Member));
                }
                Self::ExplicitRoleIsIgnored => site.site_role = None,
                Self::ExplicitRoleCountsAlone if site.site_role.is_some() => {
                    site.team_role = site.team_role.map(|_| TeamRole::Member);
                }
                Self::StrongerRoleCounts if derived.is_some() && derived < site.site_role => {
                    site.team_role = Some(TeamRole::Member);
                }
                Self::StrongerRoleCounts | Self::ExplicitRoleDoesNotNarrow
                    if derived > site.site_role =>
                {
                    site.site_role = None;
                }
                Self::PlainMembersExplicitRoleIsIgnored
                    if site.team_role == Some(TeamRole::Member) =>
                {
                    site.site_role = None;
                }
                Self::PlainMemberIsViewer if site.team_role == Some(TeamRole::Member) => {
                    site.site_role = site.site_role.or(Some(SiteRole::Viewer));
                }
                Self::TeamAdminOwnsSites if site.team_role == Some(TeamRole::Admin) => {
                    site.team_role = Some(TeamRole::Owner);
                }
                _ => {}
            }
        }
    }

    /// What is wrong with what is known of the call.
    fn misinform(self, told: &mut Question, tables: &Tables) {
        let Question {
            call,
            client,
            facts,
            quota,
            ..
        } = told;
        match (self, call, client) {
            (Self::CreationIsNotChecked, Call::Create(_), _)
            | (Self::RotationIsNotChecked, Call::Rotate(..), _)
            | (Self::ReactivationIsNotChecked, Call::Reactivate(_), _) => let_delegate(facts),
            (Self::CreatorIsCheckedForActor, Call::Rotate(..), Some(client)) => {
                let sites: Vec<_> = facts.actor.sites.keys().copied().collect();
                let creator = tables.holder(client.created_by.expect("the model names it"), &sites);
                facts.actor = Holder {
                    id: facts.actor.id,
                    ..creator
                };
            }
            (Self::RotationForgetsDormantGrants, Call::Rotate(..), Some(client)) => {
                let held = |site: &SiteId| facts.actor.site_role(*site).is_some();
                grants_of(client).retain(|site, _| held(site));
            }
            (Self::UnknownSiteIsDelegable, call, _) => {
                let team = match facts.owner {
                    OwnerFacts::Team { id, .. } => id,
                    _ => crate::script::team(0),
                };
                for site in call.sites() {
                    facts.actor.sites.entry(site).or_insert(SiteStanding {
                        team,
                        team_archived: false,
                        team_role: Some(TeamRole::Owner),
                        site_role: None,
                    });
                }
            }
            (Self::TeamInstanceRoleIsOverlooked, Call::Update(_, update), Some(client)) => {
                if matches!(client.delegated, Delegated::Team { .. }) {
                    update.instance_role = None;
                }
            }
            (Self::EtagIsIgnored, Call::Update(_, update), _) => update.etag = None,
            (Self::EtagIsIgnoredByRotation, Call::Rotate(_, renewal), _) => renewal.etag = None,
            (Self::QuotaIsIgnored, ..) => quota.used = 0,
            (Self::QuotaForgetsRevoked, Call::Create(draft), _) => {
                let owner = draft.delegated.owner();
                let revoked =
                    |client: &&ApiClient| client.revoke_time.is_some() && owner_of(client) == owner;
                let revoked = tables.clients.values().filter(revoked).count();
                quota.used -= u32::try_from(revoked).expect("there are few");
            }
            (Self::PastExpiryIsAccepted, Call::Create(draft), _) => draft.expiry = Expiry::Never,
            (Self::ActivationAfterExpiryIsAccepted, Call::Create(draft), _) => {
                draft.activation = Activation::AtOnce;
            }
            (Self::SecondRevocationMovesTheTime, Call::Revoke(_), Some(client))
            | (Self::RevokedClientIsRotated, Call::Rotate(..), Some(client)) => {
                client.revoke_time = None;
            }
            (Self::ExpiredClientIsRotated, Call::Rotate(..), Some(client))
            | (Self::ExpiredClientIsReactivated, Call::Reactivate(_), Some(client)) => {
                client.expiry = Expiry::Never;
            }
            _ => {}
        }
    }

    /// What is wrong with the parts of actor and owner.
    fn miscast(self, facts: &mut Facts) {
        let actor = facts.actor.id;
        let manages = facts.authority() == Authority::Manages;
        let is = |role| facts.actor.instance_role() == Some(role);
        let (is_owner, is_admin) = (is(InstanceRole::Owner), is(InstanceRole::Admin));
        let Some(user) = &mut facts.actor.user else {
            return;
        };
        match (self, &mut facts.owner) {
            (Self::DisabledActorActs, _) => user.disabled = false,
            (Self::OversightIsForgotten, _) if !manages => user.disabled = true,
            (Self::InstanceAdminOversees, _) if !manages && is_admin => {
                user.instance_role = InstanceRole::Owner;
            }
            (Self::MembersManageTeamClients, OwnerFacts::Team { actor_role, .. }) => {
                *actor_role = actor_role.map(|_| TeamRole::Owner);
            }
            (Self::ArchivedTeamIsManaged, OwnerFacts::Team { archived, .. }) => *archived = false,
            (Self::ForeignSiteIsDelegable, OwnerFacts::Team { id, .. }) => {
                for site in facts.actor.sites.values_mut() {
                    site.team = *id;
                }
            }
            (Self::InstanceOwnerManagesAll, OwnerFacts::User { id, .. }) if is_owner => *id = actor,
            (Self::InstanceOwnerManagesAll, OwnerFacts::Team { actor_role, .. }) if is_owner => {
                *actor_role = Some(TeamRole::Owner);
            }
            _ => {}
        }
    }

    /// What is wrong with the answer to a question.
    fn misreport(
        self,
        question: Question,
        answer: Result<Answer, Refusal>,
        entropy: &dyn Entropy,
    ) -> Result<Answer, Refusal> {
        if let Some(refusal) = self.refuse(&question, &answer) {
            return Err(refusal);
        }
        match answer {
            Err(refusal) => {
                let mut without = question.clone();
                let is_without = self.overlook(&mut without);
                if is_without && without.decide(entropy).is_ok() {
                    let mut unchecked = question;
                    let_delegate(&mut unchecked.facts);
                    return unchecked.decide(entropy);
                }
                Err(refusal)
            }
            Ok(mut answer) => {
                if let Some(whole) = self.needs_as_a_whole(&question, &answer) {
                    question
                        .facts
                        .check_delegable(whole.instance_role(), whole.grants())?;
                }
                self.misremember(&question, &mut answer);
                Ok(answer)
            }
        }
    }

    /// What this fault refuses, or calls otherwise.
    fn refuse(self, question: &Question, answer: &Result<Answer, Refusal>) -> Option<Refusal> {
        let manages = question.facts.authority() == Authority::Manages;
        let refuses = match (self, &question.call, answer) {
            (Self::EverythingIsRefused, ..) => true,
            (Self::RevokingNeedsManagement, Call::Revoke(_), Ok(_))
            | (Self::DeletingNeedsManagement, Call::Delete(_), Ok(_)) => !manages,
            (Self::ExistenceIsTold, _, Err(refusal)) => *refusal == Refusal::NotFound,
            _ => false,
        };
        refuses.then_some(Refusal::OwnerNotManaged)
    }

    /// Takes that part out of an update that this fault does not check.
    fn overlook(self, question: &mut Question) -> bool {
        let (Call::Update(_, update), Some(client)) = (&mut question.call, &question.client) else {
            return false;
        };
        let old = client.delegated.grants();
        match self {
            Self::LaterExpiryIsNotChecked => update.expiry = None,
            Self::NoExpiryIsNotLater if update.expiry == Some(Expiry::Never) => {
                update.expiry = None;
            }
            Self::MoreRangesAreNotChecked => update.sources = None,
            Self::EverywhereIsNotMore if update.sources == Some(AllowedSources::default()) => {
                update.sources = None;
            }
            Self::EarlierActivationIsNotChecked => update.activation = None,
            Self::RaisedInstanceRoleIsNotChecked => update.instance_role = None,
            Self::NewGrantIsNotChecked => {
                update
                    .grants
                    .iter_mut()
                    .for_each(|grants| grants.retain(|s, _| old.contains_key(s)));
            }
            Self::RaisedGrantIsNotChecked => {
                for (site, role) in update.grants.iter_mut().flatten() {
                    *role = old.get(site).copied().unwrap_or(*role).min(*role);
                }
            }
            _ => return false,
        }
        true
    }

    /// What this fault asks the actor to be able to delegate.
    fn needs_as_a_whole(self, question: &Question, answer: &Answer) -> Option<Delegated> {
        let after = || {
            answer
                .client
                .as_ref()
                .map(|client| client.delegated.clone())
        };
        let before = || {
            question
                .client
                .as_ref()
                .map(|client| client.delegated.clone())
        };
        match (self, &question.call) {
            (Self::NarrowingNeedsDelegation, Call::Update(_, update)) => {
                update.grants.as_ref().and_then(|_| after())
            }
            (Self::FirstExpiryNeedsDelegation, Call::Update(_, update)) => {
                let had = question
                    .client
                    .as_ref()
                    .and_then(|client| client.expiry.time());
                update
                    .expiry
                    .filter(|_| had.is_none())
                    .and_then(|_| after())
            }
            (Self::FewerRangesNeedDelegation, Call::Update(_, update)) => {
                update.sources.as_ref().and_then(|_| after())
            }
            (Self::RenamingNeedsDelegation, Call::Update(_, update)) => {
                update.name.as_ref().and_then(|_| after())
            }
            (Self::RevokingNeedsDelegation, Call::Revoke(_))
            | (Self::DeletingNeedsDelegation, Call::Delete(_)) => before(),
            _ => None,
        }
    }

    /// What is wrong with what is kept of an allowed call.
    fn misremember(self, question: &Question, answer: &mut Answer) {
        let now = question.now;
        let (call, old) = (&question.call, question.client.as_ref());
        if let Call::Rotate(_, renewal) = call {
            answer.old_token_ends = match self {
                Self::OverlapIsNotCutToExpiry => Some(now + renewal.overlap),
                Self::OverlapIsIgnored => Some(now),
                Self::OverlapIsAlwaysAWeek => Some(now + TimeDelta::weeks(1)),
                _ => answer.old_token_ends,
            };
        }
        let Some(client) = &mut answer.client else {
            return;
        };
        match (self, call, old) {
            (Self::PastExpiryIsAccepted, Call::Create(draft), _) => client.expiry = draft.expiry,
            (Self::ActivationAfterExpiryIsAccepted, Call::Create(draft), _) => {
                client.activation = draft.activation;
            }
            (Self::RotationForgetsRanges, Call::Rotate(..), _) => {
                client.sources = AllowedSources::default();
            }
            (Self::RevokedClientIsRotated, Call::Rotate(..), Some(old))
            | (Self::ReactivationDoesNothing, Call::Reactivate(_), Some(old)) => {
                client.revoke_time = old.revoke_time;
            }
            (Self::ExpiredClientIsRotated, Call::Rotate(..), Some(old))
            | (Self::ExpiredClientIsReactivated, Call::Reactivate(_), Some(old)) => {
                client.expiry = old.expiry;
            }
            (Self::RotationForgetsDormantGrants, Call::Rotate(..), Some(old)) => {
                client.delegated = old.delegated.clone();
            }
            (Self::RotationPutsExpiryOff, Call::Rotate(..), _) => client.expiry = Expiry::Never,
            (Self::LoweredGrantStays, Call::Update(..), Some(old)) => {
                for (site, role) in grants_of(client) {
                    *role = old
                        .delegated
                        .grants()
                        .get(site)
                        .copied()
                        .unwrap_or(*role)
                        .max(*role);
                }
            }
            (Self::EmptyUpdateMakesAnEvent, Call::Update(..), _) if answer.event.is_none() => {
                answer.event = Some(Event {
                    action: Action::ClientUpdated,
                    subject: client.id.uuid(),
                    subject_name: client.name.as_str().to_owned(),
                    owner: Some(owner_of(client)),
                    changes: Vec::new(),
                });
            }
            _ => {}
        }
    }
}

/// Makes an actor who manages the owner's clients one who may delegate anything.
fn let_delegate(facts: &mut Facts) {
    if facts.authority() != Authority::Manages {
        return;
    }
    if let Some(user) = &mut facts.actor.user {
        user.instance_role = InstanceRole::Owner;
    }
    for site in facts.actor.sites.values_mut() {
        site.team_archived = false;
    }
}
