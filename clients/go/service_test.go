package hitkeepauth_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	hitkeepauth "github.com/pascalebeier/hitkeep-auth/clients/go"
	"github.com/pascalebeier/hitkeep-auth/clients/go/hitkeepauthpb"
	"github.com/pascalebeier/hitkeep-auth/clients/go/internal/authtest"
)

const (
	goneSite    = "01930000-0000-7000-8000-00000000dead"
	notUTF8     = "hkp_\xff"
	maxCacheAge = 300 * time.Millisecond
	// Short, so that what has to be too old soon is; the demonstration itself asks its database every 2.5 s.
	maxStaleness = 5 * time.Second
)

// mode is how a client finds out whose a token is.
type mode struct {
	options []hitkeepauth.Option
	// Whether it holds an index, for which its account has another permission.
	embedded bool
}

var modes = map[string]mode{
	"each time": {},
	"cached":    {options: []hitkeepauth.Option{hitkeepauth.WithCache(100)}},
	"embedded": {embedded: true, options: []hitkeepauth.Option{
		hitkeepauth.WithEmbedded(hitkeepauth.EmbeddedOptions{MaxStaleness: maxStaleness}),
	}},
}

func inEachMode(t *testing.T, test func(*testing.T, mode)) {
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) { test(t, mode) })
	}
}

// client is one with an account that may do what the mode takes.
func (m mode) client(t testing.TB, d *authtest.Demo, target string, options ...hitkeepauth.Option) *hitkeepauth.Client {
	t.Helper()
	return newClient(t, target, slices.Concat(m.options, []hitkeepauth.Option{m.caller(d)}, options)...)
}

func (m mode) caller(d *authtest.Demo) hitkeepauth.Option {
	if m.embedded {
		return caller(d.Callers.Replicate)
	}
	return caller(d.Callers.Introspect)
}

func caller(token string) hitkeepauth.Option { return hitkeepauth.WithCallerToken(token) }

func TestPrincipals(t *testing.T) {
	inEachMode(t, func(t *testing.T, mode mode) {
		noLeaks(t)
		d := authtest.Service(t)
		client := mode.client(t, d, d.Listen)
		site := hitkeepauth.MustParseID(d.Directory.Sites[0])
		for range 2 {
			personal, err := client.Authenticate(t.Context(), " "+d.PersonalClient.Token+"\n")
			if err != nil {
				t.Fatal(err)
			}
			if personal.ClientID.String() != d.PersonalClient.ID ||
				personal.UserID.String() != d.Directory.Users.Alice || !personal.TenantID.IsZero() ||
				personal.Owner().String() != "user:"+d.Directory.Users.Alice ||
				personal.Revision == 0 || personal.InstanceRole != hitkeepauth.InstanceUser || personal.SiteRoles.Len() != 2 ||
				personal.SiteRoles.Get(site) != hitkeepauth.SiteEditor || !personal.Expiry.IsZero() {
				t.Fatalf("%+v", personal)
			}
			// What one caller does to it, no other sees.
			personal.InstanceRole = hitkeepauth.InstanceOwner
		}
		team, err := client.Authenticate(t.Context(), d.TeamClient.Token)
		if err != nil {
			t.Fatal(err)
		}
		if team.TenantID.String() != d.Directory.Team || !team.UserID.IsZero() ||
			team.InstanceRole != hitkeepauth.InstanceUser {
			t.Fatalf("%+v", team)
		}
	})
}

