//! Why a management call is refused.

use super::{
    client::ClientState,
    id::SiteId,
    role::{InstanceRole, SiteRole},
};

/// Why a call is refused. Not a failure: the service works, and says no.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such client, or the actor may not see it.
    #[error("no such API client")]
    NotFound,
    /// There is no such owner, or the actor does not manage its clients.
    #[error("the owner does not exist, or the actor does not manage its API clients")]
    OwnerNotManaged,
    /// The instance role is above the actor's own.
    #[error("the actor does not hold the instance role {wanted}")]
    ExceedsInstanceRole {
        /// The role to be delegated.
        wanted: InstanceRole,
    },
    /// A grant is above the actor's own role on the site.
    #[error("the actor does not hold the role {wanted} on site {site}")]
    ExceedsSiteRole {
        /// The site.
        site: SiteId,
        /// The role to be delegated.
        wanted: SiteRole,
    },
    /// The site is unknown, or outside of the owner's team.
    #[error("site {site} is unknown, or not in the owner's team")]
    SiteNotDelegable {
        /// The site.
        site: SiteId,
    },
    /// The client's state does not allow it.
    #[error("the API client is {state}")]
    WrongState {
        /// Its state.
        state: ClientState,
    },
    /// Somebody changed the client in between.
    #[error("the API client was changed since it was read")]
    EtagMismatch,
    /// The owner has as many clients as it may have.
    #[error("the owner already has {limit} API clients, the most allowed")]
    Quota {
        /// How many there may be.
        limit: u32,
    },
    /// The expiry is not in the future.
    #[error("must be in the future")]
    ExpiryPast,
    /// A team client was to get an instance role.
    #[error("must be INSTANCE_ROLE_USER for a team's API client")]
    TeamInstanceRole,
}
