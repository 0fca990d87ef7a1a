//! HitKeep's roles and permissions. The tables are those of `docs/access-rules.md`, and no
//! other module repeats them: a permission is one entry below, which also names the weakest
//! role that includes it. Tests point at the texts that have to follow.

/// A role, permission or action name that this version does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {kind}")]
pub struct UnknownName {
    /// The expected kind of name, such as "site role".
    pub kind: &'static str,
}

/// An enum with a string for each variant, conversions both ways, and a list of all variants.
macro_rules! string_enum {
    ($(#[$doc:meta])* $name:ident ($kind:literal) { $($(#[$value_doc:meta])* $value:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$value_doc])* $value,)+
        }

        impl $name {
            /// All variants, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$value,)+];

            /// The variant's string, as it is stored and shown.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $text,)+
                }
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::role::UnknownName;

            fn from_str(text: &str) -> Result<Self, $crate::role::UnknownName> {
                match text {
                    $($text => Ok(Self::$value),)+
                    _ => Err($crate::role::UnknownName { kind: $kind }),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}
pub(crate) use string_enum;

string_enum! {
    /// The role of a user or a personal client on the instance, weakest first.
    InstanceRole ("instance role") {
        /// No instance permission.
        User = "user",
        /// Runs the instance, short of its users and settings.
        Admin = "admin",
        /// Holds every instance permission.
        Owner = "owner",
    }
}

string_enum! {
    /// The role of a user or an API client on one site, weakest first.
    SiteRole ("site role") {
        /// May see its figures.
        Viewer = "viewer",
        /// May also manage its goals and annotations.
        Editor = "editor",
        /// May also manage its data, its members and its webhooks.
        Admin = "admin",
        /// May also delete it.
        Owner = "owner",
    }
}

string_enum! {
    /// A user's role in a team, weakest first.
    TeamRole ("team role") {
        /// Has no rights of their own on the team's sites.
        Member = "member",
        /// Manages its API clients; at most site admin of its sites.
        Admin = "admin",
        /// Manages its API clients; site owner of its sites, if no role on a site is weaker.
        Owner = "owner",
    }
}

/// A [`string_enum!`] of permissions, each `from` the weakest role that includes it, and the
/// comparison of that role with others.
macro_rules! permission_enum {
    ($(#[$doc:meta])* $name:ident ($kind:literal) of $role:ident {
        $($(#[$value_doc:meta])* $value:ident = $text:literal from $weakest:ident,)+
    }) => {
        string_enum! {
            $(#[$doc])*
            $name ($kind) { $($(#[$value_doc])* $value = $text,)+ }
        }

        impl $name {
            /// The weakest role that includes the permission.
            pub const fn needs(self) -> $role {
                const WEAKEST: &[$role] = &[$($role::$weakest,)+];
                WEAKEST[self as usize]
            }
        }

        impl $role {
            /// Whether the role includes the permission. The type of the permission keeps out
            /// those of other kinds of roles.
            pub fn allows(self, permission: $name) -> bool {
                self >= permission.needs()
            }
        }
    };
}

permission_enum! {
    /// A permission on one site, in the order of the roles that add them.
    SitePermission ("site permission") of SiteRole {
        /// See its figures.
        View = "site.view" from Viewer,
        /// Define its goals.
        ManageGoals = "site.manage_goals" from Editor,
        /// Annotate its figures.
        ManageAnnotations = "site.manage_annotations" from Editor,
        /// Change or remove its data.
        ManageData = "site.manage_data" from Admin,
        /// Decide which users may see it.
        ManageTeam = "site.manage_team" from Admin,
        /// Decide which programs are notified of its events.
        ManageWebhooks = "site.manage_webhooks" from Admin,
        /// Delete it.
        Delete = "site.delete" from Owner,
    }
}

permission_enum! {
    /// A permission on the instance, in the order of the roles that add them. A token's `scope`
    /// (RFC 7662) lists them in this order.
    InstancePermission ("instance permission") of InstanceRole {
        /// See the list of all sites.
        ViewAllSites = "instance.view_all_sites" from Admin,
        /// See the system's state.
        ViewSystem = "instance.view_system" from Admin,
        /// Run maintenance jobs.
        RunMaintenance = "instance.run_maintenance" from Admin,
        /// See the audit trail.
        ViewAudit = "instance.view_audit" from Admin,
        /// Exclude traffic from sites.
        ManageSiteExclusions = "instance.manage_site_exclusions" from Admin,
        /// Import data.
        ManageImports = "instance.manage_imports" from Admin,
        /// See the activation.
        ViewActivation = "instance.view_activation" from Admin,
        /// Decide which programs are notified of the instance's events.
        ManageWebhooks = "instance.manage_webhooks" from Admin,
        /// Manage users.
        ManageUsers = "instance.manage_users" from Owner,
        /// Change settings.
        ManageSettings = "instance.manage_settings" from Owner,
        /// Manage the system.
        ManageSystem = "instance.manage_system" from Owner,
        /// Export the audit trail.
        ExportAudit = "instance.export_audit" from Owner,
    }
}

impl TeamRole {
    /// The role that the team role gives on the team's sites, unless the user's role on the
    /// site itself is weaker.
    pub const fn derived_site_role(self) -> Option<SiteRole> {
        match self {
            Self::Member => None,
            Self::Admin => Some(SiteRole::Admin),
            Self::Owner => Some(SiteRole::Owner),
        }
    }

    /// Whether the role manages the team's API clients.
    pub const fn manages_clients(self) -> bool {
        match self {
            Self::Member => false,
            Self::Admin | Self::Owner => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `docs/access-rules.md` shows the tables, and each of its rows begins a role's where the
    /// weaker role's ends.
    #[test]
    fn permissions_are_in_the_order_of_the_roles_that_add_them() {
        assert!(SitePermission::ALL.is_sorted_by_key(|permission| permission.needs()));
        assert!(InstancePermission::ALL.is_sorted_by_key(|permission| permission.needs()));
    }

    #[test]
    fn the_weakest_role_includes_what_stronger_ones_do() {
        let on_site = |role: SiteRole| {
            let included = SitePermission::ALL.iter().filter(move |p| role.allows(**p));
            included.map(|permission| permission.as_str())
        };
        assert!(on_site(SiteRole::Viewer).eq(["site.view"]));
        assert!(on_site(SiteRole::Owner).eq(SitePermission::ALL.iter().map(|p| p.as_str())));
        for permission in InstancePermission::ALL {
            assert!(!InstanceRole::User.allows(*permission));
            assert!(InstanceRole::Owner.allows(*permission));
            let is_admins = permission.needs() == InstanceRole::Admin;
            assert_eq!(InstanceRole::Admin.allows(*permission), is_admins);
        }
    }

    #[test]
    fn names_round_trip() {
        for role in SiteRole::ALL {
            assert_eq!(role.as_str().parse(), Ok(*role));
        }
        for permission in InstancePermission::ALL {
            assert_eq!(permission.as_str().parse(), Ok(*permission));
        }
        assert!("Viewer".parse::<SiteRole>().is_err());
        assert!("".parse::<TeamRole>().is_err());
    }
}
