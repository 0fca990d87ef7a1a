//! Layers that let only those requests pass whose token does, for HTTP and for gRPC servers.

#[cfg(feature = "axum")]
mod axum;
mod grpc;
mod http;
mod methods;
mod policy;

use std::net::IpAddr;

use ::http::{Extensions, HeaderMap};
use hitkeep_auth_domain::proxy_auth::credential::{Credential, Credentials};

use crate::{
    error::{Error, InactiveReason},
    question::Question,
};

pub use grpc::{GrpcGuard, GrpcGuardLayer};
pub use hitkeep_auth_domain::proxy_auth::route::{PathAmbiguity, PathError, RouteError};
pub use http::{HttpGuard, HttpGuardLayer};
pub use methods::{BadMethod, MethodPolicy, Methods};
pub use policy::Policy;

/// Where a request comes from, for tokens that work from some addresses only. A program that
/// knows puts it into the request's extensions before the guard: such as the address of the
/// connection, or what a proxy that it trusts says. Without it, such tokens do not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceAddress(
    /// The address of the end client.
    pub IpAddr,
);

/// A question about a token, from where the extensions say.
fn question<'q>(token: &'q str, extensions: &Extensions) -> Question<'q> {
    let question = Question::about(token);
    match extensions.get() {
        Some(SourceAddress(address)) => question.from(*address),
        None => question,
    }
}

/// Finds the token of a request as HitKeep does: that of `authorization: Bearer`, in any case,
/// or else `x-api-key`, also after an empty Bearer or another scheme. The metadata of a gRPC
/// call are headers.
///
/// # Errors
/// [`Error::NoToken`] if there is none; [`Error::Inactive`] if one of the two headers is there
/// more than once, since another program could take the other one, or if it is no text.
pub fn token_of(headers: &HeaderMap) -> Result<&str, Error> {
    let mut seen = Credentials::default();
    for (name, value) in headers {
        seen.see(name.as_str().as_bytes(), value.as_bytes());
    }
    match seen.credential() {
        Credential::Missing => Err(Error::NoToken),
        Credential::Several => Err(Error::Inactive(InactiveReason::Ambiguous)),
        Credential::Text(text) => {
            let unknown = Err(Error::Inactive(InactiveReason::UnknownToken));
            std::str::from_utf8(text).or(unknown)
        }
    }
}
