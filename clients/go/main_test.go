package hitkeepauth_test

import (
	"errors"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	hitkeepauth "github.com/pascalebeier/hitkeep-auth/clients/go"
	"github.com/pascalebeier/hitkeep-auth/clients/go/internal/authtest"
)

func TestMain(m *testing.M) { authtest.Main(m) }

// The deadline of what must happen at some time, and does at once if nothing is wrong.
const eventually = time.Minute

// until looks again and again, without a pause worth the name, until something holds.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(eventually); !holds(); {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// noLeaks fails the test if a goroutine of the package, or of gRPC, is left at its end. It has
// to be called before anything is started.
func noLeaks(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		var left string
		until(t, "no goroutine is left", func() bool {
			left = ours()
			return left == ""
		})
	})
}

func ours() string {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for i, stack := range strings.Split(string(stacks), "\n\n") {
		// The first one is this one.
		if i > 0 && (strings.Contains(stack, "google.golang.org/grpc") ||
			strings.Contains(stack, "clients/go.(")) {
			return stack
		}
	}
	return ""
}

func newClient(t testing.TB, target string, options ...hitkeepauth.Option) *hitkeepauth.Client {
	t.Helper()
	client, err := hitkeepauth.New(target, append([]hitkeepauth.Option{hitkeepauth.WithPlaintext()}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return client
}

func inactive(t *testing.T, err error, reason hitkeepauth.InactiveReason) {
	t.Helper()
	var e *hitkeepauth.InactiveError
	if !errors.As(err, &e) || e.Reason != reason {
		t.Fatalf("%v, where %s was to be", err, reason)
	}
	if status := hitkeepauth.HTTPStatus(err); status != http.StatusUnauthorized {
		t.Fatalf("status %d", status)
	}
}
