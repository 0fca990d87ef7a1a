//! HitKeep's roles and permissions. The tables are those of `docs/access-rules.md`, and no
//! other module repeats them.

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
        /// May also manage its goals.
        Editor = "editor",
        /// May also manage its data and its members.
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
        /// Manages its API clients; site admin of its sites.
        Admin = "admin",
        /// Manages its API clients; site owner of its sites.
        Owner = "owner",
    }
}

string_enum! {
    /// A permission on one site.
    SitePermission ("site permission") {
        /// See its figures.
        View = "site.view",
        /// Change or remove its data.
        ManageData = "site.manage_data",
        /// Define its goals.
        ManageGoals = "site.manage_goals",
        /// Decide which users may see it.
        ManageTeam = "site.manage_team",
        /// Delete it.
        Delete = "site.delete",
    }
}

string_enum! {
    /// A permission on the instance.
    InstancePermission ("instance permission") {
        /// See the list of all sites.
        ViewAllSites = "instance.view_all_sites",
        /// See the system's state.
        ViewSystem = "instance.view_system",
        /// Run maintenance jobs.
        RunMaintenance = "instance.run_maintenance",
        /// See the audit trail.
        ViewAudit = "instance.view_audit",
        /// Exclude traffic from sites.
        ManageSiteExclusions = "instance.manage_site_exclusions",
        /// Import data.
        ManageImports = "instance.manage_imports",
        /// Manage users.
        ManageUsers = "instance.manage_users",
        /// Change settings.
        ManageSettings = "instance.manage_settings",
        /// See the activation.
        ViewActivation = "instance.view_activation",
        /// Manage the system.
        ManageSystem = "instance.manage_system",
        /// Export the audit trail.
        ExportAudit = "instance.export_audit",
    }
}

impl SitePermission {
    /// The weakest site role that includes the permission.
    pub const fn needs(self) -> SiteRole {
        match self {
            Self::View => SiteRole::Viewer,
            Self::ManageGoals => SiteRole::Editor,
            Self::ManageData | Self::ManageTeam => SiteRole::Admin,
            Self::Delete => SiteRole::Owner,
        }
    }
}

impl InstancePermission {
    /// The weakest instance role that includes the permission.
    pub const fn needs(self) -> InstanceRole {
        match self {
            Self::ViewAllSites
            | Self::ViewSystem
            | Self::RunMaintenance
            | Self::ViewAudit
            | Self::ManageSiteExclusions
            | Self::ManageImports => InstanceRole::Admin,
            Self::ManageUsers
            | Self::ManageSettings
            | Self::ViewActivation
            | Self::ManageSystem
            | Self::ExportAudit => InstanceRole::Owner,
        }
    }
}

impl SiteRole {
    /// Whether the role includes the permission.
    pub fn allows(self, permission: SitePermission) -> bool {
        self >= permission.needs()
    }
}

impl InstanceRole {
    /// Whether the role includes the permission. The type keeps out `site.*` permissions:
    /// no instance role includes one.
    pub fn allows(self, permission: InstancePermission) -> bool {
        self >= permission.needs()
    }
}

impl TeamRole {
    /// The role that the team role gives on the team's sites, if the user has no membership
    /// on the site itself.
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

    /// The tables of `docs/access-rules.md`, spelled out row by row.
    #[test]
    fn tables_match_the_access_rules() {
        let site = |role: SiteRole| -> Vec<&str> {
            let carried = SitePermission::ALL.iter().filter(|p| role.allows(**p));
            carried.map(|p| p.as_str()).collect()
        };
        assert_eq!(site(SiteRole::Viewer), ["site.view"]);
        assert_eq!(site(SiteRole::Editor), ["site.view", "site.manage_goals"]);
        assert_eq!(
            site(SiteRole::Admin),
            [
                "site.view",
                "site.manage_data",
                "site.manage_goals",
                "site.manage_team"
            ]
        );
        assert_eq!(site(SiteRole::Owner).len(), SitePermission::ALL.len());

        let instance = |role: InstanceRole| -> Vec<&str> {
            let carried = InstancePermission::ALL.iter().filter(|p| role.allows(**p));
            carried.map(|p| p.as_str()).collect()
        };
        assert!(instance(InstanceRole::User).is_empty());
        assert_eq!(
            instance(InstanceRole::Admin),
            [
                "instance.view_all_sites",
                "instance.view_system",
                "instance.run_maintenance",
                "instance.view_audit",
                "instance.manage_site_exclusions",
                "instance.manage_imports",
            ]
        );
        assert_eq!(
            instance(InstanceRole::Owner).len(),
            InstancePermission::ALL.len()
        );
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
