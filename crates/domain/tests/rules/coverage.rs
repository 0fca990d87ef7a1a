//! What the scripts came to: how often each call was allowed or refused for
//! each reason, and how often the situations arose that the rules are about.
//! Rules that were never put to the test were not seen to hold.

use std::collections::BTreeMap;

use hitkeep_auth_domain::{
    access::{Delegated, EffectiveAccess},
    introspection::InactiveReason,
    refusal::Refusal,
};

/// How often what happened.
#[derive(Debug, Default)]
pub(crate) struct Coverage(BTreeMap<(&'static str, &'static str), u32>);

/// What must have happened in a run of the whole suite, and how often at least:
/// well below how often it does.
const EXPECTED: &[(&str, &str, u32)] = &[
    ("create", "allowed", 2000),
    ("create", "API_CLIENT_QUOTA", 60),
    ("create", "DELEGATION_EXCEEDS_ACTOR", 200),
    ("create", "INVALID_FIELD", 60),
    ("create", "OWNER_NOT_MANAGED", 500),
    ("create", "SITE_NOT_DELEGABLE", 150),
    ("list", "allowed", 250),
    ("list", "OWNER_NOT_MANAGED", 150),
    ("get", "allowed", 200),
    ("get", "by an overseer", 20),
    ("get", "API_CLIENT_NOT_FOUND", 80),
    ("update", "changes something", 1000),
    ("update", "changes nothing", 600),
    ("update", "widens", 300),
    ("update", "narrows", 300),
    ("update", "narrows to more than the actor holds", 20),
    ("update", "on more than the actor holds", 150),
    ("update", "puts the expiry off", 200),
    ("update", "puts the expiry off during an overlap", 20),
    ("update", "brings the expiry forward", 200),
    ("update", "lets tokens work elsewhere", 100),
    ("update", "keeps tokens from working somewhere", 100),
    ("update", "lets tokens work earlier", 20),
    ("update", "API_CLIENT_NOT_FOUND", 800),
    ("update", "DELEGATION_EXCEEDS_ACTOR", 80),
    ("update", "ETAG_MISMATCH", 250),
    ("update", "INVALID_FIELD", 150),
    ("update", "OWNER_NOT_MANAGED", 200),
    ("update", "SITE_NOT_DELEGABLE", 35),
    ("rotate", "allowed", 800),
    ("rotate", "during an overlap", 150),
    ("rotate", "API_CLIENT_INACTIVE", 300),
    ("rotate", "API_CLIENT_NOT_FOUND", 400),
    ("rotate", "DELEGATION_EXCEEDS_ACTOR", 70),
    ("rotate", "ETAG_MISMATCH", 100),
    ("rotate", "OWNER_NOT_MANAGED", 120),
    ("rotate", "SITE_NOT_DELEGABLE", 15),
    ("revoke", "changes something", 500),
    ("revoke", "changes nothing", 100),
    ("revoke", "by an overseer", 60),
    ("revoke", "on more than the actor holds", 60),
    ("revoke", "API_CLIENT_NOT_FOUND", 200),
    ("reactivate", "changes something", 150),
    ("reactivate", "changes nothing", 400),
    ("reactivate", "during an overlap", 100),
    ("reactivate", "API_CLIENT_INACTIVE", 250),
    ("reactivate", "API_CLIENT_NOT_FOUND", 350),
    ("reactivate", "DELEGATION_EXCEEDS_ACTOR", 80),
    ("reactivate", "OWNER_NOT_MANAGED", 100),
    ("reactivate", "SITE_NOT_DELEGABLE", 12),
    ("delete", "allowed", 200),
    ("delete", "by an overseer", 20),
    ("delete", "on more than the actor holds", 20),
    ("delete", "API_CLIENT_NOT_FOUND", 80),
    ("directory", "applied", 10_000),
    ("directory", "unknown reference", 500),
    ("replacement", "done", 300),
    ("replacement", "removes too much", 20),
    ("replacement", "is the same", 20),
    ("replacement", "removes clients", 50),
    ("token", "active", 40_000),
    ("token", "two work", 4000),
    ("token", "UNKNOWN_TOKEN", 10_000),
    ("token", "TOKEN_ROTATED", 10_000),
    ("token", "REVOKED", 10_000),
    ("token", "EXPIRED", 10_000),
    ("token", "OWNER_INACTIVE", 2000),
    ("token", "NOT_YET_ACTIVE", 2000),
    ("token", "SOURCE_NOT_ALLOWED", 2000),
    ("grant", "whole", 25_000),
    ("grant", "cut", 600),
    ("grant", "dormant", 3000),
    ("instance role", "cut", 700),
];

impl Coverage {
    /// Takes note of something that happened.
    pub(crate) fn note(&mut self, what: &'static str, how: &'static str) {
        *self.0.entry((what, how)).or_default() += 1;
    }

    /// Takes note of what becomes of what was delegated to a client that works.
    pub(crate) fn note_access(&mut self, delegated: &Delegated, access: &EffectiveAccess) {
        for (site, granted) in delegated.grants() {
            match access.grants.get(*site) {
                Some(effective) if effective == *granted => self.note("grant", "whole"),
                Some(_) => self.note("grant", "cut"),
                None => self.note("grant", "dormant"),
            }
        }
        if access.instance_role != delegated.instance_role() {
            self.note("instance role", "cut");
        }
    }

    /// What did not happen as often as it must.
    pub(crate) fn missing(&self) -> Vec<String> {
        let short = |(what, how, least): &(&'static str, &'static str, u32)| {
            let times = self.0.get(&(*what, *how)).copied().unwrap_or_default();
            (times < *least).then(|| format!("{what}: {how}: {times} of at least {least}"))
        };
        EXPECTED.iter().filter_map(short).collect()
    }
}

/// A refusal's reason, as in the section Errors of `docs/access-rules.md`.
pub(crate) const fn reason_of(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::NotFound => "API_CLIENT_NOT_FOUND",
        Refusal::OwnerNotManaged => "OWNER_NOT_MANAGED",
        Refusal::ExceedsInstanceRole { .. } | Refusal::ExceedsSiteRole { .. } => {
            "DELEGATION_EXCEEDS_ACTOR"
        }
        Refusal::SiteNotDelegable { .. } => "SITE_NOT_DELEGABLE",
        Refusal::WrongState { .. } => "API_CLIENT_INACTIVE",
        Refusal::EtagMismatch => "ETAG_MISMATCH",
        Refusal::Quota { .. } => "API_CLIENT_QUOTA",
        Refusal::TooManyClients { .. } => "SELECTION_TOO_LARGE",
        Refusal::ExpiryPast
        | Refusal::ExpiryTooEarly
        | Refusal::ActivationTooLate
        | Refusal::TeamInstanceRole
        | Refusal::TokenInName
        | Refusal::TokenInDescription
        | Refusal::TooManyGrants { .. }
        | Refusal::Several(_) => "INVALID_FIELD",
    }
}

/// A reason's name on the wire.
pub(crate) const fn name_of(reason: InactiveReason) -> &'static str {
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
