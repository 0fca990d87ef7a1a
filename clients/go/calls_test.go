package hitkeepauth

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
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
