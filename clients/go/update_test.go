package hitkeepauth_test

import (
	"context"
	"net"
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	hitkeepauth "github.com/pascalebeier/hitkeep-auth/clients/go"
	pb "github.com/pascalebeier/hitkeep-auth/clients/go/hitkeepauthpb"
)

// oneClient is a service with one API client, which another program changes at some moment.
type oneClient struct {
	pb.UnimplementedApiClientServiceServer
	client *pb.ApiClient
	// What the other program does between a reading and a revocation.
	meanwhile func(*pb.ApiClient)
}

func (s *oneClient) GetApiClient(context.Context, *pb.GetApiClientRequest) (*pb.GetApiClientResponse, error) {
	return &pb.GetApiClientResponse{ApiClient: proto.CloneOf(s.client)}, nil
}

func (s *oneClient) RevokeApiClient(context.Context, *pb.RevokeApiClientRequest) (*pb.RevokeApiClientResponse, error) {
	s.meanwhile(s.client)
	s.client.State = pb.ApiClientState_API_CLIENT_STATE_REVOKED
	s.client.RevokeTime = timestamppb.Now()
	s.client.UpdateTime = s.client.RevokeTime
	s.client.Etag += ", revoked"
	return &pb.RevokeApiClientResponse{ApiClient: proto.CloneOf(s.client)}, nil
}

func (s *oneClient) UpdateApiClient(_ context.Context, r *pb.UpdateApiClientRequest) (*pb.UpdateApiClientResponse, error) {
	if etag := r.GetApiClient().GetEtag(); etag != "" && etag != s.client.GetEtag() {
		return nil, status.Error(codes.Aborted, "another etag")
	}
	s.client.Name = r.GetApiClient().GetName()
	return &pb.UpdateApiClientResponse{ApiClient: proto.CloneOf(s.client)}, nil
}

// A revocation takes no etag, and its reply has the one that another program's change has made.
func TestARevocationDoesNotHideAnotherChangeFromAnETag(t *testing.T) {
	id := hitkeepauth.MustParseID(goneSite)
	site := &pb.SiteGrant{SiteId: goneSite, Role: pb.SiteRole_SITE_ROLE_VIEWER}
	for name, c := range map[string]struct {
		meanwhile func(*pb.ApiClient)
		etag      string
		name      string
		mismatch  bool
	}{
		"nothing":                  {func(*pb.ApiClient) {}, "read", "mine", false},
		"a use":                    {func(m *pb.ApiClient) { m.LastUsedTime = timestamppb.Now() }, "read", "mine", false},
		"another name":             {func(m *pb.ApiClient) { m.Name = "theirs" }, "read", "theirs", true},
		"another name, any etag":   {func(m *pb.ApiClient) { m.Name = "theirs" }, "", "mine", false},
		"another expiry":           {func(m *pb.ApiClient) { m.ExpireTime = timestamppb.Now() }, "read", "read", true},
		"another token":            {func(m *pb.ApiClient) { m.TokenHint = "hkp_…wxyz" }, "read", "read", true},
		"a site less":              {func(m *pb.ApiClient) { m.SiteGrants = nil }, "read", "read", true},
		"a range that was allowed": {func(m *pb.ApiClient) { m.AllowedCidrs = []string{"192.0.2.0/24"} }, "read", "read", true},
	} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			made := timestamppb.New(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))
			service := &oneClient{meanwhile: c.meanwhile, client: &pb.ApiClient{
				Id:           id.String(),
				Owner:        &pb.Owner{Owner: &pb.Owner_UserId{UserId: goneSite}},
				Name:         "read",
				InstanceRole: pb.InstanceRole_INSTANCE_ROLE_USER.Enum(),
				SiteGrants:   []*pb.SiteGrant{site},
				State:        pb.ApiClientState_API_CLIENT_STATE_ACTIVE,
				CreateTime:   made,
				UpdateTime:   made,
				TokenHint:    "hkp_…abcd",
				Etag:         "read",
			}}
			server := grpc.NewServer()
			pb.RegisterApiClientServiceServer(server, service)
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			go func() { _ = server.Serve(listener) }()
			t.Cleanup(server.Stop)
			manager := newClient(t, listener.Addr().String(), caller("hks_test"))
			yes := true
			_, err = manager.Update(t.Context(), hitkeepauth.UpdateRequest{
				Ref:        hitkeepauth.Ref{Actor: hitkeepauth.Actor{UserID: id}, ID: id},
				Delegation: hitkeepauth.Delegation{Name: "mine"},
				Revoked:    &yes,
				ETag:       c.etag,
			})
			if c.mismatch {
				refused(t, err, hitkeepauth.ReasonETagMismatch, http.StatusConflict)
			} else if err != nil {
				t.Fatal(err)
			}
			if got := service.client; got.GetName() != c.name || got.GetRevokeTime() == nil {
				t.Fatal(got)
			}
		})
	}
}
