package hitkeepauth

import (
	"bytes"
	"context"
	"iter"
	"slices"
	"time"
)

// Principal is what a token that works stands for, with its effective access: what was
// delegated to its API client, cut down to what the client's owner holds.
//
// Each call gives a Principal of its own.
type Principal struct {
	// ClientID is the API client that the token belongs to.
	ClientID ID
	// ClientName is its name, for people.
	ClientName string
	// UserID is the owner of a personal client. Zero: it is a team's.
	UserID ID
	// TenantID is the team that owns a team's client. Zero: it is a personal one.
	TenantID ID
	// InstanceRole is the effective role on the instance; always InstanceUser for a
	// team's client.
	InstanceRole InstanceRole
	// SiteRoles are the effective roles on sites.
	SiteRoles SiteRoles
	// Expiry is when the client expires. Zero: never.
	Expiry time.Time
	// Revision is the state of the service's database that this is based on.
	Revision uint64
}

// Owner is who the client belongs to.
func (p *Principal) Owner() Owner { return Owner{UserID: p.UserID, TeamID: p.TenantID} }

// Can reports whether the token carries a permission: one on a site, or, with the zero
// ID, one on the instance. A permission on a site comes from the role on that site and
// from nothing else. A nil Principal can nothing.
func (p *Principal) Can(permission Permission, site ID) bool {
	switch {
	case p == nil:
		return false
	case permission.OnSite():
		return p.SiteRoles.Get(site).HasPermission(permission)
	default:
		return site.IsZero() && p.InstanceRole.HasPermission(permission)
	}
}

// Require is nil if the token carries the permission, and a [*ForbiddenError] otherwise.
func (p *Principal) Require(permission Permission, site ID) error {
	if p.Can(permission, site) {
		return nil
	}
	return &ForbiddenError{Permission: permission, SiteID: site}
}

// SiteRoles are roles on sites, at most one on each. They never change, so that those who
// share an answer cannot change it for each other. The zero value has none.
type SiteRoles struct {
	// Ordered by site.
	grants []SiteGrant
}

// SiteGrant is a role on one site.
type SiteGrant struct {
	SiteID ID       `json:"site_id"`
	Role   SiteRole `json:"role"`
}

// Get is the role on a site; empty if there is none, which carries nothing.
func (s SiteRoles) Get(site ID) SiteRole {
	at, found := slices.BinarySearchFunc(s.grants, site, func(grant SiteGrant, site ID) int {
		return bytes.Compare(grant.SiteID[:], site[:])
	})
	if !found {
		return ""
	}
	return s.grants[at].Role
}

// Len is the number of sites.
func (s SiteRoles) Len() int { return len(s.grants) }

// All are the sites and the roles on them, ordered by site.
func (s SiteRoles) All() iter.Seq2[ID, SiteRole] {
	return func(yield func(ID, SiteRole) bool) {
		for _, grant := range s.grants {
			if !yield(grant.SiteID, grant.Role) {
				return
			}
		}
	}
}

// Map is a copy as a map, never nil.
func (s SiteRoles) Map() map[ID]SiteRole {
	roles := make(map[ID]SiteRole, len(s.grants))
	for site, role := range s.All() {
		roles[site] = role
	}
	return roles
}

type contextKey struct{}

// NewContext is a context that carries the principal, for [FromContext].
func NewContext(ctx context.Context, principal *Principal) context.Context {
	return context.WithValue(ctx, contextKey{}, principal)
}

// FromContext is the principal of a request that a middleware or an interceptor of this
// package let through; nil and false if there is none, as on routes that need no token.
func FromContext(ctx context.Context) (*Principal, bool) {
	principal, _ := ctx.Value(contextKey{}).(*Principal)
	return principal, principal != nil
}
