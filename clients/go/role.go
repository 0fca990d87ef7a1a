package hitkeepauth

import (
	"fmt"
	"slices"
	"strings"

	pb "github.com/pascalebeier/hitkeep-auth/clients/go/hitkeepauthpb"
)

// InstanceRole is a role on the whole HitKeep instance, spelt as in HitKeep.
type InstanceRole string

// The instance roles, weakest first. Each carries what the weaker ones carry.
const (
	InstanceUser  InstanceRole = "user"
	InstanceAdmin InstanceRole = "admin"
	InstanceOwner InstanceRole = "owner"
)

// SiteRole is a role on one site, spelt as in HitKeep.
type SiteRole string

// The site roles, weakest first. Each carries what the weaker ones carry.
const (
	SiteViewer SiteRole = "viewer"
	SiteEditor SiteRole = "editor"
	SiteAdmin  SiteRole = "admin"
	SiteOwner  SiteRole = "owner"
)

// TeamRole is a user's role in a team, spelt as in HitKeep.
type TeamRole string

// The team roles, weakest first.
const (
	TeamRoleMember TeamRole = "member"
	TeamRoleAdmin  TeamRole = "admin"
	TeamRoleOwner  TeamRole = "owner"
)

// Permission is what a role carries, spelt as in HitKeep. One that begins with
// "site." is held on a site, one that begins with "instance." on the instance.
type Permission string

// The permissions on a site.
const (
	SiteView              Permission = "site.view"
	SiteManageGoals       Permission = "site.manage_goals"
	SiteManageAnnotations Permission = "site.manage_annotations"
	SiteManageData        Permission = "site.manage_data"
	SiteManageTeam        Permission = "site.manage_team"
	SiteManageWebhooks    Permission = "site.manage_webhooks"
	SiteDelete            Permission = "site.delete"
)

// The permissions on the instance.
const (
	InstanceViewAllSites         Permission = "instance.view_all_sites"
	InstanceViewSystem           Permission = "instance.view_system"
	InstanceRunMaintenance       Permission = "instance.run_maintenance"
	InstanceViewAudit            Permission = "instance.view_audit"
	InstanceManageSiteExclusions Permission = "instance.manage_site_exclusions"
	InstanceManageImports        Permission = "instance.manage_imports"
	InstanceViewActivation       Permission = "instance.view_activation"
	InstanceManageWebhooks       Permission = "instance.manage_webhooks"
	InstanceManageUsers          Permission = "instance.manage_users"
	InstanceManageSettings       Permission = "instance.manage_settings"
	InstanceManageSystem         Permission = "instance.manage_system"
	InstanceExportAudit          Permission = "instance.export_audit"
)

var (
	instanceRoles = []InstanceRole{InstanceUser, InstanceAdmin, InstanceOwner}
	siteRoles     = []SiteRole{SiteViewer, SiteEditor, SiteAdmin, SiteOwner}
	teamRoles     = []TeamRole{TeamRoleMember, TeamRoleAdmin, TeamRoleOwner}
)

// What each role carries beyond the weaker ones.
var (
	instancePermissions = map[InstanceRole][]Permission{
		InstanceAdmin: {
			InstanceViewAllSites, InstanceViewSystem, InstanceRunMaintenance, InstanceViewAudit,
			InstanceManageSiteExclusions, InstanceManageImports, InstanceViewActivation,
			InstanceManageWebhooks,
		},
		InstanceOwner: {
			InstanceManageUsers, InstanceManageSettings, InstanceManageSystem, InstanceExportAudit,
		},
	}
	sitePermissions = map[SiteRole][]Permission{
		SiteViewer: {SiteView},
		SiteEditor: {SiteManageGoals, SiteManageAnnotations},
		SiteAdmin:  {SiteManageData, SiteManageTeam, SiteManageWebhooks},
		SiteOwner:  {SiteDelete},
	}
)

