package hitkeepauth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	pb "github.com/pascalebeier/hitkeep-auth/clients/go/hitkeepauthpb"
)

// EmbeddedOptions are the options of [WithEmbedded]. The defaults, for what is zero, are those of
// `hitkeep-auth replica`. A time is at most 30 days, whatever it is set to.
type EmbeddedOptions struct {
	// Upstreams are the servers or replicas that hold the index, as targets in gRPC's notation. One
	// is followed at a time, and the next one if it fails, or proves nothing for half of
	// MaxStaleness. None: the client's own target, of which another address is tried then.
	Upstreams []string
	// MaxStaleness is the age beyond which the index no longer proves that a token works. Default
	// 10 s.
	MaxStaleness time.Duration
	// PollInterval is how often to ask how fresh the index is; at most a quarter of MaxStaleness.
	// Default 250 ms.
	PollInterval time.Duration
	// MaxLookups is how many times a second the server is asked because of tokens that the index
	// does not know. Default 100.
	MaxLookups int
	// MaxWaiting is how many questions may wait for that at the same time. Default 256.
	MaxWaiting int
	// RefreshTimeout is the longest that a question waits for that, for a revision, or for the first
	// index. Default 1 s.
	RefreshTimeout time.Duration
	// UsageInterval is how often uses are reported to the server. Default 5 s.
	UsageInterval time.Duration
	// WithoutNames leaves the names of API clients with the servers, so that
	// [Principal.ClientName] is empty.
	WithoutNames bool
	// AcceptLegacyUntil is from when on tokens that HitKeep itself issued no longer work. Zero:
	// they do as long as their API clients.
	AcceptLegacyUntil time.Time
	// Log gets a line when the index is not followed, and when it is again. nil: no lines.
	Log *slog.Logger
}

// WithEmbedded holds a copy of the index, by which tokens are judged without asking anybody: the
// hashes of all tokens, and what they may do. The caller needs the permission "replicate". The
// copy takes a few hundred bytes for each API client.
//
// A revocation, or a narrower role, counts within milliseconds. The copy proves that a token
// works as long as its age is known to be at most MaxStaleness: that is counted from when a
// question was sent that a server has answered, plus the age that the server has reported of its own
// index. Beyond that, the answer about a token that may work is [ErrUnavailable].
//
// Uses are reported to the service, and the last ones by [Client.Close], for five seconds
// at most. [Client.Ready] waits for the first index that is fresh.
func WithEmbedded(chosen EmbeddedOptions) Option {
	return func(o *options) error {
		if err := chosen.complete(); err != nil {
			return err
		}
		o.embedded = &chosen
		return nil
	}
}

// longestTime bounds the times of the options, so that no age, which may be the longest time that there
// is, is within MaxStaleness.
const longestTime = 30 * 24 * time.Hour

func (o *EmbeddedOptions) complete() error {
	for _, limit := range []struct {
		name   string
		value  *time.Duration
		normal time.Duration
	}{
		{"MaxStaleness", &o.MaxStaleness, 10 * time.Second},
		{"PollInterval", &o.PollInterval, 250 * time.Millisecond},
		{"RefreshTimeout", &o.RefreshTimeout, time.Second},
		{"UsageInterval", &o.UsageInterval, 5 * time.Second},
	} {
		switch {
		case *limit.value < 0:
			return fmt.Errorf("a %s of %s", limit.name, *limit.value)
		case *limit.value == 0:
			*limit.value = limit.normal
		}
		*limit.value = min(*limit.value, longestTime)
	}
	if o.MaxLookups < 0 || o.MaxWaiting < 0 {
		return fmt.Errorf("%d look-ups, for %d that wait", o.MaxLookups, o.MaxWaiting)
	}
	if o.MaxLookups == 0 {
		o.MaxLookups = 100
	}
	if o.MaxWaiting == 0 {
		o.MaxWaiting = 256
	}
	// One or two lost polls do no harm.
	o.PollInterval = min(o.PollInterval, o.MaxStaleness/4)
	return nil
}

func (o *EmbeddedOptions) legacyUntil() int64 {
	if o.AcceptLegacyUntil.IsZero() {
		return never
	}
	return o.AcceptLegacyUntil.UnixMicro()
}

// IndexStatus is how an embedded index is.
type IndexStatus struct {
	// Loaded is whether there is one. All else is zero until then.
	Loaded bool
	// Revision is the state of the service's database that it reflects.
	Revision uint64
	// Age is for how long it may have missed changes, at most.
	Age time.Duration
	// Fresh is whether that is within MaxStaleness, so that tokens are answered.
	Fresh bool
	// Clients is how many API clients it has.
	Clients int
	// Upstream is the target of the server that is followed; empty while none is.
	Upstream string
}

