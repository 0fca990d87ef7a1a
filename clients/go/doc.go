// Package hitkeepauth is the Go client of hitkeep-auth, the service that issues,
// manages and introspects HitKeep's API tokens.
//
// A [Client] answers one question on every request: does this token work, and
// what may it do?
//
//	principal, err := client.Check(ctx, token, siteID, hitkeepauth.SiteView)
//	var inactive *hitkeepauth.InactiveError
//	var forbidden *hitkeepauth.ForbiddenError
//	switch {
//	case err == nil:                                  // principal may view the site
//	case errors.Is(err, hitkeepauth.ErrNoToken):      // 401
//	case errors.As(err, &inactive):                   // 401
//	case errors.As(err, &forbidden):                  // 403
//	case errors.Is(err, hitkeepauth.ErrUnavailable):  // 503: the answer is unknown
//	}
//
// [Client.Middleware] and [Client.UnaryServerInterceptor] do this for servers.
// While it is unknown whether a token works, nothing passes, and the answer
// is neither 401 nor 403: a client must not throw away a token because of an
// outage.
//
// A client asks each time, keeps answers for as long as the service allows
// ([WithCache]), or holds a copy of the service's index ([WithEmbedded]).
//
// Besides, a client manages API clients on behalf of people ([Client.Create] and
// its like), and pushes the directory of users, teams and sites
// ([Client.SyncDirectory]). Whatever has no method here is reached by the
// generated code, over [Client.Conn].
package hitkeepauth
