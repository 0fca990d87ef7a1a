package hitkeepauth

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/pascalebeier/hitkeep-auth/clients/go/hitkeepauthpb"
)

// Messages that wait until HTTP/2 takes them: the start, and two questions. If there is no room
// for another one, the server does not read.
const maxUnsent = 4

var (
	errSilent      = errors.New("the server is silent")
	errUseless     = errors.New("the server cannot tell how fresh it is, or is too old itself")
	errConnectLate = errors.New("the server did not accept a connection in time")
)

// endedError says that the server has ended the replication, or its connection has.
type endedError struct{ cause error }

func (e *endedError) Error() string { return "the replication has ended: " + e.cause.Error() }

func (e *endedError) Unwrap() error { return e.cause }

// session is one replication with one server.
//
// A heartbeat would not prove that the index is fresh, since it may have waited in a buffer. So the
// session asks a numbered question again and again, and remembers when. The answer follows
// everything up to its position on the same stream, and says how stale that was when the server
// answered: so the index was complete at the moment at which the question was sent, minus that,
// whatever the way took.
type session struct {
	*follower
	server *server
	// Called with the first answer.
	onAnswer func()

	out      chan *pb.ReplicateRequest
	incoming incoming
	// The number of the last question.
	last uint64
	// The questions that are open, one of each kind at most.
	plain, lookUp *openQuestion
	// When the newest question was sent that the server is known to have received: nothing that it
	// sends now was sent before that.
	received moment

	nextQuestion time.Time
	// When something was last received, and when the server last proved that it is of use.
	heard, useful time.Time
	answered      bool
}

type openQuestion struct {
	number uint64
	asked  moment
	// The same, by the clock of timeouts.
	since time.Time
	// The refresh that it was asked for, if it was for one.
	refresh uint64
}

