package hitkeepauth

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/pascalebeier/hitkeep-auth/clients/go/hitkeepauthpb"
)

const anID = "01930000-0000-7000-8000-0000000a11ce"

func whole() *pb.IntrospectResponse {
	return &pb.IntrospectResponse{
		Active:       true,
		ClientId:     anID,
		Owner:        &pb.Owner{Owner: &pb.Owner_UserId{UserId: anID}},
		InstanceRole: pb.InstanceRole_INSTANCE_ROLE_USER,
		SiteGrants:   []*pb.SiteGrant{{SiteId: anID, Role: pb.SiteRole_SITE_ROLE_VIEWER}},
		MaxCacheAge:  durationpb.New(time.Second),
		Revision:     1,
	}
}

// A newer service may say what this package does not understand.
func TestWhatIsNotUnderstoodIsNoAnswer(t *testing.T) {
	if a, err := (question{}).read(whole(), time.Now()); err != nil || a.principal == nil {
		t.Fatal(a, err)
	}
	for name, spoil := range map[string]func(*pb.IntrospectResponse){
		"no client":             func(m *pb.IntrospectResponse) { m.ClientId = "" },
		"no owner":              func(m *pb.IntrospectResponse) { m.Owner = nil },
		"another owner":         func(m *pb.IntrospectResponse) { m.Owner = &pb.Owner{} },
		"no instance role":      func(m *pb.IntrospectResponse) { m.InstanceRole = 0 },
		"another instance role": func(m *pb.IntrospectResponse) { m.InstanceRole = 4 },
		"another site role":     func(m *pb.IntrospectResponse) { m.SiteGrants[0].Role = 5 },
		"no site":               func(m *pb.IntrospectResponse) { m.SiteGrants[0].SiteId = "" },
	} {
		m := whole()
		spoil(m)
		if a, err := (question{}).read(m, time.Now()); err == nil {
			t.Errorf("%s: %+v", name, a.principal)
		}
	}
	asked := question{permission: SiteView}
	if _, err := asked.read(whole(), time.Now()); err == nil {
		t.Error("no decision")
	}
}

func TestAReasonThatIsNewIsAReason(t *testing.T) {
	a, err := (question{}).read(&pb.IntrospectResponse{InactiveReason: 99}, time.Now())
	if err != nil || a.principal != nil || a.reason != "99" {
		t.Fatal(a, err)
	}
}

func TestRolesAreThoseOfTheProto(t *testing.T) {
	for i, role := range instanceRoles {
		if role.wire() != pb.InstanceRole(i+1) {
			t.Error(role)
		}
	}
	for number, name := range pb.InstanceRole_name {
		if role, ok := fromWire(instanceRoles, number); ok != (number != 0) || ok && role.wire().String() != name {
			t.Error(name)
		}
	}
	for number, name := range pb.SiteRole_name {
		if role, ok := fromWire(siteRoles, number); ok != (number != 0) || ok && role.wire().String() != name {
			t.Error(name)
		}
	}
	for number, name := range pb.TeamRole_name {
		if role, ok := fromWire(teamRoles, number); ok != (number != 0) || ok && role.wire().String() != name {
			t.Error(name)
		}
	}
	if InstanceRole("root").wire() != 0 || SiteRole("").wire() != 0 {
		t.Error("an unknown role is one on the wire")
	}
}

func TestAKeptAnswerAgesWhileTheMachineSleeps(t *testing.T) {
	now := time.Now()
	a := answer{sent: now, maxAge: time.Minute}
	if !a.fresh(now.Add(time.Minute-1)) || a.fresh(now.Add(time.Minute)) {
		t.Error("by the clock that cannot be set")
	}
	// Only the other one went on.
	a.sent = now.Round(0).Add(-time.Minute)
	if a.fresh(now) {
		t.Error("by the clock that goes on")
	}
}
