package hitkeepauth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	pb "github.com/pascalebeier/hitkeep-auth/clients/go/hitkeepauthpb"
)

const listPageSize = 500

// Actor is the person on whose behalf API clients are managed. No person delegates more
// than they hold at that moment.
type Actor struct {
	UserID ID
	// IPAddress and UserAgent are those of the person's own request, for the audit trail.
	// Optional.
	IPAddress string
	UserAgent string
}

func (a Actor) wire() *pb.Actor {
	return &pb.Actor{UserId: a.UserID.String(), IpAddress: a.IPAddress, UserAgent: a.UserAgent}
}

// APIClient is an API client as it was delegated. Its JSON is that of HitKeep's own API.
type APIClient struct {
	ID           ID           `json:"id"`
	UserID       ID           `json:"user_id,omitzero"`
	TenantID     ID           `json:"tenant_id,omitzero"`
	OwnerType    OwnerType    `json:"owner_type"`
	Name         string       `json:"name"`
	Description  string       `json:"description"`
	InstanceRole InstanceRole `json:"instance_role"`
	ExpiresAt    *time.Time   `json:"expires_at,omitempty"`
	LastUsedAt   *time.Time   `json:"last_used_at,omitempty"`
	RevokedAt    *time.Time   `json:"revoked_at,omitempty"`
	CreatedAt    time.Time    `json:"created_at"`
	UpdatedAt    time.Time    `json:"updated_at"`
	// SiteRoles are never nil.
	SiteRoles []SiteGrant `json:"site_roles"`

	// CreatedBy is the person who made the client.
	CreatedBy ID `json:"-"`
	// TokenHint is the beginning and the end of the newest token.
	TokenHint string `json:"-"`
	// ETag changes whenever the client does.
	ETag string `json:"-"`
	// Restrictions are what HitKeep's own API does not know of.
	Restrictions `json:"-"`
}

// Restrictions are from where and from when on the tokens of an API client work.
type Restrictions struct {
	// AllowedCIDRs are ranges of addresses: at most 32, none twice, and without bits beyond
	// their prefixes ([netip.Prefix.Masked]). None: from everywhere.
	AllowedCIDRs []netip.Prefix
	// NotBefore is when they begin to work, before the expiry. Nil: at once.
	NotBefore *time.Time
}

func (r Restrictions) addTo(m *pb.ApiClient) {
	for _, prefix := range r.AllowedCIDRs {
		m.AllowedCidrs = append(m.AllowedCidrs, prefix.String())
	}
	m.NotBeforeTime = timeToWire(r.NotBefore)
}

// OwnerType is whether an API client is a person's or a team's.
type OwnerType string

// The types of owners, spelt as in HitKeep.
const (
	OwnerPersonal OwnerType = "personal"
	OwnerTeam     OwnerType = "team"
)

// Owner is who the client belongs to.
func (c *APIClient) Owner() Owner { return Owner{UserID: c.UserID, TeamID: c.TenantID} }

func apiClientFromWire(m *pb.ApiClient) (*APIClient, error) {
	owner, err := ownerFromWire(m.GetOwner())
	if err != nil {
		return nil, err
	}
	c := &APIClient{
		UserID:      owner.UserID,
		TenantID:    owner.TeamID,
		OwnerType:   OwnerPersonal,
		Name:        m.GetName(),
		Description: m.GetDescription(),
		ExpiresAt:   timeFromWire(m.GetExpireTime()),
		LastUsedAt:  timeFromWire(m.GetLastUsedTime()),
		RevokedAt:   timeFromWire(m.GetRevokeTime()),
		CreatedAt:   m.GetCreateTime().AsTime(),
		UpdatedAt:   m.GetUpdateTime().AsTime(),
		TokenHint:   m.GetTokenHint(),
		ETag:        m.GetEtag(),
	}
	if !c.TenantID.IsZero() {
		c.OwnerType = OwnerTeam
	}
	if c.ID, err = ParseID(m.GetId()); err != nil {
		return nil, fmt.Errorf("the client's id: %w", err)
	}
	// A client that was imported need not have one.
	if by := m.GetCreatedByUserId(); by != "" {
		if c.CreatedBy, err = ParseID(by); err != nil {
			return nil, fmt.Errorf("the client's creator: %w", err)
		}
	}
	var known bool
	if c.InstanceRole, known = fromWire(instanceRoles, int32(m.GetInstanceRole())); !known {
		return nil, fmt.Errorf("unknown instance role %d", m.GetInstanceRole())
	}
	c.NotBefore = timeFromWire(m.GetNotBeforeTime())
	if c.AllowedCIDRs, err = prefixesFromWire(m.GetAllowedCidrs()); err != nil {
		return nil, err
	}
	roles, err := siteRolesFromWire(m.GetSiteGrants())
	c.SiteRoles = roles.grants
	return c, err
}

