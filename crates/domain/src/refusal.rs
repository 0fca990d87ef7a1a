//! Why a management call is refused.

use super::{
    id::SiteId,
    role::{InstanceRole, SiteRole},
    state::ClientState,
};

/// Why a management call is refused. Not a failure of the service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The client does not exist, or the actor may not see it.
    #[error("no such API client")]
    NotFound,
    /// The owner does not exist, or the actor does not manage its clients.
    #[error("the owner does not exist, or the actor does not manage its API clients")]
    OwnerNotManaged,
    /// The instance role is above the actor's own.
    #[error("the actor does not hold the instance role {wanted}")]
    ExceedsInstanceRole {
        /// The role that the actor tried to delegate.
        wanted: InstanceRole,
    },
    /// A grant is above the actor's own role on the site.
    #[error("the actor does not hold the role {wanted} on site {site}")]
    ExceedsSiteRole {
        /// The site of the grant.
        site: SiteId,
        /// The role that the actor tried to delegate.
        wanted: SiteRole,
    },
    /// The site is unknown, or outside of the owner's team.
    #[error("site {site} is unknown, or not in the owner's team")]
    SiteNotDelegable {
        /// The site of the grant.
        site: SiteId,
    },
    /// The operation is not possible in the client's state.
    #[error("the API client is {state}")]
    WrongState {
        /// The state at the time of the call.
        state: ClientState,
    },
    /// The client was changed since the caller read it.
    #[error("the API client was changed since it was read")]
    EtagMismatch,
    /// The owner has as many clients as the limit allows.
    #[error("the owner already has {limit} API clients, the most allowed")]
    Quota {
        /// The most clients that the owner may have.
        limit: u32,
    },
    /// More clients would be revoked than one call revokes.
    #[error(
        "more than {limit} API clients would be revoked, so none was: name an owner too, and call \
         once for each"
    )]
    TooManyClients {
        /// The most that one call revokes.
        limit: u32,
    },
    /// The expiry is not in the future.
    #[error("must be in the future")]
    ExpiryPast,
    /// The activation that was sent is not before the expiry.
    #[error("must be before expire_time")]
    ActivationTooLate,
    /// The expiry that was sent is not after the activation, which stays.
    #[error("must be after not_before_time")]
    ExpiryTooEarly,
    /// A team client cannot have an instance role.
    #[error("must be INSTANCE_ROLE_USER for a team's API client")]
    TeamInstanceRole,
    /// A new name may contain a token.
    #[error("must not contain a token, nor what looks like one")]
    TokenInName,
    /// A new description may contain a token.
    #[error("must not contain a token, nor what looks like one")]
    TokenInDescription,
    /// New grants exceed their limit.
    #[error("must have at most {limit} grants")]
    TooManyGrants {
        /// The most grants of a client.
        limit: usize,
    },
    /// Several fields are invalid, each for one of the reasons above.
    #[error("several fields are invalid")]
    Several(Vec<Self>),
}

impl Refusal {
    /// Refuses if fields are invalid, and names all of them.
    pub(crate) fn check_fields(mut invalid: Vec<Self>) -> Result<(), Self> {
        if invalid.len() > 1 {
            return Err(Self::Several(invalid));
        }
        invalid.pop().map_or(Ok(()), Err)
    }
}
