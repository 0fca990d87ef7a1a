package hitkeepauth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Why an embedded index cannot tell.
var (
	errLoading    = errors.New("there is no index yet")
	errUnreadable = errors.New("this version cannot judge the tokens of this API client")
	errTimeUnsure = errors.New("the machine slept, or its time of day was set: it is unknown what time it is")
	errLate       = errors.New("the index was not refreshed in time")
	errNoUpstream = errors.New("no server can be asked")
	// Never returned: the token may be one that was just made.
	errNotIndexed = errors.New("the index does not have the token")
)

// Polls that may be missed before an index no longer counts as current.
const missedPolls = 4

// tooOld is why a version does not prove that a token works, or that there is none; nil if it does.
func (l *live) tooOld(s *liveState, at moment) error {
	age := s.age(at)
	switch {
	case age <= l.options.MaxStaleness:
		return nil
	case !s.proven:
		return errLoading
	}
	return &UnavailableError{Cause: l.stale(age)}
}

func (l *live) stale(age time.Duration) error {
	return l.because(fmt.Errorf("the index may have missed changes for %s", age))
}

// because is an error with the reason why no server is followed, if none is.
func (l *live) because(err error) error {
	if failure := l.failure.Load(); failure != nil {
		err = fmt.Errorf("%w: %w", err, *failure)
	}
	return err
}

// liveState is a version of the index with the proof of its age. It never changes.
type liveState struct {
	index *index
	// It was complete at the moment asked, less the staleness.
	asked     moment
	staleness time.Duration
	// Whether a question was answered since the snapshot. Until then, an index that is too old is
	// one that is still being loaded.
	proven bool
	clock  databaseClock
}

// age is for how long the index may have missed changes.
func (s *liveState) age(at moment) time.Duration { return ageOf(at, s.asked, s.staleness) }

// ageOf is for how long an index may have missed changes that was complete at the moment asked, less
// the staleness. That is what a server says, and may be the longest time that there is: a sum that
// overflows would make an index fresh that is not.
func ageOf(at, asked moment, staleness time.Duration) time.Duration {
	passed := at.since(asked)
	if passed > math.MaxInt64-staleness {
		return math.MaxInt64
	}
	return passed + staleness
}

// live is the latest version of the index, and ways to wait for a newer one. Only the follower
// writes it.
type live struct {
	options     EmbeddedOptions
	legacyUntil int64
	log         *slog.Logger
	// nil until the first snapshot is whole.
	state atomic.Pointer[liveState]
	// That of the next version, since there may be none yet. Only the follower reads and writes it.
	clock databaseClock
	// How many times the server was asked on behalf of questions that wait.
	begun atomic.Uint64
	// Holds one if a question waits for a refresh.
	requested chan struct{}
	// Holds one for each question that waits for a refresh.
	waiting chan struct{}
	closed  chan struct{}
	// Why no server is followed; nil while one is.
	failure atomic.Pointer[error]

	mu sync.Mutex
	// The numbers of the last refreshes that were answered, and that failed.
	answered, failed uint64
	// Closed and replaced with each change of these, and with each version.
	changed chan struct{}
}

func newLive(options EmbeddedOptions) *live {
	log := options.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &live{
		options:     options,
		legacyUntil: options.legacyUntil(),
		log:         log,
		clock:       newDatabaseClock(now()),
		requested:   make(chan struct{}, 1),
		waiting:     make(chan struct{}, options.MaxWaiting),
		closed:      make(chan struct{}),
		changed:     make(chan struct{}),
	}
}

// close fails everything that waits.
func (l *live) close() { close(l.closed) }

// view is the latest version, and the time at which it is looked at; nil if there is none.
func (l *live) view() (*liveState, moment) {
	// In this order: what was proven of the version later is not needed.
	s := l.state.Load()
	if s == nil {
		return nil, moment{}
	}
	return s, now()
}

// publishWhole publishes a version that replaces everything. It may be older than the one before:
// the server may be another one.
func (l *live) publishWhole(version *index, asked moment, staleness time.Duration) {
	l.state.Store(&liveState{index: version, asked: asked, staleness: staleness, clock: l.clock})
	l.notify(nil)
}

