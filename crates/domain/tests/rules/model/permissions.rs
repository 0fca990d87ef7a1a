//! The two tables of `docs/access-rules.md`, row by row, and sets of permissions made from
//! them. Access is compared by these sets only, never by role.

use std::collections::BTreeSet;

use hitkeep_auth_domain::{
    access::{Delegated, EffectiveAccess},
    id::SiteId,
    role::{InstanceRole, SiteRole},
};

/// A permission, on a site or on the instance.
pub(crate) type Permission = (Option<SiteId>, &'static str);

/// Everything that a user may do.
pub(crate) type Permissions = BTreeSet<Permission>;

/// What each role on the instance adds to the weaker ones.
const ON_INSTANCE: [(InstanceRole, &[&str]); 3] = [
    (InstanceRole::User, &[]),
    (
        InstanceRole::Admin,
        &[
            "instance.view_all_sites",
            "instance.view_system",
            "instance.run_maintenance",
            "instance.view_audit",
            "instance.manage_site_exclusions",
            "instance.manage_imports",
            "instance.view_activation",
            "instance.manage_webhooks",
        ],
    ),
    (
        InstanceRole::Owner,
        &[
            "instance.manage_users",
            "instance.manage_settings",
            "instance.manage_system",
            "instance.export_audit",
        ],
    ),
];

/// What each role on a site adds to the weaker ones.
const ON_SITE: [(SiteRole, &[&str]); 4] = [
    (SiteRole::Viewer, &["site.view"]),
    (
        SiteRole::Editor,
        &["site.manage_goals", "site.manage_annotations"],
    ),
    (
        SiteRole::Admin,
        &[
            "site.manage_data",
            "site.manage_team",
            "site.manage_webhooks",
        ],
    ),
    (SiteRole::Owner, &["site.delete"]),
];

/// What a role on the instance carries.
pub(crate) fn on_instance(role: InstanceRole) -> Permissions {
    let carried = up_to(&ON_INSTANCE, role);
    carried.map(|permission| (None, permission)).collect()
}

/// What a role on a site carries.
pub(crate) fn on_site(site: SiteId, role: SiteRole) -> Permissions {
    let carried = up_to(&ON_SITE, role);
    carried.map(|permission| (Some(site), permission)).collect()
}

/// The permissions of a role's row, and of the rows above it.
fn up_to<R: Copy + PartialEq>(
    rows: &[(R, &'static [&'static str])],
    role: R,
) -> impl Iterator<Item = &'static str> {
    let row = rows.iter().position(|(other, _)| *other == role);
    let row = row.expect("every role has a row");
    rows[..=row].iter().flat_map(|(_, added)| *added).copied()
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
