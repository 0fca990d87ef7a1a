package hitkeepauth

import (
	"net/http"
	"strings"

	"google.golang.org/grpc/metadata"
)

const (
	authorizationHeader = "authorization"
	apiKeyHeader        = "x-api-key"
	bearerScheme        = "bearer"
	// What HTTP takes for white space in a header.
	headerSpace = " \t"
)

// TokenFromRequest finds the token of a request as HitKeep does: that of "Authorization:
// Bearer", in any case, or else "X-Api-Key", also after an empty Bearer or another scheme.
//
// The error is [ErrNoToken] if there is none, and an [*InactiveError] if one of the two headers
// is there more than once: another program could take the other one.
func TokenFromRequest(r *http.Request) (string, error) {
	return findToken(r.Header.Values(authorizationHeader), r.Header.Values(apiKeyHeader))
}

// TokenFromMetadata is [TokenFromRequest] for the metadata of a gRPC call.
func TokenFromMetadata(md metadata.MD) (string, error) {
	return findToken(md.Get(authorizationHeader), md.Get(apiKeyHeader))
}

func findToken(authorization, apiKey []string) (string, error) {
	switch len(authorization) {
	case 0:
	case 1:
		if token := bearer(authorization[0]); token != "" {
			return token, nil
		}
	default:
		return "", &InactiveError{Reason: ReasonAmbiguous}
	}
	switch len(apiKey) {
	case 0:
	case 1:
		if token := strings.Trim(apiKey[0], headerSpace); token != "" {
			return token, nil
		}
	default:
		return "", &InactiveError{Reason: ReasonAmbiguous}
	}
	return "", ErrNoToken
}

// bearer is the token of an authorization; empty if its scheme is another.
func bearer(value string) string {
	scheme, token, found := strings.Cut(strings.Trim(value, headerSpace), " ")
	if !found || !strings.EqualFold(scheme, bearerScheme) {
		return ""
	}
	return strings.Trim(token, headerSpace)
}