func TestChecks(t *testing.T) {
	inEachMode(t, func(t *testing.T, mode mode) {
		noLeaks(t)
		d := authtest.Service(t)
		client := mode.client(t, d, d.Listen)
		site, gone := hitkeepauth.MustParseID(d.Directory.Sites[0]), hitkeepauth.MustParseID(goneSite)
		token := d.PersonalClient.Token
		for _, allowed := range []hitkeepauth.Permission{hitkeepauth.SiteView, hitkeepauth.SiteManageAnnotations} {
			principal, err := client.Check(t.Context(), token, site, allowed)
			if err != nil || principal.ClientID.String() != d.PersonalClient.ID {
				t.Fatal(principal, err)
			}
		}
		for _, asked := range []hitkeepauth.Question{
			{Permission: hitkeepauth.SiteManageData, SiteID: site},
			{Permission: hitkeepauth.SiteView, SiteID: gone},
			{Permission: hitkeepauth.InstanceViewSystem},
		} {
			_, err := client.Check(t.Context(), token, asked.SiteID, asked.Permission)
			var forbidden *hitkeepauth.ForbiddenError
			if !errors.As(err, &forbidden) || forbidden.Permission != asked.Permission ||
				forbidden.SiteID != asked.SiteID || hitkeepauth.HTTPStatus(err) != http.StatusForbidden {
				t.Fatal(err)
			}
		}
		for _, asked := range []hitkeepauth.Question{
			{Permission: "site.fly", SiteID: site},
			{Permission: "site.view"},
			{Permission: "instance.view_audit", SiteID: site},
			{Permission: "nonsense"},
			{Permission: `site."`, SiteID: site},
			{SiteID: site},
		} {
			asked.Token = token
			_, err := client.Ask(t.Context(), asked)
			var misconfigured *hitkeepauth.MisconfiguredError
			if !errors.As(err, &misconfigured) || hitkeepauth.HTTPStatus(err) != http.StatusInternalServerError {
				t.Fatal(asked.Permission, err)
			}
		}
	})
}

func TestTokensThatDoNotWork(t *testing.T) {
	inEachMode(t, func(t *testing.T, mode mode) {
		noLeaks(t)
		d := authtest.Service(t)
		client := mode.client(t, d, d.Listen)
		for _, token := range []string{
			"junk", notUTF8, strings.Repeat("x", 1<<20), d.Callers.Introspect,
			d.PersonalClient.Token[:52] + "~",
		} {
			_, err := client.Authenticate(t.Context(), token)
			inactive(t, err, hitkeepauth.ReasonUnknownToken)
			_, err = client.Check(t.Context(), token, hitkeepauth.MustParseID(goneSite), hitkeepauth.SiteView)
			inactive(t, err, hitkeepauth.ReasonUnknownToken)
		}
		for _, token := range []string{"", " \t"} {
			if _, err := client.Authenticate(t.Context(), token); !errors.Is(err, hitkeepauth.ErrNoToken) {
				t.Fatal(err)
			}
		}
	})
}

// That this program is not known says nothing about the end client's token.
func TestACallerThatIsNotAcceptedCannotTell(t *testing.T) {
	inEachMode(t, func(t *testing.T, mode mode) {
		noLeaks(t)
		d := authtest.Service(t)
		for token, code := range map[string]codes.Code{
			d.Callers.Audit: codes.PermissionDenied,
			"hks_unknown":   codes.Unauthenticated,
		} {
			client := newClient(t, d.Listen, append(slices.Clone(mode.options), caller(token))...)
			_, err := client.Authenticate(t.Context(), d.PersonalClient.Token)
			var unavailable *hitkeepauth.UnavailableError
			if !errors.As(err, &unavailable) || status.Code(unavailable.Cause) != code ||
				hitkeepauth.HTTPStatus(err) != http.StatusServiceUnavailable ||
				status.Code(err) != codes.Unavailable {
				t.Fatal(err)
			}
		}
	})
}

// A program that passes on what its own callers send does not become one of them.
func TestForeignCredentialsAreNotSent(t *testing.T) {
	d := authtest.Service(t)
	client := newClient(t, d.Listen, caller(d.Callers.Introspect))
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer hkp_x", "trace", "1")
	if _, err := client.Authenticate(ctx, d.PersonalClient.Token); err != nil {
		t.Fatal(err)
	}
}

