package hitkeepauth_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	hitkeepauth "github.com/pascalebeier/hitkeep-auth/clients/go"
	"github.com/pascalebeier/hitkeep-auth/clients/go/internal/authtest"
)

func TestForwardedAddresses(t *testing.T) {
	for _, c := range []struct {
		hops   int
		values []string
		want   string
	}{
		{1, []string{"192.0.2.1, 192.0.2.2"}, "192.0.2.2"},
		{2, []string{"192.0.2.1, 192.0.2.2"}, "192.0.2.1"},
		{3, []string{"192.0.2.1, 192.0.2.2"}, "invalid IP"},
		{2, []string{"192.0.2.1", "192.0.2.2"}, "192.0.2.1"},
		{1, []string{"192.0.2.1:443"}, "192.0.2.1"},
		{1, []string{"[2001:db8::1]:443"}, "2001:db8::1"},
		{1, []string{"[2001:db8::1]"}, "2001:db8::1"},
		{1, []string{"2001:db8::1"}, "2001:db8::1"},
		{1, []string{"::ffff:192.0.2.1"}, "192.0.2.1"},
		{1, []string{"unknown"}, "invalid IP"},
		{1, []string{""}, "invalid IP"},
		{1, nil, "invalid IP"},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header["X-Forwarded-For"] = c.values
		if got := hitkeepauth.ForwardedBy(c.hops)(r).String(); got != c.want {
			t.Errorf("%d of %q: %s", c.hops, c.values, got)
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("no proxy is one too few")
		}
	}()
	hitkeepauth.ForwardedBy(0)
}

// carried takes note of the address that it is asked with.
type carried struct{ address string }

func (c *carried) Authenticate(ctx context.Context, _ string) (*hitkeepauth.Principal, error) {
	address, known := hitkeepauth.SourceIPFromContext(ctx)
	c.address = address.String()
	if !known {
		c.address = "none"
	}
	return &hitkeepauth.Principal{}, nil
}

func (c *carried) Check(
	ctx context.Context, token string, _ hitkeepauth.ID, _ hitkeepauth.Permission,
) (*hitkeepauth.Principal, error) {
	return c.Authenticate(ctx, token)
}

func TestTheMiddlewareStatesTheAddress(t *testing.T) {
	next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	proxied := hitkeepauth.ForwardedBy(1)
	another := netip.MustParseAddr("203.0.113.9")
	for _, c := range []struct {
		need hitkeepauth.Requirement
		ctx  context.Context
		want string
	}{
		{hitkeepauth.Requirement{}, t.Context(), "192.0.2.1"},
		{hitkeepauth.Requirement{SourceIP: proxied}, t.Context(), "198.51.100.1"},
		{hitkeepauth.Requirement{}, hitkeepauth.ContextWithSourceIP(t.Context(), another), "203.0.113.9"},
		{hitkeepauth.OnInstance(hitkeepauth.InstanceViewAudit), t.Context(), "192.0.2.1"},
		{hitkeepauth.Requirement{HumanOnly: true}, t.Context(), "192.0.2.1"},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil).WithContext(c.ctx)
		r.RemoteAddr = "192.0.2.1:50000"
		r.Header.Set("Authorization", "Bearer x")
		// The end client's own, with what the proxy appended.
		r.Header.Set("X-Forwarded-For", "10.0.0.1, 198.51.100.1")
		by := &carried{}
		hitkeepauth.Middleware(by, c.need)(next).ServeHTTP(httptest.NewRecorder(), r)
		if by.address != c.want {
			t.Errorf("%s, not %s", by.address, c.want)
		}
	}
}

func TestRestrictedClients(t *testing.T) {
	inEachMode(t, func(t *testing.T, mode mode) {
		noLeaks(t)
		d := authtest.Service(t)
		manager := newClient(t, d.Listen, caller(d.Callers.Manage))
		client := mode.client(t, d, d.Listen)
		alice := hitkeepauth.MustParseID(d.Directory.Users.Alice)
		actor := hitkeepauth.Actor{UserID: alice}
		restrictions := hitkeepauth.Restrictions{
			AllowedCIDRs: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")},
		}
		made, err := manager.Create(t.Context(), hitkeepauth.CreateRequest{
			Actor:        actor,
			Owner:        hitkeepauth.Owner{UserID: alice},
			Delegation:   hitkeepauth.Delegation{Name: "somewhere"},
			Restrictions: restrictions,
		})
		if err != nil {
			t.Fatal(err)
		}
		ref := hitkeepauth.Ref{Actor: actor, ID: made.Client.ID}
		defer func() { _ = manager.Delete(context.WithoutCancel(t.Context()), ref) }()
		if len(made.Client.AllowedCIDRs) != 2 || made.Client.NotBefore != nil {
			t.Fatalf("%+v", made.Client)
		}
		refused := func(err error, reason hitkeepauth.InactiveReason) bool {
			var inactive *hitkeepauth.InactiveError
			return errors.As(err, &inactive) && inactive.Reason == reason
		}
		// Twice, so that answers are kept; those for one address are not for another.
		for range 2 {
			for source, works := range map[string]bool{
				"192.0.2.1": true, "::ffff:192.0.2.1": true, "2001:db8::1": true, "198.51.100.1": false, "": false,
			} {
				question := hitkeepauth.Question{Token: made.Token, AtLeastRevision: made.Revision}
				if source != "" {
					question.SourceIP = netip.MustParseAddr(source)
				}
				_, err := client.Ask(t.Context(), question)
				if works && err != nil || !works && !refused(err, hitkeepauth.ReasonSourceNotAllowed) {
					t.Fatalf("from %q: %v", source, err)
				}
				ctx := hitkeepauth.ContextWithSourceIP(t.Context(), question.SourceIP)
				if _, err := client.Authenticate(ctx, made.Token); works != (err == nil) {
					t.Fatalf("from %q: %v", source, err)
				}
			}
		}

		// The user who renames it need not know of the restrictions.
		named := hitkeepauth.UpdateRequest{Ref: ref, Delegation: hitkeepauth.Delegation{Name: "renamed"}}
		renamed, err := manager.Update(t.Context(), named)
		if err != nil || renamed.Name != "renamed" || len(renamed.AllowedCIDRs) != 2 {
			t.Fatalf("%+v, %v", renamed, err)
		}
		start := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
		named.Restrictions = &hitkeepauth.Restrictions{NotBefore: &start}
		later, err := manager.Update(t.Context(), named)
		if err != nil || len(later.AllowedCIDRs) != 0 || later.NotBefore == nil || !later.NotBefore.Equal(start) {
			t.Fatalf("%+v, %v", later, err)
		}
		direct := newClient(t, d.Listen, caller(d.Callers.Introspect))
		if _, err := direct.Authenticate(t.Context(), made.Token); !refused(err, hitkeepauth.ReasonNotYetActive) {
			t.Fatal(err)
		}
	})
}
