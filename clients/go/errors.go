package hitkeepauth

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/pascalebeier/hitkeep-auth/clients/go/hitkeepauthpb"
)

// ErrNoToken says that there is no token: 401, or UNAUTHENTICATED.
var ErrNoToken error = noTokenError{}

// ErrUnavailable says that it is unknown whether a token works: 503, or UNAVAILABLE.
// Nothing may pass then, and it says nothing against the token. Errors that are this one
// are [*UnavailableError].
var ErrUnavailable = errors.New("hitkeepauth: it is unknown whether the token works")

// ErrHumanOnly says that a token works, and that no token is enough: 403, or
// PERMISSION_DENIED.
var ErrHumanOnly error = humanOnlyError{}

// ErrClosed is why a [Client] that was closed cannot tell anything.
var ErrClosed = errors.New("hitkeepauth: the client is closed")

type noTokenError struct{}

func (noTokenError) Error() string { return "hitkeepauth: there is no token" }

// GRPCStatus is what a gRPC server answers.
func (noTokenError) GRPCStatus() *status.Status {
	return status.New(codes.Unauthenticated, noToken.description)
}

type humanOnlyError struct{}

func (humanOnlyError) Error() string { return "hitkeepauth: no token is enough, only a person" }

// GRPCStatus is what a gRPC server answers.
func (humanOnlyError) GRPCStatus() *status.Status {
	return status.New(codes.PermissionDenied, humanOnly.description)
}

// InactiveReason says why a token does not work.
type InactiveReason string

// The reasons, the first that applies. Newer services may have more.
const (
	// ReasonUnknownToken: there is no such token, or it is none at all.
	ReasonUnknownToken InactiveReason = "UNKNOWN_TOKEN"
	// ReasonTokenRotated: a newer token took its place.
	ReasonTokenRotated InactiveReason = "TOKEN_ROTATED"
	// ReasonRevoked: the API client was revoked.
	ReasonRevoked InactiveReason = "REVOKED"
	// ReasonExpired: the API client has expired.
	ReasonExpired InactiveReason = "EXPIRED"
	// ReasonOwnerInactive: the owning user is disabled, or the owning team archived.
	ReasonOwnerInactive InactiveReason = "OWNER_INACTIVE"
	// ReasonNotYetActive: the API client does not work yet.
	ReasonNotYetActive InactiveReason = "NOT_YET_ACTIVE"
	// ReasonSourceNotAllowed: the API client allows only some addresses, and this one is none of
	// them, or is not known.
	ReasonSourceNotAllowed InactiveReason = "SOURCE_NOT_ALLOWED"
	// ReasonAmbiguous: the request has several tokens, so that programs could disagree on
	// which one is meant. This one is found before the service is asked.
	ReasonAmbiguous InactiveReason = "AMBIGUOUS"
)

// InactiveError says that a token does not work: 401, or UNAUTHENTICATED.
type InactiveError struct {
	// Reason is for logs. The client that presented the token is not to know it.
	Reason InactiveReason
}

func (e *InactiveError) Error() string {
	return fmt.Sprintf("hitkeepauth: the token does not work (%s)", e.Reason)
}

// GRPCStatus is what a gRPC server answers. It does not say the reason.
func (e *InactiveError) GRPCStatus() *status.Status {
	return status.New(codes.Unauthenticated, inactiveToken.description)
}

// ForbiddenError says that a token works, and does not carry what is needed: 403, or
// PERMISSION_DENIED.
type ForbiddenError struct {
	// Permission is the one that is missing.
	Permission Permission
	// SiteID is the site that it is missing on. Zero: it is one on the instance.
	SiteID ID
}

func (e *ForbiddenError) Error() string {
	if e.SiteID.IsZero() {
		return fmt.Sprintf("hitkeepauth: the token does not carry %s", e.Permission)
	}
	return fmt.Sprintf("hitkeepauth: the token does not carry %s on site %s", e.Permission, e.SiteID)
}

// GRPCStatus is what a gRPC server answers.
func (e *ForbiddenError) GRPCStatus() *status.Status {
	return status.New(codes.PermissionDenied, forbidden.description)
}

// UnavailableError is [ErrUnavailable] with its cause: the service cannot be reached, is
// overloaded, is not sure to be up to date, or does not accept this program as a caller; or
// the context ended.
type UnavailableError struct {
	// Cause is why, never nil. It may be a gRPC status.
	Cause error
}

func (e *UnavailableError) Error() string { return ErrUnavailable.Error() + ": " + e.Cause.Error() }

// Is reports that this is [ErrUnavailable].
func (e *UnavailableError) Is(target error) bool { return target == ErrUnavailable }

func (e *UnavailableError) Unwrap() error { return e.Cause }

// GRPCStatus is what a gRPC server answers: not the status of the cause, which may be
// UNAUTHENTICATED because this program is not known to the service.
func (e *UnavailableError) GRPCStatus() *status.Status {
	return status.New(codes.Unavailable, unavailable.description)
}

// MisconfiguredError says that a permission was asked for in a way that can never be
// answered: 500, or INTERNAL.
type MisconfiguredError struct {
	// Cause says what is wrong.
	Cause error
}

func (e *MisconfiguredError) Error() string { return "hitkeepauth: misconfigured: " + e.Cause.Error() }

func (e *MisconfiguredError) Unwrap() error { return e.Cause }

// GRPCStatus is what a gRPC server answers.
func (e *MisconfiguredError) GRPCStatus() *status.Status {
	return status.New(codes.Internal, misconfigured.description)
}

// SiteError says that a request does not name its site: 400, or INVALID_ARGUMENT.
type SiteError struct {
	// Cause says why.
	Cause error
}

func (e *SiteError) Error() string {
	return "hitkeepauth: the request names no site: " + e.Cause.Error()
}

func (e *SiteError) Unwrap() error { return e.Cause }

// GRPCStatus is what a gRPC server answers.
func (e *SiteError) GRPCStatus() *status.Status {
	return status.New(codes.InvalidArgument, siteUnclear.description)
}

func inactiveReason(reason pb.InactiveReason) InactiveReason {
	return InactiveReason(strings.TrimPrefix(reason.String(), "INACTIVE_REASON_"))
}

// fromAsking is the error of a question that got no answer.
func fromAsking(ctx context.Context, err error) error {
	switch status.Code(err) {
	case codes.InvalidArgument:
		return &MisconfiguredError{Cause: err}
	// gRPC has statuses of its own for these, which errors.Is does not find.
	case codes.DeadlineExceeded:
		err = fmt.Errorf("%w: %w", context.DeadlineExceeded, err)
	case codes.Canceled:
		if cause := context.Cause(ctx); cause != nil {
			err = fmt.Errorf("%w: %w", cause, err)
		}
	}
	return &UnavailableError{Cause: err}
}