// The weakest role that carries each permission.
var (
	instanceRoleFor = weakest(instancePermissions)
	siteRoleFor     = weakest(sitePermissions)
)

func weakest[R comparable](permissions map[R][]Permission) map[Permission]R {
	roles := make(map[Permission]R)
	for role, carried := range permissions {
		for _, permission := range carried {
			roles[permission] = role
		}
	}
	return roles
}

// holds reports whether a role is at least as strong as another one. A role that is
// unknown, such as the empty one, is never: absence is no access.
func holds[R comparable](roles []R, held, needed R) bool {
	need := slices.Index(roles, needed)
	return need >= 0 && slices.Index(roles, held) >= need
}

// AtLeast reports whether the role is the other one or a stronger one.
func (r InstanceRole) AtLeast(other InstanceRole) bool { return holds(instanceRoles, r, other) }

// AtLeast reports whether the role is the other one or a stronger one.
func (r SiteRole) AtLeast(other SiteRole) bool { return holds(siteRoles, r, other) }

// AtLeast reports whether the role is the other one or a stronger one.
func (r TeamRole) AtLeast(other TeamRole) bool { return holds(teamRoles, r, other) }

// HasPermission reports whether the role carries a permission on the instance.
func (r InstanceRole) HasPermission(permission Permission) bool {
	needed, known := instanceRoleFor[permission]
	return known && r.AtLeast(needed)
}

// HasPermission reports whether the role carries a permission on its site.
func (r SiteRole) HasPermission(permission Permission) bool {
	needed, known := siteRoleFor[permission]
	return known && r.AtLeast(needed)
}

// Permissions are what the role carries.
func (r InstanceRole) Permissions() []Permission {
	return carried(instanceRoles, r, instancePermissions)
}

// Permissions are what the role carries.
func (r SiteRole) Permissions() []Permission { return carried(siteRoles, r, sitePermissions) }

func carried[R comparable](roles []R, held R, permissions map[R][]Permission) []Permission {
	var all []Permission
	for _, role := range roles {
		if holds(roles, held, role) {
			all = append(all, permissions[role]...)
		}
	}
	return all
}

const (
	sitePrefix     = "site."
	instancePrefix = "instance."
)

// OnSite reports whether the permission is held on a site, and so needs one.
func (p Permission) OnSite() bool { return strings.HasPrefix(string(p), sitePrefix) }

// known reports whether this version of the package knows which roles carry it. The
// service may be newer.
func (p Permission) known() bool {
	_, onInstance := instanceRoleFor[p]
	_, onSite := siteRoleFor[p]
	return onInstance || onSite
}

// flaw is what is wrong with asking for the permission, on that site or on none.
func (p Permission) flaw(hasSite bool) error {
	onInstance := strings.HasPrefix(string(p), instancePrefix)
	for _, c := range []byte(p) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' && c != '.' {
			return fmt.Errorf("%q is no permission", string(p))
		}
	}
	switch {
	case !p.OnSite() && !onInstance:
		return fmt.Errorf("%q is no permission", string(p))
	case p.OnSite() && !hasSite:
		return fmt.Errorf("the permission %q needs a site", string(p))
	case onInstance && hasSite:
		return fmt.Errorf("the permission %q is one on the instance, and takes no site", string(p))
	}
	return nil
}

// The roles on the wire are numbered in the order given here, from 1; 0 is none.

func fromWire[R any](roles []R, number int32) (R, bool) {
	if number < 1 || int(number) > len(roles) {
		var none R
		return none, false
	}
	return roles[number-1], true
}

func (r InstanceRole) wire() pb.InstanceRole {
	return pb.InstanceRole(slices.Index(instanceRoles, r) + 1)
}

func (r SiteRole) wire() pb.SiteRole { return pb.SiteRole(slices.Index(siteRoles, r) + 1) }

func (r TeamRole) wire() pb.TeamRole { return pb.TeamRole(slices.Index(teamRoles, r) + 1) }
