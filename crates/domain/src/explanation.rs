//! The evaluation of a token, together with everything that it follows from: for operators
//! who look for the reason.

use super::{
    Timestamp,
    access::{Decision, EffectiveAccess, PermissionCheck},
    client::Expiry,
    id::SiteId,
    introspection::{InactiveReason, Subject},
    role::{InstanceRole, SiteRole},
    site_rule::SiteRule,
    source::Source,
};

/// The evaluation of one of a client's tokens at one moment, with the reasons.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The state that was evaluated.
    pub subject: Subject,
    /// Until when legacy tokens are accepted, if the token is one.
    pub limit: Expiry,
    /// When the token expires, or why it is inactive.
    pub verdict: Result<Expiry, InactiveReason>,
    /// The highest instance role that a client of this owner can have.
    pub instance_ceiling: InstanceRole,
    /// The evaluation of each grant, ordered by site.
    pub grants: Vec<ExplainedGrant>,
    /// What the client may do if its token is active.
    pub access: EffectiveAccess,
    /// The answer to the check, if one was asked for.
    pub decision: Option<Decision>,
}

/// The evaluation of one grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExplainedGrant {
    /// The site of the grant.
    pub site: SiteId,
    /// The role that was delegated.
    pub granted: SiteRole,
    /// The rule that decides on the owner's own role on the site.
    pub rule: SiteRule,
    /// The weaker one of the granted role and the owner's; `None` if the grant is dormant.
    pub effective: Option<SiteRole>,
}

impl Explanation {
    /// Evaluates the token, which works until `limit` at most, for a request from `source` at
    /// `now`.
    pub fn of(
        subject: Subject,
        limit: Expiry,
        check: Option<&PermissionCheck>,
        source: Source<'_>,
        now: Timestamp,
    ) -> Self {
        let (token, resolved) = subject.clone().resolve();
        let verdict = resolved.evaluate_until(token, limit, source, now);
        let grant = |(site, granted): (&SiteId, &SiteRole)| ExplainedGrant {
            site: *site,
            granted: *granted,
            rule: subject.owner.site_rule(*site),
            effective: resolved.access.grants.get(*site),
        };
        let decide = |check| match verdict {
            Ok(_) => resolved.access.decide(check),
            Err(_) => Decision::Inactive,
        };
        Self {
            limit,
            verdict,
            instance_ceiling: subject.owner.current.instance_ceiling(),
            grants: subject.delegated.grants().iter().map(grant).collect(),
            decision: check.map(decide),
            access: resolved.access,
            subject,
        }
    }
}
