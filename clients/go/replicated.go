package hitkeepauth

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/pascalebeier/hitkeep-auth/clients/go/hitkeepauthpb"
)

// Tokens are judged by what is read here, so nothing is guessed: a client with anything that this
// version does not know becomes unreadable, and its tokens are not judged. What no version of the
// service sends is an error, and ends the replication.

// malformedError is what no version of the service sends.
type malformedError string

func (e malformedError) Error() string { return "the service sent " + string(e) }

const errNoID = malformedError("an id that is none")

// The most ranges of an API client.
const maxRanges = 32

// Those restrictions that are enforced here.
var enforcedFeatures = []pb.ReplicationFeature{
	pb.ReplicationFeature_REPLICATION_FEATURE_ALLOWED_CIDRS,
	pb.ReplicationFeature_REPLICATION_FEATURE_NOT_BEFORE_TIME,
	pb.ReplicationFeature_REPLICATION_FEATURE_HITKEEP_TOKENS,
}

// incoming is what a stream has sent that cannot be published yet.
type incoming struct {
	snapshot *incomingSnapshot
	changes  *incomingChanges
}

type incomingSnapshot struct {
	position position
	expected uint64
	// When a question was sent that the service had received before the snapshot began, and how
	// stale that was then.
	asked       moment
	staleness   time.Duration
	clients     map[ID]*indexedClient
	hasAccounts bool
}

type incomingChanges struct {
	put     []*indexedClient
	removed []ID
}

func (i *incoming) isEmpty() bool { return i.snapshot == nil && i.changes == nil }

// begin begins a snapshot.
func (i *incoming) begin(sent *pb.SnapshotBegin, asked moment) error {
	if !i.isEmpty() {
		return malformedError("a snapshot within something else")
	}
	at, err := readPosition(sent.GetPosition())
	if err != nil {
		return err
	}
	staleness, err := readStaleness(sent.GetStaleness())
	if err != nil {
		return err
	}
	i.snapshot = &incomingSnapshot{
		position:  at,
		expected:  sent.GetApiClients(),
		asked:     asked,
		staleness: staleness,
		clients:   make(map[ID]*indexedClient),
	}
	return nil
}

// add takes a part of a snapshot or of changes. It gives the changes, with the position to
// which they lead, once they are whole.
func (i *incoming) add(sent *pb.ReplicationChanges) (*incomingChanges, position, error) {
	if i.snapshot != nil {
		return nil, position{}, i.snapshot.add(sent)
	}
	if i.changes == nil {
		i.changes = &incomingChanges{}
	}
	for _, one := range sent.GetPut() {
		client, err := readReplicatedClient(one)
		if err != nil {
			return nil, position{}, err
		}
		i.changes.put = append(i.changes.put, client)
	}
	for _, one := range sent.GetRemoved() {
		id, err := readID(one)
		if err != nil {
			return nil, position{}, err
		}
		i.changes.removed = append(i.changes.removed, id)
	}
	if sent.GetPosition() == nil {
		return nil, position{}, nil
	}
	to, err := readPosition(sent.GetPosition())
	if err != nil {
		return nil, position{}, err
	}
	whole := i.changes
	i.changes = nil
	return whole, to, nil
}

func (s *incomingSnapshot) add(sent *pb.ReplicationChanges) error {
	if sent.GetPosition() != nil || len(sent.GetRemoved()) > 0 {
		return malformedError("changes within a snapshot")
	}
	for _, one := range sent.GetPut() {
		client, err := readReplicatedClient(one)
		if err != nil {
			return err
		}
		if s.clients[client.id] != nil {
			return malformedError("a client twice in a snapshot")
		}
		s.clients[client.id] = client
	}
	// This program serves no callers, so that it is enough to know that they were sent.
	s.hasAccounts = s.hasAccounts || sent.GetAccounts() != nil
	return nil
}

// end ends a snapshot, which has to be whole.
func (i *incoming) end() (*incomingSnapshot, error) {
	whole := i.snapshot
	i.snapshot = nil
	switch {
	case whole == nil:
		return nil, malformedError("the end of a snapshot that did not begin")
	case uint64(len(whole.clients)) != whole.expected, !whole.hasAccounts:
		return nil, malformedError("a snapshot that is not whole")
	}
	return whole, nil
}

func (p position) wire() *pb.Position {
	return &pb.Position{DatabaseId: p.database[:], Revision: p.revision, Nonce: p.nonce[:]}
}

func readPosition(sent *pb.Position) (position, error) {
	p := position{revision: sent.GetRevision()}
	if sent == nil || len(sent.GetDatabaseId()) != len(p.database) || len(sent.GetNonce()) != len(p.nonce) {
		return position{}, malformedError("no position where one belongs")
	}
	copy(p.database[:], sent.GetDatabaseId())
	copy(p.nonce[:], sent.GetNonce())
	return p, nil
}

func readStaleness(sent *durationpb.Duration) (time.Duration, error) {
	if sent == nil || sent.CheckValid() != nil || sent.AsDuration() < 0 {
		return 0, malformedError("no staleness where one belongs")
	}
	return sent.AsDuration(), nil
}

// readMicros reads a time; otherwise, if there is none.
func readMicros(sent *timestamppb.Timestamp, otherwise int64) (int64, error) {
	if sent == nil {
		return otherwise, nil
	}
	if sent.CheckValid() != nil {
		return 0, malformedError("a time that is none")
	}
	return sent.AsTime().UnixMicro(), nil
}

