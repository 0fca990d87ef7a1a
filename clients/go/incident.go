package hitkeepauth

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/pascalebeier/hitkeep-auth/clients/go/hitkeepauthpb"
)

// State is whether an API client's token can work, and if not, why.
type State string

// The states of API clients.
const (
	StateActive        State = "ACTIVE"
	StateRevoked       State = "REVOKED"
	StateExpired       State = "EXPIRED"
	StateOwnerInactive State = "OWNER_INACTIVE"
)

func (s State) wire() *pb.ApiClientState {
	if s == "" {
		return nil
	}
	// The service refuses one that it does not know.
	return pb.ApiClientState(pb.ApiClientState_value["API_CLIENT_STATE_"+string(s)]).Enum()
}

// Search is which API clients to find: those that all of its filters let through.
type Search struct {
	// Actor is the person who asks.
	Actor Actor
	// Owner is whose clients to find. The zero Owner stands for everybody's, for which the
	// actor must be an owner of the instance.
	Owner Owner
	// State is what they are in. Empty: those that work, or all with IncludeInactive.
	State           State
	IncludeInactive bool
	// ExpireBefore lets only those through that expire before that moment, if it is not zero.
	ExpireBefore time.Time
	// UnusedSince lets only those through that are older than that moment and were not used
	// since, if it is not zero.
	UnusedSince time.Time
	// CreatedBy lets only those through that this person made.
	CreatedBy ID
	// Site lets only those through that have a grant on it.
	Site ID
}

// Find gives the API clients of a search, newest first. It is never nil.
func (c *Client) Find(ctx context.Context, s Search) ([]*APIClient, error) {
	request := &pb.ListApiClientsRequest{
		Actor:           s.Actor.wire(),
		Owner:           s.Owner.wire(),
		IncludeInactive: s.IncludeInactive,
		State:           s.State.wire(),
		CreatedByUserId: optionalID(s.CreatedBy),
		SiteId:          optionalID(s.Site),
	}
	if !s.ExpireBefore.IsZero() {
		request.ExpireBefore = timestamppb.New(s.ExpireBefore)
	}
	if !s.UnusedSince.IsZero() {
		request.UnusedSince = timestamppb.New(s.UnusedSince)
	}
	return c.list(ctx, request)
}

// Leak is a token that was found where it must not be.
type Leak struct {
	// Token is its text. It is not printed, and the service does not keep it.
	Token string
	// TokenHash names it instead: BLAKE3 of its text as 64 hexadecimal digits, as the proto
	// says, or of a legacy token SHA-256.
	TokenHash string
	// Actor is on whose behalf it is reported, for the audit trail. Optional: to have a
	// token is enough to end it.
	Actor *Actor
	// Source is what found it, and URL where, for the audit trail. Optional.
	Source string
	URL    string
}

// Format prints everything but the token.
func (l Leak) Format(s fmt.State, _ rune) {
	_, _ = fmt.Fprintf(s, "a leak, found by %q at %q", l.Source, l.URL)
}

// LogValue is what is printed.
func (l Leak) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(l)) }

// LeakReport is what became of a token that has leaked.
type LeakReport struct {
	// WasLive is whether it worked until now.
	WasLive bool
	// Revoked is whether this report revoked its client.
	Revoked bool
	// Client is the API client whose it is; nil if the token is not known.
	Client *APIClient
	// Revision is one at which the token is known not to work.
	Revision uint64
}

// ReportLeak ends a token that has leaked: its API client is revoked. Reporting the same
// again changes nothing.
func (c *Client) ReportLeak(ctx context.Context, l Leak) (*LeakReport, error) {
	request := &pb.ReportLeakRequest{Source: l.Source, Url: l.URL}
	switch {
	case l.Token != "" && l.TokenHash != "":
		return nil, invalid("token_hash", "is given beside the token")
	case l.TokenHash != "":
		request.Leaked = &pb.ReportLeakRequest_TokenHash{TokenHash: l.TokenHash}
	default:
		request.Leaked = &pb.ReportLeakRequest_Token{Token: l.Token}
	}
	if l.Actor != nil {
		request.Actor = l.Actor.wire()
	}
	response, err := c.management().ReportLeak(ctx, request)
	if err != nil {
		return nil, apiError(err)
	}
	report := &LeakReport{
		WasLive:  response.GetWasLive(),
		Revoked:  response.GetRevoked(),
		Revision: response.GetRevision(),
	}
	if !response.GetKnown() {
		return report, nil
	}
	if report.Client, err = apiClientFromWire(response.GetApiClient()); err != nil {
		return nil, misread(err)
	}
	return report, nil
}

// Selection is which API clients to revoke: those that all of its filters let through, of
// which it has one at least.
type Selection struct {
	// Actor is a user who may revoke each client of the owner, or without an owner an owner
	// of the instance.
	Actor Actor
	// Owner is whose clients to revoke.
	Owner Owner
	// Site lets only those through that have a grant on it.
	Site ID
	// CreatedBy lets only those through that this person made.
	CreatedBy ID
	// ValidateOnly says which would be revoked, and revokes none.
	ValidateOnly bool
}

// RevokedClients are the API clients that were revoked at once.
type RevokedClients struct {
	// IDs are all of them.
	IDs []ID
	// Revision is the first one at which all of this is known.
	Revision uint64
}

// RevokeAll revokes API clients, all of a selection or none.
func (c *Client) RevokeAll(ctx context.Context, s Selection) (*RevokedClients, error) {
	response, err := c.management().RevokeApiClients(ctx, &pb.RevokeApiClientsRequest{
		Actor:           s.Actor.wire(),
		Owner:           s.Owner.wire(),
		SiteId:          optionalID(s.Site),
		CreatedByUserId: optionalID(s.CreatedBy),
		ValidateOnly:    s.ValidateOnly,
	})
	if err != nil {
		return nil, apiError(err)
	}
	revoked := &RevokedClients{IDs: make([]ID, 0, len(response.GetIds())), Revision: response.GetRevision()}
	for _, text := range response.GetIds() {
		id, err := ParseID(text)
		if err != nil {
			return nil, misread(err)
		}
		revoked.IDs = append(revoked.IDs, id)
	}
	return revoked, nil
}

func optionalID(id ID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}

// invalid is a mistake that the service need not be asked about.
func invalid(field, description string) error {
	return &APIError{
		Code:    codes.InvalidArgument,
		Reason:  ReasonInvalidField,
		Message: field + " " + description,
		Fields:  []FieldViolation{{field, description}},
	}
}
