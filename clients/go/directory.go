package hitkeepauth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	pb "github.com/pascalebeier/hitkeep-auth/clients/go/hitkeepauthpb"
)

const (
	// What one batch can have.
	maxBatch = 1000
	// How many entries one piece of a replacement has, which has to be far smaller than 4 MiB.
	replacementPiece = 5000
	// How often a replacement is tried that a newer change overtakes.
	replacements = 3
	// The service gives a replacement 10 minutes.
	replacementTimeout = 11 * time.Minute
)

// Directory is who and what there is: ids and roles, no names. Its order does not matter.
type Directory struct {
	Users       []User
	Teams       []Team
	TeamMembers []TeamMember
	Sites       []Site
	SiteMembers []SiteMember
}

// User is a user of the instance.
type User struct {
	ID           ID
	InstanceRole InstanceRole
	// Disabled users hold nothing.
	Disabled bool
}

// Team is a team: HitKeep's tenant.
type Team struct {
	ID ID
	// Archived teams give no user a role, and their API clients do not work.
	Archived bool
}

// TeamMember is a user's membership in a team.
type TeamMember struct {
	TeamID, UserID ID
	Role           TeamRole
}

// Site is a site, which belongs to a team.
type Site struct {
	ID, TeamID ID
}

// SiteMember is a role that a user was given on one site.
type SiteMember struct {
	SiteID, UserID ID
	Role           SiteRole
}

// SyncResult says what a synchronisation did.
type SyncResult struct {
	// Changes is how many entries were put or removed.
	Changes int
	// Replaced says that the whole directory was sent, because what the service has was not
	// known, more than one batch was different, or more than half of it would go.
	Replaced bool
	// Revision is the first one at which the directory is known; 0 if nothing was sent.
	Revision uint64
}

// SyncOptions are options of [Client.NewDirectorySync].
type SyncOptions struct {
	// AllowMassRemoval lets a synchronisation remove more than half of the users, of the teams or
	// of the sites. Without it, such a one is refused (ReasonMassRemoval), since a source that was
	// not read to its end explains it better than intent, and API clients go with their owners.
	AllowMassRemoval bool
	// StartOver lets the first replacement undo newer changes: for a source that was restored
	// from a backup, or whose clock was wrong.
	StartOver bool
}

// DirectorySync keeps the service's directory equal to that of a source. What is different
// since the last time is sent as one batch. The whole directory is sent the first time, if more
// than half of the users, teams or sites would go, and whenever it is seen that the service has
// something else: after an error, after a change of another program that has a sequence or
// changes a count, after a backup was restored. After an import, which has no sequence, make a
// new DirectorySync.
//
// Sequences are taken from the clock, before the source is read, so that of two programs the
// one that read later wins. A clock that is set back does no harm to one of them.
type DirectorySync struct {
	client  *Client
	options SyncOptions

	// Full while a call has its turn: a mutex of which the wait ends with the call's context.
	turn chan struct{}
	// What the service has; nil: not known.
	known    entries
	sequence uint64
	// What is known does not count.
	forgotten atomic.Bool
}

// NewDirectorySync makes a synchronisation. One program should do it at a time: HitKeep's
// leader.
func (c *Client) NewDirectorySync(options SyncOptions) *DirectorySync {
	return &DirectorySync{client: c, options: options, turn: make(chan struct{}, 1)}
}

// SyncDirectory sends a directory by the client's own [DirectorySync]: see there. If the
// directory is read while others write to it, use [DirectorySync.Sync] itself.
func (c *Client) SyncDirectory(ctx context.Context, directory Directory) (SyncResult, error) {
	c.directoryOnce.Do(func() { c.directory = c.NewDirectorySync(SyncOptions{}) })
	return c.directory.Sync(ctx, func(context.Context) (Directory, error) { return directory, nil })
}

// Forget lets the next synchronisation that begins send the whole directory.
func (s *DirectorySync) Forget() { s.forgotten.Store(true) }

// Sync reads the source and sends what is different. The source is read again if a newer
// change overtakes what was read. Calls take turns. Errors of the service are [*APIError].
func (s *DirectorySync) Sync(
	ctx context.Context, source func(context.Context) (Directory, error),
) (SyncResult, error) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return SyncResult{}, fmt.Errorf("hitkeepauth: waiting for another synchronisation: %w", ctx.Err())
	}
	if s.forgotten.Swap(false) {
		s.known = nil
	}
	result, err := s.sync(ctx, source)
	if err != nil {
		s.known = nil
	}
	return result, err
}

