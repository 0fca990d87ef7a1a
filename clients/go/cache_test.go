package hitkeepauth

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// heldSource answers when the test says so.
type heldSource struct {
	asked chan *heldQuestion
}

type heldQuestion struct {
	question
	ctx   context.Context
	sent  moment
	reply chan heldReply
}

type heldReply struct {
	answer
	err error
}

func (h *heldSource) ask(ctx context.Context, q question) (answer, error) {
	held := &heldQuestion{question: q, ctx: ctx, sent: now(), reply: make(chan heldReply, 1)}
	h.asked <- held
	select {
	case r := <-held.reply:
		r.sent = held.sent
		return r.answer, r.err
	case <-ctx.Done():
		return answer{}, ctx.Err()
	}
}

func (h *heldSource) close() {}

const (
	keptFor      = 5 * time.Second
	questionTime = 3 * time.Second
)

func (q *heldQuestion) works(revision uint64) {
	principal := &Principal{ClientName: q.token, Revision: revision}
	q.reply <- heldReply{answer: answer{principal: principal, revision: revision, maxAge: keptFor}}
}

func (q *heldQuestion) doesNot(revision uint64) {
	q.reply <- heldReply{answer: answer{reason: ReasonRevoked, revision: revision}}
}

func (q *heldQuestion) fails() {
	q.reply <- heldReply{err: status.Error(codes.Unavailable, "no")}
}

func inBubble(t *testing.T, size int, test func(*testing.T, *cache, *heldSource)) {
	synctest.Test(t, func(t *testing.T) {
		held := &heldSource{asked: make(chan *heldQuestion, 100)}
		c := newCache(held, size, questionTime)
		defer c.close()
		test(t, c, held)
	})
}

// asking is a goroutine that asks.
type asking struct {
	done   chan struct{}
	answer answer
	err    error
}

func begin(ctx context.Context, c *cache, q question) *asking {
	a := &asking{done: make(chan struct{})}
	go func() {
		a.answer, a.err = c.ask(ctx, q)
		close(a.done)
	}()
	synctest.Wait()
	return a
}

func (a *asking) waits(t *testing.T) {
	t.Helper()
	synctest.Wait()
	select {
	case <-a.done:
		t.Fatalf("it has %+v, %v", a.answer, a.err)
	default:
	}
}

func (a *asking) has(t *testing.T, works bool, revision uint64) {
	t.Helper()
	synctest.Wait()
	select {
	case <-a.done:
	default:
		t.Fatal("it waits")
	}
	if a.err != nil || (a.answer.principal != nil) != works || a.answer.revision != revision {
		t.Fatalf("it has %+v, %v", a.answer, a.err)
	}
}

func (h *heldSource) next(t *testing.T) *heldQuestion {
	t.Helper()
	synctest.Wait()
	select {
	case q := <-h.asked:
		return q
	default:
		t.Fatal("nothing is asked")
		return nil
	}
}

func (h *heldSource) nothing(t *testing.T) {
	t.Helper()
	synctest.Wait()
	select {
	case q := <-h.asked:
		t.Fatalf("%+v is asked", q.question)
	default:
	}
}

var tokenA = question{token: "a"}

func TestAnswersAgeFromWhenTheQuestionWasSent(t *testing.T) {
	inBubble(t, 10, func(t *testing.T, c *cache, held *heldSource) {
		first := begin(t.Context(), c, tokenA)
		q := held.next(t)
		time.Sleep(2 * time.Second)
		q.works(1)
		first.has(t, true, 1)
		time.Sleep(keptFor - 2*time.Second - 1)
		begin(t.Context(), c, tokenA).has(t, true, 1)
		held.nothing(t)
		time.Sleep(time.Nanosecond)
		begin(t.Context(), c, tokenA).waits(t)
		held.next(t).doesNot(2)
	})
}

func TestOnlyWhatWorksIsKept(t *testing.T) {
	inBubble(t, 10, func(t *testing.T, c *cache, held *heldSource) {
		begin(t.Context(), c, tokenA)
		held.next(t).doesNot(1)
		begin(t.Context(), c, tokenA)
		held.next(t).fails()
		begin(t.Context(), c, tokenA)
		held.next(t).works(1)
		begin(t.Context(), c, tokenA).has(t, true, 1)
		held.nothing(t)
	})
}

func TestASharedQuestionOutlivesItsFirstCaller(t *testing.T) {
	inBubble(t, 10, func(t *testing.T, c *cache, held *heldSource) {
		ctx, cancel := context.WithCancel(t.Context())
		first, second := begin(ctx, c, tokenA), begin(t.Context(), c, tokenA)
		q := held.next(t)
		held.nothing(t)
		cancel()
		synctest.Wait()
		<-first.done
		if !errors.Is(first.err, context.Canceled) {
			t.Fatal(first.err)
		}
		second.waits(t)
		q.works(1)
		second.has(t, true, 1)
		// Nor does it end with all of them: what they paid for is kept.
		ctx, cancel = context.WithCancel(t.Context())
		other := question{token: "b"}
		begin(ctx, c, other)
		cancel()
		held.next(t).works(1)
		begin(t.Context(), c, other).has(t, true, 1)
	})
}

