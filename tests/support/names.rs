//! What the tests say for themselves of names in the API, so that the service's own are
//! compared with something.

use hitkeep_auth::{domain::introspection::InactiveReason, pb};
use tonic::Code;

/// A code as the protos spell it.
pub fn spelt(code: Code) -> String {
    let mut spelt = String::new();
    for c in format!("{code:?}").chars() {
        if c.is_uppercase() && !spelt.is_empty() {
            spelt.push('_');
        }
        spelt.extend(c.to_uppercase());
    }
    spelt
}

/// The API's reason for one of the domain's.
pub fn to_reason(reason: InactiveReason) -> pb::InactiveReason {
    match reason {
        InactiveReason::UnknownToken => pb::InactiveReason::UnknownToken,
        InactiveReason::TokenRotated => pb::InactiveReason::TokenRotated,
        InactiveReason::Revoked => pb::InactiveReason::Revoked,
        InactiveReason::Expired => pb::InactiveReason::Expired,
        InactiveReason::OwnerInactive => pb::InactiveReason::OwnerInactive,
        InactiveReason::NotYetActive => pb::InactiveReason::NotYetActive,
        InactiveReason::SourceNotAllowed => pb::InactiveReason::SourceNotAllowed,
    }
}
