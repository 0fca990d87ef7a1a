package hitkeepauth

import (
	"context"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/pascalebeier/hitkeep-auth/clients/go/hitkeepauthpb"
)

const manyClients = 100_000

// many is an index of many clients, with a proof that it is fresh for long.
var many = sync.OnceValue(func() *embedded {
	options := EmbeddedOptions{MaxStaleness: 24 * time.Hour}
	if err := options.complete(); err != nil {
		panic(err)
	}
	e := &embedded{live: newLive(options)}
	e.follower = newFollower(e.live, NewRequestID(), nil)
	var all incoming
	begin := &pb.SnapshotBegin{Position: at(1), ApiClients: manyClients, Staleness: durationpb.New(0)}
	if err := all.begin(begin, now()); err != nil {
		panic(err)
	}
	part := &pb.ReplicationChanges{Accounts: &pb.ReplicatedAccounts{}}
	for number := range manyClients {
		part.Put = append(part.Put, clientOf(number))
	}
	if _, _, err := all.add(part); err != nil {
		panic(err)
	}
	whole, err := all.end()
	if err != nil {
		panic(err)
	}
	e.follower.replace(whole)
	e.complete(now(), 0, timestamppb.Now().AsTime().UnixMicro())
	return e
})

func manyTokens() []string {
	tokens := make([]string, manyClients)
	for number := range tokens {
		tokens[number] = tokenOf(number)
	}
	return tokens
}

func newManyClient() *Client {
	c := &Client{embedded: many()}
	c.life, c.end = context.WithCancel(context.Background())
	return c
}

func TestACheckAllocatesOnlyItsPrincipal(t *testing.T) {
	client, token := newManyClient(), tokenOf(7)
	check := func() {
		if _, err := client.Check(context.Background(), token, testSite, SiteView); err != nil {
			t.Fatal(err)
		}
	}
	// The counters of its uses are made for the first one.
	check()
	if allocated := testing.AllocsPerRun(100, check); allocated != 1 {
		t.Errorf("%v allocations", allocated)
	}
}

// From the text of a token to the decision, with a hundred thousand clients: of one token, of a
// thousand by turns, which are spread over the whole index, and of all by turns, so that none is in
// the processor's caches. BenchmarkAuthenticate/EachTimeOverUnixSocket is what to compare it with.
func BenchmarkEmbedded(b *testing.B) {
	client, tokens := newManyClient(), manyTokens()
	for _, token := range tokens {
		if _, err := client.Check(b.Context(), token, testSite, SiteView); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("OneToken", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := client.Check(b.Context(), tokens[7], testSite, SiteView); err != nil {
				b.Fatal(err)
			}
		}
	})
	byTurns := func(count int) func(b *testing.B) {
		return func(b *testing.B) {
			b.ReportAllocs()
			at := 0
			for turn := 0; b.Loop(); turn++ {
				if turn%count == 0 {
					at = 0
				}
				// Far apart, and each once before any comes again.
				at = (at + 61_803) % manyClients
				if _, err := client.Check(b.Context(), tokens[at], testSite, SiteView); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	b.Run("ThousandTokens", byTurns(1000))
	b.Run("AllTokens", byTurns(manyClients))
	b.Run("Parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for at := 0; pb.Next(); {
				at = (at + 61_803) % manyClients
				if _, err := client.Check(b.Context(), tokens[at], testSite, SiteView); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
	// What one change costs, however many clients there are.
	b.Run("Change", func(b *testing.B) {
		b.ReportAllocs()
		writer := client.embedded.follower
		for number := 0; b.Loop(); number = (number + 1) % manyClients {
			changed, err := readReplicatedClient(clientOf(number))
			if err != nil {
				b.Fatal(err)
			}
			to := writer.position
			to.revision++
			if err := writer.apply(&incomingChanges{put: []*indexedClient{changed}}, to); err != nil {
				b.Fatal(err)
			}
		}
	})
}
