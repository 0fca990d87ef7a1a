package hitkeepauth

import (
	"errors"
	"net/http"
)

// refusal is what an end client is answered, by the same words as the service's own
// endpoints for proxies.
type refusal struct {
	status      int
	code        string
	description string
}

var (
	noToken = refusal{http.StatusUnauthorized, "unauthorized", "The request has no token."}

	inactiveToken = refusal{http.StatusUnauthorized, "invalid_token", "The token does not work."}

	forbidden = refusal{http.StatusForbidden, "insufficient_scope", "The token does not allow this."}

	humanOnly = refusal{
		http.StatusForbidden, "insufficient_scope",
		"No token allows this: it is for people who are signed in.",
	}

	unavailable = refusal{
		http.StatusServiceUnavailable, "temporarily_unavailable",
		"It cannot be determined right now whether the token works. Try again.",
	}

	misconfigured = refusal{
		http.StatusInternalServerError, "server_error", "The check of this route is misconfigured.",
	}

	siteUnclear = refusal{
		http.StatusBadRequest, "invalid_request", "The path does not name a site by its UUID.",
	}
)

// How many seconds to wait before asking again.
const retryAfter = "1"

const challenge = `Bearer realm="hitkeep"`

// refusalOf is the answer to an error of [Client.Ask], and its challenge. An error that is
// none of these also means that the answer is unknown: nothing passes.
func refusalOf(err error) (refusal, string) {
	var (
		inactive *InactiveError
		denied   *ForbiddenError
		mistake  *MisconfiguredError
		site     *SiteError
	)
	switch {
	// First, because its cause can be anything.
	case errors.Is(err, ErrUnavailable):
		return unavailable, ""
	case errors.Is(err, ErrNoToken):
		return noToken, challenge
	case errors.As(err, &inactive):
		return inactiveToken, challenge + `, error="invalid_token"`
	case errors.As(err, &denied):
		return forbidden, challenge + `, error="insufficient_scope", scope="` + string(denied.Permission) + `"`
	case errors.Is(err, ErrHumanOnly):
		return humanOnly, challenge + `, error="insufficient_scope"`
	case errors.As(err, &mistake):
		return misconfigured, ""
	case errors.As(err, &site):
		return siteUnclear, ""
	}
	return unavailable, ""
}

// WriteError answers a request that may not pass, as the service's own endpoints for proxies
// do: with a status (401, 403, 503; 400 and 500 for what is wrong with the path or with the
// route), a challenge after RFC 6750, and a body of JSON. The reason why a token is
// inactive is not revealed.
func WriteError(w http.ResponseWriter, err error) {
	refused, challenge := refusalOf(err)
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("Content-Type", "application/json")
	if challenge != "" {
		header.Set("WWW-Authenticate", challenge)
	}
	if refused.status == http.StatusServiceUnavailable {
		header.Set("Retry-After", retryAfter)
	}
	w.WriteHeader(refused.status)
	// A client that is gone needs no answer.
	_, _ = w.Write([]byte(`{"error":"` + refused.code + `","error_description":"` + refused.description + `"}`))
}

// HTTPStatus is the status that [WriteError] answers an error with; that of an [*APIError] is
// the one for management routes.
func HTTPStatus(err error) int {
	var refused *APIError
	if !errors.Is(err, ErrUnavailable) && errors.As(err, &refused) {
		return refused.HTTPStatus()
	}
	refusal, _ := refusalOf(err)
	return refusal.status
}
