//! What a token that works stands for.

use std::{fmt, sync::Arc};

use hitkeep_auth_domain::{
    Revision, Timestamp,
    access::{Decision, EffectiveAccess, Owner, PermissionCheck},
    client::Expiry,
    id::{ClientId, SiteId},
    index,
    introspection::ResolvedClient,
    role::{InstanceRole, SiteRole},
};

use crate::error::Error;

/// The API client that a token belongs to, with its effective access: what was delegated to
/// it, cut down to what its owner holds. Cheap to clone.
#[derive(Clone)]
pub struct Principal {
    subject: Subject,
    revision: Revision,
}

#[derive(Clone)]
enum Subject {
    Asked(Arc<Identity>),
    Indexed(Arc<index::Client>),
}

/// An API client as the service describes it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) client: ClientId,
    pub(crate) name: Box<str>,
    pub(crate) owner: Owner,
    pub(crate) access: EffectiveAccess,
    pub(crate) expiry: Expiry,
}

impl Principal {
    pub(crate) const fn asked(identity: Arc<Identity>, revision: Revision) -> Self {
        let subject = Subject::Asked(identity);
        Self { subject, revision }
    }

    /// The client must be readable.
    pub(crate) const fn indexed(client: Arc<index::Client>, revision: Revision) -> Self {
        let subject = Subject::Indexed(client);
        Self { subject, revision }
    }

    /// The API client's id.
    pub fn client_id(&self) -> ClientId {
        self.read(|identity| identity.client, |client| client.client)
    }

    /// The API client's name, for people. Empty if the index leaves out names.
    pub fn client_name(&self) -> &str {
        match &self.subject {
            Subject::Asked(identity) => &identity.name,
            Subject::Indexed(client) => &resolved(client).name,
        }
    }

    /// The user or team that the client belongs to.
    pub fn owner(&self) -> Owner {
        self.read(|identity| identity.owner, |client| client.owner)
    }

    /// The effective role on the instance; always `user` for a team's client.
    pub fn instance_role(&self) -> InstanceRole {
        self.access().instance_role
    }

    /// The effective role on a site. `None` carries nothing.
    pub fn site_role(&self, site: SiteId) -> Option<SiteRole> {
        self.access().grants.get(site)
    }

    /// The effective roles on sites, ordered by site.
    pub fn site_roles(&self) -> impl ExactSizeIterator<Item = (SiteId, SiteRole)> {
        let roles = self.access().grants.iter();
        roles.map(|(site, role)| (*site, *role))
    }

    /// When the client expires; `None`: never.
    pub fn expire_time(&self) -> Option<Timestamp> {
        self.read(|identity| identity.expiry, |client| client.expiry)
            .time()
    }

    /// The state of the service's database that this is based on.
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// Whether the token carries a permission. One on a site comes from the role on that site
    /// and from nothing else.
    pub fn can(&self, check: PermissionCheck) -> bool {
        self.access().decide(&check) == Decision::Allowed
    }

    /// Requires a permission.
    ///
    /// # Errors
    /// [`Error::Forbidden`].
    pub fn require(&self, check: PermissionCheck) -> Result<(), Error> {
        if self.can(check) {
            Ok(())
        } else {
            Err(Error::Forbidden(check))
        }
    }

    fn access(&self) -> &EffectiveAccess {
        match &self.subject {
            Subject::Asked(identity) => &identity.access,
            Subject::Indexed(client) => &resolved(client).access,
        }
    }

    fn read<T>(
        &self,
        asked: impl FnOnce(&Identity) -> T,
        indexed: impl FnOnce(&ResolvedClient) -> T,
    ) -> T {
        match &self.subject {
            Subject::Asked(identity) => asked(identity),
            Subject::Indexed(client) => indexed(resolved(client)),
        }
    }
}

fn resolved(client: &index::Client) -> &ResolvedClient {
    match &client.known {
        index::Known::Resolved(client) => client,
        index::Known::Unreadable(_) => unreachable!("only readable clients are principals"),
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Principal")
            .field("client_id", &self.client_id())
            .field("owner", &self.owner())
            .field("access", self.access())
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}
