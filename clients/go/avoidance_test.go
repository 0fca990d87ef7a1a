package hitkeepauth

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type fakeConn struct {
	balancer.SubConn
	name string
}

// inTurn picks its connections in turn.
type inTurn struct {
	conns []*fakeConn
	next  int
}

func (p *inTurn) Pick(balancer.PickInfo) (balancer.PickResult, error) {
	if len(p.conns) == 0 {
		return balancer.PickResult{}, balancer.ErrNoSubConnAvailable
	}
	conn := p.conns[p.next%len(p.conns)]
	p.next++
	return balancer.PickResult{SubConn: conn}, nil
}

func TestAServerThatIsUnavailableIsPassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := &fakeConn{name: "first"}, &fakeConn{name: "second"}
		turns := &inTurn{conns: []*fakeConn{first, second}}
		picker := &avoidingPicker{
			Picker: turns, avoided: &avoided{until: make(map[balancer.SubConn]time.Time)},
		}
		pick := func() (string, func(balancer.DoneInfo)) {
			t.Helper()
			picked, err := picker.Pick(balancer.PickInfo{})
			if err != nil {
				t.Fatal(err)
			}
			return picked.SubConn.(*fakeConn).name, picked.Done
		}
		picks := func(want ...string) {
			t.Helper()
			var got []string
			for range want {
				name, _ := pick()
				got = append(got, name)
			}
			if !slices.Equal(got, want) {
				t.Fatal(got)
			}
		}
		answered := balancer.DoneInfo{BytesReceived: true}
		failed := func(code codes.Code) balancer.DoneInfo {
			return balancer.DoneInfo{Err: status.Error(code, ""), BytesReceived: true}
		}
		picks("first", "second")
		for _, code := range []codes.Code{codes.NotFound, codes.Canceled, codes.DeadlineExceeded} {
			_, done := pick()
			done(failed(code))
			picks("second", "first", "second")
		}
		_, done := pick()
		done(failed(codes.Unavailable))
		picks("second", "second", "second")
		// One call tries it once a second.
		for range 2 {
			time.Sleep(avoidance)
			var tried []string
			for range 4 {
				name, _ := pick()
				tried = append(tried, name)
			}
			if count(tried, "first") != 1 {
				t.Fatal(tried)
			}
		}
		time.Sleep(avoidance)
		for name, done := pick(); ; name, done = pick() {
			if name == "first" {
				// It was not sent at all, and says nothing of the server.
				done(balancer.DoneInfo{})
				break
			}
		}
		picks("second", "second")
		picker.avoided.ended(first, answered)
		turns.next = 0
		picks("first", "second", "first", "second")

		// There is no other one.
		for _, conn := range turns.conns {
			picker.avoided.ended(conn, failed(codes.Unavailable))
		}
		turns.next = 0
		if name, _ := pick(); name != "first" {
			t.Fatal(name)
		}
		turns.conns = nil
		if _, err := picker.Pick(balancer.PickInfo{}); !errors.Is(err, balancer.ErrNoSubConnAvailable) {
			t.Fatal(err)
		}
	})
}

func count(names []string, wanted string) (count int) {
	for _, name := range names {
		if name == wanted {
			count++
		}
	}
	return count
}
