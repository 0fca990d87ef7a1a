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
	if a, err := (question{}).read(whole(), now()); err != nil || a.principal == nil {
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
		if a, err := (question{}).read(m, now()); err == nil {
			t.Errorf("%s: %+v", name, a.principal)
		}
	}
	asked := question{permission: SiteView}
	if _, err := asked.read(whole(), now()); err == nil {
		t.Error("no decision")
	}
}

func TestAReasonThatIsNewIsAReason(t *testing.T) {
	a, err := (question{}).read(&pb.IntrospectResponse{InactiveReason: 99}, now())
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

func TestAKeptAnswerAgesByTheClockThatGoesOn(t *testing.T) {
	sent := now()
	a := answer{sent: sent, maxAge: time.Minute}
	for name, c := range map[string]struct {
		steady, wall time.Duration
		fresh        bool
	}{
		"both":              {time.Minute - 1, time.Minute - 1, true},
		"the clock was set": {time.Minute, -time.Hour, false},
		"the machine slept": {0, time.Minute, false},
		"neither went on":   {0, 0, true},
	} {
		at := moment{steady: sent.steady.Add(c.steady), wall: sent.wall.Add(c.wall)}
		if a.fresh(at) != c.fresh {
			t.Error(name)
		}
	}
}
