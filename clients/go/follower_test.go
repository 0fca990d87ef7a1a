package hitkeepauth

import (
	"context"
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/pascalebeier/hitkeep-auth/clients/go/hitkeepauthpb"
)

// The most that a message can say, which is more than a time.Duration can.
var unlimited = &durationpb.Duration{Seconds: 10_000 * 365 * 24 * 3600}

// A sum that overflowed would be negative, and count as fresh until the program ends.
func TestAStalenessWithoutALimitIsNotFresh(t *testing.T) {
	embed(t, 1, EmbeddedOptions{}, func(b *bubble) {
		stream, _, refresh, plain := b.follow(0)
		stream.frames <- &pb.ReplicateResponse{Message: &pb.ReplicateResponse_SnapshotBegin{SnapshotBegin: &pb.SnapshotBegin{
			Position: at(1), ApiClients: 1, Staleness: unlimited,
		}}}
		stream.changes(&pb.ReplicationChanges{Put: []*pb.ReplicatedClient{clientOf(1)}, Accounts: &pb.ReplicatedAccounts{}})
		stream.end()
		time.Sleep(time.Millisecond)
		b.cannotTell(b.ask(1))
		if status := b.client.IndexStatus(); !status.Loaded || status.Fresh || status.Age != math.MaxInt64 {
			b.Fatal(status)
		}
		// A good answer counts all the same.
		stream.answer(plain, 1, 0)
		stream.answer(refresh, 1, 0)
		b.works(1)
		age := b.client.IndexStatus().Age
		time.Sleep(250 * time.Millisecond)
		stream.answer(stream.question(false), 1, math.MaxInt64)
		if later := b.client.IndexStatus().Age; later != age+250*time.Millisecond {
			b.Fatal(age, later)
		}
	})
}

// No age is within a bound that is without an end.
func TestNoBoundIsWithoutAnEnd(t *testing.T) {
	options := EmbeddedOptions{
		MaxStaleness:   math.MaxInt64,
		PollInterval:   math.MaxInt64,
		RefreshTimeout: math.MaxInt64,
		UsageInterval:  math.MaxInt64,
	}
	if err := options.complete(); err != nil {
		t.Fatal(err)
	}
	const most = 30 * 24 * time.Hour
	if options.MaxStaleness != most || options.PollInterval != most/4 ||
		options.RefreshTimeout != most || options.UsageInterval != most {
		t.Fatalf("%+v", options)
	}
}

// followBesideOneThatIsLeftAlone follows the second server, after the first one asked to be left
// alone for a minute.
func (b *bubble) followBesideOneThatIsLeftAlone() *fakeReplication {
	b.Helper()
	stream, _, _, _ := b.follow(0)
	stream.broken <- overloaded(time.Minute)
	stream, _, refresh, plain := b.follow(1)
	stream.snapshot(1, clientOf(1))
	stream.answer(plain, 1, 0)
	stream.answer(refresh, 1, 0)
	return stream
}

// The one that is left alone is no reason to ask the others without a pause.
func TestPausesGrowBesideAServerThatIsLeftAlone(t *testing.T) {
	for _, servers := range []int{2, 3} {
		embed(t, servers, EmbeddedOptions{MaxStaleness: time.Minute}, func(b *bubble) {
			stream := b.followBesideOneThatIsLeftAlone()
			refusal := status.Error(codes.Unavailable, "no listener")
			for _, server := range b.servers[1:] {
				server.refuses.Store(&refusal)
			}
			stream.broken <- status.Error(codes.Unavailable, "cut")
			time.Sleep(30 * time.Second)
			b.notOpened(0)
			tried := make([]int, servers)
			for i, server := range b.servers {
				tried[i] = len(server.opened)
				server.refuses.Store(nil)
			}
			for _, server := range b.servers {
				for len(server.opened) > 0 {
					<-server.opened
				}
			}
			for _, times := range tried[1:] {
				// Between two a second without end, and none at all.
				if times < 15 || times > 45 {
					b.Fatal(tried)
				}
			}
			time.Sleep(maxFollowPause)
			synctest.Wait()
			opened := 0
			for _, server := range b.servers {
				opened += len(server.opened)
			}
			if opened != 1 {
				b.Fatal("streams that were opened afterwards: ", opened)
			}
		})
	}
}

func orderly() error {
	s, _ := status.New(codes.Unavailable, "bye").WithDetails(
		&errdetails.ErrorInfo{Reason: "SHUTTING_DOWN", Domain: errorDomain})
	return s.Err()
}

// One that ends in order is asked again at once, also beside one that is left alone.
func TestAnOrderlyEndNeedsNoPauseBesideAServerThatIsLeftAlone(t *testing.T) {
	embed(t, 2, EmbeddedOptions{MaxStaleness: time.Minute}, func(b *bubble) {
		stream := b.followBesideOneThatIsLeftAlone()
		stream.broken <- orderly()
		b.follow(1)
	})
}

// A backup that is restored meanwhile takes back a revision that was reached.
func TestARevisionThatWasTakenBackIsNotAnsweredBy(t *testing.T) {
	embed(t, 1, EmbeddedOptions{}, func(b *bubble) {
		stream := b.loaded(1)
		stream.changes(&pb.ReplicationChanges{Position: at(2)})
		synctest.Wait()
		done := make(chan error)
		go func() {
			_, err := b.client.Ask(context.Background(), Question{Token: tokenOf(9), AtLeastRevision: 2})
			done <- err
		}()
		refresh := stream.question(true)
		stream.snapshot(1, clientOf(9))
		stream.answer(refresh, 1, 0)
		err := <-done
		b.cannotTell(err)
		if !errors.Is(err, errLate) {
			b.Fatal(err)
		}
		// Nothing was decided.
		counted := make(usageBatch)
		b.client.embedded.ledger.take(counted)
		if len(counted) > 0 {
			b.Fatal(counted)
		}
		b.works(9)
	})
}
