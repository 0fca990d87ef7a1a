package hitkeepauth

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/pascalebeier/hitkeep-auth/clients/go/hitkeepauthpb"
)

// The tests here run in a bubble, in which time passes only while everything waits, and play the
// server frame by frame.

// tokenOf is a well-formed token, a different one for each number.
func tokenOf(number int) string {
	text := fmt.Sprintf("hkp_%043d", number)
	crc := crc32.ChecksumIEEE([]byte(text))
	digits := make([]byte, tokenLength-checkedLength)
	for i := len(digits) - 1; i >= 0; i-- {
		digits[i] = base62Digits[crc%62]
		crc /= 62
	}
	return text + string(digits)
}

func idOf(number int) ID {
	return ID{0: 1, 13: byte(number >> 16), 14: byte(number >> 8), 15: byte(number)}
}

var testSite = ID{15: 0xff}

// clientOf is an API client of that number with the token of that number, as it is sent.
func clientOf(number int) *pb.ReplicatedClient {
	id, owner, hash := idOf(number), ID{15: 0xaa}, hashOwn(tokenOf(number))
	return &pb.ReplicatedClient{
		Id: id[:],
		Content: &pb.ReplicatedClient_Settled{Settled: &pb.SettledClient{
			Owner:        &pb.SettledClient_UserId{UserId: owner[:]},
			State:        pb.ReplicatedState_REPLICATED_STATE_ACTIVE,
			InstanceRole: pb.InstanceRole_INSTANCE_ROLE_USER,
			SiteGrants:   []*pb.ReplicatedGrant{{SiteId: testSite[:], Role: pb.SiteRole_SITE_ROLE_VIEWER}},
			Name:         fmt.Sprint("client ", number),
		}},
		Tokens: []*pb.ReplicatedToken{{Hash: hash[:], Scheme: pb.TokenScheme_TOKEN_SCHEME_BLAKE3}},
	}
}

func revoked(number int) *pb.ReplicatedClient {
	client := clientOf(number)
	client.GetSettled().State = pb.ReplicatedState_REPLICATED_STATE_REVOKED
	return client
}

func at(revision uint64) *pb.Position {
	return position{database: ID{0xd}, revision: revision, nonce: ID{0xe, byte(revision)}}.wire()
}

// fakeUpstream is a server that the test plays.
type fakeUpstream struct {
	// The streams that were opened.
	opened chan *fakeReplication
	// What connecting and opening fail with.
	refuses atomic.Pointer[error]
	// Connections take so long.
	slow    time.Duration
	reports chan *pb.ReportUsageRequest
	// What reports are answered.
	answers chan error
	open    atomic.Int32
}

type fakeReplication struct {
	grpc.ClientStream
	t        *testing.T
	ctx      context.Context
	requests chan *pb.ReplicateRequest
	frames   chan *pb.ReplicateResponse
	broken   chan error
}

func newFakeUpstream() *fakeUpstream {
	return &fakeUpstream{
		opened:  make(chan *fakeReplication, 100),
		reports: make(chan *pb.ReportUsageRequest, 100),
		answers: make(chan error, 100),
	}
}

func (f *fakeUpstream) server(name string) *server {
	return &server{target: name, alone: true, connect: func() (upstream, error) {
		f.open.Add(1)
		return f, nil
	}}
}

func (f *fakeUpstream) replicate(ctx context.Context) (replicateStream, error) {
	if f.slow > 0 && !pause(ctx, f.slow) {
		return nil, ctx.Err()
	}
	s := &fakeReplication{
		ctx:      ctx,
		requests: make(chan *pb.ReplicateRequest, 100),
		frames:   make(chan *pb.ReplicateResponse, 100),
		broken:   make(chan error, 1),
	}
	if err := f.refuses.Load(); err != nil && *err != nil {
		f.opened <- nil
		return nil, *err
	}
	f.opened <- s
	return s, nil
}

