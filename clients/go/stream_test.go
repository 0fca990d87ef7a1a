package hitkeepauth

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/pascalebeier/hitkeep-auth/clients/go/hitkeepauthpb"
)

// fakeService opens streams that the test answers.
type fakeService struct {
	opened chan *fakeStream
	// What opening fails with.
	refuses error
}

func (f *fakeService) open(ctx context.Context, _ ...grpc.CallOption) (introspectStream, error) {
	if f.refuses != nil {
		f.opened <- nil
		return nil, f.refuses
	}
	s := &fakeStream{
		ctx:       ctx,
		questions: make(chan *pb.IntrospectStreamRequest, 10),
		answers:   make(chan *pb.IntrospectStreamResponse, 10),
		broken:    make(chan error, 1),
	}
	f.opened <- s
	return s, nil
}

type fakeStream struct {
	grpc.ClientStream
	ctx       context.Context
	questions chan *pb.IntrospectStreamRequest
	answers   chan *pb.IntrospectStreamResponse
	broken    chan error
}

func (s *fakeStream) Send(q *pb.IntrospectStreamRequest) error {
	select {
	case s.questions <- q:
		return nil
	case <-s.ctx.Done():
		return io.EOF
	}
}

func (s *fakeStream) Recv() (*pb.IntrospectStreamResponse, error) {
	select {
	case a := <-s.answers:
		return a, nil
	case err := <-s.broken:
		return nil, err
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

// byCall answers questions that come by calls of their own.
type byCall struct{}

const byCallRevision = 100

func (byCall) ask(context.Context, question) (answer, error) {
	return answer{principal: &Principal{}, revision: byCallRevision}, nil
}

func (byCall) close() {}

func withStream(t *testing.T, test func(*testing.T, *streamSource, *fakeService)) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeService{opened: make(chan *fakeStream, 100)}
		s := newStreamSource(f.open, byCall{}, DefaultQuestionTimeout)
		defer s.close()
		synctest.Wait()
		test(t, s, f)
	})
}

func beginAt(ctx context.Context, s source, q question) *asking {
	a := &asking{done: make(chan struct{})}
	go func() {
		a.answer, a.err = s.ask(ctx, q)
		close(a.done)
	}()
	synctest.Wait()
	return a
}

func notActive(revision uint64) *pb.IntrospectStreamResponse {
	return &pb.IntrospectStreamResponse{
		InactiveReason: pb.InactiveReason_INACTIVE_REASON_REVOKED,
		Revision:       revision,
	}
}

func TestAnswersOfAStreamAreInOrder(t *testing.T) {
	withStream(t, func(t *testing.T, s *streamSource, f *fakeService) {
		stream := <-f.opened
		first := beginAt(t.Context(), s, question{token: "1"})
		ctx, cancel := context.WithCancel(t.Context())
		second := beginAt(ctx, s, question{token: "2"})
		third := beginAt(t.Context(), s, question{token: "3"})
		// Its answer still comes, and is not the next one's.
		cancel()
		<-second.done
		for i, token := range []string{"1", "2", "3"} {
			if q := <-stream.questions; q.GetToken() != token {
				t.Fatal(q.GetToken())
			}
			stream.answers <- notActive(uint64(i + 1))
		}
		first.has(t, false, 1)
		third.has(t, false, 3)
		if !errors.Is(second.err, context.Canceled) {
			t.Fatal(second.err)
		}
	})
}

func TestABrokenStreamIsOpenedAgain(t *testing.T) {
	withStream(t, func(t *testing.T, s *streamSource, f *fakeService) {
		stream := <-f.opened
		first := beginAt(t.Context(), s, question{token: "1"})
		stream.broken <- io.EOF
		first.has(t, true, byCallRevision)
		beginAt(t.Context(), s, question{token: "2"}).has(t, true, byCallRevision)
		time.Sleep(firstReopenDelay)
		stream = <-f.opened
		synctest.Wait()
		third := beginAt(t.Context(), s, question{token: "3"})
		stream.answers <- notActive(3)
		third.has(t, false, 3)
	})
}

func TestAStreamThatDoesNotAnswerIsGivenUp(t *testing.T) {
	withStream(t, func(t *testing.T, s *streamSource, f *fakeService) {
		stream := <-f.opened
		first := beginAt(t.Context(), s, question{token: "1"})
		time.Sleep(streamStall - 1)
		first.waits(t)
		second := beginAt(t.Context(), s, question{token: "2"})
		time.Sleep(time.Nanosecond)
		first.has(t, true, byCallRevision)
		second.has(t, true, byCallRevision)
		if stream.ctx.Err() == nil {
			t.Fatal("it is still open")
		}
	})
}

func TestAShortQuestionHasTimeLeftForACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeService{opened: make(chan *fakeStream, 100)}
		s := newStreamSource(f.open, byCall{}, time.Second)
		defer s.close()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		asked := beginAt(ctx, s, question{token: "1"})
		time.Sleep(time.Second / 2)
		asked.has(t, true, byCallRevision)
	})
}

func TestAStreamThatTakesNoQuestionsIsGivenUp(t *testing.T) {
	withStream(t, func(t *testing.T, s *streamSource, f *fakeService) {
		stream := <-f.opened
		for range cap(stream.questions) + 2 {
			beginAt(t.Context(), s, tokenA)
		}
		last := beginAt(t.Context(), s, tokenA)
		last.waits(t)
		time.Sleep(streamStall)
		last.has(t, true, byCallRevision)
	})
}

func TestErrorsOnAStreamAreOfOneQuestion(t *testing.T) {
	withStream(t, func(t *testing.T, s *streamSource, f *fakeService) {
		stream := <-f.opened
		first := beginAt(t.Context(), s, question{token: "1"})
		second := beginAt(t.Context(), s, question{token: "2"})
		third := beginAt(t.Context(), s, question{token: "3"})
		for _, code := range []codes.Code{codes.Unavailable, codes.InvalidArgument} {
			stream.answers <- &pb.IntrospectStreamResponse{Error: &pb.IntrospectError{Code: int32(code)}}
		}
		stream.answers <- notActive(3)
		// Another server may know.
		first.has(t, true, byCallRevision)
		<-second.done
		if status.Code(second.err) != codes.InvalidArgument {
			t.Fatal(second.err)
		}
		third.has(t, false, 3)
	})
}

func TestAnAnswerToNothingBreaksTheStream(t *testing.T) {
	withStream(t, func(t *testing.T, s *streamSource, f *fakeService) {
		stream := <-f.opened
		stream.answers <- notActive(1)
		synctest.Wait()
		if stream.ctx.Err() == nil {
			t.Fatal("it is still open")
		}
	})
}

func TestQuestionsThatWaitAreNotSentOverTheStream(t *testing.T) {
	withStream(t, func(t *testing.T, s *streamSource, f *fakeService) {
		<-f.opened
		beginAt(t.Context(), s, question{token: "1", atLeast: 7}).has(t, true, byCallRevision)
	})
}

func TestAStreamThatCannotBeOpenedIsTriedLessAndLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeService{opened: make(chan *fakeStream, 10_000), refuses: errors.New("no")}
		s := newStreamSource(f.open, byCall{}, DefaultQuestionTimeout)
		time.Sleep(time.Hour)
		s.close()
		tries := len(f.opened)
		if most := int(time.Hour/(maxReopenDelay/2)) + 20; tries > most || tries < int(time.Hour/maxReopenDelay) {
			t.Fatal(tries)
		}
	})
}
