//! Converts wire types to domain types and back. All violations of a request are found
//! here, and reported together.

use chrono::TimeDelta;

pub(super) mod audit;
pub(super) mod clients;
pub(super) mod directory;
pub(crate) mod ext_authz;
pub(super) mod incident;
pub(crate) mod introspection;
pub(crate) mod reader;
pub(crate) mod replication;
pub(super) mod usage;

use crate::{
    domain::{
        access::Owner,
        id::SiteId,
        role::{InstanceRole, SiteRole},
    },
    pb,
};

pub(crate) use crate::client::follow::wire::to_timestamp;

pub(crate) fn to_duration(length: TimeDelta) -> prost_types::Duration {
    prost_types::Duration {
        seconds: length.num_seconds(),
        nanos: length.subsec_nanos(),
    }
}

fn to_owner(owner: Owner) -> pb::Owner {
    let owner = match owner {
        Owner::User(id) => pb::owner::Owner::UserId(id.to_string()),
        Owner::Team(id) => pb::owner::Owner::TeamId(id.to_string()),
    };
    pb::Owner { owner: Some(owner) }
}

pub(crate) const fn to_instance_role(role: InstanceRole) -> pb::InstanceRole {
    match role {
        InstanceRole::User => pb::InstanceRole::User,
        InstanceRole::Admin => pb::InstanceRole::Admin,
        InstanceRole::Owner => pb::InstanceRole::Owner,
    }
}

pub(crate) const fn to_site_role(role: SiteRole) -> pb::SiteRole {
    match role {
        SiteRole::Viewer => pb::SiteRole::Viewer,
        SiteRole::Editor => pb::SiteRole::Editor,
        SiteRole::Admin => pb::SiteRole::Admin,
        SiteRole::Owner => pb::SiteRole::Owner,
    }
}

fn to_site_grants<'g>(
    grants: impl Iterator<Item = (&'g SiteId, &'g SiteRole)>,
) -> Vec<pb::SiteGrant> {
    let grant = |(site, role): (&SiteId, &SiteRole)| pb::SiteGrant {
        site_id: site.to_string(),
        role: to_site_role(*role).into(),
    };
    grants.map(grant).collect()
}