// publishChanges publishes the next version. What was proven of the last one holds for it, too.
func (l *live) publishChanges(version *index) {
	s := *l.state.Load()
	s.index = version
	l.state.Store(&s)
	l.notify(nil)
}

// calibrate takes what time it was by the database's clock, after a question was sent at the moment
// asked.
func (l *live) calibrate(asked moment, database int64) {
	l.clock = l.clock.calibrate(asked, now(), database)
	if before := l.state.Load(); before != nil {
		s := *before
		s.clock = l.clock
		l.state.Store(&s)
	}
}

// complete takes an answer: the version was complete that staleness before the service answered
// a question that was sent at the moment asked, and it was that time by the database's clock.
func (l *live) complete(asked moment, staleness time.Duration, database int64) {
	l.calibrate(asked, database)
	at := now()
	s := *l.state.Load()
	// What one version proves, a later answer does not make less.
	if ageOf(at, asked, staleness) < s.age(at) {
		s.asked, s.staleness = asked, staleness
	}
	s.proven = true
	l.state.Store(&s)
	l.notify(nil)
}

// beginRefresh is the number of a refresh that begins. Questions that begin to wait later are not
// satisfied by it.
func (l *live) beginRefresh() uint64 { return l.begun.Add(1) }

// refreshed wakes those who wait for a refresh or an earlier one.
func (l *live) refreshed(number uint64) {
	l.notify(func() { l.answered = max(l.answered, number) })
}

// refreshFailed fails those who wait for a refresh or an earlier one.
func (l *live) refreshFailed(number uint64) {
	l.notify(func() { l.failed = max(l.failed, number) })
}

// lost says why no server can be asked. All who wait for one fail.
func (l *live) lost(err error) {
	l.failure.Store(&err)
	l.refreshFailed(l.begun.Load())
}

// found says that a server can be asked.
func (l *live) found() { l.failure.Store(nil) }

func (l *live) notify(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if change != nil {
		change()
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// until waits until something holds that is said under the lock.
func (l *live) until(ctx context.Context, holds func() bool) error {
	for {
		l.mu.Lock()
		done, changed := holds(), l.changed
		l.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-l.closed:
			return ErrClosed
		}
	}
}

// waitUntilLoaded waits until there is an index.
func (l *live) waitUntilLoaded(ctx context.Context) error {
	err := l.until(ctx, func() bool {
		s, at := l.view()
		return s != nil && !errors.Is(l.tooOld(s, at), errLoading)
	})
	if err != nil {
		return l.because(fmt.Errorf("%w: %w", errLoading, err))
	}
	return nil
}

// waitUntilFresh waits until there is an index that proves that a token works.
func (l *live) waitUntilFresh(ctx context.Context) error {
	err := l.until(ctx, func() bool {
		s, at := l.view()
		return s != nil && l.tooOld(s, at) == nil
	})
	if err != nil {
		return l.because(fmt.Errorf("%w: %w", errLoading, err))
	}
	return nil
}

// waitForRevision waits until the index has a revision.
func (l *live) waitForRevision(ctx context.Context, wanted uint64) error {
	reached := func() bool {
		s := l.state.Load()
		return s != nil && s.index.position.revision >= wanted
	}
	if reached() {
		return nil
	}
	l.request()
	return l.until(ctx, reached)
}

// refresh waits until a refresh that begins after this call is applied to the index, which then
// has everything that was committed before. Calls at the same time share one.
//
// If too many wait already, the index stands if it has missed few polls.
func (l *live) refresh(ctx context.Context) error {
	select {
	case l.waiting <- struct{}{}:
		defer func() { <-l.waiting }()
	default:
		s, at := l.view()
		if s.age(at) <= missedPolls*l.options.PollInterval {
			return nil
		}
		return fmt.Errorf("too many wait for a refresh: %w", l.stale(s.age(at)))
	}
	begun := l.begun.Load()
	l.request()
	failed := false
	err := l.until(ctx, func() bool {
		failed = l.answered <= begun && l.failed > begun
		return failed || l.answered > begun
	})
	if err == nil && failed {
		return l.because(errNoUpstream)
	}
	return err
}

// request wakes the follower.
func (l *live) request() {
	select {
	case l.requested <- struct{}{}:
	default:
	}
}
