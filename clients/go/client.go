package hitkeepauth

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	pb "github.com/pascalebeier/hitkeep-auth/clients/go/hitkeepauthpb"
)

const (
	// DefaultQuestionTimeout is how long a question about a token may take.
	DefaultQuestionTimeout = 3 * time.Second
	// DefaultCallTimeout is how long any other call may take whose context has no deadline.
	// The service itself gives up after 10 s, and says more about it than a deadline here.
	DefaultCallTimeout = 15 * time.Second
	// How long the revocation of many clients may take at least: the service itself gives up
	// after a minute.
	leastRevocationTimeout = 65 * time.Second

	// A connection that is silently dead is found within the two together.
	keepaliveInterval = 20 * time.Second
	keepaliveTimeout  = 5 * time.Second
	// A service that was restarted is found within this time.
	maxReconnectDelay = 5 * time.Second
	connectTimeout    = 5 * time.Second
	// The largest answer that is accepted. A page of API clients with some hundred grants each
	// has more than gRPC's default of 4 MiB.
	maxMessageBytes = 16 << 20
)

// Client talks to the service. It is made for the life of the program, and for any number
// of goroutines.
type Client struct {
	conn   *grpc.ClientConn
	source source
	direct source
	// The source, if it is one.
	cache *cache
	// Answers instead of the source, if there is one.
	embedded   *embedded
	repeatable bool

	timeout time.Duration
	// Ended by Close, and with it every question.
	life   context.Context
	end    context.CancelFunc
	closed func() error

	directory     *DirectorySync
	directoryOnce sync.Once
}

// Option is an option of [New].
type Option func(*options) error

type options struct {
	caller       *callerToken
	tls          *tls.Config
	plaintext    bool
	cacheEntries int
	embedded     *EmbeddedOptions
	timeout      time.Duration
	callTimeout  time.Duration
	dial         []grpc.DialOption
}

// WithCallerToken authenticates this program by the token of its service account.
func WithCallerToken(token string) Option {
	return func(o *options) (err error) {
		o.caller, err = callerTokenFromValue(token)
		return err
	}
}

// WithCallerTokenFile authenticates this program by the token in a file, which holds nothing
// else. The file is read again when it changes. While it cannot be read, or is empty, the
// token that was read last is used.
func WithCallerTokenFile(path string) Option {
	return func(o *options) (err error) {
		o.caller, err = callerTokenFromFile(path)
		return err
	}
}

// WithTLS sets how the service is recognised, and the certificate that authenticates this
// program, if it has one. Without this option, the system's certificate authorities count.
func WithTLS(config *tls.Config) Option {
	return func(o *options) error {
		if config == nil {
			return errors.New("WithTLS needs a configuration")
		}
		o.tls = config.Clone()
		return nil
	}
}

// WithPlaintext does without TLS. The caller's token, and every token that is asked about,
// can then be read on the network. A Unix socket never has TLS, and needs no
// such option.
func WithPlaintext() Option {
	return func(o *options) error {
		o.plaintext = true
		return nil
	}
}

// WithCache keeps answers about tokens that work, for as long as the service allows: 5 s
// unless it is configured otherwise. At most so many are kept, one for each token and address
// that it is presented from; the one that was used the
// longest ago makes room. Questions are then sent over one stream.
//
// A revocation, or a narrower role, counts when the kept answer has come of age, counted from
// when its question was sent. Checks that are decided by a kept answer are not in the
// service's usage counts. Errors, and tokens that do not work, are never kept.
func WithCache(entries int) Option {
	return func(o *options) error {
		if entries < 1 {
			return fmt.Errorf("a cache of %d entries", entries)
		}
		o.cacheEntries = entries
		return nil
	}
}

// WithQuestionTimeout is how long a question about a token may take, whatever the deadline
// of its context: [DefaultQuestionTimeout] if not set.
func WithQuestionTimeout(timeout time.Duration) Option {
	return func(o *options) error {
		if timeout <= 0 {
			return fmt.Errorf("a timeout of %s", timeout)
		}
		o.timeout = timeout
		return nil
	}
}

// WithCallTimeout is how long any other call may take whose context has no deadline:
// [DefaultCallTimeout] if not set. Only [Client.RevokeAll] may take 65 s at least.
func WithCallTimeout(timeout time.Duration) Option {
	return func(o *options) error {
		if timeout <= 0 {
			return fmt.Errorf("a timeout of %s", timeout)
		}
		o.callTimeout = timeout
		return nil
	}
}

// WithDialOptions sets further options of gRPC, such as a stats handler for traces. They come
// after those of this package.
func WithDialOptions(dial ...grpc.DialOption) Option {
	return func(o *options) error {
		o.dial = append(o.dial, dial...)
		return nil
	}
}