// run follows until something ends that, which is the error.
func (s *session) run(parent context.Context, conn upstream, refresh uint64) error {
	ctx, cancel := context.WithCancelCause(parent)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel(nil)
	s.out = make(chan *pb.ReplicateRequest, maxUnsent)
	s.received = now()
	s.heard, s.useful = time.Now(), time.Now()

	late := time.AfterFunc(s.limits.connect, func() { cancel(errConnectLate) })
	stream, err := conn.replicate(ctx)
	if !late.Stop() && err == nil {
		// It is being cancelled.
		return errConnectLate
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return &endedError{err}
	}

	start := &pb.ReplicationStart{
		ReplicaId:    s.replica.String(),
		Features:     enforcedFeatures,
		WithoutNames: s.live.options.WithoutNames,
	}
	if s.writer != nil {
		start.Position = s.position.wire()
	}
	// There is room for these.
	_ = s.send(&pb.ReplicateRequest{Message: &pb.ReplicateRequest_Start{Start: start}})
	_ = s.ask(refresh)
	_ = s.ask(0)

	messages := make(chan *pb.ReplicateResponse)
	ended := make(chan error, 1)
	running.Go(func() {
		for {
			select {
			case message := <-s.out:
				// The reason of a failure is for the receiver to find.
				if stream.Send(message) != nil {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	})
	running.Go(func() {
		for {
			message, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case messages <- message:
			case <-ctx.Done():
				return
			}
		}
	})
	return s.follow(ctx, messages, ended)
}

func (s *session) follow(ctx context.Context, messages <-chan *pb.ReplicateResponse, ended <-chan error) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		requested, wake := s.due()
		timer.Reset(time.Until(wake))
		select {
		case message := <-messages:
			if err := s.take(message); err != nil {
				return err
			}
		case err := <-ended:
			if errors.Is(err, io.EOF) {
				err = status.Error(codes.Unavailable, "the stream has ended")
			}
			return &endedError{err}
		case <-requested:
			s.lookedUp = time.Now()
			if err := s.ask(s.live.beginRefresh()); err != nil {
				return err
			}
		case <-timer.C:
			// Something that was received counts before a time that has passed, also if this goroutine
			// had to wait for a processor.
			select {
			case message := <-messages:
				if err := s.take(message); err != nil {
					return err
				}
				continue
			default:
			}
			if err := s.wake(); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// due is what may wake the session beside the server: the questions that wait for a refresh, if it
// may be asked for one, and the time of what is to be done next.
func (s *session) due() (requested <-chan struct{}, wake time.Time) {
	if s.plain == nil {
		wake = s.nextQuestion
	} else {
		wake = s.silentAt()
	}
	if s.lookUp != nil {
		wake = earlier(wake, s.silentAt())
	}
	if s.hasChoice() {
		wake = earlier(wake, s.useful.Add(s.limits.useless))
	}
	if s.lookUp == nil {
		next := s.lookedUp.Add(time.Second / time.Duration(s.live.options.MaxLookups))
		if time.Now().Before(next) {
			wake = earlier(wake, next)
		} else {
			requested = s.live.requested
		}
	}
	return requested, wake
}

// silentAt is when the server has been silent for too long, while a question is open: who is not
// asked may be silent.
func (s *session) silentAt() time.Time {
	var since time.Time
	for _, question := range []*openQuestion{s.plain, s.lookUp} {
		if question != nil && (since.IsZero() || question.since.Before(since)) {
			since = question.since
		}
	}
	if since.Before(s.heard) {
		since = s.heard
	}
	return since.Add(s.limits.silence)
}

// hasChoice reports whether another server could be of more use, which a new connection to the
// same address may lead to as well. Within a snapshot there is no answer, however long it takes.
func (s *session) hasChoice() bool {
	return (len(s.servers) > 1 || !s.server.alone) && s.incoming.isEmpty()
}

// wake does what is due.
func (s *session) wake() error {
	now := time.Now()
	switch {
	case (s.plain != nil || s.lookUp != nil) && !now.Before(s.silentAt()):
		return errSilent
	case s.hasChoice() && !now.Before(s.useful.Add(s.limits.useless)):
		return errUseless
	case s.plain == nil && !now.Before(s.nextQuestion):
		return s.ask(0)
	}
	return nil
}

// ask asks how fresh the index is; for a refresh, after the server has asked its own source.
func (s *session) ask(refresh uint64) error {
	s.last++
	question := &openQuestion{number: s.last, asked: now(), since: time.Now(), refresh: refresh}
	if refresh > 0 {
		s.lookUp = question
	} else {
		s.plain = question
		s.nextQuestion = time.Now().Add(s.live.options.PollInterval)
	}
	return s.send(&pb.ReplicateRequest{Message: &pb.ReplicateRequest_Question{
		Question: &pb.ReplicationQuestion{Number: question.number, AskDatabase: refresh > 0},
	}})
}

func (s *session) send(message *pb.ReplicateRequest) error {
	select {
	case s.out <- message:
		return nil
	default:
		return errSilent
	}
}

func (s *session) take(message *pb.ReplicateResponse) error {
	// To apply it may take long.
	defer func() { s.heard = time.Now() }()
	switch sent := message.GetMessage().(type) {
	case *pb.ReplicateResponse_SnapshotBegin:
		return s.begin(sent.SnapshotBegin)
	case *pb.ReplicateResponse_Changes:
		changes, to, err := s.incoming.add(sent.Changes)
		if err != nil || changes == nil {
			return err
		}
		return s.apply(changes, to)
	case *pb.ReplicateResponse_SnapshotEnd:
		snapshot, err := s.incoming.end()
		if err != nil {
			return err
		}
		s.replace(snapshot)
		// A large one takes long to build.
		s.useful = time.Now()
	case *pb.ReplicateResponse_Answer:
		return s.takeAnswer(sent.Answer)
	}
	// Anything else is something that a later version says beside what this one asks for.
	return nil
}

func (s *session) begin(snapshot *pb.SnapshotBegin) error {
	if err := s.incoming.begin(snapshot, s.received); err != nil {
		return err
	}
	if snapshot.GetNow() == nil {
		return nil
	}
	database, err := readMicros(snapshot.GetNow(), 0)
	if err != nil {
		return err
	}
	// The first snapshot is published before anything is answered.
	s.live.calibrate(s.received, database)
	return nil
}

func (s *session) takeAnswer(answer *pb.ReplicationAnswer) error {
	if !s.incoming.isEmpty() {
		return malformedError("an answer within something else")
	}
	question := s.close(answer.GetNumber())
	if question == nil {
		return malformedError("an answer to no question")
	}
	if answer.GetError() != nil {
		if question.refresh > 0 {
			s.live.refreshFailed(question.refresh)
		}
		return nil
	}
	at, err := readPosition(answer.GetPosition())
	if err != nil {
		return err
	}
	if s.writer == nil || at != s.position {
		return malformedError("an answer about something else")
	}
	staleness, err := readStaleness(answer.GetStaleness())
	if err != nil {
		return err
	}
	if answer.GetNow() == nil {
		return malformedError("no time where one belongs")
	}
	database, err := readMicros(answer.GetNow(), 0)
	if err != nil {
		return err
	}
	s.live.complete(question.asked, staleness, database)
	if question.refresh > 0 {
		s.live.refreshed(question.refresh)
	}
	if staleness < s.limits.useless {
		s.useful = time.Now()
	}
	if !s.answered {
		s.answered = true
		s.onAnswer()
	}
	return nil
}

// close is the open question of that number, which is open no longer; nil if there is none.
func (s *session) close(number uint64) *openQuestion {
	var question *openQuestion
	switch {
	case s.plain != nil && s.plain.number == number:
		question, s.plain = s.plain, nil
	case s.lookUp != nil && s.lookUp.number == number:
		question, s.lookUp = s.lookUp, nil
	default:
		return nil
	}
	if question.asked.since(s.received) > 0 {
		s.received = question.asked
	}
	return question
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
