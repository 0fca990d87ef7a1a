package hitkeepauth_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	hitkeepauth "github.com/pascalebeier/hitkeep-auth/clients/go"
)

// hitKeeps is what HitKeep has for a token that works.
type hitKeeps struct {
	UserID hitkeepauth.ID
	Roles  map[hitkeepauth.ID]hitkeepauth.SiteRole
}

func convert(p *hitkeepauth.Principal) *hitKeeps {
	return &hitKeeps{UserID: p.UserID, Roles: p.SiteRoles.Map()}
}

func always(auth *hitKeeps, err error) hitkeepauth.Lookup[hitKeeps] {
	return func(context.Context, string) (*hitKeeps, error) { return auth, err }
}

func TestALookupIsThatOfHitKeep(t *testing.T) {
	look := hitkeepauth.LookupBy(asked{}, convert)
	if auth, err := look(t.Context(), "x"); err != nil || auth.UserID.String() != goneSite {
		t.Error(auth, err)
	}
	for _, no := range []error{hitkeepauth.ErrNoToken, &hitkeepauth.InactiveError{}} {
		look := hitkeepauth.LookupBy(asked{no}, convert)
		if auth, err := look(t.Context(), "x"); auth != nil || err != nil {
			t.Error(auth, err)
		}
	}
	unavailable := &hitkeepauth.UnavailableError{Cause: context.Canceled}
	if auth, err := hitkeepauth.LookupBy(asked{unavailable}, convert)(t.Context(), "x"); auth != nil || err == nil {
		t.Error(auth, err)
	}
}

func TestShadow(t *testing.T) {
	broken := errors.New("broken")
	one := &hitKeeps{UserID: hitkeepauth.MustParseID(goneSite)}
	panics := func(context.Context, string) (*hitKeeps, error) { panic("x") }
	for _, c := range []struct {
		old, new hitkeepauth.Lookup[hitKeeps]
		verdict  hitkeepauth.ShadowVerdict
	}{
		{always(one, nil), always(&hitKeeps{UserID: one.UserID}, nil), hitkeepauth.ShadowSame},
		{always(nil, nil), always(nil, nil), hitkeepauth.ShadowSame},
		{always(one, nil), always(&hitKeeps{}, nil), hitkeepauth.ShadowDifferent},
		{always(one, nil), always(nil, nil), hitkeepauth.ShadowOnlyOld},
		{always(nil, nil), always(one, nil), hitkeepauth.ShadowOnlyNew},
		{always(nil, broken), always(one, nil), hitkeepauth.ShadowOldFailed},
		{always(one, nil), always(nil, broken), hitkeepauth.ShadowNewFailed},
		{always(one, nil), panics, hitkeepauth.ShadowNewFailed},
	} {
		synctest.Test(t, func(t *testing.T) {
			var got []hitkeepauth.Shadowed[hitKeeps]
			look := hitkeepauth.Shadow(c.old, c.new, func(_ context.Context, s hitkeepauth.Shadowed[hitKeeps]) {
				got = append(got, s)
			})
			auth, err := look(t.Context(), "x")
			synctest.Wait()
			wantAuth, wantErr := c.old(t.Context(), "x")
			if auth != wantAuth || err != wantErr {
				t.Error("it is not the old one that answers")
			}
			if len(got) != 1 || got[0].Verdict != c.verdict {
				t.Errorf("%+v, where %s was to be", got, c.verdict)
			}
		})
	}
}

// A new service that hangs holds nothing up, and its questions do not pile up.
func TestAShadowThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := func(ctx context.Context, _ string) (*hitKeeps, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		reports := make(chan hitkeepauth.ShadowVerdict, 1000)
		look := hitkeepauth.Shadow(always(nil, nil), hangs, func(_ context.Context, s hitkeepauth.Shadowed[hitKeeps]) {
			reports <- s.Verdict
		})
		ctx, cancel := context.WithCancel(t.Context())
		for range 100 {
			if _, err := look(ctx, "x"); err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		synctest.Wait()
		skipped := len(reports)
		for range skipped {
			if verdict := <-reports; verdict != hitkeepauth.ShadowSkipped {
				t.Fatal(verdict)
			}
		}
		for range 100 - skipped {
			if verdict := <-reports; verdict != hitkeepauth.ShadowNewFailed {
				t.Fatal(verdict)
			}
		}
		if skipped == 0 || skipped == 100 {
			t.Fatal(skipped)
		}
	})
}
