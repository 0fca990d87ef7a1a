package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	hitkeepauth "github.com/pascalebeier/hitkeep-auth/clients/go"
	"github.com/pascalebeier/hitkeep-auth/clients/go/internal/authtest"
)

func TestMain(m *testing.M) { authtest.Main(m) }

// cookies are users who may do anything, and whose session is their id.
type cookies struct{}

func (cookies) Session(r *http.Request) (hitkeepauth.ID, bool) {
	cookie, err := r.Cookie("session")
	if err != nil {
		return hitkeepauth.ID{}, false
	}
	id, err := hitkeepauth.ParseID(cookie.Value)
	return id, err == nil
}

func (cookies) Can(context.Context, hitkeepauth.ID, hitkeepauth.Permission, hitkeepauth.ID) (bool, error) {
	return true, nil
}

type server struct {
	*httptest.Server
	demo *authtest.Demo
}

// start runs the app against a real service, which is reached at an address.
func start(t *testing.T, d *authtest.Demo, address string) server {
	t.Helper()
	return startIn(t, d, address, "cached")
}

// startIn is start, with one of the modes in which tokens are judged.
func startIn(t *testing.T, d *authtest.Demo, address, mode string) server {
	t.Helper()
	account := d.Callers.Introspect
	if mode == "embedded" {
		account = d.Callers.Replicate
	}
	open := func(token string, options ...hitkeepauth.Option) *hitkeepauth.Client {
		options = append(options, hitkeepauth.WithPlaintext(), hitkeepauth.WithCallerToken(token))
		client, err := hitkeepauth.New(address, options...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = client.Close() })
		return client
	}
	app := &App{
		Tokens:  open(account, modes[mode]...),
		Manager: open(d.Callers.Manage),
		Users:   cookies{},
		Log:     slog.New(slog.DiscardHandler),
	}
	s := httptest.NewServer(app.Handler())
	t.Cleanup(s.Close)
	return server{s, d}
}

type credential func(*http.Request)

func nothing(*http.Request) {}

func session(user string) credential {
	return func(r *http.Request) { r.AddCookie(&http.Cookie{Name: "session", Value: user}) }
}

func bearer(token string) credential {
	return func(r *http.Request) { r.Header.Set("Authorization", "bearer "+token) }
}

func apiKey(token string) credential {
	return func(r *http.Request) { r.Header.Set("X-Api-Key", token) }
}