func (f *fakeUpstream) report(ctx context.Context, usage *pb.ReportUsageRequest) error {
	f.reports <- usage
	select {
	case err := <-f.answers:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *fakeUpstream) close() { f.open.Add(-1) }

func (s *fakeReplication) Send(request *pb.ReplicateRequest) error {
	select {
	case s.requests <- request:
		return nil
	case <-s.ctx.Done():
		return io.EOF
	}
}

func (s *fakeReplication) Recv() (*pb.ReplicateResponse, error) {
	select {
	case frame := <-s.frames:
		return frame, nil
	default:
	}
	select {
	case frame := <-s.frames:
		return frame, nil
	case err := <-s.broken:
		return nil, err
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

// next is what the program sends next.
func (s *fakeReplication) next() *pb.ReplicateRequest {
	s.t.Helper()
	synctest.Wait()
	select {
	case request := <-s.requests:
		return request
	default:
		s.t.Fatal("nothing was sent")
		return nil
	}
}

// question is the next question of that kind.
func (s *fakeReplication) question(askDatabase bool) uint64 {
	s.t.Helper()
	question := s.next().GetQuestion()
	if question == nil || question.GetAskDatabase() != askDatabase {
		s.t.Fatal("another question was to be: ", question)
	}
	return question.GetNumber()
}

func (s *fakeReplication) silent() {
	s.t.Helper()
	synctest.Wait()
	if len(s.requests) > 0 {
		s.t.Fatal(<-s.requests)
	}
}

func (s *fakeReplication) begin(revision uint64, clients int) {
	s.frames <- &pb.ReplicateResponse{Message: &pb.ReplicateResponse_SnapshotBegin{SnapshotBegin: &pb.SnapshotBegin{
		Position: at(revision), ApiClients: uint64(clients), Staleness: durationpb.New(0),
	}}}
}

func (s *fakeReplication) changes(changes *pb.ReplicationChanges) {
	s.frames <- &pb.ReplicateResponse{Message: &pb.ReplicateResponse_Changes{Changes: changes}}
}

func (s *fakeReplication) end() {
	s.frames <- &pb.ReplicateResponse{Message: &pb.ReplicateResponse_SnapshotEnd{SnapshotEnd: &pb.SnapshotEnd{}}}
}

// snapshot sends a whole one.
func (s *fakeReplication) snapshot(revision uint64, clients ...*pb.ReplicatedClient) {
	s.begin(revision, len(clients))
	s.changes(&pb.ReplicationChanges{Put: clients, Accounts: &pb.ReplicatedAccounts{}})
	s.end()
}

// answer answers a question.
func (s *fakeReplication) answer(number, revision uint64, staleness time.Duration) {
	s.frames <- &pb.ReplicateResponse{Message: &pb.ReplicateResponse_Answer{Answer: &pb.ReplicationAnswer{
		Number: number, Position: at(revision), Staleness: durationpb.New(staleness), Now: timestamppb.Now(),
	}}}
	synctest.Wait()
}

// bubble is a program that holds an index, and its servers.
type bubble struct {
	*testing.T
	client  *Client
	servers []*fakeUpstream
}

func embed(t *testing.T, servers int, options EmbeddedOptions, test func(*bubble)) {
	t.Helper()
	embedWith(t, servers, func(*server) {}, options, test)
}

// embedWith changes the servers before they are followed.
func embedWith(t *testing.T, servers int, change func(*server), options EmbeddedOptions, test func(*bubble)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		if err := options.complete(); err != nil {
			t.Fatal(err)
		}
		b := &bubble{T: t}
		var followed []*server
		for i := range servers {
			b.servers = append(b.servers, newFakeUpstream())
			followed = append(followed, b.servers[i].server(fmt.Sprint("server ", i)))
			change(followed[i])
		}
		b.client = &Client{embedded: newEmbedded(options, followed)}
		b.client.life, b.client.end = context.WithCancel(context.Background())
		// A goroutine that is left fails the test.
		closing := sync.OnceFunc(func() {
			b.client.end()
			b.client.embedded.close()
		})
		defer closing()
		test(b)
		closing()
		for i, server := range b.servers {
			if open := server.open.Load(); open != 0 {
				t.Errorf("%d connections to server %d are left", open, i)
			}
		}
	})
}

// follow is the next stream that is opened to a server, of which the start and the first two
// questions were read.
func (b *bubble) follow(server int) (stream *fakeReplication, start *pb.ReplicationStart, refresh, plain uint64) {
	b.Helper()
	stream = b.opened(server)
	start = stream.next().GetStart()
	if start == nil {
		b.Fatal("no start")
	}
	return stream, start, stream.question(true), stream.question(false)
}

func (b *bubble) opened(server int) *fakeReplication {
	b.Helper()
	synctest.Wait()
	select {
	case stream := <-b.servers[server].opened:
		if stream != nil {
			stream.t = b.T
		}
		return stream
	default:
		b.Fatal("no stream was opened to server ", server)
		return nil
	}
}

func (b *bubble) notOpened(server int) {
	b.Helper()
	synctest.Wait()
	if len(b.servers[server].opened) > 0 {
		b.Fatal("a stream was opened to server ", server)
	}
}

// loaded follows the first server, and loads clients of these numbers from it.
func (b *bubble) loaded(numbers ...int) *fakeReplication {
	b.Helper()
	stream, _, refresh, plain := b.follow(0)
	clients := make([]*pb.ReplicatedClient, len(numbers))
	for i, number := range numbers {
		clients[i] = clientOf(number)
	}
	stream.snapshot(1, clients...)
	stream.answer(plain, 1, 0)
	stream.answer(refresh, 1, 0)
	return stream
}

func (b *bubble) ask(number int) error {
	_, err := b.client.Authenticate(context.Background(), tokenOf(number))
	return err
}

func (b *bubble) works(number int) {
	b.Helper()
	if err := b.ask(number); err != nil {
		b.Fatal(err)
	}
}

func (b *bubble) cannotTell(err error) {
	b.Helper()
	if !errors.Is(err, ErrUnavailable) {
		b.Fatal("it can tell: ", err)
	}
}

func (b *bubble) refused(err error, reason InactiveReason) {
	b.Helper()
	var inactive *InactiveError
	if !errors.As(err, &inactive) || inactive.Reason != reason {
		b.Fatalf("%v, where %s was to be", err, reason)
	}
}

func TestASnapshotCountsOnceItIsWhole(t *testing.T) {
	embed(t, 1, EmbeddedOptions{}, func(b *bubble) {
		stream, start, refresh, plain := b.follow(0)
		if start.GetPosition() != nil || len(start.GetFeatures()) != 3 || start.GetWithoutNames() {
			b.Fatal(start)
		}
		if _, err := ParseID(start.GetReplicaId()); err != nil {
			b.Fatal(err)
		}
		stream.begin(1, 2)
		stream.changes(&pb.ReplicationChanges{Put: []*pb.ReplicatedClient{clientOf(1)}, Accounts: &pb.ReplicatedAccounts{}})
		synctest.Wait()
		begun := time.Now()
		b.cannotTell(b.ask(1))
		if waited := time.Since(begun); waited != time.Second {
			b.Fatal("it waited for ", waited)
		}
		stream.changes(&pb.ReplicationChanges{Put: []*pb.ReplicatedClient{clientOf(2)}})
		stream.end()
		stream.answer(plain, 1, 0)
		stream.answer(refresh, 1, 0)
		b.works(1)
		principal, err := b.client.Check(context.Background(), tokenOf(2), testSite, SiteView)
		if err != nil || principal.ClientID != idOf(2) || principal.ClientName != "client 2" || principal.Revision != 1 ||
			principal.SiteRoles.Get(testSite) != SiteViewer || principal.UserID.IsZero() {
			b.Fatal(principal, err)
		}
		if status := b.client.IndexStatus(); !status.Loaded || !status.Fresh || status.Clients != 2 ||
			status.Revision != 1 || status.Upstream != "server 0" {
			b.Fatal(status)
		}
	})
}

// A whole index may be one that the server itself could not prove to be fresh.
func TestItIsReadyOnceTheIndexIsFresh(t *testing.T) {
	embed(t, 1, EmbeddedOptions{}, func(b *bubble) {
		stream, _, refresh, plain := b.follow(0)
		ready := make(chan error, 1)
		go func() { ready <- b.client.Ready(context.Background()) }()
		stream.frames <- &pb.ReplicateResponse{Message: &pb.ReplicateResponse_SnapshotBegin{SnapshotBegin: &pb.SnapshotBegin{
			Position: at(1), ApiClients: 1, Staleness: durationpb.New(time.Minute),
		}}}
		stream.changes(&pb.ReplicationChanges{Put: []*pb.ReplicatedClient{clientOf(1)}, Accounts: &pb.ReplicatedAccounts{}})
		stream.end()
		stream.answer(plain, 1, time.Minute)
		if len(ready) > 0 {
			b.Fatal("it is stale")
		}
		stream.answer(refresh, 1, 0)
		if err := <-ready; err != nil {
			b.Fatal(err)
		}
		b.works(1)
	})
}

// A client that was deleted meanwhile is not in the next snapshot.
func TestASnapshotReplacesAndABrokenOneChangesNothing(t *testing.T) {
	embed(t, 1, EmbeddedOptions{}, func(b *bubble) {
		stream := b.loaded(1, 2)
		stream.broken <- status.Error(codes.Unavailable, "cut")
		time.Sleep(firstFollowPause)
		stream, start, _, _ := b.follow(0)
		if !slices.Equal(start.GetPosition().GetNonce(), at(1).GetNonce()) || start.GetPosition().GetRevision() != 1 {
			b.Fatal(start)
		}
		stream.begin(7, 2)
		stream.changes(&pb.ReplicationChanges{Put: []*pb.ReplicatedClient{clientOf(3)}, Accounts: &pb.ReplicatedAccounts{}})
		stream.broken <- status.Error(codes.Unavailable, "cut")
		time.Sleep(2 * firstFollowPause)
		stream, start, refresh, plain := b.follow(0)
		if start.GetPosition().GetRevision() != 1 {
			b.Fatal(start)
		}
		b.works(1)
		b.works(2)
		stream.snapshot(8, clientOf(2), clientOf(3))
		stream.answer(plain, 8, 0)
		stream.answer(refresh, 8, 0)
		b.works(2)
		b.works(3)
		done := make(chan error)
		go func() { done <- b.ask(1) }()
		stream.answer(stream.question(true), 8, 0)
		b.refused(<-done, ReasonUnknownToken)
	})
}

func TestChangesCountAllAtOnce(t *testing.T) {
	embed(t, 1, EmbeddedOptions{}, func(b *bubble) {
		stream := b.loaded(1, 2, 3)
		second := idOf(2)
		stream.changes(&pb.ReplicationChanges{Put: []*pb.ReplicatedClient{revoked(1)}})
		stream.changes(&pb.ReplicationChanges{Removed: [][]byte{second[:]}})
		synctest.Wait()
		b.works(1)
		b.works(2)
		stream.changes(&pb.ReplicationChanges{Put: []*pb.ReplicatedClient{clientOf(4)}, Position: at(5)})
		synctest.Wait()
		b.refused(b.ask(1), ReasonRevoked)
		b.works(3)
		principal, err := b.client.Authenticate(context.Background(), tokenOf(4))
		if err != nil || principal.Revision != 5 {
			b.Fatal(principal, err)
		}
		if status := b.client.IndexStatus(); status.Clients != 3 {
			b.Fatal(status)
		}
	})
}

// From when the question was sent, and not from when the answer arrived.
func TestTheAgeIsCountedFromTheQuestion(t *testing.T) {
	embed(t, 1, EmbeddedOptions{MaxStaleness: 8 * time.Second, PollInterval: time.Second}, func(b *bubble) {
		stream := b.loaded(1)
		stopped := b.loadedRevoked(stream)
		time.Sleep(time.Second)
		question := stream.question(false)
		// On its way for most of a second, and the server's own index is two seconds old.
		time.Sleep(900 * time.Millisecond)
		stream.answer(question, 2, 2*time.Second)
		// What was proven before is worth more.
		if age := b.client.IndexStatus().Age; age != 1900*time.Millisecond {
			b.Fatal(age)
		}
		time.Sleep(100 * time.Millisecond)
		question = stream.question(false)
		time.Sleep(1500 * time.Millisecond)
		stream.answer(question, 2, time.Second)
		if age := b.client.IndexStatus().Age; age != 2500*time.Millisecond {
			b.Fatal(age)
		}
		// Whatever else it sends, only an answer proves anything.
		for b.client.IndexStatus().Age < 8*time.Second {
			time.Sleep(500 * time.Millisecond)
			stream.frames <- &pb.ReplicateResponse{}
			synctest.Wait()
			b.works(1)
		}
		time.Sleep(time.Nanosecond)
		b.cannotTell(b.ask(1))
		b.cannotTell(b.ask(99))
		b.cannotTell(second(b.client.Authenticate(context.Background(), strings.Repeat("0a", 32))))
		// What does not work goes on not to work.
		b.refused(b.ask(stopped), ReasonRevoked)
		b.refused(second(b.client.Authenticate(context.Background(), "junk")), ReasonUnknownToken)
		if status := b.client.IndexStatus(); status.Fresh {
			b.Fatal(status)
		}
	})
}

func second[A any](_ A, err error) error { return err }

// loadedRevoked adds a client that is revoked, with the second revision.
func (b *bubble) loadedRevoked(stream *fakeReplication) (number int) {
	const added = 50
	stream.changes(&pb.ReplicationChanges{Put: []*pb.ReplicatedClient{revoked(added)}, Position: at(2)})
	synctest.Wait()
	return added
}

// The next server may be staler than the last one; its snapshot is dated by what it has received.
func TestASnapshotIsAsOldAsItsServerSays(t *testing.T) {
	embed(t, 2, EmbeddedOptions{}, func(b *bubble) {
		stream := b.loaded(1)
		stream.broken <- status.Error(codes.Unavailable, "cut")
		stream, _, refresh, plain := b.follow(1)
		time.Sleep(time.Second)
		stream.frames <- &pb.ReplicateResponse{Message: &pb.ReplicateResponse_SnapshotBegin{SnapshotBegin: &pb.SnapshotBegin{
			Position: at(9), ApiClients: 1, Staleness: durationpb.New(4 * time.Second),
		}}}
		stream.changes(&pb.ReplicationChanges{Put: []*pb.ReplicatedClient{clientOf(2)}, Accounts: &pb.ReplicatedAccounts{}})
		time.Sleep(time.Second)
		stream.end()
		synctest.Wait()
		if age := b.client.IndexStatus().Age; age != 6*time.Second {
			b.Fatal(age)
		}
		stream.answer(plain, 9, 0)
		if age := b.client.IndexStatus().Age; age != 2*time.Second {
			b.Fatal(age)
		}
		stream.answer(refresh, 9, 0)
	})
}

// What no version of the service sends ends the replication, and changes nothing.
func TestWhatNoServerSends(t *testing.T) {
	first, short := idOf(1), []byte("short")
	for name, send := range map[string]func(s *fakeReplication){
		"an end without a beginning": func(s *fakeReplication) { s.end() },
		"a snapshot in a snapshot":   func(s *fakeReplication) { s.begin(3, 0); s.begin(3, 0) },
		"a snapshot that is not whole": func(s *fakeReplication) {
			s.begin(3, 2)
			s.changes(&pb.ReplicationChanges{Put: []*pb.ReplicatedClient{clientOf(1)}, Accounts: &pb.ReplicatedAccounts{}})
			s.end()
		},
		"a snapshot without accounts": func(s *fakeReplication) {
			s.begin(3, 1)
			s.changes(&pb.ReplicationChanges{Put: []*pb.ReplicatedClient{clientOf(1)}})
			s.end()
		},
		"a client twice": func(s *fakeReplication) { s.snapshot(3, clientOf(1), clientOf(1)) },
		"a removal in a snapshot": func(s *fakeReplication) {
			s.begin(3, 1)
			s.changes(&pb.ReplicationChanges{Removed: [][]byte{first[:]}})
		},
		"a position in a snapshot": func(s *fakeReplication) {
			s.begin(3, 1)
			s.changes(&pb.ReplicationChanges{Position: at(3)})
		},
		"changes of another database": func(s *fakeReplication) {
			to := at(3)
			to.DatabaseId = first[:]
			s.changes(&pb.ReplicationChanges{Position: to})
		},
		"changes that lead back":     func(s *fakeReplication) { s.changes(&pb.ReplicationChanges{Position: at(0)}) },
		"no id":                      func(s *fakeReplication) { s.changes(&pb.ReplicationChanges{Removed: [][]byte{short}}) },
		"no position":                func(s *fakeReplication) { s.changes(&pb.ReplicationChanges{Position: &pb.Position{DatabaseId: short}}) },
		"an answer to no question":   func(s *fakeReplication) { s.answer(1000, 1, 0) },
		"an answer amid changes":     func(s *fakeReplication) { s.changes(&pb.ReplicationChanges{}); s.answer(3, 1, 0) },
		"an answer about the future": func(s *fakeReplication) { s.answer(3, 2, 0) },
		"a negative staleness":       func(s *fakeReplication) { s.answer(3, 1, -time.Second) },
		"a hash that is none": func(s *fakeReplication) {
			client := clientOf(2)
			client.Tokens[0].Hash = short
			s.changes(&pb.ReplicationChanges{Put: []*pb.ReplicatedClient{client}, Position: at(2)})
		},
		"a time that is none": func(s *fakeReplication) {
			client := clientOf(2)
			client.GetSettled().ExpireTime = &timestamppb.Timestamp{Nanos: -1}
			s.changes(&pb.ReplicationChanges{Put: []*pb.ReplicatedClient{client}, Position: at(2)})
		},
	} {
		t.Run(name, func(t *testing.T) {
			embed(t, 1, EmbeddedOptions{}, func(b *bubble) {
				stream := b.loaded(1)
				time.Sleep(250 * time.Millisecond)
				if number := stream.question(false); number != 3 {
					b.Fatal(number)
				}
				send(stream)
				synctest.Wait()
				if stream.ctx.Err() == nil {
					b.Fatal("the replication goes on")
				}
				b.works(1)
				time.Sleep(firstFollowPause)
				if _, start, _, _ := b.follow(0); start.GetPosition().GetRevision() != 1 {
					b.Fatal(start)
				}
			})
		})
	}
}

func TestWhatIsNotUnderstoodIsNotAnswered(t *testing.T) {
	settled := func(change func(*pb.SettledClient)) func(*pb.ReplicatedClient) {
		return func(client *pb.ReplicatedClient) { change(client.GetSettled()) }
	}
	for name, change := range map[string]func(*pb.ReplicatedClient){
		"unreadable":         func(c *pb.ReplicatedClient) { c.Content = &pb.ReplicatedClient_Unreadable{Unreadable: true} },
		"no content":         func(c *pb.ReplicatedClient) { c.Content = nil },
		"an unknown feature": func(c *pb.ReplicatedClient) { c.Needs = []pb.ReplicationFeature{1, 63} },
		"no feature at all":  func(c *pb.ReplicatedClient) { c.Needs = []pb.ReplicationFeature{-1} },
		"another scheme beside": func(c *pb.ReplicatedClient) {
			c.Tokens = append(c.Tokens, &pb.ReplicatedToken{Hash: []byte("?"), Scheme: 77})
		},
		"an unknown state":         settled(func(c *pb.SettledClient) { c.State = 77 }),
		"no state":                 settled(func(c *pb.SettledClient) { c.State = 0 }),
		"an unknown instance role": settled(func(c *pb.SettledClient) { c.InstanceRole = 77 }),
		"an unknown site role":     settled(func(c *pb.SettledClient) { c.SiteGrants[0].Role = 77 }),
		"no owner":                 settled(func(c *pb.SettledClient) { c.Owner = nil }),
		"no range":                 settled(func(c *pb.SettledClient) { c.AllowedCidrs = []string{"192.0.2.1"} }),
		"a range with host bits":   settled(func(c *pb.SettledClient) { c.AllowedCidrs = []string{"192.0.2.1/24"} }),
		"a mapped range":           settled(func(c *pb.SettledClient) { c.AllowedCidrs = []string{"::ffff:10.0.0.0/104"} }),
		"a range twice":            settled(func(c *pb.SettledClient) { c.AllowedCidrs = []string{"::/0", "::/0"} }),
	} {
		t.Run(name, func(t *testing.T) {
			embed(t, 1, EmbeddedOptions{}, func(b *bubble) {
				stream := b.loaded(1)
				client := clientOf(2)
				change(client)
				stream.changes(&pb.ReplicationChanges{Put: []*pb.ReplicatedClient{client}, Position: at(2)})
				synctest.Wait()
				b.cannotTell(b.ask(2))
				b.works(1)
				// When it can be read, it is judged again.
				stream.changes(&pb.ReplicationChanges{Put: []*pb.ReplicatedClient{clientOf(2)}, Position: at(3)})
				synctest.Wait()
				b.works(2)
			})
		})
	}
}

// By the database's clock, whatever the own one says, and in the service's own order of reasons.
func TestWhyATokenDoesNotWork(t *testing.T) {
	embed(t, 1, EmbeddedOptions{AcceptLegacyUntil: time.Date(2000, 1, 1, 2, 0, 0, 0, time.UTC)}, func(b *bubble) {
		stream := b.loaded(1)
		// In a bubble it is the year 2000; by the database it is an hour later.
		database := time.Date(2000, 1, 1, 1, 0, 0, 0, time.UTC)
		soon := timestamppb.New(database.Add(time.Second))
		past := timestamppb.New(database)
		legacy := strings.Repeat("0a", 32)
		oldHash, legacyHash := hashOwn(tokenOf(90)), hashLegacy(legacy)

		expiring, beginning, restricted, rotated, archived := clientOf(2), clientOf(3), clientOf(4), clientOf(5), clientOf(6)
		expiring.GetSettled().ExpireTime = soon
		beginning.GetSettled().NotBeforeTime = soon
		beginning.GetSettled().AllowedCidrs = []string{"192.0.2.0/24"}
		restricted.GetSettled().AllowedCidrs = []string{"192.0.2.0/24", "2001:db8::/32"}
		rotated.Tokens = append(rotated.Tokens,
			&pb.ReplicatedToken{Hash: oldHash[:], Scheme: pb.TokenScheme_TOKEN_SCHEME_BLAKE3, EndTime: soon})
		rotated.GetSettled().ExpireTime = soon
		archived.GetSettled().State = pb.ReplicatedState_REPLICATED_STATE_OWNER_INACTIVE
		imported := clientOf(7)
		imported.Tokens = []*pb.ReplicatedToken{{Hash: legacyHash[:], Scheme: pb.TokenScheme_TOKEN_SCHEME_HITKEEP_SHA256}}
		imported.Needs = enforcedFeatures
		expired := revoked(8)
		expired.GetSettled().ExpireTime = past
		ended := clientOf(9)
		ended.GetSettled().ExpireTime = past
		ended.GetSettled().State = pb.ReplicatedState_REPLICATED_STATE_OWNER_INACTIVE
		stream.changes(&pb.ReplicationChanges{
			Put:      []*pb.ReplicatedClient{expiring, beginning, restricted, rotated, archived, imported, expired, ended},
			Position: at(2),
		})
		time.Sleep(250 * time.Millisecond)
		number := stream.question(false)
		stream.frames <- &pb.ReplicateResponse{Message: &pb.ReplicateResponse_Answer{Answer: &pb.ReplicationAnswer{
			Number: number, Position: at(2), Staleness: durationpb.New(0), Now: timestamppb.New(database),
		}}}
		synctest.Wait()
		from := func(address string) context.Context {
			return ContextWithSourceIP(context.Background(), netip.MustParseAddr(address))
		}
		asking := func(ctx context.Context, token string) error {
			return second(b.client.Authenticate(ctx, token))
		}
		b.works(2)
		b.refused(b.ask(3), ReasonNotYetActive)
		b.refused(b.ask(4), ReasonSourceNotAllowed)
		b.refused(asking(from("198.51.100.1"), tokenOf(4)), ReasonSourceNotAllowed)
		for _, address := range []string{"192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1"} {
			if err := asking(from(address), tokenOf(4)); err != nil {
				b.Fatal(address, err)
			}
		}
		b.works(5)
		b.works(90)
		b.refused(b.ask(6), ReasonOwnerInactive)
		b.refused(b.ask(8), ReasonRevoked)
		b.refused(b.ask(9), ReasonExpired)
		principal, err := b.client.Authenticate(context.Background(), legacy)
		if err != nil || principal.ClientID != idOf(7) {
			b.Fatal(principal, err)
		}
		b.refused(asking(context.Background(), strings.Repeat("0b", 32)), ReasonUnknownToken)
		// At that very time, and not after it.
		time.Sleep(time.Second)
		b.refused(b.ask(2), ReasonExpired)
		b.refused(b.ask(90), ReasonTokenRotated)
		b.refused(b.ask(5), ReasonExpired)
		b.refused(b.ask(3), ReasonSourceNotAllowed)
		if err := asking(from("192.0.2.1"), tokenOf(3)); err != nil {
			b.Fatal(err)
		}
		// An hour passes on the machine, which slept, and the database says so.
		if err := asking(context.Background(), legacy); err != nil {
			b.Fatal(err)
		}
		number = stream.question(false)
		stream.frames <- &pb.ReplicateResponse{Message: &pb.ReplicateResponse_Answer{Answer: &pb.ReplicationAnswer{
			Number: number, Position: at(2), Staleness: durationpb.New(0), Now: timestamppb.New(database.Add(time.Hour)),
		}}}
		synctest.Wait()
		b.refused(asking(context.Background(), legacy), ReasonExpired)
	})
}

// A token was replaced if its overlap ends before its client does, as it says at a server.
func TestWhichTokensCountAsReplaced(t *testing.T) {
	embed(t, 1, EmbeddedOptions{}, func(b *bubble) {
		stream := b.loaded(1)
		end := timestamppb.New(time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC))
		replaced, endsAsClient := clientOf(2), clientOf(3)
		for i, client := range []*pb.ReplicatedClient{replaced, endsAsClient} {
			old := hashOwn(tokenOf(90 + i))
			client.Tokens = append(client.Tokens,
				&pb.ReplicatedToken{Hash: old[:], Scheme: pb.TokenScheme_TOKEN_SCHEME_BLAKE3, EndTime: end})
		}
		endsAsClient.GetSettled().ExpireTime = end
		stream.changes(&pb.ReplicationChanges{
			Put:      []*pb.ReplicatedClient{replaced, endsAsClient},
			Position: at(2),
		})
		synctest.Wait()
		for _, number := range []int{2, 90, 91} {
			b.works(number)
		}
		for id, used := range b.client.embedded.ledger.drained() {
			if wasReplaced := used.replacedUsed != always; wasReplaced != (id == idOf(2)) {
				b.Fatal(id, used)
			}
		}
	})
}

