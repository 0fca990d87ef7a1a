//! How `explain` writes reasons, decisions and times.

use serde_json::Value;

use crate::domain::{Timestamp, access::Decision, client::Expiry, introspection::InactiveReason};

/// The reason as callers see it.
pub(super) const fn word(reason: InactiveReason) -> &'static str {
    match reason {
        InactiveReason::UnknownToken => "UNKNOWN_TOKEN",
        InactiveReason::TokenRotated => "TOKEN_ROTATED",
        InactiveReason::Revoked => "REVOKED",
        InactiveReason::Expired => "EXPIRED",
        InactiveReason::OwnerInactive => "OWNER_INACTIVE",
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
