package hitkeepauth

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/grpc/peer"
)

// API clients may work from some addresses only. The service never sees the end client, so the
// program that asks states the address, as it knows it itself: from the connection, or from a
// proxy that it trusts, and never from what the end client can write.

// ContextWithSourceIP is a context that carries the address of the end client, for all
// questions that are asked with it. [Middleware] and the interceptors make one. The zero
// address: it is unknown.
func ContextWithSourceIP(ctx context.Context, address netip.Addr) context.Context {
	return context.WithValue(ctx, sourceIPKey{}, canonical(address))
}

// SourceIPFromContext is the address that a context carries; false if it carries none, not even
// an unknown one.
func SourceIPFromContext(ctx context.Context) (netip.Addr, bool) {
	address, known := ctx.Value(sourceIPKey{}).(netip.Addr)
	return address, known
}

type sourceIPKey struct{}

// canonical is an address as the service understands it: of IPv4 in its own form, and without
// a zone.
func canonical(address netip.Addr) netip.Addr { return address.Unmap().WithZone("") }

// RemoteAddr is the address that a request's connection comes from: that of the end client if no
// proxy is in front, and otherwise that of the proxy.
func RemoteAddr(r *http.Request) netip.Addr { return hostOf(r.RemoteAddr) }

// ForwardedBy finds the address behind that many trusted proxies, each of which appends to
// X-Forwarded-For the address that it was called from: the entry that the first of them made,
// counted from the end, because what comes before it is the end client's. Fewer entries, or
// one that is no address, make it unknown. It panics if hops is not positive.
func ForwardedBy(hops int) func(*http.Request) netip.Addr {
	if hops < 1 {
		panic(&MisconfiguredError{Cause: fmt.Errorf("%d trusted proxies", hops)})
	}
	return func(r *http.Request) netip.Addr {
		entries := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
		if len(entries) < hops {
			return netip.Addr{}
		}
		return hostOf(strings.TrimSpace(entries[len(entries)-hops]))
	}
}

// hostOf is an address that may have a port.
func hostOf(text string) netip.Addr {
	if host, _, err := net.SplitHostPort(text); err == nil {
		text = host
	}
	address, err := netip.ParseAddr(strings.Trim(text, "[]"))
	if err != nil {
		return netip.Addr{}
	}
	return canonical(address)
}

// withRequestSource carries the address of a request, unless the context does already.
func withRequestSource(r *http.Request, find func(*http.Request) netip.Addr) context.Context {
	ctx := r.Context()
	if find == nil {
		if _, known := SourceIPFromContext(ctx); known {
			return ctx
		}
		find = RemoteAddr
	}
	return ContextWithSourceIP(ctx, find(r))
}

// withPeerSource carries the address of a call's connection, unless the context carries one.
func withPeerSource(ctx context.Context) context.Context {
	if _, known := SourceIPFromContext(ctx); known {
		return ctx
	}
	from, ok := peer.FromContext(ctx)
	if !ok || from.Addr == nil {
		return ctx
	}
	return ContextWithSourceIP(ctx, hostOf(from.Addr.String()))
}

// prefixesFromWire reads the ranges of an API client.
func prefixesFromWire(ranges []string) ([]netip.Prefix, error) {
	prefixes := make([]netip.Prefix, len(ranges))
	for i, text := range ranges {
		var err error
		if prefixes[i], err = netip.ParsePrefix(text); err != nil {
			return nil, fmt.Errorf("the ranges of addresses: %w", err)
		}
	}
	return slices.Clip(prefixes), nil
}