func TestRevisionsAreWaitedFor(t *testing.T) {
	inEachMode(t, func(t *testing.T, mode mode) {
		noLeaks(t)
		d := authtest.Service(t)
		client := mode.client(t, d, d.Listen)
		principal, err := client.Authenticate(t.Context(), d.PersonalClient.Token)
		if err != nil {
			t.Fatal(err)
		}
		asked := hitkeepauth.Question{Token: d.PersonalClient.Token, AtLeastRevision: principal.Revision}
		if _, err := client.Ask(t.Context(), asked); err != nil {
			t.Fatal(err)
		}
		asked.AtLeastRevision += 1_000_000
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := client.Ask(ctx, asked); !errors.Is(err, hitkeepauth.ErrUnavailable) {
			t.Fatal(err)
		}
	})
}

func TestAnEndedContextCannotTell(t *testing.T) {
	inEachMode(t, func(t *testing.T, mode mode) {
		noLeaks(t)
		d := authtest.Service(t)
		client := mode.client(t, d, d.Listen)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := client.Authenticate(ctx, d.PersonalClient.Token)
		if err != nil && (!errors.Is(err, hitkeepauth.ErrUnavailable) || !errors.Is(err, context.Canceled)) {
			t.Fatal(err)
		}
		if err == nil {
			t.Fatal("no error")
		}
	})
}

func TestAClosedClientCannotTell(t *testing.T) {
	inEachMode(t, func(t *testing.T, mode mode) {
		noLeaks(t)
		d := authtest.Service(t)
		options := append(slices.Clone(mode.options), hitkeepauth.WithPlaintext(), mode.caller(d))
		client, err := hitkeepauth.New(d.Listen, options...)
		if err != nil {
			t.Fatal(err)
		}
		var asking sync.WaitGroup
		for range 20 {
			asking.Go(func() {
				for {
					if _, err := client.Authenticate(t.Context(), d.PersonalClient.Token); err != nil {
						if !errors.Is(err, hitkeepauth.ErrUnavailable) {
							t.Error(err)
						}
						return
					}
				}
			})
		}
		if err := client.Close(); err != nil {
			t.Fatal(err)
		}
		asking.Wait()
		if err := client.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := client.Authenticate(t.Context(), d.PersonalClient.Token); !errors.Is(err, hitkeepauth.ErrClosed) {
			t.Fatal(err)
		}
	})
}

