package hitkeepauth_test

import (
	"context"
	"database/sql"
	"errors"
	"log"
	"log/slog"
	"net/http"
	"time"

	"google.golang.org/grpc"

	hitkeepauth "github.com/pascalebeier/hitkeep-auth/clients/go"
)

var (
	client *hitkeepauth.Client
	siteID = hitkeepauth.MustParseID("01930000-0000-7000-8000-000000517e01")
)

func ExampleNew() {
	client, err := hitkeepauth.New("auth.example.com:443",
		hitkeepauth.WithCallerTokenFile("/run/secrets/hitkeep-auth-token"),
		hitkeepauth.WithCache(10_000))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
}

func ExampleNew_unix() {
	client, err := hitkeepauth.New("unix:/run/hitkeep-auth.sock", hitkeepauth.WithCallerToken("hks_…"))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
}

func ExampleWithEmbedded() {
	client, err := hitkeepauth.New("auth.example.com:443",
		hitkeepauth.WithCallerTokenFile("/run/secrets/hitkeep-auth-token"),
		hitkeepauth.WithEmbedded(hitkeepauth.EmbeddedOptions{
			// One is followed at a time.
			Upstreams: []string{"auth-1.example.com:443", "auth-2.example.com:443"},
			Log:       slog.Default(),
		}))
	if err != nil {
		log.Fatal(err)
	}
	// Reports the last uses.
	defer client.Close()
	if err := client.Ready(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func ExampleClient_Check() {
	handle := func(w http.ResponseWriter, r *http.Request) {
		token, err := hitkeepauth.TokenFromRequest(r)
		if err != nil {
			hitkeepauth.WriteError(w, err)
			return
		}
		principal, err := client.Check(r.Context(), token, siteID, hitkeepauth.SiteView)
		var inactive *hitkeepauth.InactiveError
		if errors.As(err, &inactive) {
			log.Printf("refused: %s", inactive.Reason)
		}
		if err != nil {
			hitkeepauth.WriteError(w, err) // 401, 403 or 503
			return
		}
		log.Printf("%s sees the site until %s", principal.ClientName, principal.Expiry)
	}
	http.HandleFunc("/", handle)
}

func ExampleClient_Middleware() {
	stats := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		principal, _ := hitkeepauth.FromContext(r.Context())
		log.Printf("asked by %s", principal.Owner())
	})
	mux := http.NewServeMux()
	mux.Handle("GET /api/sites/{id}/stats",
		client.Middleware(hitkeepauth.OnSite(hitkeepauth.SiteView, "id"))(stats))
	mux.Handle("GET /api/system",
		client.Middleware(hitkeepauth.OnInstance(hitkeepauth.InstanceViewSystem))(stats))
}

func ExampleClient_UnaryServerInterceptor() {
	methods := hitkeepauth.Methods{
		"/hits.v1.HitService/List": {
			Permission: hitkeepauth.SiteView,
			Site: func(_ context.Context, request any) (hitkeepauth.ID, error) {
				return hitkeepauth.ParseID(request.(interface{ GetSiteId() string }).GetSiteId())
			},
		},
		"/hits.v1.HitService/*": {Permission: hitkeepauth.InstanceViewSystem},
	}
	grpc.NewServer(
		grpc.UnaryInterceptor(client.UnaryServerInterceptor(methods)),
		grpc.StreamInterceptor(client.StreamServerInterceptor(methods)),
	)
}

func ExampleClient_Create() {
	alice := hitkeepauth.MustParseID("01930000-0000-7000-8000-0000000a11ce")
	expires := time.Now().AddDate(0, 3, 0)
	issued, err := client.Create(context.Background(), hitkeepauth.CreateRequest{
		Actor: hitkeepauth.Actor{UserID: alice},
		Owner: hitkeepauth.OwnedByUser(alice),
		Delegation: hitkeepauth.Delegation{
			Name:      "Nightly report",
			SiteRoles: []hitkeepauth.SiteGrant{{SiteID: siteID, Role: hitkeepauth.SiteViewer}},
			ExpiresAt: &expires,
		},
	})
	var refused *hitkeepauth.APIError
	if errors.As(err, &refused) {
		log.Print(refused.Reason, refused.Fields, refused.HTTPStatus())
		return
	}
	log.Print(issued) // shows no token; issued.Token is shown to Alice, once
}

func ExampleDirectorySync_Sync() {
	var db *sql.DB
	read := func(ctx context.Context) (hitkeepauth.Directory, error) {
		tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
		if err != nil {
			return hitkeepauth.Directory{}, err
		}
		defer func() { _ = tx.Rollback() }()
		return hitkeepauth.Directory{ /* users, teams, sites and memberships */ }, nil
	}
	// After each change, and every 30 s: only what is different is sent.
	sync := client.NewDirectorySync(hitkeepauth.SyncOptions{})
	result, err := sync.Sync(context.Background(), read)
	log.Print(result, err)
}

// store is HitKeep's.
type store struct{}

// apiClientAuth is HitKeep's.
type apiClientAuth struct {
	ClientID, UserID, TenantID [16]byte
	InstanceRole               string
	SiteRoles                  map[[16]byte]string
}

func (store) GetAPIClientAuth(context.Context, string) (*apiClientAuth, error) { return nil, nil }

func ExampleShadow() {
	judge := hitkeepauth.LookupBy(client, func(p *hitkeepauth.Principal) *apiClientAuth {
		auth := &apiClientAuth{
			ClientID: p.ClientID, UserID: p.UserID, TenantID: p.TenantID,
			InstanceRole: string(p.InstanceRole),
			SiteRoles:    make(map[[16]byte]string),
		}
		for site, role := range p.SiteRoles.All() {
			auth.SiteRoles[site] = string(role)
		}
		return auth
	})
	// It answers as the store does, and reports where hitkeep-auth would say something else.
	lookup := hitkeepauth.Shadow(store{}.GetAPIClientAuth, judge,
		func(_ context.Context, s hitkeepauth.Shadowed[apiClientAuth]) {
			log.Print(s.Verdict, s.NewErr, s.NewTook)
		})
	auth, err := lookup(context.Background(), "hkp_…")
	log.Print(auth, err)
}
