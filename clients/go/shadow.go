package hitkeepauth

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"
)

// Lookup finds out whose token this is, as HitKeep's Store.GetAPIClientAuth does: nil and nil
// if the token does not work.
type Lookup[A any] func(ctx context.Context, token string) (*A, error)

// LookupBy makes a [Lookup] of a client, with the type that a program has of its own for what a
// token stands for. An error means that the answer is unknown.
func LookupBy[A any](by Authenticator, convert func(*Principal) *A) Lookup[A] {
	return func(ctx context.Context, token string) (*A, error) {
		principal, err := by.Authenticate(ctx, token)
		var inactive *InactiveError
		switch {
		case err == nil:
			return convert(principal), nil
		case errors.Is(err, ErrNoToken), errors.As(err, &inactive):
			return nil, nil
		}
		return nil, err
	}
}

const (
	// How many comparisons can run at the same time. Beyond that, they are left out.
	maxShadows = 64
	// How long the new lookup may take.
	shadowTimeout = 5 * time.Second
)

// ShadowVerdict is how two lookups compare.
type ShadowVerdict string

// The verdicts.
const (
	// ShadowSame: both say the same.
	ShadowSame ShadowVerdict = "same"
	// ShadowDifferent: for both the token works, with different content.
	ShadowDifferent ShadowVerdict = "different"
	// ShadowOnlyOld: it works only for the old one.
	ShadowOnlyOld ShadowVerdict = "only_old"
	// ShadowOnlyNew: it works only for the new one.
	ShadowOnlyNew ShadowVerdict = "only_new"
	// ShadowOldFailed: the old one failed, so there is nothing to compare with.
	ShadowOldFailed ShadowVerdict = "old_failed"
	// ShadowNewFailed: the new one failed.
	ShadowNewFailed ShadowVerdict = "new_failed"
	// ShadowSkipped: the new one was not asked, because too many comparisons were running.
	ShadowSkipped ShadowVerdict = "skipped"
)

// Shadowed is one comparison. It does not have the token.
type Shadowed[A any] struct {
	Verdict        ShadowVerdict
	Old, New       *A
	OldErr, NewErr error
	// How long each took.
	OldTook, NewTook time.Duration
}

// Shadow answers by the old lookup alone, and compares it with the new one in the background:
// the first step of a migration. The report is called once for each lookup, by any goroutine;
// also if both agree, so that it can count.
//
// What the old lookup gives is compared with [reflect.DeepEqual] while the request goes on, so
// nothing may change it, and the new one should make nil, or an empty map, of the same things.
// Of a token that changes between the two lookups, they say different things without a
// mistake of either.
func Shadow[A any](old, shadow Lookup[A], report func(context.Context, Shadowed[A])) Lookup[A] {
	room := make(chan struct{}, maxShadows)
	return func(ctx context.Context, token string) (*A, error) {
		begun := time.Now()
		auth, err := old(ctx, token)
		result := Shadowed[A]{Old: auth, OldErr: err, OldTook: time.Since(begun)}
		// The new one must not end with the request, which does not wait for it.
		ctx = context.WithoutCancel(ctx)
		select {
		case room <- struct{}{}:
			go func() {
				defer func() { <-room }()
				limited, cancel := context.WithTimeout(ctx, shadowTimeout)
				defer cancel()
				begun := time.Now()
				result.New, result.NewErr = shielded(limited, token, shadow)
				result.NewTook = time.Since(begun)
				result.Verdict = result.compare()
				report(ctx, result)
			}()
		default:
			result.Verdict = ShadowSkipped
			report(ctx, result)
		}
		return auth, err
	}
}

// shielded looks up, and makes an error of a panic, which would end the program.
func shielded[A any](ctx context.Context, token string, look Lookup[A]) (auth *A, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			auth, err = nil, fmt.Errorf("the new lookup panicked: %v", cause)
		}
	}()
	return look(ctx, token)
}

func (s *Shadowed[A]) compare() ShadowVerdict {
	switch {
	case s.OldErr != nil:
		return ShadowOldFailed
	case s.NewErr != nil:
		return ShadowNewFailed
	case s.Old == nil && s.New != nil:
		return ShadowOnlyNew
	case s.Old != nil && s.New == nil:
		return ShadowOnlyOld
	case reflect.DeepEqual(s.Old, s.New):
		return ShadowSame
	}
	return ShadowDifferent
}
