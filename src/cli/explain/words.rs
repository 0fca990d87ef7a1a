//! How `explain` writes reasons, decisions, rules and times.

use serde_json::Value;

use crate::domain::{
    Timestamp,
    access::Decision,
    client::Expiry,
    introspection::InactiveReason,
    site_rule::{DecisiveMembership as Decisive, Memberships, SiteRule},
};

/// The reason as callers see it.
pub(super) const fn word(reason: InactiveReason) -> &'static str {
    match reason {
        InactiveReason::UnknownToken => "UNKNOWN_TOKEN",
        InactiveReason::TokenRotated => "TOKEN_ROTATED",
        InactiveReason::Revoked => "REVOKED",
        InactiveReason::Expired => "EXPIRED",
        InactiveReason::OwnerInactive => "OWNER_INACTIVE",
        InactiveReason::NotYetActive => "NOT_YET_ACTIVE",
        InactiveReason::SourceNotAllowed => "SOURCE_NOT_ALLOWED",
    }
}

/// The decision as callers see it.
pub(super) const fn decision_word(decision: Decision) -> &'static str {
    match decision {
        Decision::Allowed => "ALLOWED",
        Decision::Inactive => "INACTIVE",
        Decision::NoSiteGrant => "NO_SITE_GRANT",
        Decision::RoleTooLow => "ROLE_TOO_LOW",
    }
}

/// When something ended, and how long ago.
pub(super) fn end_of(end: Expiry, now: Timestamp) -> String {
    let Expiry::At(end) = end else {
        return "never".to_owned();
    };
    let ago = (now - end).to_std().unwrap_or_default().as_secs();
    let ago = humantime::format_duration(std::time::Duration::from_secs(ago));
    format!("{}, {ago} ago", moment(end))
}

/// A time in JSON, or null.
pub(super) fn time(expiry: Expiry) -> Value {
    expiry.time().map(|time| time.to_rfc3339()).into()
}

/// A time as people read it, in UTC.
pub(super) fn moment(time: Timestamp) -> String {
    time.format("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// Why the owner has its role on a site.
pub(super) fn because(rule: SiteRule) -> String {
    let why = match rule {
        SiteRule::Unknown => "there is no such site",
        SiteRule::Disabled => "the owner is disabled",
        SiteRule::TeamArchived => "the site's team is archived",
        SiteRule::InstanceOwner => "an instance owner owns every site",
        SiteRule::NotInTeam => "the owner is not in the site's team",
        SiteRule::InTeam(memberships) => return by_membership(memberships),
        SiteRule::OwnSite => "the site belongs to the team",
        SiteRule::ForeignSite => "the site belongs to another team",
    };
    why.to_owned()
}

/// Both memberships, with the one that decides first.
fn by_membership(memberships: Memberships) -> String {
    let Memberships { in_team, on_site } = memberships;
    match (memberships.decide(), on_site, in_team.derived_site_role()) {
        (None, ..) => format!("the owner's role in the site's team, {in_team}, gives none"),
        (Some((_, Decisive::OnSite)), _, None) => {
            format!("the owner's role on the site; the one in its team, {in_team}, gives none")
        }
        (Some((_, Decisive::OnSite)), _, Some(derived)) => {
            format!("the owner's role on the site, the weaker one; the team role gives {derived}")
        }
        (Some((_, Decisive::InTeam)), None, _) => "the owner's role in the site's team".to_owned(),
        (Some((_, Decisive::InTeam)), Some(explicit), _) => {
            format!("the owner's role in the site's team, the weaker one; on the site, {explicit}")
        }
        (Some((_, Decisive::Both)), ..) => {
            "the owner's role on the site, and the same from the one in its team".to_owned()
        }
    }
}
