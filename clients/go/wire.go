package hitkeepauth

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/pascalebeier/hitkeep-auth/clients/go/hitkeepauthpb"
)

// Owner is who an API client belongs to: exactly one of a user and a team.
type Owner struct {
	UserID ID
	TeamID ID
}

// OwnedByUser is a user as owner, of personal clients.
func OwnedByUser(id ID) Owner { return Owner{UserID: id} }

// OwnedByTeam is a team as owner.
func OwnedByTeam(id ID) Owner { return Owner{TeamID: id} }

// IsZero reports whether there is no owner.
func (o Owner) IsZero() bool { return o == Owner{} }

// String is user:ID or team:ID; empty for no owner.
func (o Owner) String() string {
	switch {
	case !o.UserID.IsZero():
		return "user:" + o.UserID.String()
	case !o.TeamID.IsZero():
		return "team:" + o.TeamID.String()
	}
	return ""
}

func (o Owner) wire() *pb.Owner {
	switch {
	case !o.UserID.IsZero():
		return &pb.Owner{Owner: &pb.Owner_UserId{UserId: o.UserID.String()}}
	case !o.TeamID.IsZero():
		return &pb.Owner{Owner: &pb.Owner_TeamId{TeamId: o.TeamID.String()}}
	}
	return nil
}

func ownerFromWire(m *pb.Owner) (Owner, error) {
	var o Owner
	var err error
	switch owner := m.GetOwner().(type) {
	case *pb.Owner_UserId:
		o.UserID, err = ParseID(owner.UserId)
	case *pb.Owner_TeamId:
		o.TeamID, err = ParseID(owner.TeamId)
	default:
		err = errors.New("neither a user nor a team")
	}
	if err != nil {
		return Owner{}, fmt.Errorf("the client's owner: %w", err)
	}
	return o, nil
}

func siteRolesFromWire(grants []*pb.SiteGrant) (SiteRoles, error) {
	roles := SiteRoles{grants: make([]SiteGrant, 0, len(grants))}
	for _, grant := range grants {
		site, err := ParseID(grant.GetSiteId())
		if err != nil {
			return SiteRoles{}, fmt.Errorf("a grant's site: %w", err)
		}
		role, known := fromWire(siteRoles, int32(grant.GetRole()))
		if !known {
			return SiteRoles{}, fmt.Errorf("unknown site role %d", grant.GetRole())
		}
		roles.grants = append(roles.grants, SiteGrant{SiteID: site, Role: role})
	}
	slices.SortFunc(roles.grants, func(a, b SiteGrant) int {
		return slices.Compare(a.SiteID[:], b.SiteID[:])
	})
	return roles, nil
}

func timeFromWire(m *timestamppb.Timestamp) *time.Time {
	if m == nil {
		return nil
	}
	at := m.AsTime()
	return &at
}

func timeToWire(at *time.Time) *timestamppb.Timestamp {
	if at == nil {
		return nil
	}
	return timestamppb.New(*at)
}