// Delegation is what a person writes on an API client.
type Delegation struct {
	// Name is for people: 1 to 120 characters. Required.
	Name string
	// Description is for people: at most 500 characters.
	Description string
	// InstanceRole is what is delegated on the instance. Empty: InstanceUser, the only one that
	// a team's client can have.
	InstanceRole InstanceRole
	// SiteRoles are what is delegated on sites: at most 100, no site twice.
	SiteRoles []SiteGrant
	// ExpiresAt is when the client stops working. Nil: never.
	ExpiresAt *time.Time
}

func (d Delegation) wire() *pb.ApiClient {
	m := &pb.ApiClient{
		Name:        d.Name,
		Description: d.Description,
		ExpireTime:  timeToWire(d.ExpiresAt),
	}
	if d.InstanceRole != "" {
		role := d.InstanceRole.wire()
		m.InstanceRole = &role
	}
	for _, grant := range d.SiteRoles {
		m.SiteGrants = append(m.SiteGrants, &pb.SiteGrant{
			SiteId: grant.SiteID.String(),
			Role:   grant.Role.wire(),
		})
	}
	// A role that is misspelt is 0 on the wire: the service refuses it, and names the field.
	return m
}

// IssuedToken is a new token with its API client. Its JSON is that of HitKeep's own API.
type IssuedToken struct {
	Client *APIClient `json:"client"`
	// Token is the secret. It cannot be had again. Printing or logging an IssuedToken does not
	// show it.
	Token string `json:"token"`
	// Revision is the first one at which the token is known, for [Question].AtLeastRevision.
	Revision uint64 `json:"-"`
}

// Format implements [fmt.Formatter], without the token.
func (t IssuedToken) Format(s fmt.State, _ rune) {
	var id ID
	if t.Client != nil {
		id = t.Client.ID
	}
	_, _ = fmt.Fprintf(s, "[a token of API client %s]", id)
}

// LogValue implements [slog.LogValuer], without the token.
func (t IssuedToken) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(t)) }

// CreateRequest is what [Client.Create] takes.
type CreateRequest struct {
	Actor Actor
	Owner Owner
	Delegation
	Restrictions
	// RequestID makes it safe to send the call again; the service gives the first reply then,
	// token included. Zero: one is made, so that this package can do so, where the caller is
	// authenticated by a token.
	RequestID ID
}

// RotateRequest is what [Client.Rotate] takes.
type RotateRequest struct {
	Ref
	// Overlap is how long the old token still works: at most 7 days.
	Overlap time.Duration
	// ETag is the client's as it was read. Empty: any.
	ETag string
	// RequestID is as in [CreateRequest].
	RequestID ID
}

// UpdateRequest is what [Client.Update] takes.
type UpdateRequest struct {
	Ref
	// Delegation is what the client is to have afterwards, as a whole.
	Delegation
	// Restrictions are what the client is to have afterwards, as a whole. Nil: they stay as they
	// are, since a person who edits the rest may not know of them.
	Restrictions *Restrictions
	// Revoked revokes or reactivates the client besides. Nil: it stays as it is.
	Revoked *bool
	// ETag is the client's as it was read. Empty: any.
	ETag string
}

// Ref names an API client, and on whose behalf.
type Ref struct {
	Actor Actor
	ID    ID
	// Owner is whose client it has to be; another owner's is not found. Zero: any that the
	// actor may see.
	Owner Owner
}

// Errors of the methods below are [*APIError].

func (c *Client) management() pb.ApiClientServiceClient { return pb.NewApiClientServiceClient(c.conn) }

