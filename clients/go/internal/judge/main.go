// Command judge holds an embedded index, and answers about tokens over its standard input and
// output: a line of JSON for each question, and one for each answer. The service's own tests compare
// what it says with what the database says.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	hitkeepauth "github.com/pascalebeier/hitkeep-auth/clients/go"
)

// question is a line of the input.
type question struct {
	Token           string
	Permission      hitkeepauth.Permission
	SiteID          hitkeepauth.ID `json:"site_id"`
	AtLeastRevision uint64         `json:"at_least_revision"`
}

// answer is a line of the output.
type answer struct {
	// Why it cannot tell; then there is nothing else but the age.
	Unavailable string `json:"unavailable,omitempty"`
	// What the answer is based on.
	Revision       uint64 `json:"revision"`
	AgeMillis      int64  `json:"age_ms"`
	Active         bool   `json:"active"`
	InactiveReason string `json:"inactive_reason,omitempty"`
	// Of a token that works.
	ClientID     string                  `json:"client_id,omitempty"`
	ClientName   string                  `json:"client_name,omitempty"`
	Owner        string                  `json:"owner,omitempty"`
	InstanceRole string                  `json:"instance_role,omitempty"`
	SiteGrants   []hitkeepauth.SiteGrant `json:"site_grants,omitempty"`
	// In microseconds since 1970.
	ExpireTime *int64 `json:"expire_time,omitempty"`
	// On the permission that was asked for: ALLOWED, INACTIVE, NO_SITE_GRANT or ROLE_TOO_LOW.
	Decision string `json:"decision,omitempty"`
}

func main() {
	upstreams := flag.String("upstreams", "", "the servers that hold the index, with commas between them")
	maxStaleness := flag.Duration("max-staleness", 0, "the age beyond which the index proves nothing")
	flag.Parse()
	if err := run(strings.Split(*upstreams, ","), *maxStaleness); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(upstreams []string, maxStaleness time.Duration) error {
	client, err := hitkeepauth.New(upstreams[0], hitkeepauth.WithPlaintext(),
		hitkeepauth.WithCallerToken(os.Getenv("HITKEEP_AUTH_TOKEN")),
		hitkeepauth.WithEmbedded(hitkeepauth.EmbeddedOptions{Upstreams: upstreams, MaxStaleness: maxStaleness}))
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	out := json.NewEncoder(os.Stdout)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var asked question
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			return err
		}
		said, err := judge(client, asked)
		if err != nil {
			return err
		}
		if err := out.Encode(said); err != nil {
			return err
		}
	}
	return lines.Err()
}

func judge(client *hitkeepauth.Client, asked question) (answer, error) {
	for {
		before := client.IndexStatus()
		principal, err := client.Ask(context.Background(), hitkeepauth.Question{
			Token: asked.Token, AtLeastRevision: asked.AtLeastRevision,
		})
		after := client.IndexStatus()
		said := answer{Revision: after.Revision, AgeMillis: after.Age.Milliseconds()}
		var inactive *hitkeepauth.InactiveError
		switch {
		case err == nil:
			said.Revision = principal.Revision
			said.allow(principal, asked)
			return said, nil
		case errors.Is(err, hitkeepauth.ErrUnavailable):
			said.Unavailable = err.Error()
			return said, nil
		case !errors.As(err, &inactive):
			return answer{}, err
		case before.Revision != after.Revision:
			// It is not known which of them said so.
			continue
		}
		said.InactiveReason = string(inactive.Reason)
		if asked.Permission != "" {
			said.Decision = "INACTIVE"
		}
		return said, nil
	}
}

func (a *answer) allow(principal *hitkeepauth.Principal, asked question) {
	a.Active = true
	a.ClientID, a.ClientName = principal.ClientID.String(), principal.ClientName
	a.Owner, a.InstanceRole = principal.Owner().String(), string(principal.InstanceRole)
	for site, role := range principal.SiteRoles.All() {
		a.SiteGrants = append(a.SiteGrants, hitkeepauth.SiteGrant{SiteID: site, Role: role})
	}
	if !principal.Expiry.IsZero() {
		at := principal.Expiry.UnixMicro()
		a.ExpireTime = &at
	}
	switch {
	case asked.Permission == "":
	case principal.Can(asked.Permission, asked.SiteID):
		a.Decision = "ALLOWED"
	case asked.Permission.OnSite() && principal.SiteRoles.Get(asked.SiteID) == "":
		a.Decision = "NO_SITE_GRANT"
	default:
		a.Decision = "ROLE_TOO_LOW"
	}
}
