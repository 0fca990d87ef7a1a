package hitkeepauth_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	hitkeepauth "github.com/pascalebeier/hitkeep-auth/clients/go"
	"github.com/pascalebeier/hitkeep-auth/clients/go/hitkeepauthpb"
	"github.com/pascalebeier/hitkeep-auth/clients/go/internal/authtest"
)

// Long enough that nothing is too old, whatever the machine does.
func patiently(options hitkeepauth.EmbeddedOptions) hitkeepauth.Option {
	options.MaxStaleness, options.RefreshTimeout = 10*time.Minute, time.Minute
	return hitkeepauth.WithEmbedded(options)
}

func TestAnEmbeddedIndexFollows(t *testing.T) {
	noLeaks(t)
	d := authtest.Service(t)
	server := authtest.Serve(t, "--usage-flush-interval", "10ms")
	manager := newClient(t, server.Address, caller(d.Callers.Manage))
	options := []hitkeepauth.Option{
		hitkeepauth.WithPlaintext(), caller(d.Callers.Replicate),
		patiently(hitkeepauth.EmbeddedOptions{
			// The first one is not there.
			Upstreams:     []string{"127.0.0.1:1", server.Address},
			UsageInterval: time.Hour,
			WithoutNames:  true,
		}),
	}
	client, err := hitkeepauth.New(server.Address, options...)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	actor := hitkeepauth.Actor{UserID: hitkeepauth.MustParseID(d.Directory.Users.Alice)}
	made, err := manager.Create(t.Context(), hitkeepauth.CreateRequest{
		Actor: actor, Owner: hitkeepauth.OwnedByUser(actor.UserID), Delegation: hitkeepauth.Delegation{Name: "embedded"},
	})
	if err != nil {
		t.Fatal(err)
	}
	ref := hitkeepauth.Ref{Actor: actor, ID: made.Client.ID}
	// It may not have arrived: then the server is asked.
	principal, err := client.Authenticate(t.Context(), made.Token)
	if err != nil || principal.ClientID != made.Client.ID || principal.ClientName != "" {
		t.Fatal(principal, err)
	}
	overlap := hitkeepauth.RotateRequest{Ref: ref, Overlap: time.Hour}
	rotated, err := manager.Rotate(t.Context(), overlap)
	if err != nil {
		t.Fatal(err)
	}
	for _, token := range []string{made.Token, rotated.Token} {
		if _, err := client.Ask(t.Context(), hitkeepauth.Question{Token: token, AtLeastRevision: rotated.Revision}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := manager.Revoke(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	until(t, "the revocation arrives by itself", func() bool {
		_, err = client.Authenticate(t.Context(), rotated.Token)
		return err != nil
	})
	inactive(t, err, hitkeepauth.ReasonRevoked)
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	// What was counted here alone.
	until(t, "the uses are there", func() bool {
		usage, err := hitkeepauthpb.NewApiClientServiceClient(manager.Conn()).GetApiClientUsage(t.Context(),
			&hitkeepauthpb.GetApiClientUsageRequest{
				Actor: &hitkeepauthpb.Actor{UserId: actor.UserID.String()}, Id: ref.ID.String(),
			})
		if err != nil {
			t.Fatal(err)
		}
		var uses, refusals uint64
		for _, day := range usage.GetDays() {
			uses += day.GetUses()
			for _, refusal := range day.GetRefusals() {
				refusals += refusal.GetCount()
			}
		}
		return uses >= 3 && refusals == 1
	})
}

// The account is not permitted, or unknown: that says nothing about tokens.
func TestAnIndexThatIsNotAllowedCannotTell(t *testing.T) {
	noLeaks(t)
	d := authtest.Service(t)
	client := newClient(t, d.Listen, caller(d.Callers.Introspect),
		hitkeepauth.WithEmbedded(hitkeepauth.EmbeddedOptions{}))
	_, err := client.Authenticate(t.Context(), d.PersonalClient.Token)
	var unavailable *hitkeepauth.UnavailableError
	if !errors.As(err, &unavailable) || status.Code(unavailable.Cause) != codes.PermissionDenied {
		t.Fatal(err)
	}
	if status := client.IndexStatus(); status != (hitkeepauth.IndexStatus{}) {
		t.Fatal(status)
	}
}

func TestARevokedAccountEndsItsIndex(t *testing.T) {
	noLeaks(t)
	d := authtest.Service(t)
	server := authtest.Serve(t)
	token := strings.TrimSpace(authtest.Output(t, "service-account", "create", "go-index", "--allow", "replicate"))
	client := newClient(t, server.Address, caller(token),
		hitkeepauth.WithEmbedded(hitkeepauth.EmbeddedOptions{MaxStaleness: maxStaleness}))
	ask := func() error {
		_, err := client.Authenticate(t.Context(), d.PersonalClient.Token)
		return err
	}
	until(t, "it works", func() bool { return ask() == nil })
	authtest.Run(t, "service-account", "revoke", "go-index")
	until(t, "the answer is unknown", func() bool { return ask() != nil })
	if err := ask(); !errors.Is(err, hitkeepauth.ErrUnavailable) {
		t.Fatal(err)
	}
}

func TestWhatIsNoIndex(t *testing.T) {
	for name, options := range map[string][]hitkeepauth.Option{
		"two modes":       {hitkeepauth.WithCache(1), hitkeepauth.WithEmbedded(hitkeepauth.EmbeddedOptions{})},
		"a bound":         {hitkeepauth.WithEmbedded(hitkeepauth.EmbeddedOptions{MaxStaleness: -1})},
		"an interval":     {hitkeepauth.WithEmbedded(hitkeepauth.EmbeddedOptions{UsageInterval: -1})},
		"a limit":         {hitkeepauth.WithEmbedded(hitkeepauth.EmbeddedOptions{MaxWaiting: -1})},
		"an empty target": {hitkeepauth.WithEmbedded(hitkeepauth.EmbeddedOptions{Upstreams: []string{""}})},
		"a URL":           {hitkeepauth.WithEmbedded(hitkeepauth.EmbeddedOptions{Upstreams: []string{"https://auth.example.com"}})},
	} {
		client, err := hitkeepauth.New("localhost:1", append(options, caller("hks_x"))...)
		if err == nil {
			_ = client.Close()
			t.Error(name)
		}
	}
}
