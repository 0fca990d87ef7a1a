package hitkeepauth

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/pascalebeier/hitkeep-auth/clients/go/hitkeepauthpb"
)

// vectors are what the service makes of tokens, headers, routes and verdicts, and what it sends a
// replica: written by the service's own code, and read by the tests of all languages.
type vectors struct {
	Tokens []struct {
		What, Text, Kind, Scheme, Hash string
	}
	Credentials []struct {
		Headers      [][2]string
		Found, Token string
	}
	Permissions struct {
		Site     map[SiteRole][]Permission
		Instance map[InstanceRole][]Permission
	}
	Routes []struct {
		Settings [][2]string
		Path     string
		Needs    *vectorNeeds
		Answer   int
	}
	Answers []struct {
		Verdict     string
		Permission  Permission
		Site        ID
		Status      int
		Headers     [][2]string
		Body        string
		GRPCCode    codes.Code `json:"grpc_code"`
		Description string
	}
	Replication struct {
		Now   time.Time
		Steps []struct {
			What     string
			Frames   [][]byte
			Position struct {
				DatabaseID string `json:"database_id"`
				Revision   uint64
				Nonce      string
			}
			Decisions []vectorDecision
		}
	}
}

type vectorNeeds struct {
	Permission Permission
	Site       ID
	HumanOnly  bool `json:"human_only"`
}

type vectorDecision struct {
	Token        string
	SourceIP     netip.Addr `json:"source_ip"`
	Needs        vectorNeeds
	Verdict      string
	Reason       InactiveReason
	ClientID     ID              `json:"client_id"`
	ClientName   string          `json:"client_name"`
	Owner        string          `json:"owner"`
	InstanceRole InstanceRole    `json:"instance_role"`
	SiteRoles    map[ID]SiteRole `json:"site_roles"`
	ExpireTime   time.Time       `json:"expire_time"`
}