// embedded is a copy of the index, and the goroutines that feed it and report its uses.
type embedded struct {
	*live
	ledger   ledger
	follower *follower
	reporter *reporter

	life    context.Context
	end     context.CancelFunc
	running sync.WaitGroup
}

// upstream is a connection to a server, made for one replication.
type upstream interface {
	// replicate opens the stream, and with it the connection. It ends with the context.
	replicate(ctx context.Context) (replicateStream, error)
	report(ctx context.Context, usage *pb.ReportUsageRequest) error
	close()
}

type replicateStream = grpc.BidiStreamingClient[pb.ReplicateRequest, pb.ReplicateResponse]

// server is one that can be followed.
type server struct {
	target string
	// Whether every connection leads to the same process, as those to a Unix socket do. Others may
	// lead to another one, behind a load balancer or a name with several addresses.
	alone   bool
	connect func() (upstream, error)
	// Until when it wants to be left alone.
	notBefore time.Time
}

// The addresses of a name are tried in an order of chance, so that the next attempt may get
// to another one.
const followServiceConfig = `{"loadBalancingConfig": [{"pick_first": {"shuffleAddressList": true}}]}`

// The largest message from a server: a part has 64 KiB, and one client with its tokens.
const maxReplicateBytes = 16 << 20

// servers are those that an embedded index follows.
func (o *options) servers(target string) ([]*server, error) {
	if o.embedded == nil {
		return nil, nil
	}
	targets := o.embedded.Upstreams
	if len(targets) == 0 {
		targets = []string{target}
	}
	servers := make([]*server, len(targets))
	for i, target := range targets {
		connect := func() (upstream, error) {
			conn, err := o.connect(target, followServiceConfig)
			if err != nil {
				return nil, err
			}
			return grpcUpstream{conn: conn, service: pb.NewReplicationServiceClient(conn)}, nil
		}
		// What is no target is found out now.
		tried, err := connect()
		if err != nil {
			return nil, err
		}
		tried.close()
		alone := strings.HasPrefix(target, "unix:") || strings.HasPrefix(target, "unix-abstract:")
		servers[i] = &server{target: target, alone: alone, connect: connect}
	}
	return servers, nil
}

// grpcUpstream is a connection of its own, since one that is silently dead would fail the next
// attempt too.
type grpcUpstream struct {
	conn    *grpc.ClientConn
	service pb.ReplicationServiceClient
}

func (u grpcUpstream) replicate(ctx context.Context) (replicateStream, error) {
	return u.service.Replicate(ctx, grpc.MaxCallRecvMsgSize(maxReplicateBytes))
}

func (u grpcUpstream) report(ctx context.Context, usage *pb.ReportUsageRequest) error {
	_, err := u.service.ReportUsage(ctx, usage)
	return err
}

func (u grpcUpstream) close() { _ = u.conn.Close() }

func newEmbedded(options EmbeddedOptions, servers []*server) *embedded {
	e := &embedded{live: newLive(options)}
	e.life, e.end = context.WithCancel(context.Background())
	replica := NewRequestID()
	e.follower = newFollower(e.live, replica, servers)
	e.reporter = &reporter{
		replica: replica,
		ledger:  &e.ledger,
		link:    &e.follower.link,
		log:     e.live.log,
		batch:   make(usageBatch),
	}
	e.running.Go(func() { e.follower.run(e.life) })
	e.reporter.start(options.UsageInterval)
	return e
}

// close reports the last uses, and then ends everything. Questions that wait fail at once.
func (e *embedded) close() {
	e.live.close()
	e.reporter.finish()
	e.end()
	e.running.Wait()
}

// ask answers a question. It waits only if the index has not got the answer.
func (e *embedded) ask(ctx context.Context, q *question) (*Principal, error) {
	if q.atLeast == 0 {
		p, err := e.judge(q)
		if !errors.Is(err, errLoading) && !errors.Is(err, errNotIndexed) {
			return p, err
		}
	}
	waiting, cancel := context.WithTimeoutCause(ctx, e.options.RefreshTimeout, errLate)
	defer cancel()
	if q.atLeast > 0 {
		if err := e.waitForRevision(waiting, q.atLeast); err != nil {
			return nil, &UnavailableError{Cause: err}
		}
	}
	p, err := e.judge(q)
	if errors.Is(err, errLoading) {
		if err := e.waitUntilLoaded(waiting); err != nil {
			return nil, &UnavailableError{Cause: err}
		}
		p, err = e.judge(q)
	}
	if !errors.Is(err, errNotIndexed) {
		return p, e.settled(err)
	}
	// It may have been made a moment ago.
	if err := e.refresh(waiting); err != nil {
		return nil, &UnavailableError{Cause: err}
	}
	p, err = e.judge(q)
	if !errors.Is(err, errNotIndexed) {
		return p, e.settled(err)
	}
	if err := e.tooOld(e.view()); err != nil {
		return nil, e.settled(err)
	}
	return nil, &InactiveError{Reason: ReasonUnknownToken}
}