func readID(sent []byte) (ID, error) {
	var id ID
	if copy(id[:], sent) != len(id) || len(sent) != len(id) || id.IsZero() {
		return ID{}, errNoID
	}
	return id, nil
}

// readReplicatedClient reads a client, which may come out unreadable.
func readReplicatedClient(sent *pb.ReplicatedClient) (*indexedClient, error) {
	id, err := readID(sent.GetId())
	if err != nil {
		return nil, err
	}
	client := &indexedClient{id: id, tokens: make([]clientToken, 0, len(sent.GetTokens()))}
	readable := !slices.ContainsFunc(sent.GetNeeds(), func(needed pb.ReplicationFeature) bool {
		return !slices.Contains(enforcedFeatures, needed)
	})
	hasNewest := false
	for _, one := range sent.GetTokens() {
		token, known, err := readToken(one)
		switch {
		case err != nil:
			return nil, err
		case !known:
			// It cannot be looked up.
			readable = false
		case token.end != never:
			client.tokens = append(client.tokens, token)
		case !hasNewest:
			// In front, so that one that was also replaced ends.
			hasNewest = true
			client.tokens = slices.Insert(client.tokens, 0, token)
		}
	}
	if settled := sent.GetSettled(); settled != nil && readable {
		if client.readable, err = client.read(id, settled); err != nil {
			return nil, err
		}
	}
	return client, nil
}

// readToken reads a token. It is unknown if its scheme is.
func readToken(sent *pb.ReplicatedToken) (token clientToken, known bool, err error) {
	switch sent.GetScheme() {
	case pb.TokenScheme_TOKEN_SCHEME_BLAKE3:
	case pb.TokenScheme_TOKEN_SCHEME_HITKEEP_SHA256:
		token.legacy = true
	default:
		return clientToken{}, false, nil
	}
	if copy(token.hash[:], sent.GetHash()) != len(token.hash) || len(sent.GetHash()) != len(token.hash) {
		return clientToken{}, false, malformedError("a hash that is none")
	}
	token.end, err = readMicros(sent.GetEndTime(), never)
	return token, err == nil, err
}

// read reads what the tokens of a client may do. It is not known if something of it is unknown to
// this version.
func (c *settledClient) read(id ID, sent *pb.SettledClient) (known bool, err error) {
	c.principal = Principal{ClientID: id, ClientName: sent.GetName()}
	switch sent.GetState() {
	case pb.ReplicatedState_REPLICATED_STATE_ACTIVE:
	case pb.ReplicatedState_REPLICATED_STATE_REVOKED:
		c.state = stateRevoked
	case pb.ReplicatedState_REPLICATED_STATE_OWNER_INACTIVE:
		c.state = stateOwnerInactive
	default:
		return false, nil
	}
	if c.principal.InstanceRole, known = fromWire(instanceRoles, int32(sent.GetInstanceRole())); !known {
		return false, nil
	}
	switch owner := sent.GetOwner().(type) {
	case *pb.SettledClient_UserId:
		c.principal.UserID, err = readID(owner.UserId)
	case *pb.SettledClient_TeamId:
		c.principal.TenantID, err = readID(owner.TeamId)
	default:
		return false, nil
	}
	if err != nil {
		return false, err
	}
	roles, err := readGrants(sent.GetSiteGrants())
	if roles == nil || err != nil {
		return false, err
	}
	c.principal.SiteRoles = *roles
	if c.ranges, known = readRanges(sent.GetAllowedCidrs()); !known {
		return false, nil
	}
	if c.expires, err = readMicros(sent.GetExpireTime(), never); err != nil {
		return false, err
	}
	if at := sent.GetExpireTime(); at != nil {
		c.principal.Expiry = at.AsTime()
	}
	c.begins, err = readMicros(sent.GetNotBeforeTime(), always)
	return err == nil, err
}

// readGrants reads roles on sites; nil if one is unknown to this version.
func readGrants(sent []*pb.ReplicatedGrant) (*SiteRoles, error) {
	roles := &SiteRoles{grants: make([]SiteGrant, 0, len(sent))}
	for _, one := range sent {
		role, known := fromWire(siteRoles, int32(one.GetRole()))
		if !known {
			return nil, nil
		}
		site, err := readID(one.GetSiteId())
		if err != nil {
			return nil, err
		}
		roles.grants = append(roles.grants, SiteGrant{SiteID: site, Role: role})
	}
	slices.SortFunc(roles.grants, func(a, b SiteGrant) int { return bytes.Compare(a.SiteID[:], b.SiteID[:]) })
	for i := 1; i < len(roles.grants); i++ {
		if roles.grants[i].SiteID == roles.grants[i-1].SiteID {
			return nil, malformedError(fmt.Sprintf("two roles on site %s", roles.grants[i].SiteID))
		}
	}
	return roles, nil
}

// readRanges reads the ranges from which tokens work. A range that is not in the form that the
// service gives it may mean something else than it seems to.
func readRanges(sent []string) (ranges []netip.Prefix, known bool) {
	if len(sent) > maxRanges {
		return nil, false
	}
	for _, text := range sent {
		prefix, err := netip.ParsePrefix(text)
		if err != nil || prefix != prefix.Masked() || prefix.Addr().Is4In6() || slices.Contains(ranges, prefix) {
			return nil, false
		}
		ranges = append(ranges, prefix)
	}
	return ranges, true
}
