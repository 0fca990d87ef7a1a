//! Guards programs with HitKeep's API tokens, by hitkeep-auth.
//!
//! ```no_run
//! use hitkeep_auth_client::{
//!     Authenticator, CallerToken, Client, PermissionCheck, SiteId, SitePermission,
//! };
//!
//! # async fn guard(token: &str, site: SiteId) -> Result<(), Box<dyn std::error::Error>> {
//! // Once, for the life of the program.
//! let client = Client::builder("https://auth.example.com:443")
//!     .caller_token(CallerToken::from_file("/run/secrets/hitkeep-auth-token")?)
//!     .build()?;
//! let authenticator = Authenticator::cached(&client, 10_000);
//!
//! // For each request.
//! let permission = SitePermission::View;
//! let principal = authenticator
//!     .check(token, PermissionCheck::Site { site, permission })
//!     .await?;
//! println!("{} may see the site", principal.owner());
//! # Ok(())
//! # }
//! ```
//!
//! - [`Authenticator`] finds out whose token a text is: by asking the service each time, by
//!   keeping answers for a few seconds, or by a copy of the service's index inside of the
//!   program. [`Principal`] is the answer, and [`Error`] says why a request may not pass.
//! - [`guard`] has layers for HTTP servers ([`tower`]) and gRPC servers ([`tonic`]), with a
//!   policy for each route or method.
//! - [`Client`] calls all services of hitkeep-auth, with deadlines and, where that is safe,
//!   repetitions. [`pb`] is generated from the protos.
//!
//! If it is unknown whether a token works, nothing passes, and nothing is said against the
//! token: that is [`Error::Unavailable`], 503 or `UNAVAILABLE`, and never 401.
//!
//! # Features
//!
//! - `axum`: [`Principal`] and `Option<Principal>` are extractors, and [`Error`] is a response.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod authenticator;
mod cache;
mod caller_token;
mod calls;
mod client;
mod connect;
mod connection;
mod embedded;
mod error;
pub mod follow;
pub mod grpc_timeout;
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
pub use embedded::EmbeddedOptions;
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
