package hitkeepauth

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "github.com/pascalebeier/hitkeep-auth/clients/go/hitkeepauthpb"
)

const (
	attempts     = 3
	firstBackoff = 50 * time.Millisecond
	maxBackoff   = 500 * time.Millisecond
)

// What changes nothing may be sent again as often as one likes. Writes may not; but see
// repeatWrites.
var readOnly = []string{
	pb.IntrospectionService_Introspect_FullMethodName,
	pb.IntrospectionService_BatchIntrospect_FullMethodName,
	pb.IntrospectionService_GetIndexStatus_FullMethodName,
	pb.ApiClientService_GetApiClient_FullMethodName,
	pb.ApiClientService_ListApiClients_FullMethodName,
	pb.ApiClientService_GetApiClientUsage_FullMethodName,
	pb.DirectoryService_GetDirectoryStatus_FullMethodName,
	pb.AuditService_ListAuditEvents_FullMethodName,
	pb.AuditService_GetEventDeliveryStatus_FullMethodName,
}

func serviceConfig() string {
	type object = map[string]any
	var names []object
	for _, method := range append(slices.Clone(readOnly), "/envoy.service.auth.v3.Authorization/Check") {
		service, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
		names = append(names, object{"service": service, "method": name})
	}
	config, err := json.Marshal(object{
		"loadBalancingConfig": []object{{avoidingPolicy: object{}}},
		"methodConfig": []object{{
			"name": names,
			"retryPolicy": object{
				"maxAttempts":          attempts,
				"initialBackoff":       "0.05s",
				"maxBackoff":           "0.5s",
				"backoffMultiplier":    2,
				"retryableStatusCodes": []string{"UNAVAILABLE"},
			},
		}},
		// So that retries do not add to what overloads a service.
		"retryThrottling": object{"maxTokens": 100, "tokenRatio": 0.5},
	})
	if err != nil {
		panic(err) // It has nothing in it that JSON does not know.
	}
	return string(config)
}

// deadlines gives each call one that has none.
func deadlines(question, other time.Duration) grpc.UnaryClientInterceptor {
	return func(
		ctx context.Context, method string, req, reply any, conn *grpc.ClientConn,
		invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
	) error {
		if _, has := ctx.Deadline(); !has {
			timeout := other
			switch method {
			case pb.IntrospectionService_Introspect_FullMethodName:
				timeout = question
			case pb.ApiClientService_RevokeApiClients_FullMethodName:
				timeout = max(other, leastRevocationTimeout)
			}
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, timeout)
			defer cancel()
		}
		return invoke(ownMetadata(ctx), method, req, reply, conn, opts...)
	}
}

// repeatWrites sends a write again whose reply may have been lost, if its request_id makes
// that safe.
func repeatWrites(
	ctx context.Context, method string, req, reply any, conn *grpc.ClientConn,
	invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
) error {
	write, ok := req.(interface{ GetRequestId() string })
	backoff := firstBackoff
	for attempt := 1; ; attempt++ {
		err := invoke(ctx, method, req, reply, conn, opts...)
		if !ok || write.GetRequestId() == "" || attempt == attempts ||
			status.Code(err) != codes.Unavailable || !pause(ctx, retryDelay(err, jitter(backoff))) {
			return err
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

func cleanStream(
	ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string,
	open grpc.Streamer, opts ...grpc.CallOption,
) (grpc.ClientStream, error) {
	return open(ownMetadata(ctx), desc, conn, method, opts...)
}

// ownMetadata is the context without another program's credentials, which a program that
// passes on the metadata of its own requests leaves there. The service would take two for none.
func ownMetadata(ctx context.Context) context.Context {
	foreign, ok := metadata.FromOutgoingContext(ctx)
	if !ok || len(foreign.Get("authorization")) == 0 {
		return ctx
	}
	foreign.Delete("authorization")
	return metadata.NewOutgoingContext(ctx, foreign)
}

// retryDelay is how long to wait: at least as long as the service wants, where it says so.
func retryDelay(err error, otherwise time.Duration) time.Duration {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			// One that names no time must not be asked without a pause.
			return max(info.GetRetryDelay().AsDuration(), otherwise)
		}
	}
	return otherwise
}

// jitter is between half of a delay and all of it.
func jitter(delay time.Duration) time.Duration {
	return delay/2 + rand.N(delay/2+1)
}

// pause reports whether the time passed before the context ended.
func pause(ctx context.Context, delay time.Duration) bool {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
