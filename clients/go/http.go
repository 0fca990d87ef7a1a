package hitkeepauth

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
)

// Requirement is what a route needs of a token. The zero value: that it works.
type Requirement struct {
	// Permission is what the token must carry. Empty: it only has to work.
	Permission Permission
	// Site finds the site of a request, for a permission on one.
	Site func(*http.Request) (ID, error)
	// Optional lets requests without any token pass, without a principal in their context. A
	// token that is there must still do. It excludes a permission.
	Optional bool
	// HumanOnly is for routes that no token may use, whatever its role. Requests of people, who
	// have a session, must not come here. It excludes Permission, Site and Optional.
	HumanOnly bool
	// Token finds the token of a request: [TokenFromRequest] if it is nil.
	Token func(*http.Request) (string, error)
	// SourceIP finds the address of the end client, for API clients that allow only some:
	// [RemoteAddr] if it is nil and the context carries none; behind proxies, [ForwardedBy].
	SourceIP func(*http.Request) netip.Addr
	// Refuse answers a request that may not pass: [WriteError] if it is nil.
	Refuse func(http.ResponseWriter, *http.Request, error)
}

// OnSite is the requirement of a permission on the site that the route's pattern names, such
// as "id" in "GET /api/sites/{id}/stats".
func OnSite(permission Permission, wildcard string) Requirement {
	return Requirement{Permission: permission, Site: SiteFromPath(wildcard)}
}

// OnInstance is the requirement of a permission on the instance.
func OnInstance(permission Permission) Requirement { return Requirement{Permission: permission} }

// SiteFromPath finds the site that the wildcard of a pattern of [http.ServeMux] names. The
// middleware must then be inside of the mux, around the route's handler.
func SiteFromPath(wildcard string) func(*http.Request) (ID, error) {
	return func(r *http.Request) (ID, error) { return ParseID(r.PathValue(wildcard)) }
}

// BearerOnly finds a token as HitKeep's MCP endpoint does, in "Authorization: Bearer" only.
func BearerOnly(r *http.Request) (string, error) {
	return findToken(r.Header.Values(authorizationHeader), nil)
}

// Middleware lets only those requests pass whose token does, with the principal in their
// context ([FromContext]). It panics if the requirement can never be met, as
// [http.ServeMux.Handle] does for a pattern that is invalid.
//
// Put what answers CORS preflights in front of it: these never have a token.
func (c *Client) Middleware(need Requirement) func(http.Handler) http.Handler {
	return Middleware(c, need)
}

// Middleware is [Client.Middleware] for any authenticator.
func Middleware(by Authenticator, need Requirement) func(http.Handler) http.Handler {
	if err := need.flaw(); err != nil {
		panic(&MisconfiguredError{Cause: err})
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			principal, err := need.authorize(by, r)
			switch {
			case err == nil:
				next.ServeHTTP(w, r.WithContext(NewContext(r.Context(), principal)))
			case need.Optional && errors.Is(err, ErrNoToken):
				next.ServeHTTP(w, r)
			case need.Refuse != nil:
				need.Refuse(w, r, err)
			default:
				WriteError(w, err)
			}
		})
	}
}

func (n Requirement) flaw() error {
	if n.HumanOnly && (n.Permission != "" || n.Site != nil || n.Optional) {
		return errors.New("HumanOnly stands alone")
	}
	if n.Permission != "" {
		if n.Optional {
			return errors.New("a permission cannot be optional")
		}
		return n.Permission.flaw(n.Site != nil)
	}
	if n.Site != nil {
		return errors.New("a site without a permission")
	}
	return nil
}

func (n Requirement) authorize(by Authenticator, r *http.Request) (*Principal, error) {
	find := TokenFromRequest
	if n.Token != nil {
		find = n.Token
	}
	token, err := find(r)
	if err != nil {
		return nil, err
	}
	ctx := withRequestSource(r, n.SourceIP)
	if n.HumanOnly {
		if _, err := by.Authenticate(ctx, token); err != nil {
			return nil, err
		}
		return nil, ErrHumanOnly
	}
	return authorize(ctx, by, token, n.Permission, func() (ID, error) {
		if n.Site == nil {
			return ID{}, nil
		}
		return n.Site(r)
	})
}

func authorize(
	ctx context.Context, by Authenticator, token string, permission Permission, site func() (ID, error),
) (*Principal, error) {
	if permission == "" {
		return by.Authenticate(ctx, token)
	}
	id, err := site()
	if err != nil {
		return nil, &SiteError{Cause: err}
	}
	if permission.OnSite() && id.IsZero() {
		return nil, &SiteError{Cause: errors.New("it is zero")}
	}
	return by.Check(ctx, token, id, permission)
}