// Create makes an API client.
func (c *Client) Create(ctx context.Context, r CreateRequest) (*IssuedToken, error) {
	m := r.Delegation.wire()
	r.Restrictions.addTo(m)
	m.Owner = r.Owner.wire()
	response, err := c.management().CreateApiClient(ctx, &pb.CreateApiClientRequest{
		Actor:     r.Actor.wire(),
		ApiClient: m,
		RequestId: c.requestID(r.RequestID),
	})
	if err != nil {
		return nil, apiError(err)
	}
	return issued(response.GetApiClient(), response.GetToken(), response.GetRevision())
}

func (c *Client) requestID(id ID) string {
	if id.IsZero() && c.repeatable {
		id = NewRequestID()
	}
	return id.String()
}

func issued(m *pb.ApiClient, token string, revision uint64) (*IssuedToken, error) {
	client, err := apiClientFromWire(m)
	if err != nil {
		return nil, misread(err)
	}
	return &IssuedToken{Client: client, Token: token, Revision: revision}, nil
}

func misread(err error) error {
	return &APIError{Code: codes.Internal, Message: "the service's reply: " + err.Error(), cause: err}
}

// List gives all API clients of an owner, newest first, with those that do not work. It is
// never nil.
func (c *Client) List(ctx context.Context, actor Actor, owner Owner) ([]*APIClient, error) {
	if owner.IsZero() {
		// To the service, no owner means everybody's.
		return nil, invalid("owner", "is required")
	}
	return c.list(ctx, &pb.ListApiClientsRequest{
		Actor:           actor.wire(),
		Owner:           owner.wire(),
		IncludeInactive: true,
	})
}

func (c *Client) list(ctx context.Context, request *pb.ListApiClientsRequest) ([]*APIClient, error) {
	clients := []*APIClient{}
	request.PageSize = listPageSize
	for {
		response, err := c.management().ListApiClients(ctx, request)
		if err != nil {
			return nil, apiError(err)
		}
		for _, m := range response.GetApiClients() {
			client, err := apiClientFromWire(m)
			if err != nil {
				return nil, misread(err)
			}
			clients = append(clients, client)
		}
		request.PageToken = response.GetNextPageToken()
		if request.PageToken == "" {
			return clients, nil
		}
	}
}

// Get gives one API client.
func (c *Client) Get(ctx context.Context, r Ref) (*APIClient, error) {
	response, err := c.management().GetApiClient(ctx, &pb.GetApiClientRequest{
		Actor: r.Actor.wire(),
		Id:    r.ID.String(),
	})
	if err != nil {
		return nil, apiError(err)
	}
	client, err := apiClientFromWire(response.GetApiClient())
	if err != nil {
		return nil, misread(err)
	}
	if !r.Owner.IsZero() && client.Owner() != r.Owner {
		return nil, &APIError{
			Code:    codes.NotFound,
			Reason:  ReasonAPIClientNotFound,
			Message: "the API client belongs to another owner",
			cause:   errors.New("another owner"),
		}
	}
	return client, nil
}

// of makes sure that the client is the owner's, if the request says whose it has to be. An
// owner is fixed for life, so that this cannot change until the client is written to.
func (c *Client) of(ctx context.Context, r Ref) error {
	if r.Owner.IsZero() {
		return nil
	}
	_, err := c.Get(ctx, r)
	return err
}

// Update replaces what was delegated, and with Revoked also revokes or reactivates. These are
// calls of their own: the revocation comes first and stays if the update fails; the
// reactivation comes last, when the client carries what it is to have. With an ETag, the update also
// fails if another program changed the client before the revocation.
func (c *Client) Update(ctx context.Context, r UpdateRequest) (*APIClient, error) {
	if err := c.of(ctx, r.Ref); err != nil {
		return nil, err
	}
	m := r.Delegation.wire()
	fields := []string{"name", "description", "instance_role", "site_grants", "expire_time"}
	if r.Restrictions != nil {
		r.Restrictions.addTo(m)
		fields = append(fields, "allowed_cidrs", "not_before_time")
	}
	m.Id, m.Etag = r.ID.String(), r.ETag
	if r.Revoked != nil && *r.Revoked {
		etag, err := c.revoke(ctx, r.Ref, r.ETag)
		if err != nil {
			return nil, err
		}
		m.Etag = etag
	}
	response, err := c.management().UpdateApiClient(ctx, &pb.UpdateApiClientRequest{
		Actor:      r.Actor.wire(),
		ApiClient:  m,
		UpdateMask: &fieldmaskpb.FieldMask{Paths: fields},
	})
	if err != nil {
		return nil, apiError(err)
	}
	updated, err := apiClientFromWire(response.GetApiClient())
	if err != nil {
		return nil, misread(err)
	}
	if r.Revoked != nil && !*r.Revoked && updated.RevokedAt != nil {
		return c.Reactivate(ctx, Ref{Actor: r.Actor, ID: r.ID})
	}
	return updated, nil
}

