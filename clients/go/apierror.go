package hitkeepauth

import (
	"errors"
	"fmt"
	"net/http"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const errorDomain = "auth.hitkeep.com"

// The reasons of errors that programs act on. The proto's ErrorReason has all of them, with
// examples.
const (
	ReasonInvalidField           = "INVALID_FIELD"
	ReasonAPIClientNotFound      = "API_CLIENT_NOT_FOUND"
	ReasonOwnerNotManaged        = "OWNER_NOT_MANAGED"
	ReasonDelegationExceedsActor = "DELEGATION_EXCEEDS_ACTOR"
	ReasonSiteNotDelegable       = "SITE_NOT_DELEGABLE"
	ReasonAPIClientInactive      = "API_CLIENT_INACTIVE"
	ReasonETagMismatch           = "ETAG_MISMATCH"
	ReasonAPIClientQuota         = "API_CLIENT_QUOTA"
	ReasonReplyGone              = "REPLY_GONE"
	ReasonMassRemoval            = "MASS_REMOVAL"
	ReasonDirectoryChanged       = "DIRECTORY_CHANGED"
	ReasonServiceAccountToken    = "SERVICE_ACCOUNT_TOKEN"
	ReasonSelectionTooLarge      = "SELECTION_TOO_LARGE"
)

// APIError is a call that the service refused, or that did not come about.
type APIError struct {
	// Code is the status.
	Code codes.Code
	// Reason is why, such as [ReasonETagMismatch]. Empty if the error is not the service's own,
	// such as one of the connection.
	Reason string
	// Message says it in words, for people who operate the program.
	Message string
	// Metadata is what the reason is about.
	Metadata map[string]string
	// Fields are those of the request that are wrong.
	Fields []FieldViolation

	cause error
}

// FieldViolation is a field of a request that is wrong.
type FieldViolation struct {
	// Field is its path from the request, such as "api_client.name".
	Field string
	// Description is what is wrong with it.
	Description string
}

func (e *APIError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("hitkeepauth: %s: %s", e.Code, e.Message)
	}
	return fmt.Sprintf("hitkeepauth: %s: %s", e.Reason, e.Message)
}

func (e *APIError) Unwrap() error { return e.cause }

// HTTPStatus is what a management route answers.
func (e *APIError) HTTPStatus() int {
	switch e.Reason {
	case ReasonInvalidField:
		return http.StatusBadRequest
	case ReasonAPIClientNotFound:
		return http.StatusNotFound
	case ReasonOwnerNotManaged, ReasonDelegationExceedsActor, ReasonSiteNotDelegable:
		return http.StatusForbidden
	case ReasonAPIClientInactive, ReasonETagMismatch, ReasonAPIClientQuota, ReasonReplyGone,
		ReasonMassRemoval, ReasonDirectoryChanged, ReasonServiceAccountToken, ReasonSelectionTooLarge:
		return http.StatusConflict
	}
	switch e.Code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return http.StatusServiceUnavailable
	}
	// Among others that this program is no caller of the service, which is not for the person
	// who acts to mend.
	return http.StatusInternalServerError
}

// AsAPIError reads the error of a call: of the methods of this package, and of generated
// code. It is nil if there is no error.
func AsAPIError(err error) *APIError {
	if err == nil {
		return nil
	}
	var known *APIError
	if errors.As(err, &known) {
		return known
	}
	// Also of a context's error.
	s := status.FromContextError(err)
	if of, ok := status.FromError(err); ok {
		s = of
	}
	e := &APIError{Code: s.Code(), Message: s.Message(), cause: err}
	for _, detail := range s.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.GetDomain() == errorDomain {
				e.Reason, e.Metadata = detail.GetReason(), detail.GetMetadata()
			}
		case *errdetails.BadRequest:
			for _, field := range detail.GetFieldViolations() {
				e.Fields = append(e.Fields, FieldViolation{field.GetField(), field.GetDescription()})
			}
		}
	}
	return e
}

// apiError is [AsAPIError], but nil stays nil.
func apiError(err error) error {
	if err == nil {
		return nil
	}
	return AsAPIError(err)
}