func TestDecisions(t *testing.T) {
	embed(t, 1, EmbeddedOptions{}, func(b *bubble) {
		b.loaded(1)
		for _, c := range []struct {
			permission Permission
			site       ID
			allowed    bool
		}{
			{SiteView, testSite, true},
			{SiteManageData, testSite, false},
			{SiteView, idOf(9), false},
			{InstanceViewSystem, ID{}, false},
		} {
			_, err := b.client.Check(context.Background(), tokenOf(1), c.site, c.permission)
			var forbidden *ForbiddenError
			if c.allowed != (err == nil) || err != nil && !errors.As(err, &forbidden) {
				b.Fatal(c.permission, err)
			}
		}
		// A permission that this version does not know is not decided.
		var misconfigured *MisconfiguredError
		if _, err := b.client.Check(context.Background(), tokenOf(1), testSite, "site.fly"); !errors.As(err, &misconfigured) {
			b.Fatal(err)
		}
	})
}

// One question for all, which no caller's end breaks, and no more than so many a second.
func TestUnknownTokensAreAskedAboutWithinABudget(t *testing.T) {
	embed(t, 1, EmbeddedOptions{MaxLookups: 4, MaxWaiting: 3, RefreshTimeout: 2 * time.Second, MaxStaleness: 40 * time.Second, PollInterval: 10 * time.Second}, func(b *bubble) {
		stream := b.loaded(1)
		errs := make(chan error, 10)
		ctx, cancel := context.WithCancel(context.Background())
		go func() { errs <- second(b.client.Authenticate(ctx, tokenOf(2))) }()
		first := stream.question(true)
		go func() { errs <- b.ask(3) }()
		go func() { errs <- b.ask(3) }()
		stream.silent()
		cancel()
		if err := <-errs; !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.Canceled) {
			b.Fatal(err)
		}
		// It was asked before those came.
		stream.answer(first, 1, 0)
		stream.silent()
		time.Sleep(249 * time.Millisecond)
		stream.silent()
		time.Sleep(time.Millisecond)
		both := stream.question(true)
		stream.changes(&pb.ReplicationChanges{Put: []*pb.ReplicatedClient{clientOf(3)}, Position: at(2)})
		stream.answer(both, 2, 0)
		for range 2 {
			if err := <-errs; err != nil {
				b.Fatal(err)
			}
		}
		stream.silent()

		// More than may wait: the index stands while it is current, and then there is no answer.
		for number := range 3 {
			go func() { errs <- b.ask(10 + number) }()
		}
		synctest.Wait()
		b.refused(b.ask(20), ReasonUnknownToken)
		time.Sleep(300 * time.Millisecond)
		stream.answer(stream.question(true), 2, 0)
		for range 3 {
			b.refused(<-errs, ReasonUnknownToken)
		}
		// A server that cannot ask its own source says nothing about the token.
		go func() { errs <- b.ask(30) }()
		time.Sleep(300 * time.Millisecond)
		number := stream.question(true)
		stream.frames <- &pb.ReplicateResponse{Message: &pb.ReplicateResponse_Answer{Answer: &pb.ReplicationAnswer{
			Number: number, Error: &pb.IntrospectError{Code: int32(codes.Unavailable)},
		}}}
		b.cannotTell(<-errs)
		// None that is no token of the service is worth a question.
		for _, text := range []string{"junk", strings.Repeat("0a", 32), tokenOf(1)[:52] + "~", "hks" + tokenOf(1)[3:]} {
			b.refused(second(b.client.Authenticate(context.Background(), text)), ReasonUnknownToken)
		}
		stream.silent()
	})
}

