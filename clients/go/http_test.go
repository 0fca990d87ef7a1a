package hitkeepauth_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	hitkeepauth "github.com/pascalebeier/hitkeep-auth/clients/go"
	"github.com/pascalebeier/hitkeep-auth/clients/go/internal/authtest"
)

// says answers with the owner of its request's token.
var says = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	principal, ok := hitkeepauth.FromContext(r.Context())
	if !ok {
		_, _ = io.WriteString(w, "no principal")
		return
	}
	_, _ = io.WriteString(w, principal.Owner().String())
})

func get(t *testing.T, handler http.Handler, path string, header http.Header) *http.Response {
	t.Helper()
	request := httptest.NewRequest(http.MethodGet, path, nil)
	request.Header = header
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, request)
	return recorder.Result()
}

func body(t *testing.T, response *http.Response) string {
	t.Helper()
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The middleware refuses by the very words of the service's own endpoint for proxies.
func TestRefusalsAreThoseOfForwardAuth(t *testing.T) {
	d := authtest.Service(t)
	client := newClient(t, d.Listen, caller(d.Callers.Introspect))
	site := d.Directory.Sites[0]
	mux := http.NewServeMux()
	const pattern = "/api/sites/{id}/"
	mux.Handle(pattern+"stats", client.Middleware(hitkeepauth.OnSite(hitkeepauth.SiteView, "id"))(says))
	mux.Handle(pattern+"data", client.Middleware(hitkeepauth.OnSite(hitkeepauth.SiteManageData, "id"))(says))
	mux.Handle("/api/system", client.Middleware(hitkeepauth.OnInstance(hitkeepauth.InstanceViewSystem))(says))
	mux.Handle("/api/clients", client.Middleware(hitkeepauth.Requirement{HumanOnly: true})(says))
	mux.Handle("/api/me", client.Middleware(hitkeepauth.Requirement{})(says))
	mux.Handle("/api/broken", client.Middleware(hitkeepauth.OnInstance("instance.fly"))(says))

	const sitePath = "/api/sites/{site_id}/**"
	token := http.Header{"Authorization": {"Bearer " + d.PersonalClient.Token}}
	for _, c := range []struct {
		path                 string
		permission, sitePath string
		header               http.Header
		status               int
	}{
		{"/api/me", "", "", nil, 401},
		{"/api/me", "", "", http.Header{"Authorization": {"Basic x"}}, 401},
		{"/api/me", "", "", http.Header{"X-Api-Key": {"hkp_wrong"}}, 401},
		{"/api/me", "", "", http.Header{"X-Api-Key": {d.PersonalClient.Token, "b"}}, 401},
		{"/api/me", "", "", token, 200},
		{"/api/system", "instance.view_system", "", token, 403},
		{"/api/sites/" + site + "/stats", "site.view", sitePath, token, 200},
		{"/api/sites/" + site + "/data", "site.manage_data", sitePath, token, 403},
		{"/api/sites/" + goneSite + "/stats", "site.view", sitePath, token, 403},
		{"/api/sites/nonsense/stats", "site.view", sitePath, token, 400},
		{"/api/clients", "", "", token, 403},
		{"/api/clients", "", "", http.Header{"X-Api-Key": {"hkp_wrong"}}, 401},
		{"/api/clients", "", "", nil, 401},
		{"/api/broken", "instance.fly", "", token, 500},
	} {
		ours := get(t, mux, c.path, c.header.Clone())
		query := url.Values{}
		if c.path == "/api/clients" {
			query.Set("human_only", "true")
		}
		if c.permission != "" {
			query.Set("permission", c.permission)
		}
		if c.sitePath != "" {
			query.Set("site_path", c.sitePath)
		}
		address := "http://" + d.HTTPListen + "/forward-auth?" + query.Encode()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, values := range c.header {
			request.Header[name] = values
		}
		request.Header.Set("X-HitKeep-Caller", d.Callers.Introspect)
		request.Header.Set("X-Forwarded-Uri", c.path)
		theirs, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		if ours.StatusCode != c.status || theirs.StatusCode != c.status {
			t.Errorf("%s: %d here, %d there", c.path, ours.StatusCode, theirs.StatusCode)
		}
		ourBody, theirBody := body(t, ours), body(t, theirs)
		if c.status == 200 {
			if want := "user:" + d.Directory.Users.Alice; ourBody != want || theirs.Header.Get("X-HitKeep-Owner") != want {
				t.Errorf("%s: %s", c.path, ourBody)
			}
			continue
		}
		if ourBody != theirBody {
			t.Errorf("%s: %s here, %s there", c.path, ourBody, theirBody)
		}
		for _, name := range []string{"WWW-Authenticate", "Cache-Control", "Content-Type", "Retry-After"} {
			if ours.Header.Get(name) != theirs.Header.Get(name) {
				t.Errorf("%s: %s: %q here, %q there", c.path, name, ours.Header.Get(name), theirs.Header.Get(name))
			}
		}
	}
}

// asked is an authenticator that has one answer, and never asks.
type asked struct {
	err error
}

func (a asked) Authenticate(context.Context, string) (*hitkeepauth.Principal, error) {
	if a.err != nil {
		return nil, a.err
	}
	return &hitkeepauth.Principal{UserID: hitkeepauth.MustParseID(goneSite)}, nil
}

func (a asked) Check(ctx context.Context, token string, _ hitkeepauth.ID, _ hitkeepauth.Permission) (*hitkeepauth.Principal, error) {
	return a.Authenticate(ctx, token)
}

func TestWhatCannotBeToldIs503(t *testing.T) {
	caller := status.Error(codes.Unauthenticated, "no known caller")
	for _, err := range []error{
		&hitkeepauth.UnavailableError{Cause: context.DeadlineExceeded},
		&hitkeepauth.UnavailableError{Cause: caller},
		// Whatever else goes wrong.
		&hitkeepauth.UnavailableError{Cause: &hitkeepauth.InactiveError{}},
		errors.New("something new"),
	} {
		response := get(t, hitkeepauth.Middleware(asked{err}, hitkeepauth.Requirement{})(says), "/",
			http.Header{"X-Api-Key": {"x"}})
		if response.StatusCode != 503 || response.Header.Get("Retry-After") != "1" ||
			response.Header.Get("WWW-Authenticate") != "" || status.Code(err) == codes.Unauthenticated {
			t.Errorf("%v: %d", err, response.StatusCode)
		}
		const want = `{"error":"temporarily_unavailable","error_description":` +
			`"It cannot be determined right now whether the token works. Try again."}`
		if got := body(t, response); got != want {
			t.Error(got)
		}
	}
}

func TestOptionalTokens(t *testing.T) {
	optional := hitkeepauth.Requirement{Optional: true}
	if got := body(t, get(t, hitkeepauth.Middleware(asked{}, optional)(says), "/", nil)); got != "no principal" {
		t.Error(got)
	}
	header := http.Header{"X-Api-Key": {"x"}}
	if got := body(t, get(t, hitkeepauth.Middleware(asked{}, optional)(says), "/", header)); got != "user:"+goneSite {
		t.Error(got)
	}
	refuses := asked{&hitkeepauth.InactiveError{Reason: hitkeepauth.ReasonRevoked}}
	if got := get(t, hitkeepauth.Middleware(refuses, optional)(says), "/", header); got.StatusCode != 401 {
		t.Error(got.StatusCode)
	}
}

func TestRequirementsOfOnesOwn(t *testing.T) {
	need := hitkeepauth.Requirement{
		Token: hitkeepauth.BearerOnly,
		Refuse: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, "no", hitkeepauth.HTTPStatus(err))
		},
	}
	response := get(t, hitkeepauth.Middleware(asked{}, need)(says), "/", http.Header{"X-Api-Key": {"x"}})
	if got := body(t, response); response.StatusCode != 401 || got != "no\n" {
		t.Error(response.StatusCode, got)
	}
}

