package hitkeepauth_test

import (
	"os"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	// With it, a client asks each server whether it serves.
	_ "google.golang.org/grpc/health"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	pb "github.com/pascalebeier/hitkeep-auth/clients/go/hitkeepauthpb"
	"github.com/pascalebeier/hitkeep-auth/clients/go/internal/authtest"
)

// The configuration is for programs that use gRPC without this module.
func TestThePublishedServiceConfig(t *testing.T) {
	noLeaks(t)
	config, err := os.ReadFile("../../deploy/grpc/service-config.json")
	if err != nil {
		t.Fatal(err)
	}
	d := authtest.Service(t)
	first, second := authtest.Serve(t), authtest.Serve(t)
	addresses := manual.NewBuilderWithScheme("two")
	addresses.InitialState(resolver.State{Addresses: []resolver.Address{
		{Addr: first.Address}, {Addr: second.Address},
	}})
	conn, err := grpc.NewClient("two:///servers", grpc.WithResolvers(addresses),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(string(config)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	asks := pb.NewIntrospectionServiceClient(conn)
	answered := make(map[string]int)
	ask := func() {
		t.Helper()
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+d.Callers.Introspect)
		var by peer.Peer
		reply, err := asks.Introspect(ctx, &pb.IntrospectRequest{Token: d.PersonalClient.Token}, grpc.Peer(&by))
		if err != nil || !reply.GetActive() {
			t.Fatal(reply, err)
		}
		answered[by.Addr.String()]++
	}
	until(t, "both answer", func() bool {
		ask()
		return len(answered) == 2
	})
	first.Kill()
	before := answered[second.Address]
	for range 100 {
		ask()
	}
	if answered[second.Address] != before+100 {
		t.Fatal(answered)
	}
}
