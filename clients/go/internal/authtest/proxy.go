package authtest

import (
	"errors"
	"net"
	"sync"
	"testing"
)

// Proxy is a network between a client and a server that can be cut, and can stop to pass
// anything on while its connections stay open.
type Proxy struct {
	// Address is where it listens.
	Address string

	listener net.Listener
	running  sync.WaitGroup

	mu      sync.Mutex
	resumed *sync.Cond
	// Empty: new connections are closed.
	target  string
	stalled bool
	// Close the next connection before it passes on what follows on a request.
	losing bool
	open   map[net.Conn]struct{}
	made   int
	// How many times all connections were closed.
	cuts int
}

// NewProxy starts a proxy in front of a server. It is closed at the end of the test.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{
		Address:  listener.Addr().String(),
		listener: listener,
		target:   target,
		open:     make(map[net.Conn]struct{}),
	}
	p.resumed = sync.NewCond(&p.mu)
	p.running.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// Cut closes all connections, and lets no new ones through until Restore.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = ""
	p.dropAll()
}

// CutOnce closes all connections; new ones get through.
func (p *Proxy) CutOnce() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dropAll()
}

// Restore lets new connections through, to that server.
func (p *Proxy) Restore(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// Stall passes nothing on any more, over connections that stay open. New ones are accepted,
// and stalled as well.
func (p *Proxy) Stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stalled = true
}

// Resume passes on what was held back.
func (p *Proxy) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stalled = false
	p.resumed.Broadcast()
}

// LoseReplies cuts one connection when the server replies to a call on it. The call has then
// been made, and its caller does not know.
func (p *Proxy) LoseReplies() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.losing = true
}

// Connections is how many got through so far.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.made
}

func (p *Proxy) dropAll() {
	p.cuts++
	for conn := range p.open {
		_ = conn.Close()
	}
}

func (p *Proxy) close() {
	p.mu.Lock()
	p.stalled = false
	p.resumed.Broadcast()
	_ = p.listener.Close()
	p.dropAll()
	p.mu.Unlock()
	p.running.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		p.mu.Lock()
		target, cuts := p.target, p.cuts
		p.mu.Unlock()
		if target == "" {
			_ = client.Close()
			continue
		}
		server, err := net.Dial("tcp", target)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		p.made++
		for _, conn := range []net.Conn{client, server} {
			p.open[conn] = struct{}{}
			// One that was on its way to the server when all were closed is none of them yet.
			if p.cuts != cuts {
				_ = conn.Close()
			}
		}
		p.mu.Unlock()
		p.running.Go(func() { p.pass(client, server, false) })
		p.running.Go(func() { p.pass(server, client, true) })
	}
}

func (p *Proxy) pass(from, to net.Conn, replies bool) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		p.mu.Lock()
		for p.stalled {
			p.resumed.Wait()
		}
		lost := replies && p.losing && hasReply(buffer[:n])
		if lost {
			p.losing = false
		}
		p.mu.Unlock()
		if lost {
			break
		}
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	_, _ = from.Close(), to.Close()
	p.mu.Lock()
	delete(p.open, from)
	delete(p.open, to)
	p.mu.Unlock()
}

// hasReply reports whether a piece of HTTP/2 has response headers, which come in one piece.
func hasReply(piece []byte) bool {
	const header, headersFrame = 9, 1
	for len(piece) >= header {
		length := int(piece[0])<<16 | int(piece[1])<<8 | int(piece[2])
		if piece[3] == headersFrame {
			return true
		}
		piece = piece[min(header+length, len(piece)):]
	}
	return false
}