func (s server) call(t *testing.T, as credential, method, path, body string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	as(request)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

func TestRoutes(t *testing.T) {
	for mode := range modes {
		t.Run(mode, func(t *testing.T) { testRoutes(t, mode) })
	}
}

func testRoutes(t *testing.T, mode string) {
	d := authtest.Service(t)
	s := startIn(t, d, d.Listen, mode)
	site := "/api/sites/" + d.Directory.Sites[0]
	alice, personal := session(d.Directory.Users.Alice), d.PersonalClient.Token
	for _, c := range []struct {
		method, path string
		as           credential
		status       int
	}{
		{"GET", "/healthz", nothing, 204},
		{"GET", "/api/sites", nothing, 401},
		{"GET", "/api/sites", bearer(personal), 200},
		{"GET", "/api/sites", apiKey(personal), 200},
		{"GET", "/api/sites", apiKey("junk"), 401},
		{"GET", "/api/sites", alice, 200},
		{"GET", site + "/stats", bearer(personal), 200},
		{"GET", site + "/stats", alice, 200},
		{"GET", "/api/sites/x/stats", bearer(personal), 400},
		{"GET", "/api/sites/x/stats", alice, 400},
		{"POST", site + "/goals", bearer(personal), 200},
		{"POST", site + "/goals", bearer(d.TeamClient.Token), 403},
		{"DELETE", site, bearer(personal), 403},
		{"GET", "/api/system", bearer(personal), 403},
		{"POST", "/api/ingest/server/" + d.Directory.Sites[0], alice, 401},
		{"POST", "/api/ingest/server/" + d.Directory.Sites[0], bearer(personal), 403},
		{"POST", "/mcp", bearer(personal), 200},
		{"POST", "/mcp", apiKey(personal), 401},
		{"GET", "/api/reports", bearer(personal), 403},
		{"GET", "/api/reports", bearer("junk"), 401},
		{"GET", "/api/reports", nothing, 401},
		{"GET", "/api/reports", alice, 200},
		{"GET", "/api/user/api-clients", bearer(personal), 401},
	} {
		if status, body := s.call(t, c.as, c.method, c.path, ""); status != c.status {
			t.Errorf("%s %s: %d %s", c.method, c.path, status, body)
		}
	}
	if _, body := s.call(t, bearer(personal), "GET", "/api/sites", ""); !strings.Contains(body, d.PersonalClient.ID) {
		t.Error(body)
	}
}

func TestTheTenRoutesForAPIClients(t *testing.T) {
	d := authtest.Service(t)
	s := start(t, d, d.Listen)
	alice, bob := session(d.Directory.Users.Alice), session(d.Directory.Users.Bob)
	type issued struct {
		Client struct {
			ID, UserID, TenantID, OwnerType string
			RevokedAt                       *string `json:"revoked_at"`
		}
		Token string
	}
	call := func(as credential, method, path, body string, status int) (answer issued) {
		t.Helper()
		got, text := s.call(t, as, method, path, body)
		if got != status {
			t.Fatalf("%s %s: %d %s", method, path, got, text)
		}
		if strings.HasPrefix(text, "{") {
			if err := json.Unmarshal([]byte(text), &answer); err != nil {
				t.Fatal(err)
			}
		}
		return answer
	}
	site := d.Directory.Sites[0]
	const none = "01930000-0000-7000-8000-00000000dead"
	for base, as := range map[string]credential{
		"/api/user/api-clients":                                alice,
		"/api/user/teams/" + d.Directory.Team + "/api-clients": alice,
	} {
		if _, text := s.call(t, as, "GET", base, ""); !strings.HasPrefix(text, "[") {
			t.Fatal(text)
		}
		made := call(as, "POST", base, `{"name":"x","site_roles":[{"site_id":"`+site+`","role":"viewer"}]}`, 201)
		one := base + "/" + made.Client.ID
		if status, text := s.call(t, bearer(made.Token), "GET", "/api/sites/"+site+"/stats", ""); status != 200 {
			t.Fatal(status, text)
		}
		call(as, "PUT", one, `{"name":"y","revoked":true}`, 200)
		call(as, "POST", one+"/rotate", "", 409)
		call(as, "PUT", one, `{"name":"y","revoked":false}`, 200)
		rotated := call(as, "POST", one+"/rotate", "", 200)
		if rotated.Token == made.Token || rotated.Client.RevokedAt != nil {
			t.Fatal("it is not a new token that works")
		}
		for body, status := range map[string]int{
			``: 400, `{`: 400, `{"name":""}`: 400, `{"name":"x","more":1}`: 400, `{"name":"x"} {}`: 400,
			`{"name":"x","site_roles":[{"site_id":"` + none + `","role":"viewer"}]}`: 403,
		} {
			call(as, "POST", base, body, status)
		}
		// Neither another's nor one of another route.
		call(bob, "DELETE", one, "", 404)
		call(as, "DELETE", base+"/"+none, "", 404)
		call(as, "DELETE", base+"/x", "", 400)
		call(as, "DELETE", one, "", 204)
		call(as, "DELETE", one, "", 404)
	}
	call(alice, "DELETE", "/api/user/api-clients/"+d.TeamClient.ID, "", 404)
	call(bob, "GET", "/api/user/teams/"+d.Directory.Team+"/api-clients", "", 403)
}

// An outage is no revocation, and opens nothing.
func TestAnOutage(t *testing.T) {
	d := authtest.Service(t)
	proxy := authtest.NewProxy(t, d.Listen)
	s := start(t, d, proxy.Address)
	proxy.Cut()
	status, body := s.call(t, bearer(d.PersonalClient.Token), "GET", "/api/sites", "")
	if status != 503 || !strings.Contains(body, "temporarily_unavailable") {
		t.Fatal(status, body)
	}
	if status, body := s.call(t, session(d.Directory.Users.Alice), "GET", "/api/user/api-clients", ""); status != 503 {
		t.Fatal(status, body)
	}
}
