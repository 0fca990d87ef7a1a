//! Faults to plant, at least one for each rule, with the property that each
//! must be seen to break. They are planted between the world and the domain, in
//! `calls` and `tokens`, or among the rows of `tables`; the domain itself is
//! never touched.

mod calls;
mod tokens;

use crate::rules::Rule;

macro_rules! faults {
    ($($(#[$doc:meta])* $fault:ident breaks $rule:ident,)+) => {
        /// Something done wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Fault {
            $($(#[$doc])* $fault,)+
        }

        impl Fault {
            /// Every fault.
            pub(crate) const ALL: &'static [Self] = &[$(Self::$fault,)+];

            /// The property that it must be seen to break.
            pub(crate) const fn breaks(self) -> Rule {
                match self {
                    $(Self::$fault => Rule::$rule,)+
                }
            }
        }
    };
}

// A user's current role on a site.
faults! {
    /// An archived team's sites are open to its members.
    ArchivedTeamGivesRoles breaks UsableIsHeldByOwner,
    /// An instance owner's ownership goes before the archiving.
    InstanceOwnerOwnsArchivedSites breaks UsableIsHeldByOwner,
    /// An instance owner owns no site.
    InstanceOwnershipIsForgotten breaks Verdict,
    /// An instance admin owns every site, too.
    InstanceAdminOwnsSites breaks UsableIsHeldByOwner,
    /// A site membership is good without one in the team.
    MembershipIsNotRequired breaks UsableIsHeldByOwner,
    /// A site membership is as if it were not there.
    ExplicitRoleIsIgnored breaks UsableIsHeldByOwner,
    /// A site membership counts in place of the role derived from the team.
    ExplicitRoleCountsAlone breaks UsableIsHeldByOwner,
    /// Of a site membership and the role derived from the team, the stronger one counts.
    StrongerRoleCounts breaks UsableIsHeldByOwner,
    /// A site membership cannot lower the role derived from the team.
    ExplicitRoleDoesNotNarrow breaks UsableIsHeldByOwner,
    /// A plain member's site membership counts for no more than the membership in the team.
    PlainMembersExplicitRoleIsIgnored breaks Verdict,
    /// A plain member of the team sees its sites.
    PlainMemberIsViewer breaks UsableIsHeldByOwner,
    /// A team admin owns its sites.
    TeamAdminOwnsSites breaks UsableIsHeldByOwner,

    // Effective access.
    /// A disabled user's clients go on working.
    DisabledOwnersClientsWork breaks Reason,
    /// An archived team's clients go on working.
    ArchivedTeamsClientsWork breaks Reason,
    /// A grant is good as it was written, as long as it is not dormant.
    EffectiveIsDelegated breaks UsableIsHeldByOwner,
    /// A grant is good for all that the owner holds.
    EffectiveIsHeld breaks UsableIsDelegated,
    /// The instance role is good as it was written.
    InstanceRoleIsNotCut breaks UsableIsHeldByOwner,
    /// The instance role is the owner's.
    InstanceRoleIsTheOwners breaks UsableIsDelegated,
    /// A dormant grant is reported as one to view.
    DormantGrantsAreReported breaks UsableIsHeldByOwner,
    /// A grant that was cut is taken for dormant.
    CutGrantsAreDropped breaks Verdict,
    /// A team's client reaches sites that left the team.
    TeamClientReachesOutside breaks Verdict,
    /// A team's client acts on the instance as admin.
    TeamClientHasInstanceRole breaks TeamClientIsUser,
    /// An instance owner's client owns the sites that it was granted.
    InstanceRoleWidensGrants breaks UsableIsDelegated,
    /// An instance owner's client passes every check on a site.
    InstanceOwnerPassesSiteChecks breaks Verdict,

    // Reasons.
    /// Revoked clients go on working.
    RevocationIsIgnored breaks Reason,
    /// A moment after its expiry a client still works.
    ExpiryIsJudgedLate breaks Reason,
    /// A moment after its overlap an old token still works.
    OverlapIsJudgedLate breaks Reason,
    /// An old token of a revoked client is called revoked, not rotated.
    RevokedGoesBeforeRotated breaks Reason,
    /// An expired client that is revoked is called expired.
    ExpiredGoesBeforeRevoked breaks Reason,
    /// Where the owner cannot act, no other reason is told.
    OwnerGoesBeforeExpired breaks Reason,
    /// Tokens work from everywhere.
    RangesAreIgnored breaks Reason,
    /// Where the place is unknown, every range is taken to have it.
    UnknownPlaceIsAllowed breaks Reason,
    /// A client works before its time.
    ActivationIsIgnored breaks Reason,
    /// A moment before its time a client works.
    ActivationIsJudgedEarly breaks Reason,
    /// A client that does not work yet, and not from there, is said not to work from there.
    PlaceGoesBeforeActivation breaks Reason,
    /// A client is shown as active though its owner cannot act.
    InactiveOwnerIsNotShown breaks State,
    /// An expired client is shown as active.
    ExpiryIsNotShown breaks State,
    /// An answer may be kept past the end of the token.
    TokensEndIsForgotten breaks Verdict,

    // Who may do what.
    /// A disabled actor goes on as if nothing were.
    DisabledActorActs breaks Authority,
    /// Plain members manage their team's clients.
    MembersManageTeamClients breaks Authority,
    /// An archived team is managed as before.
    ArchivedTeamIsManaged breaks Authority,
    /// An instance owner manages everybody's clients.
    InstanceOwnerManagesAll breaks Authority,
    /// An instance owner does not even see others' clients.
    OversightIsForgotten breaks Authority,
    /// Instance admins see everybody's clients.
    InstanceAdminOversees breaks Authority,
    /// Who may not see a client learns that there is one.
    ExistenceIsTold breaks Authority,
    /// Seeing a client is not enough to revoke it.
    RevokingNeedsManagement breaks Decision,
    /// Seeing a client is not enough to delete it.
    DeletingNeedsManagement breaks Decision,
    /// Nobody may do anything.
    EverythingIsRefused breaks Decision,

    // Delegation.
    /// A creation hands out anything.
    CreationIsNotChecked breaks HandedOutIsHeld,
    /// A rotation hands out anything.
    RotationIsNotChecked breaks HandedOutIsHeld,
    /// A reactivation hands out anything.
    ReactivationIsNotChecked breaks HandedOutIsHeld,
    /// A rotation takes no notice of grants where the actor has no role.
    RotationForgetsDormantGrants breaks HandedOutIsHeld,
    /// A later expiry hands out anything.
    LaterExpiryIsNotChecked breaks HandedOutIsHeld,
    /// No expiry at all is not taken for a later one.
    NoExpiryIsNotLater breaks HandedOutIsHeld,
    /// More addresses hand out anything.
    MoreRangesAreNotChecked breaks HandedOutIsHeld,
    /// Everywhere is not taken for more addresses.
    EverywhereIsNotMore breaks HandedOutIsHeld,
    /// An earlier activation hands out anything.
    EarlierActivationIsNotChecked breaks HandedOutIsHeld,
    /// An update adds any grant.
    NewGrantIsNotChecked breaks HandedOutIsHeld,
    /// An update raises any grant.
    RaisedGrantIsNotChecked breaks HandedOutIsHeld,
    /// An update raises the instance role to anything.
    RaisedInstanceRoleIsNotChecked breaks HandedOutIsHeld,
    /// What counts is what the client's creator holds.
    CreatorIsCheckedForActor breaks HandedOutIsHeld,
    /// A team's client is granted sites of other teams.
    ForeignSiteIsDelegable breaks Decision,
    /// A site that does not exist can be granted.
    UnknownSiteIsDelegable breaks HandedOutIsHeld,
    /// A narrower client must be delegable as a whole.
    NarrowingNeedsDelegation breaks NarrowingIsFree,
    /// A client that gets an expiry must be delegable as a whole.
    FirstExpiryNeedsDelegation breaks NarrowingIsFree,
    /// A client that works from fewer addresses must be delegable as a whole.
    FewerRangesNeedDelegation breaks NarrowingIsFree,
    /// A renamed client must be delegable as a whole.
    RenamingNeedsDelegation breaks NarrowingIsFree,
    /// A revoked client must be delegable as a whole.
    RevokingNeedsDelegation breaks NarrowingIsFree,
    /// A deleted client must be delegable as a whole.
    DeletingNeedsDelegation breaks NarrowingIsFree,

    // Calls.
    /// A team's client is asked to be admin, and nothing is said to it.
    TeamInstanceRoleIsOverlooked breaks Decision,
    /// The etag is not looked at.
    EtagIsIgnored breaks Decision,
    /// The etag that a rotation names is not looked at.
    EtagIsIgnoredByRotation breaks Decision,
    /// The etag does not depend on the grants.
    EtagForgetsGrants breaks Etag,
    /// An owner may have any number of clients.
    QuotaIsIgnored breaks Decision,
    /// Revoked clients do not count.
    QuotaForgetsRevoked breaks Decision,
    /// An expiry may be in the past.
    PastExpiryIsAccepted breaks Decision,
    /// A client may begin to work after its expiry.
    ActivationAfterExpiryIsAccepted breaks Decision,
    /// A rotated client works from everywhere.
    RotationForgetsRanges breaks Content,
    /// A grant that was to be lowered stays.
    LoweredGrantStays breaks Content,
    /// An update without a change makes an event.
    EmptyUpdateMakesAnEvent breaks Event,
    /// A client that is revoked again is revoked from then on.
    SecondRevocationMovesTheTime breaks FirstRevokeTime,
    /// A revoked client can be rotated.
    RevokedClientIsRotated breaks Decision,
    /// An expired client can be rotated.
    ExpiredClientIsRotated breaks Decision,
    /// An expired client can be reactivated.
    ExpiredClientIsReactivated breaks Decision,
    /// A reactivated client stays revoked.
    ReactivationDoesNothing breaks Content,
    /// A rotated client never expires.
    RotationPutsExpiryOff breaks Content,
    /// An overlap goes on past the expiry.
    OverlapIsNotCutToExpiry breaks OverlapEndsWithExpiry,
    /// An overlap goes on after the expiry was brought forward.
    OverlapKeepsAnEarlierExpiry breaks OverlapEndsWithExpiry,
    /// An overlap that ended with the expiry goes on when that is put off again.
    OverlapComesBackWithExpiry breaks Reason,
    /// A second rotation does not end a first one's overlap.
    SecondRotationLeavesTheFirstOverlap breaks TwoTokensAtMost,
    /// A token that was replaced ends at once.
    OverlapIsIgnored breaks Reason,
    /// A token that was replaced works for a week.
    OverlapIsAlwaysAWeek breaks Reason,

    // The directory.
    /// A member who left a team keeps the role.
    RemovedMemberKeepsTheRole breaks UsableIsHeldByOwner,
    /// A member who left a site keeps the role.
    RemovedSiteMemberKeepsTheRole breaks UsableIsHeldByOwner,
    /// A member who left a team takes those team clients along that they made.
    LeaverTakesTeamClientsAlong breaks Content,
    /// A site that moved is in its old team.
    MovedSiteStays breaks UsableIsHeldByOwner,
    /// A user who comes back has the memberships of old.
    DeletedUserLeavesMemberships breaks Authority,
    /// A user who is gone still has clients.
    DeletedUserLeavesClients breaks Content,
    /// A team that is gone still has clients.
    DeletedTeamLeavesClients breaks Content,
    /// A team that is gone still has sites.
    DeletedTeamLeavesSites breaks Content,
    /// A site that is gone is still granted.
    DeletedSiteLeavesGrants breaks Content,
    /// A replacement that removes most of the directory is not held up.
    MassRemovalIsOverlooked breaks MassRemoval,
    /// Members who are not in a replacement keep their roles.
    ReplacementKeepsMembers breaks UsableIsHeldByOwner,
    /// A user who is not in a replacement still has clients.
    ReplacementLeavesClients breaks Content,
    /// A team that is not in a replacement takes those sites along that moved out of it.
    ReplacedTeamTakesSitesAlong breaks Content,
}
