package hitkeepauth

import (
	"testing"

	"google.golang.org/protobuf/proto"

	pb "github.com/pascalebeier/hitkeep-auth/clients/go/hitkeepauthpb"
)

// Whatever a server sends is taken or refused, and a snapshot counts only if it is whole.
func FuzzFrames(f *testing.F) {
	for _, response := range []*pb.ReplicateResponse{
		{Message: &pb.ReplicateResponse_SnapshotBegin{SnapshotBegin: &pb.SnapshotBegin{Position: at(1)}}},
		{Message: &pb.ReplicateResponse_Changes{Changes: &pb.ReplicationChanges{
			Put: []*pb.ReplicatedClient{clientOf(1), revoked(2)}, Accounts: &pb.ReplicatedAccounts{}, Position: at(2),
		}}},
		{Message: &pb.ReplicateResponse_SnapshotEnd{SnapshotEnd: &pb.SnapshotEnd{}}},
		{Message: &pb.ReplicateResponse_Answer{Answer: &pb.ReplicationAnswer{Number: 1, Position: at(2)}}},
	} {
		frame, err := proto.Marshal(response)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(frame, frame)
	}
	options := EmbeddedOptions{}
	if err := options.complete(); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		l := newLive(options)
		s := &session{follower: newFollower(l, idOf(1), nil), onAnswer: func() {}, received: now()}
		for _, frame := range [][]byte{first, second, first} {
			var response pb.ReplicateResponse
			if proto.Unmarshal(frame, &response) != nil || s.take(&response) != nil {
				break
			}
		}
		if state := l.state.Load(); (state != nil) != (s.writer != nil) {
			t.Fatal("what is published is not what is held")
		}
	})
}