func TestARevisionIsWaitedFor(t *testing.T) {
	embed(t, 1, EmbeddedOptions{}, func(b *bubble) {
		stream := b.loaded(1)
		asked := Question{Token: tokenOf(1), AtLeastRevision: 1}
		if _, err := b.client.Ask(context.Background(), asked); err != nil {
			b.Fatal(err)
		}
		asked.AtLeastRevision = 2
		b.cannotTell(second(b.client.Ask(context.Background(), asked)))
		for len(stream.requests) > 0 {
			<-stream.requests
		}
		done := make(chan error)
		go func() { done <- second(b.client.Ask(context.Background(), asked)) }()
		synctest.Wait()
		stream.changes(&pb.ReplicationChanges{Put: []*pb.ReplicatedClient{revoked(1)}, Position: at(3)})
		b.refused(<-done, ReasonRevoked)
	})
}

func overloaded(delay time.Duration) error {
	s, _ := status.New(codes.Unavailable, "too many snapshots").WithDetails(
		&errdetails.ErrorInfo{Reason: "OVERLOADED", Domain: errorDomain},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(delay)})
	return s.Err()
}

func TestAServerThatWantsToBeLeftAloneIs(t *testing.T) {
	embed(t, 1, EmbeddedOptions{MaxStaleness: time.Minute}, func(b *bubble) {
		stream, _, _, _ := b.follow(0)
		begun := time.Now()
		stream.broken <- overloaded(4 * time.Second)
		// Also if a caller is in a hurry.
		b.cannotTell(b.ask(1))
		for time.Since(begun) < 4*time.Second {
			b.notOpened(0)
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(2 * time.Second)
		b.loaded(1)
		b.works(1)
	})
	// Another one is not concerned.
	embed(t, 2, EmbeddedOptions{MaxStaleness: time.Minute}, func(b *bubble) {
		stream, _, _, _ := b.follow(0)
		stream.broken <- overloaded(4 * time.Second)
		stream, _, refresh, plain := b.follow(1)
		stream.snapshot(1, clientOf(1))
		stream.answer(plain, 1, 0)
		stream.answer(refresh, 1, 0)
		b.works(1)
		stream.broken <- status.Error(codes.Unavailable, "cut")
		b.notOpened(0)
		time.Sleep(time.Second)
		b.notOpened(0)
		b.opened(1)
	})
}

func TestServersAreTriedInTurn(t *testing.T) {
	embed(t, 3, EmbeddedOptions{}, func(b *bubble) {
		stream := b.loaded(1)
		refusal := status.Error(codes.PermissionDenied, "not permitted")
		b.servers[1].refuses.Store(&refusal)
		stream.broken <- status.Error(codes.Unavailable, "cut")
		if b.opened(1) != nil {
			b.Fatal("it was to be refused")
		}
		stream, start, refresh, plain := b.follow(2)
		if start.GetPosition().GetRevision() != 1 {
			b.Fatal(start)
		}
		stream.answer(plain, 1, 0)
		stream.answer(refresh, 1, 0)
		if status := b.client.IndexStatus(); status.Upstream != "server 2" {
			b.Fatal(status)
		}
		// One that ends in order is asked again in its turn, and at once.
		stream.broken <- orderly()
		b.follow(0)
	})
}

func TestAServerThatIsAskedRarelyMayBeSilent(t *testing.T) {
	options := EmbeddedOptions{MaxStaleness: time.Second, PollInterval: 250 * time.Millisecond}
	embed(t, 1, options, func(b *bubble) {
		stream := b.loaded(1)
		for range 20 {
			time.Sleep(250 * time.Millisecond)
			stream.answer(stream.question(false), 1, 0)
			synctest.Wait()
		}
		if stream.ctx.Err() != nil {
			b.Fatal("it was given up")
		}
	})
}

func TestAServerIsGivenUp(t *testing.T) {
	t.Run("if it is silent", func(t *testing.T) {
		embed(t, 1, EmbeddedOptions{}, func(b *bubble) {
			stream := b.loaded(1)
			// The next question is asked after 250 ms, and from then on it may be silent so long.
			time.Sleep(2749 * time.Millisecond)
			b.notOpened(0)
			if stream.ctx.Err() != nil {
				b.Fatal("it was given up too soon")
			}
			time.Sleep(time.Millisecond + firstFollowPause)
			b.follow(0)
			b.works(1)
		})
	})
	t.Run("if it proves nothing and there is another one", func(t *testing.T) {
		embed(t, 2, EmbeddedOptions{}, func(b *bubble) {
			stream := b.loaded(1)
			for begun := time.Now(); time.Since(begun) < 4750*time.Millisecond; {
				time.Sleep(250 * time.Millisecond)
				stream.answer(stream.question(false), 1, 6*time.Second)
				b.notOpened(1)
			}
			time.Sleep(250 * time.Millisecond)
			b.follow(1)
		})
	})
	t.Run("if it proves nothing and its address may lead to another one", func(t *testing.T) {
		balanced := func(s *server) { s.alone = false }
		embedWith(t, 1, balanced, EmbeddedOptions{}, func(b *bubble) {
			stream := b.loaded(1)
			for begun := time.Now(); time.Since(begun) < 4750*time.Millisecond; {
				time.Sleep(250 * time.Millisecond)
				stream.answer(stream.question(false), 1, 6*time.Second)
				b.notOpened(0)
			}
			time.Sleep(250 * time.Millisecond)
			// Not without a pause, and from where it stopped.
			b.notOpened(0)
			if stream.ctx.Err() == nil {
				b.Fatal("the replication goes on")
			}
			time.Sleep(firstFollowPause)
			if _, start, _, _ := b.follow(0); start.GetPosition().GetRevision() != 1 {
				b.Fatal(start)
			}
		})
	})
	t.Run("if it does not accept a connection", func(t *testing.T) {
		embed(t, 2, EmbeddedOptions{}, func(b *bubble) {
			stream := b.loaded(1)
			b.servers[1].slow = time.Hour
			stream.broken <- status.Error(codes.Unavailable, "cut")
			synctest.Wait()
			time.Sleep(2500*time.Millisecond + firstFollowPause)
			b.follow(0)
		})
	})
}

func TestPausesGrow(t *testing.T) {
	embed(t, 2, EmbeddedOptions{}, func(b *bubble) {
		refusal := status.Error(codes.Unavailable, "no listener")
		for _, server := range b.servers {
			server.refuses.Store(&refusal)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		for _, server := range b.servers {
			// Between two a second without end, and none at all.
			if tried := len(server.opened); tried < 30 || tried > 80 {
				b.Fatal(tried)
			}
		}
		err := b.ask(1)
		b.cannotTell(err)
		if !strings.Contains(err.Error(), "no listener") || status.Code(errors.Unwrap(err)) != codes.Unavailable {
			b.Fatal(err)
		}
	})
}

func TestUsesAreReportedUntilTheyAreAcknowledged(t *testing.T) {
	embed(t, 1, EmbeddedOptions{UsageInterval: time.Second, MaxStaleness: time.Hour, PollInterval: time.Hour}, func(b *bubble) {
		server := b.servers[0]
		stream := b.loaded(1)
		b.loadedRevoked(stream)
		b.works(1)
		b.works(1)
		_ = second(b.client.Check(context.Background(), tokenOf(1), idOf(9), SiteView))
		_ = second(b.client.Check(context.Background(), tokenOf(1), testSite, SiteDelete))
		b.refused(b.ask(50), ReasonRevoked)
		time.Sleep(time.Second)
		synctest.Wait()
		first := <-server.reports
		if first.GetNumber() != 1 || len(first.GetClients()) != 2 {
			b.Fatal(first)
		}
		used := first.GetClients()[0]
		today := int32(time.Now().Unix() / 86400)
		for i, want := range []*pb.ReplicatedCount{
			{Day: today, Outcome: pb.UsageOutcome_USAGE_OUTCOME_USED, Count: 2},
			{Day: today, Outcome: pb.UsageOutcome_USAGE_OUTCOME_NO_SITE_GRANT, Count: 1},
			{Day: today, Outcome: pb.UsageOutcome_USAGE_OUTCOME_ROLE_TOO_LOW, Count: 1},
		} {
			if got := used.GetCounts()[i]; got.GetDay() != want.Day || got.GetOutcome() != want.Outcome || got.GetCount() != want.Count {
				b.Fatal(used)
			}
		}
		if at := used.GetLastUsedTime(); at == nil || !at.AsTime().Equal(time.Now().Add(-time.Second)) {
			b.Fatal(used)
		}
		if refused := first.GetClients()[1]; refused.GetLastUsedTime() != nil || len(refused.GetCounts()) != 1 {
			b.Fatal(refused)
		}
		// The reply is lost: it is sent again as it was, whatever was counted since.
		b.works(1)
		server.answers <- status.Error(codes.Unavailable, "lost")
		time.Sleep(time.Second)
		synctest.Wait()
		again := <-server.reports
		if again.String() != first.String() {
			b.Fatal(again)
		}
		server.answers <- nil
		synctest.Wait()
		next := <-server.reports
		if next.GetNumber() != 2 || len(next.GetClients()) != 1 || next.GetReplicaId() != first.GetReplicaId() {
			b.Fatal(next)
		}
		// One that is refused would always be refused.
		server.answers <- status.Error(codes.InvalidArgument, "no")
		b.works(1)
		time.Sleep(time.Second)
		synctest.Wait()
		if third := <-server.reports; third.GetNumber() != 3 {
			b.Fatal(third)
		}
		server.answers <- nil
		synctest.Wait()
		// The last uses are reported at the end.
		b.works(1)
		server.answers <- nil
		b.client.end()
		b.client.embedded.reporter.finish()
		if last := <-server.reports; last.GetNumber() != 4 {
			b.Fatal(last)
		}
	})
}

// Closing waits for a server that does not answer, but not forever.
func TestClosingEndsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		options := EmbeddedOptions{RefreshTimeout: time.Hour}
		if err := options.complete(); err != nil {
			t.Fatal(err)
		}
		upstream := newFakeUpstream()
		e := newEmbedded(options, []*server{upstream.server("server")})
		done := make(chan error, 1)
		go func() {
			_, err := e.ask(context.Background(), &question{token: tokenOf(1)})
			done <- err
		}()
		synctest.Wait()
		e.ledger.record(&indexedClient{id: idOf(1)}, pb.UsageOutcome_USAGE_OUTCOME_USED, 0)
		begun := time.Now()
		e.close()
		if took := time.Since(begun); took != lastReports {
			t.Fatal("it took ", took)
		}
		if err := <-done; !errors.Is(err, ErrClosed) || !errors.Is(err, ErrUnavailable) {
			t.Fatal(err)
		}
	})
}