// revoke revokes the client as it was read, and gives the etag that it has then; none if it was
// read with any. A revocation takes no etag, so that another program may change the client before it.
func (c *Client) revoke(ctx context.Context, r Ref, etag string) (string, error) {
	changed := &APIError{
		Code:    codes.Aborted,
		Reason:  ReasonETagMismatch,
		Message: "the API client was changed since it was read",
		cause:   errors.New("another etag"),
	}
	var read *APIClient
	if etag != "" {
		var err error
		if read, err = c.Get(ctx, r); err != nil {
			return "", err
		}
		if read.ETag != etag {
			return "", changed
		}
	}
	revoked, err := c.Revoke(ctx, Ref{Actor: r.Actor, ID: r.ID})
	switch {
	case err != nil || read == nil:
		return "", err
	case !sameContent(read, revoked):
		return "", changed
	}
	return revoked.ETag, nil
}

// sameContent reports whether a client that was revoked differs from what was read before in
// nothing but what the revocation changes. Its use is no change.
func sameContent(read, revoked *APIClient) bool {
	before, after := *read, *revoked
	for _, c := range []*APIClient{&before, &after} {
		c.LastUsedAt, c.RevokedAt, c.UpdatedAt, c.ETag = nil, nil, time.Time{}, ""
	}
	return reflect.DeepEqual(before, after)
}

// Rotate gives an API client a new token.
func (c *Client) Rotate(ctx context.Context, r RotateRequest) (*IssuedToken, error) {
	if err := c.of(ctx, r.Ref); err != nil {
		return nil, err
	}
	request := &pb.RotateApiClientRequest{
		Actor:     r.Actor.wire(),
		Id:        r.ID.String(),
		RequestId: c.requestID(r.RequestID),
		Etag:      r.ETag,
	}
	if r.Overlap != 0 {
		request.Overlap = durationpb.New(r.Overlap)
	}
	response, err := c.management().RotateApiClient(ctx, request)
	if err != nil {
		return nil, apiError(err)
	}
	return issued(response.GetApiClient(), response.GetToken(), response.GetRevision())
}

// Revoke ends every token of an API client. Revoking again changes nothing.
func (c *Client) Revoke(ctx context.Context, r Ref) (*APIClient, error) {
	if err := c.of(ctx, r); err != nil {
		return nil, err
	}
	response, err := c.management().RevokeApiClient(ctx, &pb.RevokeApiClientRequest{
		Actor: r.Actor.wire(),
		Id:    r.ID.String(),
	})
	if err != nil {
		return nil, apiError(err)
	}
	client, err := apiClientFromWire(response.GetApiClient())
	if err != nil {
		return nil, misread(err)
	}
	return client, nil
}

// Reactivate undoes a revocation.
func (c *Client) Reactivate(ctx context.Context, r Ref) (*APIClient, error) {
	if err := c.of(ctx, r); err != nil {
		return nil, err
	}
	response, err := c.management().ReactivateApiClient(ctx, &pb.ReactivateApiClientRequest{
		Actor: r.Actor.wire(),
		Id:    r.ID.String(),
	})
	if err != nil {
		return nil, apiError(err)
	}
	client, err := apiClientFromWire(response.GetApiClient())
	if err != nil {
		return nil, misread(err)
	}
	return client, nil
}

// Delete removes an API client for good.
func (c *Client) Delete(ctx context.Context, r Ref) error {
	if err := c.of(ctx, r); err != nil {
		return err
	}
	_, err := c.management().DeleteApiClient(ctx, &pb.DeleteApiClientRequest{
		Actor: r.Actor.wire(),
		Id:    r.ID.String(),
	})
	return apiError(err)
}
