package hitkeepauth

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/pascalebeier/hitkeep-auth/clients/go/hitkeepauthpb"
)

// source answers questions about tokens by asking the service. There are two: asking each time, and
// a cache in front of a stream.
type source interface {
	// ask gives an answer, or an error that is a gRPC status or a context's. It ends with the
	// context, which has a deadline.
	ask(ctx context.Context, q question) (answer, error)
	// close ends what the source does by itself. No question comes after it.
	close()
}

// question is what is asked about a token.
type question struct {
	token string
	// The permission to decide on; empty: none.
	permission Permission
	site       ID
	// The revision that the answer must be based on at least; 0: any.
	atLeast uint64
	// Where the token is presented from; zero: that is unknown.
	source netip.Addr
}

// sourceIP is what is sent.
func (q question) sourceIP() string {
	if !q.source.IsValid() {
		return ""
	}
	return q.source.String()
}

func (q question) check() *pb.PermissionCheck {
	if q.permission == "" {
		return nil
	}
	return &pb.PermissionCheck{SiteId: q.site.String(), Permission: string(q.permission)}
}

// answer is what the service says about a token. It is shared, so nothing in it is changed.
type answer struct {
	// nil: the token does not work.
	principal *Principal
	reason    InactiveReason
	revision  uint64
	// Whether the permission that was asked for is carried.
	allowed bool
	// When the question was sent, from when on the answer ages.
	sent   moment
	maxAge time.Duration
}

// fresh reports whether the answer may still be used.
func (a *answer) fresh(now moment) bool { return now.since(a.sent) < a.maxAge }

// moment is a time by two clocks: one that cannot be set, but stands still while the machine
// sleeps, and one that goes on then, but can be set.
type moment struct {
	steady, wall time.Time
}

func now() moment {
	steady := time.Now()
	return moment{steady: steady, wall: steady.Round(0)}
}

// since is the time that has passed by the clock by which it is more.
func (m moment) since(earlier moment) time.Duration {
	return max(m.steady.Sub(earlier.steady), m.wall.Sub(earlier.wall))
}

// Clocks of one machine that neither slept nor was set differ by less: they are slewed, and read one
// after the other.
const clockTolerance = time.Second

// between is how much time has passed at least and at most. These are the same unless the machine
// slept or its time of day was set forward meanwhile, which look the same.
func (m moment) between(earlier moment) (least, most time.Duration) {
	least, most = m.steady.Sub(earlier.steady), m.since(earlier)
	if most-least < clockTolerance {
		least = most
	}
	return least, most
}

// The messages of Introspect and IntrospectStream have the same fields.
type introspected interface {
	GetActive() bool
	GetInactiveReason() pb.InactiveReason
	GetClientId() string
	GetClientName() string
	GetOwner() *pb.Owner
	GetInstanceRole() pb.InstanceRole
	GetSiteGrants() []*pb.SiteGrant
	GetExpireTime() *timestamppb.Timestamp
	GetRevision() uint64
	GetMaxCacheAge() *durationpb.Duration
	GetDecision() *pb.Decision
}

// read understands an answer, or fails: what is not understood says nothing about the token.
func (q question) read(m introspected, sent moment) (answer, error) {
	a := answer{revision: m.GetRevision(), sent: sent}
	if q.permission != "" && m.GetDecision() == nil {
		return answer{}, errors.New("the service did not decide on the permission")
	}
	if !m.GetActive() {
		a.reason = inactiveReason(m.GetInactiveReason())
		return a, nil
	}
	a.allowed = m.GetDecision().GetAllowed()
	a.maxAge = max(m.GetMaxCacheAge().AsDuration(), 0)
	p := &Principal{ClientName: m.GetClientName(), Revision: a.revision}
	var err error
	if p.ClientID, err = ParseID(m.GetClientId()); err != nil {
		return answer{}, fmt.Errorf("the client's id: %w", err)
	}
	owner, err := ownerFromWire(m.GetOwner())
	if err != nil {
		return answer{}, err
	}
	p.UserID, p.TenantID = owner.UserID, owner.TeamID
	var known bool
	if p.InstanceRole, known = fromWire(instanceRoles, int32(m.GetInstanceRole())); !known {
		return answer{}, fmt.Errorf("unknown instance role %d", m.GetInstanceRole())
	}
	if p.SiteRoles, err = siteRolesFromWire(m.GetSiteGrants()); err != nil {
		return answer{}, err
	}
	if at := m.GetExpireTime(); at != nil {
		p.Expiry = at.AsTime()
	}
	a.principal = p
	return a, nil
}

// unarySource asks each time, by a call of its own.
type unarySource struct {
	service pb.IntrospectionServiceClient
}

func (s unarySource) ask(ctx context.Context, q question) (answer, error) {
	sent := now()
	request := &pb.IntrospectRequest{Token: q.token, Check: q.check(), SourceIp: q.sourceIP()}
	if q.atLeast > 0 {
		request.AtLeastRevision = &q.atLeast
	}
	response, err := s.service.Introspect(ctx, request)
	if err != nil {
		return answer{}, err
	}
	return q.read(response, sent)
}

func (unarySource) close() {}
