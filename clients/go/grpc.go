package hitkeepauth

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// Methods says what the methods of a gRPC server need. Its keys are full names, such as
// "/hits.v1.HitService/List"; all methods of a service, "/hits.v1.HitService/*"; or all that
// are not named otherwise, "*". The most exact one counts.
//
// A method that no key matches is refused. Health checks and server reflection need nothing,
// unless their own names, or their services', are among the keys.
type Methods map[string]MethodRequirement

// MethodRequirement is what a method needs of a token. The zero value: that it works.
type MethodRequirement struct {
	// Public lets everything pass, without a principal. It excludes the rest.
	Public bool
	// Permission is what the token must carry. Empty: it only has to work.
	Permission Permission
	// Site finds the site of a call, for a permission on one. The request is nil for a method
	// with a stream of requests: there, the site can only be in the metadata. Of one with a single
	// request and a stream of responses, the token is checked when the request is received, before
	// the handler sees it; interceptors in between do not find the principal yet.
	Site func(ctx context.Context, request any) (ID, error)
}

const anyMethod = "*"

// Services that are asked by programs that have no token, such as load balancers.
var exempt = Methods{
	"/grpc.health.v1.Health/*":                    {Public: true},
	"/grpc.reflection.v1.ServerReflection/*":      {Public: true},
	"/grpc.reflection.v1alpha.ServerReflection/*": {Public: true},
}

func (m Methods) check() {
	for name, need := range m {
		flaw := need.flaw()
		if name != anyMethod && (strings.Count(name, "/") != 2 || name[0] != '/') {
			flaw = fmt.Errorf("%q is neither /SERVICE/METHOD nor /SERVICE/* nor *", name)
		}
		if flaw != nil {
			panic(&MisconfiguredError{Cause: fmt.Errorf("%s: %w", name, flaw)})
		}
	}
}

func (n MethodRequirement) flaw() error {
	switch {
	case n.Public && (n.Permission != "" || n.Site != nil):
		return fmt.Errorf("it is public, and needs %q", string(n.Permission))
	case n.Permission != "":
		return n.Permission.flaw(n.Site != nil)
	case n.Site != nil:
		return fmt.Errorf("a site without a permission")
	}
	return nil
}

func (m Methods) find(method string) (MethodRequirement, bool) {
	service := method[:strings.LastIndexByte(method, '/')+1] + "*"
	for _, key := range []string{method, service} {
		for _, methods := range []Methods{m, exempt} {
			if need, ok := methods[key]; ok {
				return need, true
			}
		}
	}
	need, ok := m[anyMethod]
	return need, ok
}

func (m Methods) authorize(
	ctx context.Context, by Authenticator, method string, request any,
) (context.Context, error) {
	need, ok := m.find(method)
	if !ok {
		return nil, &MisconfiguredError{Cause: fmt.Errorf("nothing says what %s needs", method)}
	}
	if need.Public {
		return ctx, nil
	}
	md, _ := metadata.FromIncomingContext(ctx)
	token, err := TokenFromMetadata(md)
	if err != nil {
		return nil, err
	}
	principal, err := authorize(withPeerSource(ctx), by, token, need.Permission, func() (ID, error) {
		if need.Site == nil {
			return ID{}, nil
		}
		return need.Site(ctx, request)
	})
	if err != nil {
		return nil, err
	}
	return NewContext(ctx, principal), nil
}

// UnaryServerInterceptor lets only those calls pass whose token does, with the principal in
// their context ([FromContext]). The token is in the metadata, as [TokenFromRequest] has it.
// It panics if a requirement can never be met.
//
// The address of the end client is that of the connection, unless the context carries another
// one: behind a proxy, an interceptor in front of this one has to find it
// ([ContextWithSourceIP]).
func (c *Client) UnaryServerInterceptor(methods Methods) grpc.UnaryServerInterceptor {
	return UnaryServerInterceptor(c, methods)
}

// UnaryServerInterceptor is [Client.UnaryServerInterceptor] for any authenticator.
func UnaryServerInterceptor(by Authenticator, methods Methods) grpc.UnaryServerInterceptor {
	methods.check()
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		ctx, err := methods.authorize(ctx, by, info.FullMethod, req)
		if err != nil {
			return nil, err
		}
		return handle(ctx, req)
	}
}

// StreamServerInterceptor is [Client.UnaryServerInterceptor] for streams. The token is checked
// when a stream begins, or when the request is there that names the site, and not again.
func (c *Client) StreamServerInterceptor(methods Methods) grpc.StreamServerInterceptor {
	return StreamServerInterceptor(c, methods)
}

// StreamServerInterceptor is [Client.StreamServerInterceptor] for any authenticator.
func StreamServerInterceptor(by Authenticator, methods Methods) grpc.StreamServerInterceptor {
	methods.check()
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
		if need, _ := methods.find(info.FullMethod); need.Site != nil && !info.IsClientStream {
			authorize := func(request any) (context.Context, error) {
				return methods.authorize(stream.Context(), by, info.FullMethod, request)
			}
			return handle(srv, &requestStream{ServerStream: stream, authorize: authorize})
		}
		ctx, err := methods.authorize(stream.Context(), by, info.FullMethod, nil)
		if err != nil {
			return err
		}
		return handle(srv, contextStream{ServerStream: stream, ctx: ctx})
	}
}

// requestStream authorizes a call by its only request. Until then, nothing is sent.
type requestStream struct {
	grpc.ServerStream
	authorize func(request any) (context.Context, error)
	// nil until it is authorized.
	ctx context.Context
}

var errNoRequest = &MisconfiguredError{Cause: errors.New("a response before the request that names the site")}

func (s *requestStream) Context() context.Context {
	if s.ctx == nil {
		return s.ServerStream.Context()
	}
	return s.ctx
}

func (s *requestStream) RecvMsg(request any) error {
	if err := s.ServerStream.RecvMsg(request); err != nil || s.ctx != nil {
		return err
	}
	ctx, err := s.authorize(request)
	if err != nil {
		return err
	}
	s.ctx = ctx
	return nil
}

func (s *requestStream) SendMsg(response any) error {
	if s.ctx == nil {
		return errNoRequest
	}
	return s.ServerStream.SendMsg(response)
}

type contextStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s contextStream) Context() context.Context { return s.ctx }
