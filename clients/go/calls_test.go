package hitkeepauth

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/pascalebeier/hitkeep-auth/clients/go/hitkeepauthpb"
)

// A service that names no delay, or none that lies ahead, is not asked again without a pause.
func TestADelayThatIsNamedIsALowerBound(t *testing.T) {
	const otherwise = 50 * time.Millisecond
	for _, c := range []struct {
		named *durationpb.Duration
		want  time.Duration
	}{
		{nil, otherwise},
		{durationpb.New(0), otherwise},
		{durationpb.New(-time.Second), otherwise},
		{durationpb.New(time.Millisecond), otherwise},
		{durationpb.New(time.Second), time.Second},
	} {
		refusal, err := status.New(codes.Unavailable, "").WithDetails(&errdetails.RetryInfo{RetryDelay: c.named})
		if err != nil {
			t.Fatal(err)
		}
		if delay := retryDelay(refusal.Err(), otherwise); delay != c.want {
			t.Error(c.named, delay)
		}
	}
	if delay := retryDelay(errors.New("no status"), otherwise); delay != otherwise {
		t.Error(delay)
	}
}

func TestEachCallHasTheTimeThatItTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		give := deadlines(DefaultQuestionTimeout, DefaultCallTimeout)
		for method, want := range map[string]time.Duration{
			pb.IntrospectionService_Introspect_FullMethodName:   DefaultQuestionTimeout,
			pb.ApiClientService_RevokeApiClient_FullMethodName:  DefaultCallTimeout,
			pb.ApiClientService_RevokeApiClients_FullMethodName: leastRevocationTimeout,
		} {
			err := give(t.Context(), method, nil, nil, nil, func(
				ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption,
			) error {
				if at, _ := ctx.Deadline(); time.Until(at) != want {
					t.Error(method, time.Until(at))
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		}
	})
}
