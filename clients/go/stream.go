package hitkeepauth

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/pascalebeier/hitkeep-auth/clients/go/hitkeepauthpb"
)

const (
	// How many questions can be unanswered on a stream; more are calls of their own.
	maxUnanswered = 1024
	// A stream on which a question is not answered for so long, or for half of the time that it
	// has, is given up: the rest is for a call. The service itself waits up to a second for a
	// token that it does not know.
	streamStall = 1500 * time.Millisecond

	firstReopenDelay = 50 * time.Millisecond
	maxReopenDelay   = 5 * time.Second
)

var errStreamStalled = errors.New("the stream of introspections does not answer")

type (
	introspectStream = grpc.BidiStreamingClient[pb.IntrospectStreamRequest, pb.IntrospectStreamResponse]
	openStream       = func(context.Context, ...grpc.CallOption) (introspectStream, error)
)

// streamSource sends its questions over one stream, which costs the service and the network
// far less than a call for each. While there is none, or it fails, questions are asked by
// calls of their own: these are reads, so asking twice does no harm.
type streamSource struct {
	open     openStream
	fallback source
	stall    time.Duration

	// nil while there is no stream.
	current atomic.Pointer[liveStream]
	life    context.Context
	end     context.CancelFunc
	running sync.WaitGroup
}

// liveStream is an open stream.
type liveStream struct {
	stream introspectStream
	// Taken by the sender.
	questions chan *streamQuestion
	// Sent, in the order in which the answers come.
	unanswered chan *streamQuestion
	// Done when the stream is broken.
	life  context.Context
	abort context.CancelCauseFunc
}

type streamQuestion struct {
	question
	sent moment
	// Holds one, so that an answer whose caller has left holds up no other.
	reply chan *pb.IntrospectStreamResponse
}

func newStreamSource(open openStream, fallback source, timeout time.Duration) *streamSource {
	s := &streamSource{open: open, fallback: fallback, stall: min(streamStall, timeout/2)}
	s.life, s.end = context.WithCancel(context.Background())
	s.running.Go(s.run)
	return s
}

func (s *streamSource) close() {
	s.end()
	s.running.Wait()
}

// run keeps a stream open.
func (s *streamSource) run() {
	delay := firstReopenDelay
	for {
		if s.runOnce() {
			delay = firstReopenDelay
		}
		if !pause(s.life, jitter(delay)) {
			return
		}
		delay = min(2*delay, maxReopenDelay)
	}
}

// runOnce opens a stream and stays until it is broken. It reports whether it answered.
func (s *streamSource) runOnce() (answered bool) {
	life, abort := context.WithCancelCause(s.life)
	defer abort(nil)
	stream, err := s.open(life)
	if err != nil {
		return false
	}
	live := &liveStream{
		stream:     stream,
		questions:  make(chan *streamQuestion),
		unanswered: make(chan *streamQuestion, maxUnanswered),
		life:       life,
		abort:      abort,
	}
	s.current.Store(live)
	var sender sync.WaitGroup
	sender.Go(live.send)
	answered, err = live.receive()
	// In this order: a caller that finds the stream broken must not find it again.
	s.current.Store(nil)
	abort(err)
	sender.Wait()
	return answered
}

// send ends when the stream is broken.
func (l *liveStream) send() {
	for {
		select {
		case q := <-l.questions:
			q.sent = now()
			select {
			case l.unanswered <- q:
			case <-l.life.Done():
				return
			}
			// The reason of a failure is for the receiver to find.
			request := &pb.IntrospectStreamRequest{Token: q.token, Check: q.check(), SourceIp: q.sourceIP()}
			if l.stream.Send(request) != nil {
				return
			}
		case <-l.life.Done():
			return
		}
	}
}

func (l *liveStream) receive() (answered bool, err error) {
	for {
		response, err := l.stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = status.Error(codes.Unavailable, "the service ended the stream")
			}
			return answered, err
		}
		select {
		case q := <-l.unanswered:
			q.reply <- response
			answered = true
		default:
			return answered, status.Error(codes.Internal, "the service answered what was not asked")
		}
	}
}

func (s *streamSource) ask(ctx context.Context, q question) (answer, error) {
	live := s.current.Load()
	// A question that waits for a revision holds up all those after it.
	if live == nil || q.atLeast > 0 || len(live.unanswered) == cap(live.unanswered) {
		return s.fallback.ask(ctx, q)
	}
	asked := &streamQuestion{question: q, reply: make(chan *pb.IntrospectStreamResponse, 1)}
	stalled := time.NewTimer(s.stall)
	defer stalled.Stop()
	select {
	case live.questions <- asked:
	case <-live.life.Done():
		return s.fallback.ask(ctx, q)
	case <-stalled.C:
		// It was never asked: the stream is full, and may be sound.
		return s.fallback.ask(ctx, q)
	case <-ctx.Done():
		return answer{}, context.Cause(ctx)
	}
	select {
	case response := <-asked.reply:
		return s.read(ctx, asked, response)
	case <-live.life.Done():
		return s.fallback.ask(ctx, q)
	case <-stalled.C:
		live.abort(errStreamStalled)
		return s.fallback.ask(ctx, q)
	case <-ctx.Done():
		return answer{}, context.Cause(ctx)
	}
}

func (s *streamSource) read(
	ctx context.Context, asked *streamQuestion, response *pb.IntrospectStreamResponse,
) (answer, error) {
	if failure := response.GetError(); failure != nil {
		if codes.Code(failure.GetCode()) == codes.Unavailable {
			// Another server may know; a call goes to any of them.
			return s.fallback.ask(ctx, asked.question)
		}
		return answer{}, status.Error(codes.Code(failure.GetCode()), failure.GetMessage())
	}
	return asked.question.read(response, asked.sent)
}
