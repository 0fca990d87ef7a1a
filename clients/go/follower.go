package hitkeepauth

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// The first and the longest pause after all servers failed. Up to half of each is taken off at
	// random, since all programs of an installation lose the same server.
	firstFollowPause = 50 * time.Millisecond
	maxFollowPause   = 2 * time.Second
	// However long a server wants to be left alone.
	maxDemandedDelay = time.Minute

	// No timeout is shorter, so that none is due to a busy machine, and none is longer, however
	// large the bound on staleness is.
	minFollowTimeout = 200 * time.Millisecond
	maxFollowTimeout = 10 * time.Second
)

// followLimits are timeouts, all well inside the bound on staleness: what fails is noticed, and
// another server asked, before the index is too old.
type followLimits struct {
	// Of connecting, with TLS.
	connect time.Duration
	// Without a message on the stream, though there is a question.
	silence time.Duration
	// Without proof that the index is fresh, if another server may have it.
	useless time.Duration
}

func followLimitsOf(maxStaleness time.Duration) followLimits {
	share := min(max(maxStaleness/4, minFollowTimeout), maxFollowTimeout)
	return followLimits{connect: share, silence: share, useless: max(maxStaleness/2, minFollowTimeout)}
}

// follower follows one server at a time, and goes to the next one when that fails.
type follower struct {
	live    *live
	replica ID
	servers []*server
	limits  followLimits
	log     *slog.Logger

	// What is published, in the form in which it can be changed; nil before the first snapshot.
	writer   *indexWriter
	position position
	// When the server was last asked on behalf of questions that wait.
	lookedUp time.Time

	// The connection to the server that is followed; nil while none is.
	link atomic.Pointer[link]
}

// link is a connection to a server that has answered.
type link struct {
	upstream
	target string
}

func newFollower(l *live, replica ID, servers []*server) *follower {
	return &follower{
		live:    l,
		replica: replica,
		servers: servers,
		limits:  followLimitsOf(l.options.MaxStaleness),
		log:     l.log,
	}
}

// run ends with the context.
func (f *follower) run(ctx context.Context) {
	pause := firstFollowPause
	// Since when no server is followed; zero: one is.
	var failingSince time.Time
	for at, failed := 0, 0; ; at = (at + 1) % len(f.servers) {
		at = f.next(at)
		s := f.servers[at]
		// Also while questions wait: they are why it wants to be left alone.
		if !pauseUntil(ctx, s.notBefore) {
			return
		}
		followed, err := f.follow(ctx, s, func() {
			if failingSince.IsZero() {
				f.log.Info("hitkeepauth: the index is followed", "upstream", s.target)
				return
			}
			f.log.Info("hitkeepauth: the index is followed again", "upstream", s.target,
				"after", time.Since(failingSince))
			failingSince = time.Time{}
		})
		f.link.Store(nil)
		f.live.lost(err)
		if ctx.Err() != nil {
			return
		}
		orderly := isOrderly(err)
		if failingSince.IsZero() {
			failingSince = time.Now()
			level := slog.LevelWarn
			if orderly {
				level = slog.LevelInfo
			}
			f.log.Log(ctx, level, "hitkeepauth: the index is not followed", "upstream", s.target, "error", err)
		} else {
			f.log.Debug("hitkeepauth: the index is not followed", "upstream", s.target, "error", err)
		}
		if followed {
			pause, failed = firstFollowPause, 0
		}
		failed++
		if delay, demanded := demandedDelay(err); demanded {
			// Longer by chance, since other clients got the same delay.
			s.notBefore = time.Now().Add(delay + rand.N(delay/2+1))
			continue
		}
		// While there are others to try, they are tried at once. One that wants to be left alone is none
		// of them.
		if failed < f.free() || orderly && followed {
			continue
		}
		failed = 0
		if !f.backOff(ctx, jitter(pause)) {
			return
		}
		pause = min(2*pause, maxFollowPause)
	}
}

// follow follows a server until that fails. It reports whether the server has answered.
func (f *follower) follow(ctx context.Context, s *server, onAnswer func()) (followed bool, err error) {
	// Who waits for a refresh by now waits for this attempt, or for the server that is found.
	refresh := f.live.beginRefresh()
	conn, err := s.connect()
	if err != nil {
		return false, err
	}
	defer conn.close()
	session := &session{
		follower: f,
		server:   s,
		onAnswer: func() {
			followed = true
			f.link.Store(&link{upstream: conn, target: s.target})
			f.live.found()
			onAnswer()
		},
	}
	err = session.run(ctx, conn, refresh)
	// So that nothing is reported over a connection that is being closed.
	f.link.Store(nil)
	return followed, err
}

// next is the first server, from this one on, that may be asked now. If none may, it is the one that
// may be asked first.
func (f *follower) next(from int) int {
	now, first := time.Now(), from
	for i := range f.servers {
		at := (from + i) % len(f.servers)
		s := f.servers[at]
		if !now.Before(s.notBefore) {
			return at
		}
		if s.notBefore.Before(f.servers[first].notBefore) {
			first = at
		}
	}
	return first
}

// free is how many servers may be asked now.
func (f *follower) free() int {
	now, free := time.Now(), 0
	for _, s := range f.servers {
		if !now.Before(s.notBefore) {
			free++
		}
	}
	return free
}

// backOff waits before the next attempt; a question that waits for a refresh shortens that.
func (f *follower) backOff(ctx context.Context, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-f.live.requested:
		return pause(ctx, min(wait, firstFollowPause))
	case <-ctx.Done():
		return false
	}
}

func pauseUntil(ctx context.Context, at time.Time) bool { return pause(ctx, max(time.Until(at), 0)) }

// replace replaces everything by a snapshot that is whole.
func (f *follower) replace(snapshot *incomingSnapshot) {
	writer := newIndexWriter(len(snapshot.clients))
	for _, client := range snapshot.clients {
		writer.put(client)
	}
	f.writer, f.position = writer, snapshot.position
	f.live.publishWhole(writer.version(f.position), snapshot.asked, snapshot.staleness)
}

// apply applies changes, all at once.
func (f *follower) apply(changes *incomingChanges, to position) error {
	switch {
	case f.writer == nil:
		return malformedError("changes of nothing")
	case to.database != f.position.database, to.revision < f.position.revision:
		return malformedError("changes that lead nowhere")
	}
	for _, id := range changes.removed {
		f.writer.remove(id)
	}
	for _, client := range changes.put {
		f.writer.put(client)
	}
	f.position = to
	f.live.publishChanges(f.writer.version(to))
	return nil
}

// demandedDelay is how long the server wants to be left alone.
func demandedDelay(err error) (time.Duration, bool) {
	for _, detail := range statusOf(err).Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok && info.GetRetryDelay() != nil {
			// One that names no time must not be asked without a pause.
			return min(max(info.GetRetryDelay().AsDuration(), firstFollowPause), maxDemandedDelay), true
		}
	}
	return 0, false
}

// isOrderly reports whether the server has ended in order, or wants a new connection.
func isOrderly(err error) bool {
	s := statusOf(err)
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == errorDomain {
			return s.Code() == codes.Unavailable && info.GetReason() == "SHUTTING_DOWN"
		}
	}
	return false
}

// statusOf is the status with which a stream ended; nil, which is OK, if it did not.
func statusOf(err error) *status.Status {
	var ended *endedError
	if !errors.As(err, &ended) {
		return nil
	}
	return status.Convert(ended.cause)
}
