package hitkeepauth

import (
	"container/list"
	"context"
	"crypto/sha256"
	"sync"
	"time"
)

// cache keeps answers about tokens that work, and lets goroutines that ask about one token at
// the same time share a question.
//
// What holds, whatever the order in which questions are sent and answered:
//
//   - An answer ages from when its question was sent.
//   - No answer takes the place of one that is based on a newer revision, nor comes back after
//     a newer one said that the token does not work.
//   - An answer to a question that was sent before a goroutine came is for that goroutine only
//     what a kept one is: good if the token works, and until it has come of age. So a token
//     that was just made is never reported as unknown.
//   - A shared question has a deadline of its own. It ends neither with the goroutine that came
//     first nor with any other.
type cache struct {
	source  source
	max     int
	timeout time.Duration
	life    context.Context
	end     context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex
	entries map[cacheKey]*list.Element
	// Of *entry, the one that was used last at the front.
	recent *list.List
	asked  map[cacheKey]*openQuestions
	// The number of the shared question that was begun last.
	begun uint64
}

// cacheKey is the SHA-256 hash of a token and of the address that it is presented from, since
// an answer for one address says nothing about another. The token itself is not kept.
type cacheKey [sha256.Size]byte

func keyOf(q question) cacheKey {
	// No address contains the separator, so no two questions have the same text.
	return sha256.Sum256([]byte(q.sourceIP() + "\x00" + q.token))
}

type entry struct {
	key cacheKey
	answer
}

// openQuestions are those about one token that are not answered yet.
type openQuestions struct {
	count int
	// The highest revision of the answers so far. Those that are still to come may be older.
	revision uint64
	// The one that goroutines share, if there is one.
	shared *sharedQuestion
}

type sharedQuestion struct {
	number uint64
	// Closed when the answer is there.
	done   chan struct{}
	answer answer
	err    error
}

func newCache(s source, entries int, timeout time.Duration) *cache {
	c := &cache{
		source:  s,
		max:     entries,
		timeout: timeout,
		entries: make(map[cacheKey]*list.Element),
		recent:  list.New(),
		asked:   make(map[cacheKey]*openQuestions),
	}
	c.life, c.end = context.WithCancel(context.Background())
	return c
}

func (c *cache) close() {
	// With the lock, so that no question begins afterwards.
	c.mu.Lock()
	c.end()
	c.mu.Unlock()
	c.running.Wait()
	c.source.close()
}

// look gives what is kept, and asks nothing.
func (c *cache) look(q question) (answer, bool) {
	key := keyOf(q)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.find(key, q)
}

func (c *cache) ask(ctx context.Context, q question) (answer, error) {
	key := keyOf(q)
	c.mu.Lock()
	if kept, ok := c.find(key, q); ok {
		c.mu.Unlock()
		return kept, nil
	}
	if q.atLeast > 0 || q.permission != "" {
		return c.askAlone(ctx, key, q)
	}
	arrived := c.begun
	for {
		shared := c.share(ctx, key, q)
		c.mu.Unlock()
		select {
		case <-shared.done:
		case <-ctx.Done():
			return answer{}, context.Cause(ctx)
		}
		if shared.number > arrived {
			return shared.answer, shared.err
		}
		works := shared.err == nil && shared.answer.principal != nil
		if works && shared.answer.fresh(now()) {
			return shared.answer, nil
		}
		c.mu.Lock()
		if kept, ok := c.find(key, q); ok {
			c.mu.Unlock()
			return kept, nil
		}
	}
}

// find looks for an answer that may be used.
func (c *cache) find(key cacheKey, q question) (answer, bool) {
	element := c.entries[key]
	if element == nil {
		return answer{}, false
	}
	kept := element.Value.(*entry)
	if !kept.fresh(now()) {
		c.remove(element)
		return answer{}, false
	}
	if q.permission != "" || kept.revision < q.atLeast {
		return answer{}, false
	}
	c.recent.MoveToFront(element)
	return kept.answer, true
}

// askAlone asks what is of use for one goroutine only. It is called with the lock, and gives
// it back.
func (c *cache) askAlone(ctx context.Context, key cacheKey, q question) (answer, error) {
	open := c.open(key)
	c.mu.Unlock()
	a, err := c.source.ask(ctx, q)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settle(key, open, a, err)
	return a, err
}

// share begins a question, unless there is one already.
func (c *cache) share(ctx context.Context, key cacheKey, q question) *sharedQuestion {
	if c.life.Err() != nil {
		c.begun++
		failed := &sharedQuestion{number: c.begun, done: make(chan struct{}), err: ErrClosed}
		close(failed.done)
		return failed
	}
	if open := c.asked[key]; open != nil && open.shared != nil {
		return open.shared
	}
	open := c.open(key)
	c.begun++
	shared := &sharedQuestion{number: c.begun, done: make(chan struct{})}
	open.shared = shared
	// The values stay, such as a trace's.
	own, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.timeout)
	stop := context.AfterFunc(c.life, cancel)
	c.running.Go(func() {
		defer cancel()
		defer stop()
		shared.answer, shared.err = c.source.ask(own, q)
		c.mu.Lock()
		defer c.mu.Unlock()
		open.shared = nil
		c.settle(key, open, shared.answer, shared.err)
		close(shared.done)
	})
	return shared
}

func (c *cache) open(key cacheKey) *openQuestions {
	open := c.asked[key]
	if open == nil {
		open = &openQuestions{}
		c.asked[key] = open
	}
	open.count++
	return open
}

// settle takes note of how a question ended.
func (c *cache) settle(key cacheKey, open *openQuestions, a answer, err error) {
	open.count--
	if open.count == 0 {
		delete(c.asked, key)
	}
	if err != nil {
		return
	}
	newest := a.revision >= open.revision
	open.revision = max(open.revision, a.revision)
	at := now()
	element := c.entries[key]
	if element != nil {
		kept := element.Value.(*entry)
		switch {
		case !kept.fresh(at):
			c.remove(element)
			element = nil
		case kept.revision > a.revision:
			return
		case a.principal == nil:
			c.remove(element)
			return
		case kept.revision == a.revision && kept.maxAge-at.since(kept.sent) > a.maxAge-at.since(a.sent):
			return
		}
	}
	switch {
	case a.principal == nil || !newest || !a.fresh(at):
	case element != nil:
		element.Value.(*entry).answer = a
		c.recent.MoveToFront(element)
	default:
		c.entries[key] = c.recent.PushFront(&entry{key: key, answer: a})
		if c.recent.Len() > c.max {
			c.remove(c.recent.Back())
		}
	}
}

func (c *cache) remove(element *list.Element) {
	delete(c.entries, element.Value.(*entry).key)
	c.recent.Remove(element)
}
