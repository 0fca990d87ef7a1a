package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"

	hitkeepauth "github.com/pascalebeier/hitkeep-auth/clients/go"
)

// App is the server.
type App struct {
	// Tokens judges tokens; its account may introspect.
	Tokens *hitkeepauth.Client
	// Manager manages API clients; its account may manage.
	Manager *hitkeepauth.Client
	Users   Users
	Log     *slog.Logger
}

// Users are the people who are logged in, and what they may do: HitKeep's own business.
type Users interface {
	// Session is who sends a request, by its cookies.
	Session(*http.Request) (hitkeepauth.ID, bool)
	// Can reports whether a user holds a permission, on a site or with the zero ID on the
	// instance.
	Can(ctx context.Context, user hitkeepauth.ID, permission hitkeepauth.Permission, site hitkeepauth.ID) (bool, error)
}

// Handler has all routes. Each request passes, from the outside: a panic's catcher, the log,
// the mux, and then what its route needs.
func (a *App) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })

	// For people and for tokens.
	mux.Handle("GET /api/sites", a.either(hitkeepauth.Requirement{}, whoAmI))
	mux.Handle("GET /api/sites/{id}/stats", a.either(hitkeepauth.OnSite(hitkeepauth.SiteView, "id"), whoAmI))
	mux.Handle("POST /api/sites/{id}/goals", a.either(hitkeepauth.OnSite(hitkeepauth.SiteManageGoals, "id"), whoAmI))
	mux.Handle("DELETE /api/sites/{id}", a.either(hitkeepauth.OnSite(hitkeepauth.SiteDelete, "id"), whoAmI))
	mux.Handle("GET /api/system", a.either(hitkeepauth.OnInstance(hitkeepauth.InstanceViewSystem), whoAmI))

	// For tokens alone: whatever the cookies say.
	ingest := hitkeepauth.OnSite(hitkeepauth.SiteManageData, "id")
	mux.Handle("POST /api/ingest/server/{id}", a.Tokens.Middleware(ingest)(http.HandlerFunc(whoAmI)))
	mcp := hitkeepauth.Requirement{Token: hitkeepauth.BearerOnly}
	mux.Handle("POST /mcp", a.Tokens.Middleware(mcp)(http.HandlerFunc(whoAmI)))

	// For people alone: whatever token there is.
	mux.Handle("GET /api/reports", a.either(hitkeepauth.Requirement{HumanOnly: true}, whoAmI))
	a.management(mux)

	return a.catchPanics(a.logged(mux))
}

type userKey struct{}

func withUser(r *http.Request, user hitkeepauth.ID) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), userKey{}, user))
}

func userOf(r *http.Request) hitkeepauth.ID {
	user, _ := r.Context().Value(userKey{}).(hitkeepauth.ID)
	return user
}

// human is for people who are logged in.
func (a *App) human(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, ok := a.Users.Session(r)
		if !ok {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		next(w, withUser(r, user))
	})
}

// either is for people who are logged in, and else for tokens: a session comes first, as in
// HitKeep.
func (a *App) either(need hitkeepauth.Requirement, next http.HandlerFunc) http.Handler {
	byToken := a.Tokens.Middleware(need)(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, ok := a.Users.Session(r)
		if !ok {
			byToken.ServeHTTP(w, r)
			return
		}
		if need.Permission != "" && !a.userMay(w, r, user, need) {
			return
		}
		next(w, withUser(r, user))
	})
}

func (a *App) userMay(w http.ResponseWriter, r *http.Request, user hitkeepauth.ID, need hitkeepauth.Requirement) bool {
	var site hitkeepauth.ID
	if need.Site != nil {
		var err error
		if site, err = need.Site(r); err != nil {
			http.Error(w, "Invalid site ID", http.StatusBadRequest)
			return false
		}
	}
	allowed, err := a.Users.Can(r.Context(), user, need.Permission, site)
	switch {
	case err != nil:
		a.Log.ErrorContext(r.Context(), "cannot look up a user's role", "error", err)
		http.Error(w, "Internal error", http.StatusInternalServerError)
	case !allowed:
		http.Error(w, "Forbidden", http.StatusForbidden)
	}
	return err == nil && allowed
}

// whoAmI stands for what a route does.
func whoAmI(w http.ResponseWriter, r *http.Request) {
	answer := map[string]string{}
	if principal, ok := hitkeepauth.FromContext(r.Context()); ok {
		answer["client_id"] = principal.ClientID.String()
		answer["owner"] = principal.Owner().String()
	} else {
		answer["user_id"] = userOf(r).String()
	}
	writeJSON(w, http.StatusOK, answer)
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// A client that is gone needs no answer.
	_ = json.NewEncoder(w).Encode(value)
}

func (a *App) catchPanics(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			cause := recover()
			if cause == http.ErrAbortHandler {
				panic(cause)
			}
			if cause != nil {
				a.Log.ErrorContext(r.Context(), "panic", "cause", cause)
				http.Error(w, "Internal error", http.StatusInternalServerError)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (a *App) logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		writer := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(writer, r)
		// Never the headers: they have the token.
		a.Log.InfoContext(r.Context(), "request", "method", r.Method, "path", r.URL.Path, "status", writer.status)
	})
}
