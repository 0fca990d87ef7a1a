package hitkeepauth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"unicode/utf8"
)

// Longer than any token; such a text is not worth a question.
const maxTokenBytes = 4096

// Authenticator is what the middleware and the interceptors need of a [Client].
type Authenticator interface {
	Authenticate(ctx context.Context, token string) (*Principal, error)
	Check(ctx context.Context, token string, site ID, permission Permission) (*Principal, error)
}

// Question is all that can be asked about a token.
type Question struct {
	// Token is what the end client presented. White space around it does not matter.
	Token string
	// Permission is what it must carry. Empty: it only has to work.
	Permission Permission
	// SiteID is the site for a permission on one.
	SiteID ID
	// AtLeastRevision is what the answer must be based on at least, such as the revision of a
	// change that the asking program has made. 0: nothing. A revision that is not reached in
	// time is [ErrUnavailable].
	AtLeastRevision uint64
	// SourceIP is the address of the end client, as this program itself knows it. Only for API
	// clients that allow some addresses does the answer depend on it; without it, their tokens
	// do not work. Zero: what the context carries ([ContextWithSourceIP]), if anything.
	SourceIP netip.Addr
}

// Format implements [fmt.Formatter], without the token.
func (q Question) Format(s fmt.State, _ rune) {
	_, _ = fmt.Fprintf(s, "[a question about a token: permission %q, site %s]", q.Permission, q.SiteID)
}

// LogValue implements [slog.LogValuer], without the token.
func (q Question) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(q)) }

// Authenticate finds out whose token this is, and what it may do. The error is [ErrNoToken],
// [*InactiveError] or [ErrUnavailable].
func (c *Client) Authenticate(ctx context.Context, token string) (*Principal, error) {
	return c.Ask(ctx, Question{Token: token})
}

// Check is [Client.Authenticate], and besides requires a permission: one on a site, or with
// the zero ID one on the instance. The error may also be [*ForbiddenError], or
// [*MisconfiguredError] for a permission that does not exist, or that does not go with the
// site.
func (c *Client) Check(ctx context.Context, token string, site ID, permission Permission) (*Principal, error) {
	if permission == "" {
		return nil, &MisconfiguredError{Cause: errors.New("no permission to check")}
	}
	return c.Ask(ctx, Question{Token: token, Permission: permission, SiteID: site})
}

// Ask answers a question. The errors are those of [Client.Check].
func (c *Client) Ask(ctx context.Context, asked Question) (*Principal, error) {
	q := question{token: strings.TrimSpace(asked.Token), atLeast: asked.AtLeastRevision}
	q.source = canonical(asked.SourceIP)
	if !q.source.IsValid() {
		q.source, _ = SourceIPFromContext(ctx)
	}
	if asked.Permission == "" && !asked.SiteID.IsZero() {
		return nil, &MisconfiguredError{Cause: errors.New("a site without a permission to check")}
	}
	if asked.Permission != "" {
		if flaw := asked.Permission.flaw(!asked.SiteID.IsZero()); flaw != nil {
			return nil, &MisconfiguredError{Cause: flaw}
		}
	}
	if q.token == "" {
		return nil, ErrNoToken
	}
	if len(q.token) > maxTokenBytes || !utf8.ValidString(q.token) {
		return nil, &InactiveError{Reason: ReasonUnknownToken}
	}
	if c.embedded != nil {
		if asked.Permission != "" && !asked.Permission.known() {
			return nil, &MisconfiguredError{
				Cause: fmt.Errorf("this version does not know which roles carry %q", string(asked.Permission)),
			}
		}
		if c.life.Err() != nil {
			return nil, &UnavailableError{Cause: ErrClosed}
		}
		q.permission, q.site = asked.Permission, asked.SiteID
		return c.embedded.ask(ctx, &q)
	}
	// What a kept answer says is decided here, unless only the service knows the permission.
	decidesHere := c.cache != nil && asked.Permission.known()
	if !decidesHere {
		q.permission, q.site = asked.Permission, asked.SiteID
	}
	a, err := c.ask(ctx, q)
	if err != nil {
		return nil, err
	}
	if a.principal == nil {
		return nil, &InactiveError{Reason: a.reason}
	}
	principal := *a.principal
	if decidesHere && asked.Permission != "" {
		a.allowed = principal.Can(asked.Permission, asked.SiteID)
	}
	if asked.Permission != "" && !a.allowed {
		return nil, &ForbiddenError{Permission: asked.Permission, SiteID: asked.SiteID}
	}
	return &principal, nil
}

func (c *Client) ask(ctx context.Context, q question) (answer, error) {
	if c.life.Err() != nil {
		return answer{}, &UnavailableError{Cause: ErrClosed}
	}
	if c.cache != nil {
		// Before anything is set up for a question that need not be asked.
		if a, ok := c.cache.look(q); ok {
			return a, nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	a, err := c.source.ask(ctx, q)
	if err != nil {
		if c.life.Err() != nil {
			err = ErrClosed
		}
		return answer{}, fromAsking(ctx, err)
	}
	return a, nil
}