// settled is what the caller gets of an error: that of an index that is not there goes no further.
func (e *embedded) settled(err error) error {
	if errors.Is(err, errLoading) {
		return &UnavailableError{Cause: e.because(errLoading)}
	}
	return err
}

// judge judges a token by the latest version of the index. The error is errLoading if there is none,
// and errNotIndexed if it does not have the token, but the service may.
func (e *embedded) judge(q *question) (*Principal, error) {
	s, at := e.view()
	if s == nil {
		return nil, errLoading
	}
	// It was waited for, but a backup that is restored meanwhile sets the index back.
	if q.atLeast > s.index.position.revision {
		return nil, &UnavailableError{Cause: errLate}
	}
	switch kindOf(q.token) {
	case ownToken:
		hash := hashOwn(q.token)
		if found := s.index.own.find(&hash); found != nil {
			return e.conclude(s, at, found, q, false)
		}
		return nil, errNotIndexed
	case legacyToken:
		if s.index.legacyTokens > 0 {
			hash := hashLegacy(q.token)
			if found := s.index.legacy.find(&hash); found != nil {
				return e.conclude(s, at, found, q, true)
			}
		}
		// No server is asked: no checksum refuses invented ones, and none is ever made except by an
		// import, which is replicated like any change.
		if err := e.tooOld(s, at); err != nil {
			return nil, err
		}
	}
	return nil, &InactiveError{Reason: ReasonUnknownToken}
}

func (e *embedded) conclude(
	s *liveState, at moment, found *tokenEntry, q *question, legacy bool,
) (*Principal, error) {
	client := found.client
	settled := &client.settledClient
	if !client.readable {
		return nil, &UnavailableError{Cause: errUnreadable}
	}
	earliest, now := s.clock.at(at)
	limit := int64(never)
	if legacy {
		limit = e.legacyUntil
	}
	reason := settled.judge(found.end, limit, q.source, now)
	if earliest != now {
		// A token that has worked until the earlier time, or did not work yet, may work now.
		before := settled.judge(found.end, limit, q.source, earliest)
		if before != reason && (before == "" || before == ReasonNotYetActive) {
			return nil, &UnavailableError{Cause: errTimeUnsure}
		}
	}
	// A token that does not work goes on not to work, however old the index is.
	if reason != "" {
		e.record(client, refusals[reason], legacy, now)
		return nil, &InactiveError{Reason: reason}
	}
	if err := e.tooOld(s, at); err != nil {
		return nil, err
	}
	outcome := pb.UsageOutcome_USAGE_OUTCOME_USED
	if q.permission != "" && !settled.principal.Can(q.permission, q.site) {
		outcome = pb.UsageOutcome_USAGE_OUTCOME_ROLE_TOO_LOW
		if q.permission.OnSite() && settled.principal.SiteRoles.Get(q.site) == "" {
			outcome = pb.UsageOutcome_USAGE_OUTCOME_NO_SITE_GRANT
		}
	}
	e.record(client, outcome, legacy, now)
	// The newest one works as long as its client.
	if found.end < settled.expires {
		e.ledger.recordReplaced(client, now)
	}
	if outcome != pb.UsageOutcome_USAGE_OUTCOME_USED {
		return nil, &ForbiddenError{Permission: q.permission, SiteID: q.site}
	}
	principal := settled.principal
	principal.Revision = s.index.position.revision
	return &principal, nil
}

func (e *embedded) record(client *indexedClient, outcome pb.UsageOutcome, legacy bool, now int64) {
	e.ledger.record(client, outcome, now)
	if legacy {
		e.ledger.record(client, pb.UsageOutcome_USAGE_OUTCOME_LEGACY_TOKEN, now)
	}
}

// status is how the index is.
func (e *embedded) status() IndexStatus {
	status := IndexStatus{}
	if s, at := e.view(); s != nil {
		age := s.age(at)
		status = IndexStatus{
			Loaded:   true,
			Revision: s.index.position.revision,
			Age:      age,
			Fresh:    age <= e.options.MaxStaleness,
			Clients:  s.index.clients,
		}
	}
	if link := e.follower.link.Load(); link != nil {
		status.Upstream = link.target
	}
	return status
}