func TestASharedQuestionHasADeadlineOfItsOwn(t *testing.T) {
	inBubble(t, 10, func(t *testing.T, c *cache, held *heldSource) {
		first := begin(t.Context(), c, tokenA)
		held.next(t)
		begun := time.Now()
		<-first.done
		if !errors.Is(first.err, context.DeadlineExceeded) || time.Since(begun) != questionTime {
			t.Fatal(first.err, time.Since(begun))
		}
		// The next one asks again.
		begin(t.Context(), c, tokenA)
		held.next(t).works(1)
	})
}

// A token that was made while a question about it was open is not reported as unknown.
func TestALaterCallerDoesNotShareAnInactiveAnswer(t *testing.T) {
	inBubble(t, 10, func(t *testing.T, c *cache, held *heldSource) {
		first := begin(t.Context(), c, tokenA)
		q := held.next(t)
		second, third := begin(t.Context(), c, tokenA), begin(t.Context(), c, tokenA)
		q.doesNot(1)
		first.has(t, false, 1)
		second.waits(t)
		third.waits(t)
		// One question is enough for both.
		q = held.next(t)
		held.nothing(t)
		q.works(2)
		second.has(t, true, 2)
		third.has(t, true, 2)
	})
}

func TestALaterCallerDoesNotShareAnAnswerThatCannotBeKept(t *testing.T) {
	inBubble(t, 10, func(t *testing.T, c *cache, held *heldSource) {
		first := begin(t.Context(), c, tokenA)
		q := held.next(t)
		second := begin(t.Context(), c, tokenA)
		q.reply <- heldReply{answer: answer{principal: &Principal{}, revision: 1}}
		first.has(t, true, 1)
		second.waits(t)
		held.next(t).works(1)
		second.has(t, true, 1)
	})
}

func TestNothingTakesThePlaceOfSomethingNewer(t *testing.T) {
	askNewer := question{token: "a", atLeast: 9}
	t.Run("that works", func(t *testing.T) {
		inBubble(t, 10, func(t *testing.T, c *cache, held *heldSource) {
			begin(t.Context(), c, tokenA)
			older := held.next(t)
			begin(t.Context(), c, askNewer)
			held.next(t).works(9)
			synctest.Wait()
			older.works(8)
			synctest.Wait()
			begin(t.Context(), c, tokenA).has(t, true, 9)
		})
	})
	t.Run("that does not work", func(t *testing.T) {
		inBubble(t, 10, func(t *testing.T, c *cache, held *heldSource) {
			begin(t.Context(), c, tokenA)
			older := held.next(t)
			begin(t.Context(), c, askNewer)
			held.next(t).doesNot(9)
			synctest.Wait()
			older.works(8)
			synctest.Wait()
			begin(t.Context(), c, tokenA).waits(t)
			held.next(t).doesNot(9)
		})
	})
	t.Run("older that does not work", func(t *testing.T) {
		inBubble(t, 10, func(t *testing.T, c *cache, held *heldSource) {
			begin(t.Context(), c, tokenA)
			older := held.next(t)
			begin(t.Context(), c, askNewer)
			held.next(t).works(9)
			synctest.Wait()
			older.doesNot(8)
			synctest.Wait()
			begin(t.Context(), c, tokenA).has(t, true, 9)
		})
	})
	t.Run("kept", func(t *testing.T) {
		inBubble(t, 10, func(t *testing.T, c *cache, held *heldSource) {
			begin(t.Context(), c, tokenA)
			held.next(t).works(9)
			synctest.Wait()
			for _, reply := range []func(*heldQuestion){
				func(q *heldQuestion) { q.works(8) }, func(q *heldQuestion) { q.doesNot(8) },
			} {
				// What only the service can decide is asked, whatever is kept.
				begin(t.Context(), c, question{token: "a", permission: "site.fly"})
				reply(held.next(t))
				begin(t.Context(), c, tokenA).has(t, true, 9)
			}
		})
	})
	t.Run("but a restored database does", func(t *testing.T) {
		inBubble(t, 10, func(t *testing.T, c *cache, held *heldSource) {
			begin(t.Context(), c, tokenA)
			held.next(t).works(9)
			synctest.Wait()
			time.Sleep(keptFor)
			begin(t.Context(), c, tokenA)
			held.next(t).works(3)
			begin(t.Context(), c, tokenA).has(t, true, 3)
		})
	})
}

func TestAKeptAnswerThatIsOldEnoughForTheRevisionIsUsed(t *testing.T) {
	inBubble(t, 10, func(t *testing.T, c *cache, held *heldSource) {
		begin(t.Context(), c, tokenA)
		held.next(t).works(5)
		synctest.Wait()
		for revision := range uint64(6) {
			begin(t.Context(), c, question{token: "a", atLeast: revision}).has(t, true, 5)
		}
		begin(t.Context(), c, question{token: "a", atLeast: 6}).waits(t)
		held.next(t).works(6)
		synctest.Wait()
		begin(t.Context(), c, tokenA).has(t, true, 6)
	})
}