// New makes a client of the service at a target in gRPC's notation: HOST:PORT, all addresses
// of which are used in turn, or unix:PATH. It does not wait for a connection. Close it after
// use.
//
// The service must be given a way to know this program: [WithCallerToken],
// [WithCallerTokenFile], or [WithTLS] with a certificate.
func New(target string, opts ...Option) (*Client, error) {
	o := options{timeout: DefaultQuestionTimeout, callTimeout: DefaultCallTimeout}
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return nil, fmt.Errorf("hitkeepauth: %w", err)
		}
	}
	if o.cacheEntries > 0 && o.embedded != nil {
		return nil, errors.New("hitkeepauth: WithCache and WithEmbedded exclude each other")
	}
	conn, err := o.connect(target, serviceConfig())
	if err != nil {
		return nil, fmt.Errorf("hitkeepauth: %w", err)
	}
	servers, err := o.servers(target)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("hitkeepauth: %w", err)
	}
	c := &Client{conn: conn, timeout: o.timeout, repeatable: o.caller != nil}
	c.life, c.end = context.WithCancel(context.Background())
	c.closed = sync.OnceValue(c.close)
	service := pb.NewIntrospectionServiceClient(conn)
	c.direct = unarySource{service}
	c.source = c.direct
	if o.cacheEntries > 0 {
		stream := newStreamSource(service.IntrospectStream, c.direct, o.timeout)
		c.cache = newCache(stream, o.cacheEntries, o.timeout)
		c.source = c.cache
	}
	if o.embedded != nil {
		c.embedded = newEmbedded(*o.embedded, servers)
	}
	return c, nil
}

// connect makes a connection, without waiting for it.
func (o *options) connect(target, serviceConfig string) (*grpc.ClientConn, error) {
	dial, err := o.dialOptions(target, serviceConfig)
	if err != nil {
		return nil, err
	}
	return grpc.NewClient(target, dial...)
}

func (o *options) dialOptions(target, serviceConfig string) ([]grpc.DialOption, error) {
	unix := strings.HasPrefix(target, "unix:") || strings.HasPrefix(target, "unix-abstract:")
	transport := credentials.NewTLS(o.tls)
	switch {
	case target == "":
		return nil, errors.New("no target")
	case strings.HasPrefix(target, "http://"), strings.HasPrefix(target, "https://"):
		return nil, fmt.Errorf("the target %q is a URL: write HOST:PORT", target)
	case o.plaintext && o.tls != nil:
		return nil, errors.New("WithPlaintext and WithTLS exclude each other")
	case unix && o.tls == nil, o.plaintext:
		transport = insecure.NewCredentials()
	}
	dial := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithUserAgent("hitkeep-auth-go"),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time:                keepaliveInterval,
			Timeout:             keepaliveTimeout,
			PermitWithoutStream: true,
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay:  100 * time.Millisecond,
				Multiplier: 1.6,
				Jitter:     0.2,
				MaxDelay:   maxReconnectDelay,
			},
			MinConnectTimeout: connectTimeout,
		}),
		grpc.WithChainUnaryInterceptor(deadlines(o.timeout, o.callTimeout), repeatWrites),
		grpc.WithChainStreamInterceptor(cleanStream),
	}
	switch {
	case o.caller != nil:
		dial = append(dial, grpc.WithPerRPCCredentials(callerCredentials{
			callerToken: o.caller,
			requiresTLS: transport.Info().SecurityProtocol == "tls",
		}))
	case o.tls != nil && (len(o.tls.Certificates) > 0 || o.tls.GetClientCertificate != nil):
	case len(o.dial) > 0:
		// Perhaps these have what it takes.
	default:
		return nil, errors.New("the service would not know this program: use WithCallerToken, " +
			"WithCallerTokenFile, or WithTLS with a certificate")
	}
	return append(dial, o.dial...), nil
}

// Close ends the client. Questions that are not answered yet fail with [ErrUnavailable]. The last
// uses of an embedded index are reported, for five seconds at most. Closing again does
// nothing.
func (c *Client) Close() error {
	return c.closed()
}

func (c *Client) close() error {
	c.end()
	if c.embedded != nil {
		c.embedded.close()
	}
	c.source.close()
	return c.conn.Close()
}

// Ready waits until questions can be answered: until an embedded index is whole, and fresh. Others
// need no preparation. The error is [ErrUnavailable].
func (c *Client) Ready(ctx context.Context) error {
	if c.embedded == nil {
		return nil
	}
	if err := c.embedded.waitUntilFresh(ctx); err != nil {
		return &UnavailableError{Cause: err}
	}
	return nil
}

// IndexStatus is how an embedded index is; zero without one.
func (c *Client) IndexStatus() IndexStatus {
	if c.embedded == nil {
		return IndexStatus{}
	}
	return c.embedded.status()
}

// Conn is the connection, for generated code: hitkeepauthpb.NewAuditServiceClient(c.Conn()).
// Calls over it have this client's credentials, deadlines and retries.
func (c *Client) Conn() grpc.ClientConnInterface { return c.conn }
