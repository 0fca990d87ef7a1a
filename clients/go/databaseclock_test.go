package hitkeepauth

import (
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/pascalebeier/hitkeep-auth/clients/go/hitkeepauthpb"
)

// beginAt begins a snapshot of the first revision at a time by the database's clock.
func (s *fakeReplication) beginAt(database *timestamppb.Timestamp, clients int) {
	s.frames <- &pb.ReplicateResponse{Message: &pb.ReplicateResponse_SnapshotBegin{SnapshotBegin: &pb.SnapshotBegin{
		Position: at(1), ApiClients: uint64(clients), Staleness: durationpb.New(0), Now: database,
	}}}
}

// By the database's clock at once, and not only from the first answer on.
func TestExpiriesAreJudgedByTheTimeOfTheSnapshot(t *testing.T) {
	for _, ahead := range []time.Duration{time.Hour, -time.Hour} {
		embed(t, 1, EmbeddedOptions{}, func(b *bubble) {
			stream, _, _, _ := b.follow(0)
			database := time.Now().Add(ahead)
			expired, expiring, begun := clientOf(1), clientOf(2), clientOf(3)
			expired.GetSettled().ExpireTime = timestamppb.New(database.Add(-time.Second))
			expiring.GetSettled().ExpireTime = timestamppb.New(database.Add(time.Second))
			begun.GetSettled().NotBeforeTime = timestamppb.New(database.Add(-time.Second))
			stream.beginAt(timestamppb.New(database), 3)
			stream.changes(&pb.ReplicationChanges{
				Put: []*pb.ReplicatedClient{expired, expiring, begun}, Accounts: &pb.ReplicatedAccounts{},
			})
			stream.end()
			synctest.Wait()
			b.refused(b.ask(1), ReasonExpired)
			b.works(2)
			b.works(3)
			time.Sleep(time.Second)
			b.refused(b.ask(2), ReasonExpired)
			// Also by the old index, while the next one is sent.
			stream.beginAt(timestamppb.New(database.Add(-time.Minute)), 3)
			synctest.Wait()
			b.works(2)
		})
	}
}

// A snapshot may have been on its way for as long as its question is old: an estimate that agrees
// with that stays, and another one moves to the nearer bound.
func TestTheTimeOfASlowSnapshotIsABound(t *testing.T) {
	for _, c := range []struct {
		// When the snapshot began, and what time it is then by the estimate, after a minute.
		database, estimate time.Duration
	}{
		{0, time.Minute},
		{30 * time.Second, time.Minute},
		{time.Minute, time.Minute},
		{time.Hour, time.Hour},
		{-time.Hour, time.Minute - time.Hour},
	} {
		embed(t, 1, EmbeddedOptions{MaxStaleness: time.Hour}, func(b *bubble) {
			stream, _, _, _ := b.follow(0)
			begun := time.Now()
			past, future := clientOf(1), clientOf(2)
			past.GetSettled().ExpireTime = timestamppb.New(begun.Add(c.estimate))
			future.GetSettled().ExpireTime = timestamppb.New(begun.Add(c.estimate + time.Microsecond))
			// Less than the server may be silent for.
			for range 10 {
				time.Sleep(6 * time.Second)
				stream.frames <- &pb.ReplicateResponse{}
			}
			stream.beginAt(timestamppb.New(begun.Add(c.database)), 2)
			stream.changes(&pb.ReplicationChanges{
				Put: []*pb.ReplicatedClient{past, future}, Accounts: &pb.ReplicatedAccounts{},
			})
			stream.end()
			synctest.Wait()
			b.refused(b.ask(1), ReasonExpired)
			b.works(2)
		})
	}
}

func TestASnapshotAtATimeThatIsNone(t *testing.T) {
	embed(t, 1, EmbeddedOptions{}, func(b *bubble) {
		stream, _, _, _ := b.follow(0)
		stream.beginAt(&timestamppb.Timestamp{Nanos: -1}, 0)
		synctest.Wait()
		if stream.ctx.Err() == nil {
			b.Fatal("the replication goes on")
		}
	})
}

// askAfterAStep asks when the machine's time of day has moved away so far from the clock that
// cannot be set.
func (b *bubble) askAfterAStep(number int, step time.Duration) error {
	e := b.client.embedded
	s, at := e.view()
	at.wall = at.wall.Add(step)
	hash := hashOwn(tokenOf(number))
	_, err := e.conclude(s, at, s.index.own.find(&hash), &question{token: tokenOf(number)}, false)
	return err
}

