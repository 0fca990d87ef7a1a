package hitkeepauth

import (
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "github.com/pascalebeier/hitkeep-auth/clients/go/hitkeepauthpb"
)

const (
	outcomeUsed    = pb.UsageOutcome_USAGE_OUTCOME_USED
	outcomeRevoked = pb.UsageOutcome_USAGE_OUTCOME_REVOKED
)

func (l *ledger) drained() usageBatch {
	batch := make(usageBatch)
	l.take(batch)
	return batch
}

func TestAUseIsTakenOnce(t *testing.T) {
	var l ledger
	client := &indexedClient{id: idOf(1)}
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixMicro()
	l.record(client, outcomeUsed, noon)
	l.record(client, outcomeUsed, noon-1)
	l.record(client, outcomeRevoked, noon+1)
	l.recordReplaced(client, noon)
	taken := l.drained()[client.id]
	if taken == nil || taken.lastUsed != noon || taken.replacedUsed != noon || len(taken.counts) != 2 ||
		taken.counts[0] != (usageCount{20513, outcomeUsed, 2}) || taken.counts[1].count != 1 {
		t.Fatal(taken)
	}
	if left := l.drained(); len(left) != 0 {
		t.Fatal(left)
	}
	// What does not work is not used.
	l.record(client, outcomeRevoked, noon)
	if taken := l.drained()[client.id]; taken.lastUsed != always || taken.replacedUsed != always {
		t.Fatal(taken)
	}
}

func TestMidnightFallsBetweenTwoUses(t *testing.T) {
	var l ledger
	client := &indexedClient{id: idOf(1)}
	midnight := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC).UnixMicro()
	for _, at := range []int64{midnight - 1, midnight - 1, midnight, midnight - 1, midnight, midnight} {
		l.record(client, outcomeUsed, at)
	}
	taken := l.drained()[client.id]
	if len(taken.counts) != 2 || taken.counts[0].count != 3 || taken.counts[1].count != 3 || taken.lastUsed != midnight {
		t.Fatal(taken)
	}
	// Also before 1970, and where a count is full.
	for _, day := range []int32{-719_162, -1, 0, 2_932_896} {
		if got, count := unpackTally(packTally(day, math.MaxUint32)); got != day || count != math.MaxUint32 {
			t.Fatal(got, count)
		}
	}
	client.usage.get(client.id).tallies[outcomeUsed].Store(packTally(20514, math.MaxUint32))
	l.record(client, outcomeUsed, midnight)
	if taken := l.drained()[client.id]; len(taken.counts) != 1 || taken.counts[0].count != math.MaxUint32+1 {
		t.Fatal(taken)
	}
	if floorDiv(-1, 10) != -1 || floorDiv(-10, 10) != -1 || floorDiv(9, 10) != 0 {
		t.Fatal("days before 1970")
	}
}

// Many record, also with counters that were handed on, while one takes all the time.
func TestNoUseIsLostOrTakenTwice(t *testing.T) {
	const goroutines, rounds, clients = 4, 5000, 3
	var l ledger
	midnight := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC).UnixMicro()
	before, after := make([]indexedClient, clients), make([]indexedClient, clients)
	for i := range before {
		before[i].id, after[i].id = idOf(i+1), idOf(i+1)
		if i > 0 {
			l.record(&before[i], outcomeRevoked, midnight)
		}
		after[i].usage.follow(&before[i].usage)
	}
	var recording sync.WaitGroup
	var done atomic.Bool
	for number := range goroutines {
		versions := [][]indexedClient{before, after}[number%2]
		recording.Go(func() {
			for round := range rounds {
				l.record(&versions[round%clients], outcomeUsed, midnight+int64(round%2)-1)
			}
		})
	}
	total := make(usageBatch)
	var taking sync.WaitGroup
	taking.Go(func() {
		for ended := false; !ended; {
			// Read first, so that the last round comes after all uses.
			ended = done.Load()
			l.take(total)
		}
	})
	recording.Wait()
	done.Store(true)
	taking.Wait()
	var uses uint64
	for _, usage := range total {
		for _, count := range usage.counts {
			if count.outcome == outcomeUsed {
				uses += count.count
			}
		}
	}
	if uses != goroutines*rounds {
		t.Fatal(uses)
	}
}

// Compared with a map, over random changes; no version changes after it was made.
func TestVersionsOfAnIndexStayAsTheyAre(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	hashOf := func(token int) tokenHash { return tokenHash{byte(token % 3), byte(token % 5), byte(token)} }
	writer := newIndexWriter(0)
	type kept struct {
		version *index
		own     map[int]ID
		legacy  map[int]ID
		clients int
	}
	var versions []kept
	model := make(map[ID][]clientToken)
	for range 400 {
		for range 1 + random.IntN(3) {
			id := idOf(random.IntN(20) + 1)
			if random.IntN(4) == 0 {
				writer.remove(id)
				delete(model, id)
				continue
			}
			client := &indexedClient{id: id}
			for range random.IntN(4) {
				token := random.IntN(200)
				taken := false
				for other, tokens := range model {
					for _, one := range tokens {
						taken = taken || other != id && one.hash == hashOf(token)
					}
				}
				if !taken {
					client.tokens = append(client.tokens, clientToken{hash: hashOf(token), legacy: token%2 == 0, end: never})
				}
			}
			writer.put(client)
			model[id] = client.tokens
		}
		now := kept{version: writer.version(position{}), own: map[int]ID{}, legacy: map[int]ID{}, clients: len(model)}
		for id, tokens := range model {
			for _, token := range tokens {
				for number := range 200 {
					if hashOf(number) == token.hash && token.legacy == (number%2 == 0) {
						if token.legacy {
							now.legacy[number] = id
						} else {
							now.own[number] = id
						}
					}
				}
			}
		}
		versions = append(versions, now)
	}
	for _, v := range versions {
		if v.version.legacyTokens != len(v.legacy) || v.version.clients != v.clients {
			t.Fatal(v.version.legacyTokens, len(v.legacy))
		}
		for number := range 200 {
			hash := hashOf(number)
			for _, one := range []struct {
				tree hashTree
				has  map[int]ID
			}{{v.version.own, v.own}, {v.version.legacy, v.legacy}} {
				found := one.tree.find(&hash)
				id, has := one.has[number]
				if (found != nil) != has || has && found.client.id != id {
					t.Fatalf("%d: %v, %v", number, found, id)
				}
			}
		}
	}
}
