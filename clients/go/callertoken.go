package hitkeepauth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// How coarse the times of files can be: a file that was written so recently when it was read
// may have been written again since without a difference that shows.
const fileTimeGranularity = 2 * time.Second

// Larger than any token.
const maxTokenFileBytes = 4096

// callerToken is what authenticates this program. It is never printed.
type callerToken struct {
	path string

	mu     sync.Mutex
	header string
	// The file as it was before it was read.
	read   os.FileInfo
	readAt time.Time
}

// callerCredentials are a token in the metadata of each call of a connection. They implement gRPC's
// PerRPCCredentials.
type callerCredentials struct {
	*callerToken
	requiresTLS bool
}

func callerTokenFromValue(token string) (*callerToken, error) {
	header, err := callerHeader(token)
	if err != nil {
		return nil, err
	}
	return &callerToken{header: header}, nil
}

func callerTokenFromFile(path string) (*callerToken, error) {
	c := &callerToken{path: path}
	if err := c.refresh(); err != nil {
		return nil, err
	}
	return c, nil
}

func callerHeader(token string) (string, error) {
	token = strings.TrimSpace(token)
	switch {
	case token == "":
		return "", errors.New("the caller's token is empty")
	case strings.HasPrefix(token, "hkp_"), strings.HasPrefix(token, "hkt_"):
		return "", errors.New("the token of an API client is given as the caller's: it takes one of " +
			"a service account, which begins with hks_")
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", errors.New("the caller's token has characters that no token has")
	}
	return "Bearer " + token, nil
}

// refresh reads the file if it may have changed.
func (c *callerToken) refresh() error {
	now := time.Now()
	info, err := os.Stat(c.path)
	if err != nil {
		return fmt.Errorf("the caller's token: %w", err)
	}
	if c.read != nil && os.SameFile(info, c.read) && info.Size() == c.read.Size() &&
		info.ModTime().Equal(c.read.ModTime()) && c.readAt.Sub(info.ModTime()) > fileTimeGranularity {
		return nil
	}
	if info.Size() > maxTokenFileBytes {
		return fmt.Errorf("the caller's token: %s is too large for one", c.path)
	}
	content, err := os.ReadFile(c.path)
	if err != nil {
		return fmt.Errorf("the caller's token: %w", err)
	}
	header, err := callerHeader(string(bytes.TrimSpace(content)))
	if err != nil {
		return fmt.Errorf("%s: %w", c.path, err)
	}
	c.header, c.read, c.readAt = header, info, now
	return nil
}

// GetRequestMetadata implements gRPC's PerRPCCredentials.
func (c *callerToken) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.path != "" {
		// While a file is being replaced, the token that was read last still counts.
		if err := c.refresh(); err != nil && c.header == "" {
			return nil, status.Error(codes.Unavailable, err.Error())
		}
	}
	return map[string]string{"authorization": c.header}, nil
}

// RequireTransportSecurity implements gRPC's PerRPCCredentials.
func (c callerCredentials) RequireTransportSecurity() bool { return c.requiresTLS }

func (c *callerToken) String() string   { return "[the caller's token]" }
func (c *callerToken) GoString() string { return c.String() }
