//! Faults around a token, and around what is shown of a client. As with calls,
//! the domain is misinformed or misquoted.

use chrono::TimeDelta;
use hitkeep_auth::domain::{
    Timestamp,
    access::{CurrentOwner, SiteGrants},
    client::{Activation, ApiClient, Expiry},
    introspection::{InactiveReason, Subject, TokenStanding},
    role::{InstanceRole, SiteRole},
    source::{AllowedSources, Source},
};

use super::Fault;
use crate::{
    model::life::grants_of,
    verdict::{self, Active},
};

/// The shortest time that there is.
const MOMENT: TimeDelta = TimeDelta::microseconds(1);

impl Fault {
    /// Asks the domain about a token, with this fault.
    pub(crate) fn judge(
        self,
        subject: &Subject,
        source: Source<'_>,
        now: Timestamp,
    ) -> Result<Active, InactiveReason> {
        let mut told = subject.clone();
        self.misjudge(&mut told);
        match self {
            Self::RangesAreIgnored => told.sources = AllowedSources::default(),
            Self::UnknownPlaceIsAllowed if source == Source::Unknown => {
                told.sources = AllowedSources::default();
            }
            Self::ActivationIsIgnored => told.activation = Activation::AtOnce,
            Self::ActivationIsJudgedEarly => {
                let time = told.activation.time();
                told.activation = time.map(|time| time - MOMENT).into();
            }
            _ => {}
        }
        let verdict = verdict::judge(told, source, now);
        let is_expired = subject.expiry.time().is_some_and(|end| end <= now);
        match (self, verdict) {
            (Self::RevokedGoesBeforeRotated, Err(_)) if subject.revoked => {
                Err(InactiveReason::Revoked)
            }
            (Self::ExpiredGoesBeforeRevoked, Err(InactiveReason::Revoked)) if is_expired => {
                Err(InactiveReason::Expired)
            }
            (Self::OwnerGoesBeforeExpired, Err(InactiveReason::Expired))
                if !subject.owner.current.can_act() =>
            {
                Err(InactiveReason::OwnerInactive)
            }
            (Self::PlaceGoesBeforeActivation, Err(InactiveReason::NotYetActive))
                if !subject.sources.allow(source) =>
            {
                Err(InactiveReason::SourceNotAllowed)
            }
            (_, Err(reason)) => Err(reason),
            (_, Ok(mut active)) => {
                self.misattribute(subject, &mut active);
                Ok(active)
            }
        }
    }

    /// What is wrong with what is known of a token.
    fn misjudge(self, told: &mut Subject) {
        let owner = &mut told.owner;
        match &mut owner.current {
            CurrentOwner::User(_, user) => {
                self.misplace(user.current_instance_role(), &mut owner.sites);
                match (self, user.instance_role) {
                    (Self::DisabledOwnersClientsWork, _) => user.disabled = false,
                    (Self::InstanceOwnershipIsForgotten, InstanceRole::Owner) => {
                        user.instance_role = InstanceRole::Admin;
                    }
                    _ => {}
                }
            }
            CurrentOwner::Team { id, archived } => match self {
                Self::ArchivedTeamsClientsWork => *archived = false,
                Self::TeamClientReachesOutside => {
                    owner.sites.values_mut().for_each(|site| site.team = *id);
                }
                _ => {}
            },
        }
        let late = |end: Expiry| end.time().map(|end| end + MOMENT).into();
        match (self, told.token) {
            (Self::RevocationIsIgnored, _) => told.revoked = false,
            (Self::ExpiryIsJudgedLate, _) => told.expiry = late(told.expiry),
            (Self::OverlapIsJudgedLate, TokenStanding::ReplacedUntil(end)) => {
                told.token = TokenStanding::ReplacedUntil(end + MOMENT);
            }
            _ => {}
        }
    }

    /// What is wrong with what a token is said to be good for.
    fn misattribute(self, subject: &Subject, active: &mut Active) {
        let access = &mut active.client.access;
        let held = |site| subject.owner.site_rule(site).role();
        let mut grants: SiteGrants = access.grants.iter().map(|(s, r)| (*s, *r)).collect();
        for (site, granted) in subject.delegated.grants() {
            match (self, grants.get(site).copied()) {
                (Self::EffectiveIsDelegated, Some(_)) => grants.insert(*site, *granted),
                (Self::EffectiveIsHeld, Some(_)) => {
                    held(*site).and_then(|held| grants.insert(*site, held))
                }
                (Self::CutGrantsAreDropped, Some(role)) if role < *granted => grants.remove(site),
                (Self::DormantGrantsAreReported, None) => grants.insert(*site, SiteRole::Viewer),
                (Self::InstanceRoleWidensGrants, Some(_))
                    if access.instance_role == InstanceRole::Owner =>
                {
                    grants.insert(*site, SiteRole::Owner)
                }
                _ => None,
            };
        }
        access.grants = grants.into_iter().collect();
        match (self, subject.owner.current) {
            (Self::InstanceRoleIsNotCut, _) => {
                access.instance_role = subject.delegated.instance_role();
            }
            (Self::InstanceRoleIsTheOwners, CurrentOwner::User(..)) => {
                access.instance_role = subject.owner.current.instance_ceiling();
            }
            (Self::InstanceOwnershipIsForgotten, CurrentOwner::User(_, user)) => {
                let cut = subject.delegated.instance_role().min(InstanceRole::Owner);
                let held = user.current_instance_role();
                access.instance_role = held.map_or(cut, |role| role.min(cut));
            }
            (Self::TeamClientHasInstanceRole, CurrentOwner::Team { .. }) => {
                access.instance_role = InstanceRole::Admin;
            }
            (Self::ExpiryIsJudgedLate | Self::OverlapIsJudgedLate, _) => {
                active.client.expiry = subject.expiry;
                active.ends = match subject.token {
                    TokenStanding::Current => subject.expiry,
                    TokenStanding::ReplacedUntil(end) => subject.expiry.min(Expiry::At(end)),
                };
            }
            (Self::TokensEndIsForgotten, _) => active.ends = Expiry::Never,
            _ => {}
        }
    }

    /// A client's etag, with this fault.
    pub(crate) fn etag(self, client: &ApiClient) -> String {
        let mut client = client.clone();
        if self == Self::EtagForgetsGrants {
            grants_of(&mut client).clear();
        }
        client.etag()
    }
}
