package hitkeepauth

import (
	"sync"
	"time"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/roundrobin"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// The name of the policy in a service config.
	avoidingPolicy = "hitkeep_auth_round_robin"
	// How long a server is passed over that cannot answer, if there is another one. Then one call
	// tries it, and the others stay away for as long again.
	avoidance = time.Second
	// How many connections are looked at for one call, in case that others take them meanwhile.
	maxPicks = 64
)

func init() { balancer.Register(avoidingBuilder{}) }

// avoidingBuilder makes a round_robin that passes over servers that were UNAVAILABLE: one whose
// index is stale, or that drains or sheds calls, still has a connection.
//
// Health checks would take such a server out as well, and the only one too, which can still manage
// API clients, and says why it cannot answer.
type avoidingBuilder struct{}

func (avoidingBuilder) Name() string { return avoidingPolicy }

func (avoidingBuilder) Build(conn balancer.ClientConn, opts balancer.BuildOptions) balancer.Balancer {
	avoiding := &avoidingConn{ClientConn: conn, avoided: avoided{until: make(map[balancer.SubConn]time.Time)}}
	return balancer.Get(roundrobin.Name).Build(avoiding, opts)
}

// avoidingConn is what round_robin gives its pickers to.
type avoidingConn struct {
	balancer.ClientConn
	avoided avoided
}

func (c *avoidingConn) UpdateState(state balancer.State) {
	state.Picker = &avoidingPicker{Picker: state.Picker, avoided: &c.avoided}
	c.ClientConn.UpdateState(state)
}

type avoidingPicker struct {
	balancer.Picker
	avoided *avoided
}

func (p *avoidingPicker) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	first, err := p.Picker.Pick(info)
	if err != nil {
		return first, err
	}
	picked := first
	for range maxPicks {
		if p.avoided.mayBeTried(picked.SubConn) {
			return p.watched(picked), nil
		}
		next, err := p.Picker.Pick(info)
		if err != nil || next.SubConn == first.SubConn {
			break
		}
		picked = next
	}
	// There is no better one.
	return p.watched(first), nil
}

// watched is a pick whose end is heard of.
func (p *avoidingPicker) watched(picked balancer.PickResult) balancer.PickResult {
	done := picked.Done
	picked.Done = func(info balancer.DoneInfo) {
		p.avoided.ended(picked.SubConn, info)
		if done != nil {
			done(info)
		}
	}
	return picked
}

// avoided are the connections of servers that are passed over.
type avoided struct {
	mu    sync.Mutex
	until map[balancer.SubConn]time.Time
}

// mayBeTried reports whether a call may be sent there. Of those that ask when an avoidance is over,
// one may.
func (a *avoided) mayBeTried(conn balancer.SubConn) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	until, ok := a.until[conn]
	if !ok {
		return true
	}
	now := time.Now()
	if now.Before(until) {
		return false
	}
	a.until[conn] = now.Add(avoidance)
	return true
}

func (a *avoided) ended(conn balancer.SubConn, call balancer.DoneInfo) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case status.Code(call.Err) == codes.Unavailable:
		now := time.Now()
		// Those that are gone are not asked about again.
		for other, until := range a.until {
			if now.Sub(until) > avoidance {
				delete(a.until, other)
			}
		}
		a.until[conn] = now.Add(avoidance)
	case call.BytesReceived:
		delete(a.until, conn)
	}
}
