package hitkeepauth_test

import (
	"context"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	hitkeepauth "github.com/pascalebeier/hitkeep-auth/clients/go"
	"github.com/pascalebeier/hitkeep-auth/clients/go/hitkeepauthpb"
	"github.com/pascalebeier/hitkeep-auth/clients/go/internal/authtest"
)

// guarded is some service with unary methods and one with streams.
type guarded struct {
	hitkeepauthpb.UnimplementedApiClientServiceServer
	hitkeepauthpb.UnimplementedIntrospectionServiceServer
}

func owner(ctx context.Context) string {
	if principal, ok := hitkeepauth.FromContext(ctx); ok {
		return principal.Owner().String()
	}
	return "no principal"
}

func (guarded) GetApiClient(ctx context.Context, _ *hitkeepauthpb.GetApiClientRequest) (*hitkeepauthpb.GetApiClientResponse, error) {
	return &hitkeepauthpb.GetApiClientResponse{ApiClient: &hitkeepauthpb.ApiClient{Name: owner(ctx)}}, nil
}

func (g guarded) DeleteApiClient(context.Context, *hitkeepauthpb.DeleteApiClientRequest) (*hitkeepauthpb.DeleteApiClientResponse, error) {
	return &hitkeepauthpb.DeleteApiClientResponse{}, nil
}

func (guarded) IntrospectStream(stream grpc.BidiStreamingServer[hitkeepauthpb.IntrospectStreamRequest, hitkeepauthpb.IntrospectStreamResponse]) error {
	return stream.Send(&hitkeepauthpb.IntrospectStreamResponse{ClientName: owner(stream.Context())})
}

func serve(t *testing.T, by hitkeepauth.Authenticator, methods hitkeepauth.Methods) *grpc.ClientConn {
	t.Helper()
	server := grpc.NewServer(
		grpc.UnaryInterceptor(hitkeepauth.UnaryServerInterceptor(by, methods)),
		grpc.StreamInterceptor(hitkeepauth.StreamServerInterceptor(by, methods)),
	)
	hitkeepauthpb.RegisterApiClientServiceServer(server, guarded{})
	hitkeepauthpb.RegisterIntrospectionServiceServer(server, guarded{})
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	reflection.Register(server)
	return connect(t, server)
}

// connect serves until the test ends.
func connect(t *testing.T, server *grpc.Server) *grpc.ClientConn {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(listener) }()
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
	})
	return conn
}