func readVectors(t *testing.T) *vectors {
	t.Helper()
	text, err := os.ReadFile("../../testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return &v
}

func TestVectorsOfTokens(t *testing.T) {
	kinds := map[string]tokenKind{"none": foreignText, "own": ownToken, "legacy": legacyToken}
	hashes := map[string]func(string) tokenHash{"blake3": hashOwn, "hitkeep_sha256": hashLegacy}
	for _, v := range readVectors(t).Tokens {
		kind, known := kinds[v.Kind]
		if !known || kindOf(v.Text) != kind {
			t.Errorf("%s is no %s", v.What, v.Kind)
		}
		if v.Hash == "" {
			continue
		}
		if hash := hashes[v.Scheme](v.Text); hex.EncodeToString(hash[:]) != v.Hash {
			t.Errorf("%s has another hash", v.What)
		}
	}
}

func TestVectorsOfCredentials(t *testing.T) {
	for _, v := range readVectors(t).Credentials {
		request, md := httptest.NewRequest(http.MethodGet, "/", nil), metadata.MD{}
		for _, header := range v.Headers {
			request.Header.Add(header[0], header[1])
			md.Append(header[0], header[1])
		}
		for _, find := range []func() (string, error){
			func() (string, error) { return TokenFromRequest(request) },
			func() (string, error) { return TokenFromMetadata(md) },
		} {
			token, err := find()
			var inactive *InactiveError
			found := "token"
			switch {
			case errors.Is(err, ErrNoToken):
				found = "none"
			case errors.As(err, &inactive):
				found = "several"
			case err != nil:
				t.Fatal(err)
			}
			if found != v.Found || token != v.Token {
				t.Errorf("%v: %s %q", v.Headers, found, token)
			}
		}
	}
}

func TestVectorsOfPermissions(t *testing.T) {
	same := func(a, b []Permission) bool {
		slices.Sort(a)
		slices.Sort(b)
		return slices.Equal(a, b)
	}
	v := readVectors(t).Permissions
	if len(v.Site) != len(siteRoles) || len(v.Instance) != len(instanceRoles) {
		t.Fatal(v)
	}
	for role, carried := range v.Site {
		if !same(role.Permissions(), carried) {
			t.Error(role, carried)
		}
	}
	for role, carried := range v.Instance {
		if !same(role.Permissions(), carried) {
			t.Error(role, carried)
		}
	}
}

// asks notes what it is asked.
type asks struct{ needs *vectorNeeds }

func (a asks) Authenticate(context.Context, string) (*Principal, error) {
	*a.needs = vectorNeeds{}
	return &Principal{}, nil
}

func (a asks) Check(_ context.Context, _ string, site ID, permission Permission) (*Principal, error) {
	*a.needs = vectorNeeds{Permission: permission, Site: site}
	return &Principal{}, nil
}

// Those routes that a pattern of http.ServeMux can name as well.
func TestVectorsOfRoutes(t *testing.T) {
	patterns := map[string]string{"/s/{site_id}": "/s/{site_id}", "/api/*/{site_id}/**": "/api/{any}/{site_id}/{rest...}"}
	compared := 0
	for _, v := range readVectors(t).Routes {
		need, pattern := Requirement{}, "/"
		for _, setting := range v.Settings {
			switch setting[0] {
			case "permission":
				need.Permission = Permission(setting[1])
			case "site_path":
				pattern = patterns[setting[1]]
				need.Site = SiteFromPath("site_id")
			case "site_id":
				need.Site = func(*http.Request) (ID, error) { return ParseID(setting[1]) }
			case "human_only":
				need.HumanOnly = true
			default:
				need.Permission = "misspelt"
			}
		}
		if flaw := need.flaw(); flaw != nil {
			// Here it is found when the program starts. A site without a permission is one that only
			// proxies report.
			if v.Answer != http.StatusInternalServerError && need.Permission != "" {
				t.Errorf("%v: %v", v.Settings, flaw)
			}
			continue
		}
		if need.Permission != "" && !need.Permission.known() {
			continue
		}
		var asked vectorNeeds
		mux := http.NewServeMux()
		mux.Handle("GET "+pattern, Middleware(asks{&asked}, need)(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
		request := httptest.NewRequest(http.MethodGet, v.Path, nil)
		request.Header.Set("Authorization", "Bearer x")
		answer := httptest.NewRecorder()
		mux.ServeHTTP(answer, request)
		switch status := answer.Code; {
		case v.Needs == nil:
			// Where no pattern fits, it is the program's own to say so.
			if status == http.StatusOK || status == http.StatusForbidden {
				// An escape is undone by the mux, which then passes on what it stands for.
				if !strings.Contains(v.Path, "%") {
					t.Errorf("%s: %d", v.Path, status)
				}
			}
		case need.HumanOnly:
			if status != http.StatusForbidden || !v.Needs.HumanOnly {
				t.Errorf("%v: %d", v.Settings, status)
			}
		case status != http.StatusOK || asked != *v.Needs:
			t.Errorf("%s: %d, %+v", v.Path, status, asked)
		default:
			compared++
		}
	}
	if compared < 6 {
		t.Error(compared)
	}
}

func TestVectorsOfAnswers(t *testing.T) {
	refused := 0
	for _, v := range readVectors(t).Answers {
		var err error
		switch v.Verdict {
		case "no_token":
			err = ErrNoToken
		case "inactive":
			err = &InactiveError{Reason: ReasonRevoked}
		case "forbidden":
			err = &ForbiddenError{Permission: v.Permission, SiteID: v.Site}
		case "human_only":
			err = ErrHumanOnly
		case "cannot_tell":
			err = &UnavailableError{Cause: errors.New("a cause")}
		case "misconfigured":
			err = &MisconfiguredError{Cause: errors.New("a cause")}
		case "no_site":
			err = &SiteError{Cause: errors.New("a cause")}
		case "allowed", "ambiguous_path":
			// A request that may pass is not answered here, and a path is put in its normal form.
			continue
		default:
			t.Fatal(v.Verdict)
		}
		refused++
		answer := httptest.NewRecorder()
		WriteError(answer, err)
		header := http.Header{}
		for _, one := range v.Headers {
			header.Add(one[0], one[1])
		}
		if answer.Code != v.Status || answer.Body.String() != v.Body || len(answer.Header()) != len(header) {
			t.Errorf("%s: %d %s %v", v.Verdict, answer.Code, answer.Body, answer.Header())
		}
		for name := range header {
			if !slices.Equal(answer.Header().Values(name), header.Values(name)) {
				t.Errorf("%s: %s is %q", v.Verdict, name, answer.Header().Values(name))
			}
		}
		if HTTPStatus(err) != v.Status || status.Code(err) != v.GRPCCode || status.Convert(err).Message() != v.Description {
			t.Errorf("%s: %v", v.Verdict, status.Convert(err))
		}
	}
	if refused < 8 {
		t.Error(refused)
	}
}

// What a replica is sent, frame by frame, and what it has to say then.
func TestVectorsOfReplication(t *testing.T) {
	v := readVectors(t).Replication
	embed(t, 1, EmbeddedOptions{}, func(b *bubble) {
		stream, _, refresh, plain := b.follow(0)
		for i, step := range v.Steps {
			if i > 0 {
				time.Sleep(250 * time.Millisecond)
				plain = stream.question(false)
			}
			before := b.client.IndexStatus().Revision
			for i, frame := range step.Frames {
				var sent pb.ReplicateResponse
				if err := proto.Unmarshal(frame, &sent); err != nil {
					b.Fatal(err)
				}
				// Nothing counts before all of it is there.
				if b.client.IndexStatus().Revision != before {
					b.Fatalf("%s: it counts before frame %d", step.What, i)
				}
				stream.frames <- &sent
				synctest.Wait()
			}
			database, nonce := hexID(b, step.Position.DatabaseID), hexID(b, step.Position.Nonce)
			answer := func(number uint64) {
				stream.frames <- &pb.ReplicateResponse{Message: &pb.ReplicateResponse_Answer{Answer: &pb.ReplicationAnswer{
					Number:    number,
					Position:  position{database: database, revision: step.Position.Revision, nonce: nonce}.wire(),
					Staleness: durationpb.New(0),
					Now:       timestamppb.New(v.Now),
				}}}
			}
			answer(plain)
			if i == 0 {
				answer(refresh)
			}
			synctest.Wait()
			// For tokens that the index does not know, the server has nothing to add.
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				for _, decision := range step.Decisions {
					decision.compare(b, step.What, step.Position.Revision)
				}
			}()
			for answered := false; !answered; {
				select {
				case <-ended:
					answered = true
				case request := <-stream.requests:
					answer(request.GetQuestion().GetNumber())
				}
			}
		}
	})
}

func (v *vectorDecision) compare(b *bubble, what string, revision uint64) {
	principal, err := b.client.Ask(context.Background(), Question{
		Token: v.Token, Permission: v.Needs.Permission, SiteID: v.Needs.Site, SourceIP: v.SourceIP,
	})
	verdict, reason := "allowed", InactiveReason("")
	var (
		inactive  *InactiveError
		forbidden *ForbiddenError
	)
	switch {
	case errors.Is(err, ErrUnavailable):
		verdict = "cannot_tell"
	case errors.As(err, &inactive):
		verdict, reason = "inactive", inactive.Reason
	case errors.As(err, &forbidden):
		verdict = "forbidden"
	case err != nil:
		verdict = err.Error()
	}
	if verdict != v.Verdict || reason != v.Reason {
		b.Errorf("%s: %s %s, and not %+v", what, verdict, reason, v)
		return
	}
	if verdict != "allowed" {
		return
	}
	same := principal.ClientID == v.ClientID && principal.ClientName == v.ClientName &&
		principal.Owner().String() == v.Owner && principal.InstanceRole == v.InstanceRole &&
		principal.Expiry.Equal(v.ExpireTime) && principal.Revision == revision
	roles := principal.SiteRoles.Map()
	for site, role := range v.SiteRoles {
		same = same && roles[site] == role
	}
	if !same || len(roles) != len(v.SiteRoles) {
		b.Errorf("%s: %+v, and not %+v", what, principal, v)
	}
}

func hexID(b *bubble, text string) ID {
	b.Helper()
	bytes, err := hex.DecodeString(text)
	if err != nil || len(bytes) != len(ID{}) {
		b.Fatal(text, err)
	}
	return ID(bytes)
}
