package hitkeepauth

import (
	"sync"
	"sync/atomic"
	"time"

	pb "github.com/pascalebeier/hitkeep-auth/clients/go/hitkeepauthpb"
)

const (
	microsOfDay = int64(24 * time.Hour / time.Microsecond)
	// The outcomes are numbered from 1.
	outcomes = int(pb.UsageOutcome_USAGE_OUTCOME_SOURCE_NOT_ALLOWED) + 1
)

var refusals = map[InactiveReason]pb.UsageOutcome{
	ReasonTokenRotated:     pb.UsageOutcome_USAGE_OUTCOME_TOKEN_ROTATED,
	ReasonRevoked:          pb.UsageOutcome_USAGE_OUTCOME_REVOKED,
	ReasonExpired:          pb.UsageOutcome_USAGE_OUTCOME_EXPIRED,
	ReasonOwnerInactive:    pb.UsageOutcome_USAGE_OUTCOME_OWNER_INACTIVE,
	ReasonNotYetActive:     pb.UsageOutcome_USAGE_OUTCOME_NOT_YET_ACTIVE,
	ReasonSourceNotAllowed: pb.UsageOutcome_USAGE_OUTCOME_SOURCE_NOT_ALLOWED,
}

// tokenWorked reports whether the token was active, whatever became of the request: only then was
// it used.
func tokenWorked(outcome pb.UsageOutcome) bool {
	switch outcome {
	case pb.UsageOutcome_USAGE_OUTCOME_USED, pb.UsageOutcome_USAGE_OUTCOME_NO_SITE_GRANT,
		pb.UsageOutcome_USAGE_OUTCOME_ROLE_TOO_LOW:
		return true
	}
	return false
}

// usageSlot is where the uses of a client are counted, which takes nothing before the first one.
type usageSlot struct {
	counters atomic.Pointer[usageCounters]
}

// follow goes on with the counters of the version before. If it has none yet, each may still get
// some, and all of them are taken.
func (s *usageSlot) follow(before *usageSlot) { s.counters.Store(before.counters.Load()) }

// usageCounters are the uses of a client that are not taken yet.
type usageCounters struct {
	client ID
	// The next of those that have something to be taken. It belongs to the goroutine that
	// has set queued, and then to the taker.
	next   *usageCounters
	queued atomic.Bool
	// When a token of the client last worked, and when one that was replaced did; always: not yet.
	lastUsed, replacedUsed atomic.Int64
	// By outcome; the number of the day in the upper half, and the count of that day in the lower one,
	// so that both change together.
	tallies [outcomes]atomic.Uint64
}

// ledger counts uses without ever waiting, and gives them out in batches. A use costs a few
// atomic operations; only the first one of a client allocates.
type ledger struct {
	// The counters that have something to be taken.
	dirty atomic.Pointer[usageCounters]
	// Counts of a day that another day has displaced, at midnight.
	mu        sync.Mutex
	displaced []displacedUsage
}

type displacedUsage struct {
	client ID
	count  usageCount
}

// usageCount is how often something happened on one day.
type usageCount struct {
	// The number of days since 1970.
	day     int32
	outcome pb.UsageOutcome
	count   uint64
}

// clientUsage is what is to be reported of a client.
type clientUsage struct {
	lastUsed, replacedUsed int64
	counts                 []usageCount
}

// usageBatch is what is to be reported of all clients.
type usageBatch map[ID]*clientUsage

func (b usageBatch) of(client ID) *clientUsage {
	usage := b[client]
	if usage == nil {
		usage = &clientUsage{lastUsed: always, replacedUsed: always}
		b[client] = usage
	}
	return usage
}

func (u *clientUsage) add(count usageCount) {
	for i := range u.counts {
		if u.counts[i].day == count.day && u.counts[i].outcome == count.outcome {
			u.counts[i].count += count.count
			return
		}
	}
	u.counts = append(u.counts, count)
}

// record counts what became of a token of a client.
func (l *ledger) record(client *indexedClient, outcome pb.UsageOutcome, now int64) {
	c := client.usage.get(client.id)
	if tokenWorked(outcome) {
		// Before the count, so that who takes the count sees it.
		raise(&c.lastUsed, now)
	}
	day := int32(floorDiv(now, microsOfDay))
	tally := &c.tallies[outcome]
	for {
		before := tally.Load()
		after := packTally(day, 1)
		then, count := unpackTally(before)
		isDisplaced := count > 0 && (then != day || count == 1<<32-1)
		if count > 0 && !isDisplaced {
			after = before + 1
		}
		if !tally.CompareAndSwap(before, after) {
			continue
		}
		if isDisplaced {
			l.mu.Lock()
			l.displaced = append(l.displaced, displacedUsage{client.id, usageCount{then, outcome, count}})
			l.mu.Unlock()
		}
		break
	}
	l.queue(c)
}

// recordReplaced notes besides that the token which worked was one that a newer one has replaced.
func (l *ledger) recordReplaced(client *indexedClient, now int64) {
	c := client.usage.get(client.id)
	raise(&c.replacedUsed, now)
	l.queue(c)
}

// queue lets the counters be taken. A goroutine that finds them queued already has counted before they are
// taken out of the queue, and so before they are taken.
func (l *ledger) queue(c *usageCounters) {
	if c.queued.Load() || !c.queued.CompareAndSwap(false, true) {
		return
	}
	for {
		c.next = l.dirty.Load()
		if l.dirty.CompareAndSwap(c.next, c) {
			return
		}
	}
}

// take moves what was counted so far into a batch.
func (l *ledger) take(batch usageBatch) {
	l.mu.Lock()
	displaced := l.displaced
	l.displaced = nil
	l.mu.Unlock()
	for _, d := range displaced {
		batch.of(d.client).add(d.count)
	}
	for c := l.dirty.Swap(nil); c != nil; {
		next := c.next
		c.next = nil
		// From now on it may be queued again.
		c.queued.Store(false)
		c.take(batch)
		c = next
	}
}

func (c *usageCounters) take(batch usageBatch) {
	used := false
	for outcome := range c.tallies {
		day, count := unpackTally(c.tallies[outcome].Swap(0))
		if count == 0 {
			continue
		}
		outcome := pb.UsageOutcome(outcome)
		batch.of(c.client).add(usageCount{day, outcome, count})
		used = used || tokenWorked(outcome)
	}
	if used {
		usage := batch.of(c.client)
		usage.lastUsed = max(usage.lastUsed, c.lastUsed.Load())
	}
	if at := c.replacedUsed.Swap(always); at != always {
		usage := batch.of(c.client)
		usage.replacedUsed = max(usage.replacedUsed, at)
	}
}

func (s *usageSlot) get(client ID) *usageCounters {
	if c := s.counters.Load(); c != nil {
		return c
	}
	c := &usageCounters{client: client}
	c.lastUsed.Store(always)
	c.replacedUsed.Store(always)
	if !s.counters.CompareAndSwap(nil, c) {
		return s.counters.Load()
	}
	return c
}

func raise(to *atomic.Int64, value int64) {
	for before := to.Load(); before < value && !to.CompareAndSwap(before, value); before = to.Load() {
	}
}

func packTally(day int32, count uint32) uint64 { return uint64(uint32(day))<<32 | uint64(count) }

func unpackTally(word uint64) (day int32, count uint64) {
	return int32(uint32(word >> 32)), word & (1<<32 - 1)
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}
