package hitkeepauth_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	hitkeepauth "github.com/pascalebeier/hitkeep-auth/clients/go"
	"github.com/pascalebeier/hitkeep-auth/clients/go/internal/authtest"
)

func refused(t *testing.T, err error, reason string, httpStatus int) {
	t.Helper()
	var e *hitkeepauth.APIError
	if !errors.As(err, &e) || e.Reason != reason || hitkeepauth.HTTPStatus(err) != httpStatus {
		t.Fatalf("%v (%d), where %s was to be", err, hitkeepauth.HTTPStatus(err), reason)
	}
}

func TestTheLifeOfAnAPIClient(t *testing.T) {
	noLeaks(t)
	d := authtest.Service(t)
	manager := newClient(t, d.Listen, caller(d.Callers.Manage))
	introspector := newClient(t, d.Listen, caller(d.Callers.Introspect))
	site := hitkeepauth.MustParseID(d.Directory.Sites[0])
	actor := hitkeepauth.Actor{
		UserID:    hitkeepauth.MustParseID(d.Directory.Users.Alice),
		IPAddress: "192.0.2.1",
		UserAgent: "test",
	}
	owner := hitkeepauth.OwnedByUser(actor.UserID)
	expires := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)

	made, err := manager.Create(t.Context(), hitkeepauth.CreateRequest{
		Actor: actor,
		Owner: owner,
		Delegation: hitkeepauth.Delegation{
			Name:        " life ",
			Description: "of a client",
			SiteRoles:   []hitkeepauth.SiteGrant{{SiteID: site, Role: hitkeepauth.SiteViewer}},
			ExpiresAt:   &expires,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	client := made.Client
	if client.Name != "life" || client.OwnerType != hitkeepauth.OwnerPersonal || client.Owner() != owner ||
		client.InstanceRole != hitkeepauth.InstanceUser || !client.ExpiresAt.Equal(expires) ||
		client.SiteRoles[0].Role != hitkeepauth.SiteViewer || client.CreatedBy != actor.UserID ||
		client.TokenHint == "" || client.ETag == "" || client.RevokedAt != nil {
		t.Fatalf("%+v", client)
	}
	question := hitkeepauth.Question{Token: made.Token, AtLeastRevision: made.Revision}
	principal, err := introspector.Ask(t.Context(), question)
	if err != nil || !principal.Expiry.Equal(expires) || principal.ClientName != "life" {
		t.Fatal(principal, err)
	}

	ref := hitkeepauth.Ref{Actor: actor, ID: client.ID, Owner: owner}
	got, err := manager.Get(t.Context(), ref)
	if err != nil || got.ETag != client.ETag {
		t.Fatal(got, err)
	}
	list, err := manager.List(t.Context(), actor, owner)
	if err != nil || len(list) < 2 || list[0].ID != client.ID {
		t.Fatal(list, err)
	}
	rotated, err := manager.Rotate(t.Context(), hitkeepauth.RotateRequest{Ref: ref, ETag: client.ETag, Overlap: time.Hour})
	if err != nil || rotated.Token == made.Token {
		t.Fatal(rotated, err)
	}
	for _, token := range []string{made.Token, rotated.Token} {
		if _, err := introspector.Authenticate(t.Context(), token); err != nil {
			t.Fatal(err)
		}
	}
	_, err = manager.Rotate(t.Context(), hitkeepauth.RotateRequest{Ref: ref, ETag: client.ETag})
	refused(t, err, hitkeepauth.ReasonETagMismatch, http.StatusConflict)

	// As HitKeep's PUT: what is left out is cleared, and so is a revocation.
	yes, no := true, false
	update := hitkeepauth.UpdateRequest{Ref: ref, Delegation: hitkeepauth.Delegation{Name: "new"}, Revoked: &yes}
	update.ETag = client.ETag
	_, err = manager.Update(t.Context(), update)
	refused(t, err, hitkeepauth.ReasonETagMismatch, http.StatusConflict)
	update.ETag = rotated.Client.ETag
	updated, err := manager.Update(t.Context(), update)
	if err != nil || updated.RevokedAt == nil || updated.Name != "new" || updated.Description != "" ||
		updated.ExpiresAt != nil || len(updated.SiteRoles) != 0 {
		t.Fatal(updated, err)
	}
	_, err = introspector.Ask(t.Context(), hitkeepauth.Question{Token: rotated.Token})
	inactive(t, err, hitkeepauth.ReasonRevoked)
	_, err = manager.Rotate(t.Context(), hitkeepauth.RotateRequest{Ref: ref})
	refused(t, err, hitkeepauth.ReasonAPIClientInactive, http.StatusConflict)
	update.ETag, update.Revoked = "", nil
	if updated, err = manager.Update(t.Context(), update); err != nil || updated.RevokedAt == nil {
		t.Fatal(updated, err)
	}
	update.Revoked = &no
	for range 2 {
		if updated, err = manager.Update(t.Context(), update); err != nil || updated.RevokedAt != nil {
			t.Fatal(updated, err)
		}
	}

	stranger := ref
	stranger.Owner = hitkeepauth.OwnedByTeam(hitkeepauth.MustParseID(d.Directory.Team))
	for _, err := range []error{
		second(manager.Get(t.Context(), stranger)),
		second(manager.Revoke(t.Context(), stranger)),
		second(manager.Reactivate(t.Context(), stranger)),
		second(manager.Rotate(t.Context(), hitkeepauth.RotateRequest{Ref: stranger})),
		second(manager.Update(t.Context(), hitkeepauth.UpdateRequest{Ref: stranger})),
		manager.Delete(t.Context(), stranger),
	} {
		refused(t, err, hitkeepauth.ReasonAPIClientNotFound, http.StatusNotFound)
	}
	if err := manager.Delete(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	refused(t, manager.Delete(t.Context(), ref), hitkeepauth.ReasonAPIClientNotFound, http.StatusNotFound)
}

func second[A any](_ A, err error) error { return err }

func TestRefusalsOfTheService(t *testing.T) {
	d := authtest.Service(t)
	manager := newClient(t, d.Listen, caller(d.Callers.Manage))
	alice := hitkeepauth.MustParseID(d.Directory.Users.Alice)
	create := hitkeepauth.CreateRequest{
		Actor: hitkeepauth.Actor{UserID: alice}, Owner: hitkeepauth.OwnedByUser(alice),
	}
	_, err := manager.Create(t.Context(), create)
	refused(t, err, hitkeepauth.ReasonInvalidField, http.StatusBadRequest)
	if fields := hitkeepauth.AsAPIError(err).Fields; len(fields) != 1 || fields[0].Field != "api_client.name" {
		t.Fatal(fields)
	}
	create.Name, create.SiteRoles = "x", []hitkeepauth.SiteGrant{{SiteID: hitkeepauth.MustParseID(goneSite), Role: hitkeepauth.SiteViewer}}
	_, err = manager.Create(t.Context(), create)
	refused(t, err, hitkeepauth.ReasonSiteNotDelegable, http.StatusForbidden)
	create.SiteRoles[0].Role = "root"
	_, err = manager.Create(t.Context(), create)
	refused(t, err, hitkeepauth.ReasonInvalidField, http.StatusBadRequest)
	create.SiteRoles, create.InstanceRole = nil, hitkeepauth.InstanceOwner
	_, err = manager.Create(t.Context(), create)
	refused(t, err, hitkeepauth.ReasonDelegationExceedsActor, http.StatusForbidden)
	create.InstanceRole, create.Owner = "", hitkeepauth.OwnedByUser(hitkeepauth.MustParseID(d.Directory.Users.Bob))
	_, err = manager.Create(t.Context(), create)
	refused(t, err, hitkeepauth.ReasonOwnerNotManaged, http.StatusForbidden)

	stranger := newClient(t, d.Listen, caller(d.Callers.Audit))
	_, err = stranger.List(t.Context(), create.Actor, create.Owner)
	refused(t, err, "CALLER_NOT_PERMITTED", http.StatusInternalServerError)
	gone := newClient(t, "127.0.0.1:1", caller(d.Callers.Manage))
	_, err = gone.List(t.Context(), create.Actor, create.Owner)
	refused(t, err, "", http.StatusServiceUnavailable)
}

// A reply that is lost does not make a second client, nor lose the token.
func TestAWriteWhoseReplyIsLostIsSentAgain(t *testing.T) {
	noLeaks(t)
	d := authtest.Service(t)
	server := authtest.Serve(t)
	proxy := authtest.NewProxy(t, server.Address)
	proxy.LoseReplies()
	manager := newClient(t, proxy.Address, caller(d.Callers.Manage))
	direct := newClient(t, d.Listen, caller(d.Callers.Manage))
	actor := hitkeepauth.Actor{UserID: hitkeepauth.MustParseID(d.Directory.Users.Bob)}
	owner := hitkeepauth.OwnedByUser(actor.UserID)
	before, err := direct.List(t.Context(), actor, owner)
	if err != nil {
		t.Fatal(err)
	}
	made, err := manager.Create(t.Context(), hitkeepauth.CreateRequest{
		Actor: actor, Owner: owner, Delegation: hitkeepauth.Delegation{Name: "once"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if proxy.Connections() < 2 {
		t.Fatal("no reply was lost")
	}
	after, err := direct.List(t.Context(), actor, owner)
	if err != nil || len(after) != len(before)+1 || after[0].ID != made.Client.ID {
		t.Fatal(len(before), len(after), err)
	}
	introspector := newClient(t, d.Listen, caller(d.Callers.Introspect))
	if _, err := introspector.Authenticate(t.Context(), made.Token); err != nil {
		t.Fatal(err)
	}
}

func TestTheJSONIsHitKeeps(t *testing.T) {
	id := hitkeepauth.MustParseID(goneSite)
	issued := hitkeepauth.IssuedToken{
		Client: &hitkeepauth.APIClient{
			ID: id, TenantID: id, OwnerType: hitkeepauth.OwnerTeam, SiteRoles: []hitkeepauth.SiteGrant{}, ETag: "e",
		},
		Token:    "hkt_secret",
		Revision: 1,
	}
	text, err := json.Marshal(issued)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"client":{"id":"` + goneSite + `","tenant_id":"` + goneSite + `","owner_type":"team",` +
		`"name":"","description":"","instance_role":"","created_at":"0001-01-01T00:00:00Z",` +
		`"updated_at":"0001-01-01T00:00:00Z","site_roles":[]},"token":"hkt_secret"}`
	if string(text) != want {
		t.Error(string(text))
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("made", "token", issued, "pointer", &issued)
	for _, said := range []string{
		fmt.Sprint(issued), fmt.Sprintf("%+v", &issued), fmt.Sprintf("%#v", issued), fmt.Sprintf("%s", issued), log.String(),
	} {
		if strings.Contains(said, "secret") {
			t.Error(said)
		}
	}
}

func TestAQuestionDoesNotShowItsToken(t *testing.T) {
	asked := hitkeepauth.Question{Token: "hkt_secret", Permission: hitkeepauth.SiteView}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("asked", "question", asked, "pointer", &asked)
	for _, said := range []string{
		fmt.Sprint(asked), fmt.Sprintf("%+v", &asked), fmt.Sprintf("%#v", asked), fmt.Sprintf("%s", asked), log.String(),
	} {
		if strings.Contains(said, "secret") || !strings.Contains(said, "site.view") {
			t.Error(said)
		}
	}
}
