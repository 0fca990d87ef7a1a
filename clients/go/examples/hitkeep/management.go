package main

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	hitkeepauth "github.com/pascalebeier/hitkeep-auth/clients/go"
)

const maxBody = 1 << 20

// management has HitKeep's ten routes for API clients: five for a person's own, and the same
// for those of a team.
func (a *App) management(mux *http.ServeMux) {
	const personal, team = "/api/user/api-clients", "/api/user/teams/{id}/api-clients"
	mine := func(r *http.Request) (hitkeepauth.Owner, hitkeepauth.ID, error) {
		return hitkeepauth.OwnedByUser(userOf(r)), clientID(r, "id"), nil
	}
	ours := func(r *http.Request) (hitkeepauth.Owner, hitkeepauth.ID, error) {
		id, err := hitkeepauth.ParseID(r.PathValue("id"))
		return hitkeepauth.OwnedByTeam(id), clientID(r, "clientId"), err
	}
	for _, routes := range []struct {
		base, one string
		whose     func(*http.Request) (hitkeepauth.Owner, hitkeepauth.ID, error)
	}{
		{personal, personal + "/{id}", mine},
		{team, team + "/{clientId}", ours},
	} {
		handle := func(pattern string, do func(http.ResponseWriter, *http.Request, hitkeepauth.Ref) error) {
			mux.Handle(pattern, a.human(func(w http.ResponseWriter, r *http.Request) {
				owner, id, err := routes.whose(r)
				if err != nil {
					http.Error(w, "Invalid team ID", http.StatusBadRequest)
					return
				}
				ref := hitkeepauth.Ref{Actor: actor(r), Owner: owner, ID: id}
				if err := do(w, r, ref); err != nil {
					a.refuse(w, r, err)
				}
			}))
		}
		handle("GET "+routes.base, a.list)
		handle("POST "+routes.base, a.create)
		handle("PUT "+routes.one, a.update)
		handle("POST "+routes.one+"/rotate", a.rotate)
		handle("DELETE "+routes.one, a.delete)
	}
}

// clientID is the client that the path names. One that is no UUID is zero, which the service
// refuses where a client is needed.
func clientID(r *http.Request, wildcard string) hitkeepauth.ID {
	id, _ := hitkeepauth.ParseID(r.PathValue(wildcard))
	return id
}

func actor(r *http.Request) hitkeepauth.Actor {
	address, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		address = ""
	}
	return hitkeepauth.Actor{UserID: userOf(r), IPAddress: address, UserAgent: r.UserAgent()}
}

// delegation is what the dashboard sends.
type delegation struct {
	Name         string                   `json:"name"`
	Description  string                   `json:"description"`
	InstanceRole hitkeepauth.InstanceRole `json:"instance_role"`
	SiteRoles    []hitkeepauth.SiteGrant  `json:"site_roles"`
	ExpiresAt    *time.Time               `json:"expires_at"`
	Revoked      *bool                    `json:"revoked"`
}

func (d delegation) delegation() hitkeepauth.Delegation {
	return hitkeepauth.Delegation{
		Name:         d.Name,
		Description:  d.Description,
		InstanceRole: d.InstanceRole,
		SiteRoles:    d.SiteRoles,
		ExpiresAt:    d.ExpiresAt,
	}
}

// badBody is a body that is none of ours.
type badBody struct{ error }

func read(w http.ResponseWriter, r *http.Request) (delegation, error) {
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	decoder.DisallowUnknownFields()
	var sent delegation
	if err := decoder.Decode(&sent); err != nil {
		return delegation{}, badBody{err}
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return delegation{}, badBody{errors.New("something follows the JSON")}
	}
	return sent, nil
}

func (a *App) list(w http.ResponseWriter, r *http.Request, ref hitkeepauth.Ref) error {
	clients, err := a.Manager.List(r.Context(), ref.Actor, ref.Owner)
	if err == nil {
		writeJSON(w, http.StatusOK, clients)
	}
	return err
}

func (a *App) create(w http.ResponseWriter, r *http.Request, ref hitkeepauth.Ref) error {
	sent, err := read(w, r)
	if err != nil {
		return err
	}
	made, err := a.Manager.Create(r.Context(), hitkeepauth.CreateRequest{
		Actor:      ref.Actor,
		Owner:      ref.Owner,
		Delegation: sent.delegation(),
	})
	if err == nil {
		writeJSON(w, http.StatusCreated, made)
	}
	return err
}

func (a *App) update(w http.ResponseWriter, r *http.Request, ref hitkeepauth.Ref) error {
	sent, err := read(w, r)
	if err != nil {
		return err
	}
	client, err := a.Manager.Update(r.Context(), hitkeepauth.UpdateRequest{
		Ref:        ref,
		Delegation: sent.delegation(),
		Revoked:    sent.Revoked,
	})
	if err == nil {
		writeJSON(w, http.StatusOK, client)
	}
	return err
}

func (a *App) rotate(w http.ResponseWriter, r *http.Request, ref hitkeepauth.Ref) error {
	rotated, err := a.Manager.Rotate(r.Context(), hitkeepauth.RotateRequest{Ref: ref})
	if err == nil {
		writeJSON(w, http.StatusOK, rotated)
	}
	return err
}

func (a *App) delete(w http.ResponseWriter, r *http.Request, ref hitkeepauth.Ref) error {
	err := a.Manager.Delete(r.Context(), ref)
	if err == nil {
		w.WriteHeader(http.StatusNoContent)
	}
	return err
}

func (a *App) refuse(w http.ResponseWriter, r *http.Request, err error) {
	var bad badBody
	if errors.As(err, &bad) {
		http.Error(w, "Invalid request", http.StatusBadRequest)
		return
	}
	status := hitkeepauth.HTTPStatus(err)
	if status >= http.StatusInternalServerError {
		a.Log.ErrorContext(r.Context(), "cannot manage API clients", "error", err)
	}
	http.Error(w, http.StatusText(status), status)
}