// A kept answer is the longest way for a revocation to arrive.
func TestARevocationArrives(t *testing.T) {
	noLeaks(t)
	d := authtest.Service(t)
	server := authtest.Serve(t, "--max-cache-age", maxCacheAge.String())
	client := newClient(t, server.Address, caller(d.Callers.Introspect), hitkeepauth.WithCache(10))
	manager := newClient(t, server.Address, caller(d.Callers.Manage))
	actor := hitkeepauth.Actor{UserID: hitkeepauth.MustParseID(d.Directory.Users.Alice)}
	made, err := manager.Create(t.Context(), hitkeepauth.CreateRequest{
		Actor:      actor,
		Owner:      hitkeepauth.OwnedByUser(actor.UserID),
		Delegation: hitkeepauth.Delegation{Name: "to be revoked"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Authenticate(t.Context(), made.Token); err != nil {
		t.Fatal(err)
	}
	ref := hitkeepauth.Ref{Actor: actor, ID: made.Client.ID}
	if _, err := manager.Revoke(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	until(t, "the token is refused", func() bool {
		_, err = client.Authenticate(t.Context(), made.Token)
		return err != nil
	})
	inactive(t, err, hitkeepauth.ReasonRevoked)
	// What does not work is not kept.
	if _, err := manager.Reactivate(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Authenticate(t.Context(), made.Token); err != nil {
		t.Fatal(err)
	}
}

func TestCutsAndRestarts(t *testing.T) {
	inEachMode(t, func(t *testing.T, mode mode) {
		noLeaks(t)
		d := authtest.Service(t)
		server := authtest.Serve(t, "--max-cache-age", "0s")
		proxy := authtest.NewProxy(t, server.Address)
		client := mode.client(t, d, proxy.Address)
		works := func() bool {
			_, err := client.Authenticate(t.Context(), d.PersonalClient.Token)
			// Whatever happens: a token that works is never said not to.
			if err != nil && !errors.Is(err, hitkeepauth.ErrUnavailable) {
				t.Fatal(err)
			}
			return err == nil
		}
		until(t, "it works", works)

		proxy.CutOnce()
		until(t, "it works after a cut", works)

		proxy.Cut()
		until(t, "the answer is unknown", func() bool { return !works() })
		proxy.Restore(server.Address)
		until(t, "it works again", works)

		server.Kill()
		until(t, "the answer is unknown", func() bool { return !works() })
		server = authtest.Serve(t, "--max-cache-age", "0s")
		proxy.Restore(server.Address)
		until(t, "it works after a restart", works)
	})
}

// Of two servers, one can end without a failure that a caller sees.
func TestOneOfTwoServersEnds(t *testing.T) {
	inEachMode(t, func(t *testing.T, mode mode) {
		noLeaks(t)
		d := authtest.Service(t)
		first := authtest.Serve(t, "--max-cache-age", "0s")
		second := authtest.Serve(t, "--max-cache-age", "0s")
		// Each behind a proxy that counts connections.
		proxies := []*authtest.Proxy{authtest.NewProxy(t, first.Address), authtest.NewProxy(t, second.Address)}
		addresses := manual.NewBuilderWithScheme("two")
		addresses.InitialState(resolver.State{Addresses: []resolver.Address{
			{Addr: proxies[0].Address}, {Addr: proxies[1].Address},
		}})
		client := mode.client(t, d, "two:///servers", hitkeepauth.WithDialOptions(grpc.WithResolvers(addresses)))
		ask := func() {
			t.Helper()
			if _, err := client.Authenticate(t.Context(), d.PersonalClient.Token); err != nil {
				t.Fatal(err)
			}
		}
		if mode.embedded {
			// One is followed at a time, and which one first is by chance.
			first, followed := first, proxies[0]
			until(t, "one is followed", func() bool {
				ask()
				return client.IndexStatus().Upstream != ""
			})
			if proxies[1].Connections() > 0 {
				first, followed = second, proxies[1]
			}
			other := proxies[0]
			if followed == other {
				other = proxies[1]
			}
			first.Kill()
			until(t, "the other one is followed", func() bool {
				ask()
				return other.Connections() > 0 && client.IndexStatus().Upstream != ""
			})
			return
		}
		until(t, "both are connected", func() bool {
			ask()
			return proxies[0].Connections() > 0 && proxies[1].Connections() > 0
		})
		first.Kill()
		for range 100 {
			ask()
		}
	})
}

func TestAStalledNetwork(t *testing.T) {
	inEachMode(t, func(t *testing.T, mode mode) {
		noLeaks(t)
		d := authtest.Service(t)
		server := authtest.Serve(t, "--max-cache-age", "0s")
		proxy := authtest.NewProxy(t, server.Address)
		client := mode.client(t, d, proxy.Address, hitkeepauth.WithQuestionTimeout(time.Second))
		ask := func() error {
			_, err := client.Authenticate(t.Context(), d.PersonalClient.Token)
			return err
		}
		until(t, "it works", func() bool { return ask() == nil })
		proxy.Stall()
		if mode.embedded {
			// The index answers until it is too old, and no message can tell it that it is not.
			until(t, "the answer is unknown", func() bool {
				err := ask()
				if err != nil && !errors.Is(err, hitkeepauth.ErrUnavailable) {
					t.Fatal(err)
				}
				return err != nil
			})
		} else
		// The context has no deadline; the question does.
		if err := ask(); !errors.Is(err, hitkeepauth.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		proxy.Resume()
		until(t, "it works again", func() bool { return ask() == nil })
	})
}

// Many ask, about many tokens, while connections are cut: none gets a wrong answer.
func TestAnswersAreNeverMixedUp(t *testing.T) {
	inEachMode(t, func(t *testing.T, mode mode) {
		noLeaks(t)
		d := authtest.Service(t)
		server := authtest.Serve(t, "--max-cache-age", "1ms")
		proxy := authtest.NewProxy(t, server.Address)
		client := mode.client(t, d, proxy.Address)
		var asking sync.WaitGroup
		for i := range 8 {
			asking.Go(func() {
				of := []authtest.DemoClient{d.PersonalClient, d.TeamClient, {Token: "junk"}}[i%3]
				for range 200 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+i)*10*time.Millisecond)
					principal, err := client.Authenticate(ctx, of.Token)
					cancel()
					var inactive *hitkeepauth.InactiveError
					switch {
					case errors.Is(err, hitkeepauth.ErrUnavailable):
					case errors.As(err, &inactive) && of.ID == "":
					case err == nil && principal.ClientID.String() == of.ID:
					default:
						t.Errorf("%v, %v", principal, err)
					}
				}
			})
		}
		asking.Go(func() {
			for range 10 {
				time.Sleep(5 * time.Millisecond)
				proxy.CutOnce()
			}
		})
		asking.Wait()
	})
}

func TestUnixSockets(t *testing.T) {
	noLeaks(t)
	d := authtest.Service(t)
	socket := filepath.Join(t.TempDir(), "auth.sock")
	authtest.Serve(t, "--listen", "unix:"+socket)
	client, err := hitkeepauth.New("unix:"+socket, caller(d.Callers.Introspect))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Authenticate(t.Context(), d.PersonalClient.Token); err != nil {
		t.Fatal(err)
	}
}

func TestATokenFileIsReadAgain(t *testing.T) {
	noLeaks(t)
	d := authtest.Service(t)
	path := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(d.Callers.Audit)
	client := newClient(t, d.Listen, hitkeepauth.WithCallerTokenFile(path))
	ask := func() error {
		_, err := client.Authenticate(t.Context(), d.PersonalClient.Token)
		return err
	}
	if err := ask(); !errors.Is(err, hitkeepauth.ErrUnavailable) {
		t.Fatal(err)
	}
	// All callers' tokens are equally long, it is the same file, and the clock of files is coarse.
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	write(d.Callers.Introspect)
	if err := os.Chtimes(path, time.Time{}, info.ModTime()); err != nil {
		t.Fatal(err)
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{"", "hkp_not_a_caller"} {
		write(content)
		if err := ask(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	if _, err := hitkeepauth.New(d.Listen, hitkeepauth.WithCallerTokenFile(path)); err == nil {
		t.Fatal("there is no file")
	}
}

func TestGeneratedCodeHasTheCredentials(t *testing.T) {
	d := authtest.Service(t)
	client := newClient(t, d.Listen, caller(d.Callers.Audit))
	audit := hitkeepauthpb.NewAuditServiceClient(client.Conn())
	response, err := audit.ListAuditEvents(t.Context(), &hitkeepauthpb.ListAuditEventsRequest{})
	if err != nil || len(response.GetEvents()) == 0 {
		t.Fatal(response, err)
	}
}

func BenchmarkAuthenticate(b *testing.B) {
	d := authtest.Service(b)
	site := hitkeepauth.MustParseID(d.Directory.Sites[0])
	socket := "unix:" + filepath.Join(b.TempDir(), "auth.sock")
	authtest.Serve(b, "--listen", socket)
	for _, of := range []struct {
		name    string
		target  string
		options []hitkeepauth.Option
	}{
		{"EachTime", d.Listen, []hitkeepauth.Option{hitkeepauth.WithPlaintext()}},
		{"EachTimeOverUnixSocket", socket, nil},
		{"CacheHit", socket, []hitkeepauth.Option{hitkeepauth.WithCache(100)}},
	} {
		client, err := hitkeepauth.New(of.target, append(of.options, caller(d.Callers.Introspect))...)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = client.Close() })
		b.Run(of.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := client.Check(b.Context(), d.PersonalClient.Token, site, hitkeepauth.SiteView); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