func TestTheOneThatWasUsedTheLongestAgoMakesRoom(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, c *cache, held *heldSource) {
		for _, token := range []string{"a", "b", "a", "c"} {
			begin(t.Context(), c, question{token: token})
			select {
			case q := <-held.asked:
				q.works(1)
			default:
			}
			synctest.Wait()
		}
		begin(t.Context(), c, question{token: "a"}).has(t, true, 1)
		begin(t.Context(), c, question{token: "c"}).has(t, true, 1)
		begin(t.Context(), c, question{token: "b"}).waits(t)
		held.next(t).works(1)
		synctest.Wait()
		if len(c.entries) != 2 || c.recent.Len() != 2 || len(c.asked) != 0 {
			t.Fatal(len(c.entries), c.recent.Len(), len(c.asked))
		}
	})
}

func TestNoTokenIsKept(t *testing.T) {
	inBubble(t, 10, func(t *testing.T, c *cache, held *heldSource) {
		begin(t.Context(), c, question{token: "hkp_secret"})
		q := held.next(t)
		q.reply <- heldReply{answer: answer{principal: &Principal{}, maxAge: keptFor}}
		synctest.Wait()
		for key, element := range c.entries {
			if kept := fmt.Sprintf("%s %+v", key, element.Value); strings.Contains(kept, "secret") {
				t.Fatal(kept)
			}
		}
	})
}

func TestClosingEndsOpenQuestions(t *testing.T) {
	inBubble(t, 10, func(t *testing.T, c *cache, held *heldSource) {
		first := begin(t.Context(), c, tokenA)
		q := held.next(t)
		c.close()
		<-first.done
		if !errors.Is(first.err, context.Canceled) || q.ctx.Err() == nil {
			t.Fatal(first.err)
		}
		late := begin(t.Context(), c, tokenA)
		<-late.done
		if !errors.Is(late.err, ErrClosed) {
			t.Fatal(late.err)
		}
	})
}

// history is a service whose one token is revoked and reactivated, each time at a new
// revision, and whose answers take their time and overtake each other.
type history struct {
	mu      sync.Mutex
	changed []time.Time // by revision; even ones work
}

const historyMaxAge = 20 * time.Millisecond

func (h *history) ask(ctx context.Context, _ question) (answer, error) {
	sent := now()
	time.Sleep(rand.N(4 * time.Millisecond))
	h.mu.Lock()
	revision := uint64(len(h.changed) - 1)
	h.mu.Unlock()
	time.Sleep(rand.N(10 * time.Millisecond))
	a := answer{revision: revision, sent: sent}
	if revision%2 == 0 {
		a.principal, a.maxAge = &Principal{Revision: revision}, historyMaxAge
	}
	return a, nil
}

func (h *history) close() {}

// works reports whether the token worked at some moment between two.
func (h *history) works(want bool, from, to time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for revision, since := range h.changed {
		ends := revision+1 < len(h.changed) && !h.changed[revision+1].After(from)
		if !since.After(to) && !ends && (revision%2 == 0) == want {
			return true
		}
	}
	return false
}

// Whatever overtakes what: that a token works was true within the last max_cache_age, and that
// it does not was true after the question came.
func TestEveryAnswerWasTrueRecently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &history{changed: []time.Time{time.Now()}}
		c := newCache(h, 10, time.Second)
		defer c.close()
		var all sync.WaitGroup
		all.Go(func() {
			for range 200 {
				time.Sleep(rand.N(15 * time.Millisecond))
				h.mu.Lock()
				h.changed = append(h.changed, time.Now())
				h.mu.Unlock()
			}
		})
		for range 20 {
			all.Go(func() {
				for range 200 {
					time.Sleep(rand.N(5 * time.Millisecond))
					came := time.Now()
					a, err := c.ask(t.Context(), tokenA)
					if err != nil {
						t.Error(err)
						return
					}
					works := a.principal != nil
					from := came
					if works {
						from = came.Add(-historyMaxAge)
					}
					if !h.works(works, from, time.Now()) {
						t.Errorf("works: %t, revision %d", works, a.revision)
					}
				}
			})
		}
		all.Wait()
	})
}

func BenchmarkCacheHit(b *testing.B) {
	h := &history{changed: []time.Time{time.Now()}}
	c := newCache(keeps{h}, 1000, time.Second)
	defer c.close()
	if _, err := c.ask(b.Context(), tokenA); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := c.ask(b.Context(), tokenA); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// keeps lets its answers be kept long enough for a benchmark.
type keeps struct{ source }

func (k keeps) ask(ctx context.Context, q question) (answer, error) {
	a, err := k.source.ask(ctx, q)
	a.maxAge = time.Hour
	return a, err
}
