//! What the service says of a token, with everything that it follows from: for
//! people who have to find out why.

use super::{
    Timestamp,
    access::{Decision, EffectiveAccess, PermissionCheck},
    client::Expiry,
    id::SiteId,
    introspection::{InactiveReason, Subject},
    role::{InstanceRole, SiteRole},
    site_rule::SiteRule,
};

/// What is said of one of a client's tokens at one moment, and why.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// What it was made from.
    pub subject: Subject,
    /// When the token ends by itself, or why it does not work.
    pub verdict: Result<Expiry, InactiveReason>,
    /// The most that a client of this owner can be on the instance.
    pub instance_ceiling: InstanceRole,
    /// What each grant comes to, ordered by site.
    pub grants: Vec<ExplainedGrant>,
    /// What the client may do, if a token of it works.
    pub access: EffectiveAccess,
    /// The answer to the check, where there is one.
    pub decision: Option<Decision>,
}

/// What a grant comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExplainedGrant {
    /// On which site.
    pub site: SiteId,
    /// What was written on the client.
    pub granted: SiteRole,
    /// Why the owner holds there what it holds.
    pub rule: SiteRule,
    /// The weaker one of what was granted and what the owner holds; `None`: the grant
    /// is dormant.
    pub effective: Option<SiteRole>,
}

impl Explanation {
    /// Explains what is said at that moment.
    pub fn of(subject: Subject, check: Option<&PermissionCheck>, now: Timestamp) -> Self {
        let (token, settled) = subject.clone().settle();
        let verdict = settled.judge(token, now);
        let grant = |(site, granted): (&SiteId, &SiteRole)| ExplainedGrant {
            site: *site,
            granted: *granted,
            rule: subject.owner.site_rule(*site),
            effective: settled.access.grants.get(*site),
        };
        let decide = |check| match verdict {
            Ok(_) => settled.access.decide(check),
            Err(_) => Decision::Inactive,
        };
        Self {
            verdict,
            instance_ceiling: subject.owner.current.instance_ceiling(),
            grants: subject.delegated.grants().iter().map(grant).collect(),
            decision: check.map(decide),
            access: settled.access,
            subject,
        }
    }
}
