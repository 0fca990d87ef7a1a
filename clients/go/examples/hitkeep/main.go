// Command hitkeep is an example: a server with some of HitKeep's routes, in HitKeep's order of
// checks, whose tokens are judged by hitkeep-auth.
//
//	hitkeep-auth dev --json    # prints the callers' tokens
//	HITKEEP_AUTH_TOKEN=hks_… HITKEEP_AUTH_MANAGE_TOKEN=hks_… go run ./examples/hitkeep
//
// The first token is one of an account that may introspect, or replicate with -mode embedded.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"time"

	hitkeepauth "github.com/pascalebeier/hitkeep-auth/clients/go"
)

const (
	headerTimeout = 5 * time.Second
	drainTimeout  = 10 * time.Second
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "where to listen")
	target := flag.String("auth", "127.0.0.1:50051", "where hitkeep-auth listens, without TLS")
	mode := flag.String("mode", "cached", "how tokens are judged: asking, cached or embedded")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *listen, *target, *mode); err != nil {
		slog.Error("it ended", "error", err)
		os.Exit(1)
	}
}

// modes are the ways in which tokens are judged.
var modes = map[string][]hitkeepauth.Option{
	"asking":   nil,
	"cached":   {hitkeepauth.WithCache(10_000)},
	"embedded": {hitkeepauth.WithEmbedded(hitkeepauth.EmbeddedOptions{Log: slog.Default()})},
}

func run(ctx context.Context, listen, target, mode string) error {
	options, known := modes[mode]
	if !known {
		return fmt.Errorf("there is no mode %q", mode)
	}
	options = append(options, hitkeepauth.WithPlaintext(), hitkeepauth.WithCallerToken(os.Getenv("HITKEEP_AUTH_TOKEN")))
	// Two accounts, so that the many goroutines that check tokens cannot be made to manage any.
	tokens, err := hitkeepauth.New(target, options...)
	if err != nil {
		return err
	}
	defer func() { _ = tokens.Close() }()
	manager, err := hitkeepauth.New(target, hitkeepauth.WithPlaintext(),
		hitkeepauth.WithCallerToken(os.Getenv("HITKEEP_AUTH_MANAGE_TOKEN")))
	if err != nil {
		return err
	}
	defer func() { _ = manager.Close() }()

	app := &App{Tokens: tokens, Manager: manager, Users: noUsers{}, Log: slog.Default()}
	server := &http.Server{Addr: listen, Handler: app.Handler(), ReadHeaderTimeout: headerTimeout}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if err := server.Shutdown(drain); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// noUsers is for a server that is used with tokens alone.
type noUsers struct{}

func (noUsers) Session(*http.Request) (hitkeepauth.ID, bool) { return hitkeepauth.ID{}, false }

func (noUsers) Can(context.Context, hitkeepauth.ID, hitkeepauth.Permission, hitkeepauth.ID) (bool, error) {
	return false, nil
}
