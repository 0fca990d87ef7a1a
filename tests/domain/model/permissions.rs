//! The two tables of `docs/access-rules.md`, row by row, and sets of permissions made from
//! them. Access is compared by these sets only, never by role.

use std::collections::BTreeSet;

use hitkeep_auth::domain::{
    access::{Delegated, EffectiveAccess},
    id::SiteId,
    role::{InstanceRole, SiteRole},
};

/// A permission, on a site or on the instance.
pub(crate) type Permission = (Option<SiteId>, &'static str);

/// Everything that somebody may do.
pub(crate) type Permissions = BTreeSet<Permission>;

/// What a role on the instance carries.
pub(crate) fn on_instance(role: InstanceRole) -> Permissions {
    let row: &[&str] = match role {
        InstanceRole::User => &[],
        InstanceRole::Admin => &[
            "instance.view_all_sites",
            "instance.view_system",
            "instance.run_maintenance",
            "instance.view_audit",
            "instance.manage_site_exclusions",
            "instance.manage_imports",
        ],
        InstanceRole::Owner => &[
            "instance.view_all_sites",
            "instance.view_system",
            "instance.run_maintenance",
            "instance.view_audit",
            "instance.manage_site_exclusions",
            "instance.manage_imports",
            "instance.manage_users",
            "instance.manage_settings",
            "instance.view_activation",
            "instance.manage_system",
            "instance.export_audit",
        ],
    };
    row.iter().map(|permission| (None, *permission)).collect()
}

/// What a role on a site carries.
pub(crate) fn on_site(site: SiteId, role: SiteRole) -> Permissions {
    let row: &[&str] = match role {
        SiteRole::Viewer => &["site.view"],
        SiteRole::Editor => &["site.view", "site.manage_goals"],
        SiteRole::Admin => &[
            "site.view",
            "site.manage_data",
            "site.manage_goals",
            "site.manage_team",
        ],
        SiteRole::Owner => &[
            "site.view",
            "site.manage_data",
            "site.manage_goals",
            "site.manage_team",
            "site.delete",
        ],
    };
    row.iter()
        .map(|permission| (Some(site), *permission))
        .collect()
}

/// What was written on a client.
pub(crate) fn carried_by(delegated: &Delegated) -> Permissions {
    match delegated {
        Delegated::Personal {
            instance_role,
            grants,
            ..
        } => &on_instance(*instance_role) | &on_sites(grants.iter()),
        Delegated::Team { grants, .. } => on_sites(grants.iter()),
    }
}

/// What the domain says that a client may do.
pub(crate) fn reported_by(access: &EffectiveAccess) -> Permissions {
    &on_instance(access.instance_role) | &on_sites(access.grants.iter())
}

fn on_sites<'g>(grants: impl Iterator<Item = (&'g SiteId, &'g SiteRole)>) -> Permissions {
    grants
        .flat_map(|(site, role)| on_site(*site, *role))
        .collect()
}