// Either the machine slept, or its time of day was set: what depends on that is not known. It must
// neither look like an expiry, nor let a token work too soon.
func TestATimeOfDayThatWasSetEndsNoToken(t *testing.T) {
	embed(t, 1, EmbeddedOptions{MaxStaleness: 3 * time.Hour}, func(b *bubble) {
		stream := b.loaded(1)
		clients := []*pb.ReplicatedClient{clientOf(1)}
		add := func(number int, change func(*pb.SettledClient)) {
			client := clientOf(number)
			change(client.GetSettled())
			clients = append(clients, client)
		}
		in := func(wait time.Duration) *timestamppb.Timestamp { return timestamppb.New(time.Now().Add(wait)) }
		add(2, func(c *pb.SettledClient) { c.ExpireTime = in(0) })
		add(3, func(c *pb.SettledClient) { c.ExpireTime = in(time.Hour) })
		add(4, func(c *pb.SettledClient) { c.ExpireTime = in(2 * time.Hour) })
		add(5, func(c *pb.SettledClient) { c.NotBeforeTime = in(time.Hour) })
		add(6, func(c *pb.SettledClient) { c.NotBeforeTime = in(2 * time.Hour) })
		add(7, func(c *pb.SettledClient) { c.NotBeforeTime, c.ExpireTime = in(time.Minute), in(time.Hour) })
		add(8, func(c *pb.SettledClient) {
			c.State, c.ExpireTime = pb.ReplicatedState_REPLICATED_STATE_OWNER_INACTIVE, in(time.Hour)
		})
		rotated := revoked(9)
		clients = append(clients, rotated)
		for number, client := range map[int]*pb.ReplicatedClient{10: clients[0], 11: rotated} {
			hash := hashOwn(tokenOf(number))
			client.Tokens = append(client.Tokens, &pb.ReplicatedToken{
				Hash: hash[:], Scheme: pb.TokenScheme_TOKEN_SCHEME_BLAKE3, EndTime: in(time.Hour),
			})
		}
		stream.changes(&pb.ReplicationChanges{Put: clients, Position: at(2)})
		synctest.Wait()
		for number, c := range map[int]struct {
			// Why it does not work, by either clock and if they disagree; empty: it works.
			before, after, unclear InactiveReason
		}{
			1:  {"", "", ""},
			2:  {ReasonExpired, ReasonExpired, ReasonExpired},
			3:  {"", ReasonExpired, "?"},
			4:  {"", "", ""},
			5:  {ReasonNotYetActive, "", "?"},
			6:  {ReasonNotYetActive, ReasonNotYetActive, ReasonNotYetActive},
			7:  {ReasonNotYetActive, ReasonExpired, "?"},
			8:  {ReasonOwnerInactive, ReasonExpired, ReasonExpired},
			9:  {ReasonRevoked, ReasonRevoked, ReasonRevoked},
			10: {"", ReasonTokenRotated, "?"},
			11: {ReasonRevoked, ReasonTokenRotated, ReasonTokenRotated},
		} {
			for step, want := range map[time.Duration]InactiveReason{
				0:                          c.before,
				time.Second - 1:            c.before,
				-time.Hour:                 c.before,
				time.Hour:                  c.unclear,
				time.Hour + 59*time.Minute: c.unclear,
			} {
				err := b.askAfterAStep(number, step)
				switch want {
				case "":
					if err != nil {
						b.Error(number, step, err)
					}
				case "?":
					b.cannotTell(err)
				default:
					b.refused(err, want)
				}
			}
		}
	})
}

// An answer decides between the two estimates, unless its question was asked before the machine slept
// or its time of day was set.
func TestAnAnswerEndsTheDoubtAboutTheTime(t *testing.T) {
	const second = int64(time.Second / time.Microsecond)
	start := now()
	after := func(steady, wall time.Duration) moment {
		return moment{steady: start.steady.Add(steady), wall: start.wall.Add(wall)}
	}
	for name, c := range map[string]struct {
		asked, answered moment
		database        int64
		// By either estimate.
		earliest, latest int64
	}{
		"neither": {
			after(time.Second, time.Second), after(2*time.Second, 2*time.Second), second, 2 * second, 2 * second,
		},
		"set back": {
			after(time.Second, time.Second), after(2*time.Second, -time.Hour), second, 2 * second, 2 * second,
		},
		"set before the question": {
			after(time.Second, time.Minute), after(2*time.Second, time.Minute+time.Second), second, 2 * second, 2 * second,
		},
		"slept before the question": {
			after(time.Second, time.Minute), after(2*time.Second, time.Minute+time.Second), 60 * second, 61 * second, 61 * second,
		},
		"set while the question was open": {
			after(time.Second, time.Second), after(2*time.Second, time.Minute), second, 2 * second, 60 * second,
		},
		"set while the question was open, after an estimate that was ahead": {
			after(time.Second, time.Second), after(2*time.Second, time.Minute), -60 * second, -59 * second, -second,
		},
		"slept while the question was open, which was answered before": {
			after(time.Second, time.Second), after(2*time.Second, time.Minute), 2 * second, 2 * second, 60 * second,
		},
		"slept while the question was open, which was answered afterwards": {
			after(time.Second, time.Second), after(2*time.Second, time.Minute), 60 * second, 60 * second, 60 * second,
		},
	} {
		clock := databaseClock{calibrated: start}.calibrate(c.asked, c.answered, c.database)
		if earliest, latest := clock.at(c.answered); earliest != c.earliest || latest != c.latest {
			t.Error(name, earliest, latest)
		}
		// From then on both go on, by the clocks as they are.
		later := moment{steady: c.answered.steady.Add(time.Second), wall: c.answered.wall.Add(time.Second)}
		if earliest, latest := clock.at(later); earliest != c.earliest+second || latest != c.latest+second {
			t.Error(name, "a second later", earliest, latest)
		}
	}
}
