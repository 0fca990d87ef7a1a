package hitkeepauth_test

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	hitkeepauth "github.com/pascalebeier/hitkeep-auth/clients/go"
	"github.com/pascalebeier/hitkeep-auth/clients/go/internal/authtest"
)

func TestALeakEndsTheTokenWhoeverReportsIt(t *testing.T) {
	noLeaks(t)
	d := authtest.Service(t)
	manager := newClient(t, d.Listen, caller(d.Callers.Manage))
	introspector := newClient(t, d.Listen, caller(d.Callers.Introspect))
	// Other tests use Alice's clients.
	bob := hitkeepauth.Actor{UserID: hitkeepauth.MustParseID(d.Directory.Users.Bob)}
	owner := hitkeepauth.OwnedByUser(bob.UserID)
	create := func(name string) *hitkeepauth.IssuedToken {
		made, err := manager.Create(t.Context(), hitkeepauth.CreateRequest{
			Actor: bob, Owner: owner, Delegation: hitkeepauth.Delegation{Name: name},
		})
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	made := create("leaked")
	leak := hitkeepauth.Leak{Token: made.Token, Actor: &bob, Source: "gitleaks", URL: "https://git.example/a"}
	for _, printed := range []string{fmt.Sprint(leak), fmt.Sprintf("%+v %#v", leak, leak), slog.AnyValue(leak).Resolve().String()} {
		if strings.Contains(printed, made.Token[4:20]) || !strings.Contains(printed, "gitleaks") {
			t.Fatal("a leak is printed with its token, or without its source")
		}
	}
	report, err := manager.ReportLeak(t.Context(), leak)
	if err != nil || !report.WasLive || !report.Revoked || report.Client.ID != made.Client.ID {
		t.Fatal(report, err)
	}
	question := hitkeepauth.Question{Token: made.Token, AtLeastRevision: report.Revision}
	if _, err := introspector.Ask(t.Context(), question); err == nil {
		t.Fatal("the token still works")
	}
	again, err := manager.ReportLeak(t.Context(), leak)
	if err != nil || again.WasLive || again.Revoked || again.Client.RevokedAt == nil {
		t.Fatal(again, err)
	}
	unknown, err := manager.ReportLeak(t.Context(), hitkeepauth.Leak{TokenHash: strings.Repeat("0", 64)})
	if err != nil || unknown.Client != nil || unknown.WasLive {
		t.Fatal(unknown, err)
	}
	_, err = manager.ReportLeak(t.Context(), hitkeepauth.Leak{})
	refused(t, err, hitkeepauth.ReasonInvalidField, 400)
	_, err = manager.ReportLeak(t.Context(), hitkeepauth.Leak{Token: "a", TokenHash: "b"})
	refused(t, err, hitkeepauth.ReasonInvalidField, 400)
	_, err = manager.ReportLeak(t.Context(), hitkeepauth.Leak{Token: d.Callers.Introspect})
	refused(t, err, hitkeepauth.ReasonServiceAccountToken, 409)

	// All that is left of his.
	kept := create("kept")
	_, err = manager.RevokeAll(t.Context(), hitkeepauth.Selection{Actor: bob})
	refused(t, err, hitkeepauth.ReasonInvalidField, 400)
	selection := hitkeepauth.Selection{Actor: bob, Owner: owner, CreatedBy: bob.UserID, ValidateOnly: true}
	tried, err := manager.RevokeAll(t.Context(), selection)
	if err != nil || !slices.Contains(tried.IDs, kept.Client.ID) || slices.Contains(tried.IDs, made.Client.ID) {
		t.Fatal(tried, err)
	}
	selection.ValidateOnly = false
	revoked, err := manager.RevokeAll(t.Context(), selection)
	if err != nil || !slices.Equal(revoked.IDs, tried.IDs) || revoked.Revision <= tried.Revision {
		t.Fatal(revoked, err)
	}
	found, err := manager.Find(t.Context(), hitkeepauth.Search{Actor: bob, Owner: owner, State: hitkeepauth.StateRevoked})
	if err != nil || !slices.ContainsFunc(found, func(c *hitkeepauth.APIClient) bool { return c.ID == kept.Client.ID }) {
		t.Fatal(found, err)
	}
	found, err = manager.Find(t.Context(), hitkeepauth.Search{
		Actor: bob, Owner: owner, IncludeInactive: true, CreatedBy: bob.UserID,
		UnusedSince: time.Now().AddDate(-1, 0, 0), ExpireBefore: time.Now(),
	})
	if err != nil || len(found) != 0 {
		t.Fatal(found, err)
	}
	_, err = manager.Find(t.Context(), hitkeepauth.Search{Actor: bob, Owner: owner, State: "GONE"})
	refused(t, err, hitkeepauth.ReasonInvalidField, 400)
	// No owner by mistake is not everybody's.
	_, err = manager.List(t.Context(), bob, hitkeepauth.Owner{})
	refused(t, err, hitkeepauth.ReasonInvalidField, 400)
}