func TestInterceptors(t *testing.T) {
	noLeaks(t)
	d := authtest.Service(t)
	client := newClient(t, d.Listen, caller(d.Callers.Introspect))
	site := hitkeepauth.MustParseID(d.Directory.Sites[0])
	siteOf := func(_ context.Context, request any) (hitkeepauth.ID, error) {
		// Here the id of some other thing.
		return hitkeepauth.ParseID(request.(interface{ GetId() string }).GetId())
	}
	conn := serve(t, client, hitkeepauth.Methods{
		hitkeepauthpb.ApiClientService_GetApiClient_FullMethodName: {
			Permission: hitkeepauth.SiteView, Site: siteOf,
		},
		"/hitkeep.auth.v1.ApiClientService/*":     {Permission: hitkeepauth.InstanceManageUsers},
		"/hitkeep.auth.v1.IntrospectionService/*": {},
	})
	clients := hitkeepauthpb.NewApiClientServiceClient(conn)
	with := func(pairs ...string) context.Context { return metadata.AppendToOutgoingContext(t.Context(), pairs...) }
	bearer := with("authorization", "Bearer "+d.PersonalClient.Token)

	got, err := clients.GetApiClient(bearer, &hitkeepauthpb.GetApiClientRequest{Id: site.String()})
	if err != nil || got.GetApiClient().GetName() != "user:"+d.Directory.Users.Alice {
		t.Fatal(got, err)
	}
	for name, c := range map[string]struct {
		ctx  context.Context
		id   string
		code codes.Code
	}{
		"no token":  {t.Context(), site.String(), codes.Unauthenticated},
		"junk":      {with("x-api-key", "junk"), site.String(), codes.Unauthenticated},
		"forbidden": {bearer, goneSite, codes.PermissionDenied},
		"no site":   {bearer, "x", codes.InvalidArgument},
	} {
		if _, err := clients.GetApiClient(c.ctx, &hitkeepauthpb.GetApiClientRequest{Id: c.id}); status.Code(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := clients.DeleteApiClient(bearer, &hitkeepauthpb.DeleteApiClientRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Error(err)
	}
	introspection := hitkeepauthpb.NewIntrospectionServiceClient(conn)
	for ctx, code := range map[context.Context]codes.Code{bearer: codes.OK, t.Context(): codes.Unauthenticated} {
		stream, err := introspection.IntrospectStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := stream.Recv()
		if status.Code(err) != code || err == nil && answer.GetClientName() == "no principal" {
			t.Error(answer, err)
		}
	}
}

// watched is a service that answers one request with a stream. The request's only field names a site.
type watched struct {
	grpc_health_v1.UnimplementedHealthServer
}

func (watched) Watch(
	_ *grpc_health_v1.HealthCheckRequest, stream grpc.ServerStreamingServer[grpc_health_v1.HealthCheckResponse],
) error {
	if owner(stream.Context()) == "no principal" {
		return status.Error(codes.Internal, "no principal")
	}
	return stream.Send(&grpc_health_v1.HealthCheckResponse{})
}

// The request of a method that streams its responses is there, and names the site.
func TestAStreamOfResponsesHasARequest(t *testing.T) {
	noLeaks(t)
	d := authtest.Service(t)
	client := newClient(t, d.Listen, caller(d.Callers.Introspect))
	methods := hitkeepauth.Methods{grpc_health_v1.Health_Watch_FullMethodName: {
		Permission: hitkeepauth.SiteView,
		Site: func(_ context.Context, request any) (hitkeepauth.ID, error) {
			return hitkeepauth.ParseID(request.(interface{ GetService() string }).GetService())
		},
	}}
	server := grpc.NewServer(grpc.StreamInterceptor(hitkeepauth.StreamServerInterceptor(client, methods)))
	grpc_health_v1.RegisterHealthServer(server, watched{})
	conn := connect(t, server)
	bearer := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+d.PersonalClient.Token)
	for _, c := range []struct {
		ctx  context.Context
		site string
		code codes.Code
	}{
		{bearer, d.Directory.Sites[0], codes.OK},
		{bearer, goneSite, codes.PermissionDenied},
		{bearer, "x", codes.InvalidArgument},
		{t.Context(), d.Directory.Sites[0], codes.Unauthenticated},
	} {
		stream, err := grpc_health_v1.NewHealthClient(conn).Watch(c.ctx, &grpc_health_v1.HealthCheckRequest{Service: c.site})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); status.Code(err) != c.code {
			t.Error(c.site, err)
		}
	}
}

func TestHealthAndReflectionNeedNothing(t *testing.T) {
	noLeaks(t)
	conn := serve(t, asked{}, hitkeepauth.Methods{"*": {}})
	if _, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Error(err)
	}
	stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) == codes.Unauthenticated {
		t.Error(err)
	}
	clients := hitkeepauthpb.NewApiClientServiceClient(conn)
	if _, err := clients.GetApiClient(t.Context(), &hitkeepauthpb.GetApiClientRequest{}); status.Code(err) != codes.Unauthenticated {
		t.Error(err)
	}

	// Unless they are named.
	conn = serve(t, asked{}, hitkeepauth.Methods{"/grpc.health.v1.Health/*": {}})
	if _, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); status.Code(err) != codes.Unauthenticated {
		t.Error(err)
	}
}

func TestMethodsThatNothingIsSaidOfAreRefused(t *testing.T) {
	noLeaks(t)
	conn := serve(t, asked{}, hitkeepauth.Methods{
		hitkeepauthpb.ApiClientService_GetApiClient_FullMethodName: {Public: true},
	})
	clients := hitkeepauthpb.NewApiClientServiceClient(conn)
	got, err := clients.GetApiClient(t.Context(), &hitkeepauthpb.GetApiClientRequest{})
	if err != nil || got.GetApiClient().GetName() != "no principal" {
		t.Error(got, err)
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-api-key", "x")
	if _, err := clients.DeleteApiClient(ctx, &hitkeepauthpb.DeleteApiClientRequest{}); status.Code(err) != codes.Internal {
		t.Error(err)
	}
}

func TestMethodsThatCanNeverBeMet(t *testing.T) {
	for _, methods := range []hitkeepauth.Methods{
		{"*": {Permission: hitkeepauth.SiteView}},
		{"*": {Public: true, Permission: hitkeepauth.InstanceViewAudit}},
		{"hits.v1.HitService/List": {}},
		{"/hits.v1.HitService": {}},
		{"": {}},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%+v", methods)
				}
			}()
			hitkeepauth.UnaryServerInterceptor(asked{}, methods)
		}()
	}
}