func (s *DirectorySync) sync(
	ctx context.Context, source func(context.Context) (Directory, error),
) (SyncResult, error) {
	service := pb.NewDirectoryServiceClient(s.client.conn)
	for attempt := 1; ; attempt++ {
		status, err := service.GetDirectoryStatus(ctx, &pb.GetDirectoryStatusRequest{})
		if err != nil {
			return SyncResult{}, apiError(err)
		}
		if status.GetAppliedSequence() != s.sequence || !s.known.counted(status) {
			s.known = nil
		}
		sequence := max(uint64(time.Now().UnixMicro()), status.GetAppliedSequence()+1)
		directory, err := source(ctx)
		if err != nil {
			return SyncResult{}, fmt.Errorf("hitkeepauth: reading the directory: %w", err)
		}
		next, err := directory.entries()
		if err != nil {
			return SyncResult{}, fmt.Errorf("hitkeepauth: %w", err)
		}
		if s.known != nil {
			changes := s.known.changes(next)
			if len(changes) == 0 {
				return SyncResult{}, nil
			}
			// The service takes every batch, and checks how much a replacement removes.
			isChecked := s.options.AllowMassRemoval || !s.known.removesMost(next)
			if len(changes) <= maxBatch && isChecked {
				result, applied, err := s.apply(ctx, service, changes, sequence)
				if applied {
					s.known, s.sequence = next, sequence
					return result, nil
				}
				// INVALID_FIELD means that the service's directory is not what it was
				// taken for. What else is wrong, the replacement will tell again.
				if err != nil && AsAPIError(err).Reason != ReasonInvalidField {
					return SyncResult{}, apiError(err)
				}
				s.known = nil
			}
		}
		result, err := s.replace(ctx, service, directory, sequence)
		if err == nil {
			s.known, s.sequence = next, sequence
			s.options.StartOver = false
			return result, nil
		}
		if AsAPIError(err).Reason != ReasonDirectoryChanged || attempt == replacements {
			return SyncResult{}, apiError(err)
		}
	}
}

// apply sends one batch. It reports whether that was applied.
func (s *DirectorySync) apply(
	ctx context.Context, service pb.DirectoryServiceClient, changes []*pb.DirectoryChange, sequence uint64,
) (SyncResult, bool, error) {
	response, err := service.ApplyDirectoryChanges(ctx, &pb.ApplyDirectoryChangesRequest{
		Changes:  changes,
		Sequence: &sequence,
	})
	if err != nil {
		return SyncResult{}, false, err
	}
	if response.GetAppliedSequence() != sequence {
		// Another program was faster: this batch was skipped.
		return SyncResult{}, false, nil
	}
	return SyncResult{Changes: len(changes), Revision: response.GetRevision()}, true, nil
}

func (s *DirectorySync) replace(
	ctx context.Context, service pb.DirectoryServiceClient, d Directory, sequence uint64,
) (SyncResult, error) {
	ctx, cancel := context.WithTimeout(ctx, replacementTimeout)
	defer cancel()
	stream, err := service.ReplaceDirectory(ctx)
	if err != nil {
		return SyncResult{}, err
	}
	for i, piece := range d.pieces() {
		if i == 0 {
			piece.Sequence = &sequence
			piece.AllowMassRemoval = s.options.AllowMassRemoval
			piece.StartOver = s.options.StartOver
		}
		if err := stream.Send(piece); err != nil {
			if errors.Is(err, io.EOF) {
				// The service ended the call; why is in its answer.
				break
			}
			return SyncResult{}, err
		}
	}
	response, err := stream.CloseAndRecv()
	if err != nil {
		return SyncResult{}, err
	}
	return SyncResult{
		Changes:  int(response.GetAdded()) + int(response.GetChanged()) + int(response.GetRemoved()),
		Replaced: true,
		Revision: response.GetRevision(),
	}, nil
}

// pieces are the messages of a replacement, at least one.
func (d Directory) pieces() []*pb.ReplaceDirectoryRequest {
	current := &pb.ReplaceDirectoryRequest{}
	pieces := []*pb.ReplaceDirectoryRequest{current}
	count := 0
	next := func() *pb.ReplaceDirectoryRequest {
		if count == replacementPiece {
			count = 0
			current = &pb.ReplaceDirectoryRequest{}
			pieces = append(pieces, current)
		}
		count++
		return current
	}
	for _, u := range d.Users {
		piece := next()
		piece.Users = append(piece.Users, u.wire())
	}
	for _, t := range d.Teams {
		piece := next()
		piece.Teams = append(piece.Teams, t.wire())
	}
	for _, m := range d.TeamMembers {
		piece := next()
		piece.TeamMembers = append(piece.TeamMembers, m.wire())
	}
	for _, site := range d.Sites {
		piece := next()
		piece.Sites = append(piece.Sites, site.wire())
	}
	for _, m := range d.SiteMembers {
		piece := next()
		piece.SiteMembers = append(piece.SiteMembers, m.wire())
	}
	return pieces
}
