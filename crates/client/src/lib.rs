//! A client of hitkeep-auth. To come: the docs.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod authenticator;
mod cache;
mod caller_token;
mod calls;
mod client;
mod connect;
mod connection;
mod error;
pub mod follow;
pub mod guard;
mod principal;
mod question;
mod source;
pub mod system;
pub mod target;
pub mod tls;

pub use authenticator::Authenticator;
pub use caller_token::{BadCallerToken, CallerToken};
pub use client::{
    BuildError, Client, ClientBuilder, DEFAULT_CALL_TIMEOUT, DEFAULT_QUESTION_TIMEOUT,
    DEFAULT_REPLACEMENT_TIMEOUT,
};
pub use connection::Connection;
pub use error::{Error, InactiveReason, Misconfigured, Unavailable, causes, reason};
pub use hitkeep_auth_domain::{
    Revision, Timestamp,
    access::{Owner, PermissionCheck},
    id::{ClientId, SiteId, TeamId, UserId},
    role::{InstancePermission, InstanceRole, SitePermission, SiteRole},
};
pub use hitkeep_auth_proto as pb;
pub use principal::Principal;
pub use question::Question;