func TestRequirementsThatCanNeverBeMet(t *testing.T) {
	site := hitkeepauth.SiteFromPath("id")
	for _, need := range []hitkeepauth.Requirement{
		{Permission: hitkeepauth.SiteView},
		{Permission: hitkeepauth.InstanceViewAudit, Site: site},
		{Permission: "view"},
		{Permission: hitkeepauth.InstanceViewAudit, Optional: true},
		{Site: site},
		{HumanOnly: true, Permission: hitkeepauth.InstanceViewAudit},
		{HumanOnly: true, Optional: true},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%+v", need)
				}
			}()
			hitkeepauth.Middleware(asked{}, need)
		}()
	}
}

func TestTokensAreFoundAsHitKeepDoes(t *testing.T) {
	for _, c := range []struct {
		authorization, apiKey []string
		token                 string
		several               bool
	}{
		{nil, nil, "", false},
		{[]string{"Bearer a"}, nil, "a", false},
		{[]string{"bEARER \t a "}, nil, "a", false},
		{[]string{"  Bearer a"}, []string{"b"}, "a", false},
		{[]string{"Bearer"}, []string{"b"}, "b", false},
		{[]string{"Bearer  "}, []string{" b\t"}, "b", false},
		{[]string{"Basic eDp5"}, []string{"b"}, "b", false},
		{[]string{"Bearera"}, []string{"b"}, "b", false},
		{[]string{""}, []string{"b"}, "b", false},
		{[]string{"Bearer a b"}, nil, "a b", false},
		{[]string{"Basic eDp5"}, nil, "", false},
		{nil, []string{"  "}, "", false},
		{[]string{"Bearer a", "Bearer a"}, nil, "", true},
		{[]string{"Basic a", "Basic a"}, []string{"b"}, "", true},
		{nil, []string{"b", "c"}, "", true},
		{[]string{"Bearer a"}, []string{"b", "c"}, "a", false},
	} {
		request := httptest.NewRequest(http.MethodGet, "/", nil)
		request.Header["Authorization"], request.Header["X-Api-Key"] = c.authorization, c.apiKey
		token, err := hitkeepauth.TokenFromRequest(request)
		switch {
		case c.several:
			inactive(t, err, hitkeepauth.ReasonAmbiguous)
		case c.token == "":
			if !errors.Is(err, hitkeepauth.ErrNoToken) {
				t.Errorf("%+v: %v", c, err)
			}
		case token != c.token || err != nil:
			t.Errorf("%+v: %q, %v", c, token, err)
		}
	}
}
